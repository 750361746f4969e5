//! Why a call failed, as its caller must tell it apart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::reachability::with_causes;

/// What the API server said when it said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    /// `NotFound`, `Forbidden`, ... ; empty where a proxy answered.
    pub reason: String,
    pub message: String,
    pub retry_after: Option<Duration>,
}

/// Carries the operation and its object; never a secret, a token or a body.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{operation} {object}: {}", refusal.message)]
    Refused { operation: &'static str, object: String, refusal: Refusal },
    #[error("{operation} {object}: the API server can't be reached: {}", with_causes(source))]
    Unreachable {
        operation: &'static str,
        object: String,
        #[source]
        source: Arc<kube::Error>,
    },
    #[error("{operation} {object}: the connection broke off: {detail}")]
    BrokenOff { operation: &'static str, object: String, detail: String },
    #[error("{operation} {object}: no answer within {limit:?}")]
    Deadline { operation: &'static str, object: String, limit: Duration },
    /// Line and column only: serde's own text may quote the value, and the value may be a secret.
    #[error("{operation} {object}: the answer can't be read ({category} at line {line}, column {column})")]
    Decode { operation: &'static str, object: String, category: &'static str, line: usize, column: usize },
    #[error("{operation} {object}: the request can't be built: {detail}")]
    Request { operation: &'static str, object: String, detail: String },
    #[error("{operation} {object}: the node has no certificate yet")]
    NoIdentity { operation: &'static str, object: String },
    #[error("kubeconfig {}: {}", path.display(), with_causes(source))]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Arc<kube::config::KubeconfigError>,
    },
    #[error("kubeconfig {}: its certificate-authority holds no certificate (PEM is expected)", path.display())]
    ClusterCa { path: PathBuf },
    #[error("TLS or credentials of the kubeconfig: {}", with_causes(source))]
    Credentials {
        #[source]
        source: Arc<kube::Error>,
    },
    #[error("{detail}")]
    Proxy { detail: String },
    #[error("tls-server-name {name:?} of the kubeconfig is no server name")]
    ServerName { name: String },
}

impl ApiError {
    /// The error of a cache that knows that the object isn't there.
    pub fn not_found(operation: &'static str, object: impl Into<String>) -> Self {
        let object = object.into();
        let message = format!("{object} not found");
        let refusal = Refusal { code: 404, reason: "NotFound".to_owned(), message, retry_after: None };
        Self::Refused { operation, object, refusal }
    }

    pub(crate) fn decode(operation: &'static str, object: &str, error: &serde_json::Error) -> Self {
        let category = match error.classify() {
            serde_json::error::Category::Io => "i/o error",
            serde_json::error::Category::Syntax => "syntax error",
            serde_json::error::Category::Data => "unexpected type",
            serde_json::error::Category::Eof => "cut short",
        };
        Self::Decode { operation, object: object.to_owned(), category, line: error.line(), column: error.column() }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
    fn code(&self) -> u16 {
        self.refusal().map_or(0, |r| r.code)
    }
    fn reason(&self) -> &str {
        self.refusal().map_or("", |r| r.reason.as_str())
    }

    /// The API server knows that there is no such object. A proxy's 404 says nothing of the kind.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404 && self.reason() == "NotFound"
    }
    /// The object changed meanwhile, or it is another one of the same name (a UID that doesn't fit).
    pub fn is_conflict(&self) -> bool {
        // The server answers a delete with a wrong UID by 409, and a patch with one as an attempt to change it.
        let other_uid = self.code() == 422 && self.refusal().is_some_and(|r| r.message.contains("metadata.uid"));
        other_uid || (self.code() == 409 && self.reason() != "AlreadyExists")
    }
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }
    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }
    pub fn is_unauthorized(&self) -> bool {
        self.code() == 401
    }
    pub fn is_invalid(&self) -> bool {
        self.code() == 422
    }
    /// The resource version asked for is no longer kept.
    pub fn is_expired(&self) -> bool {
        self.code() == 410 || matches!(self.reason(), "Expired" | "Gone")
    }
    /// The resource version asked for is newer than the server's store (an older backup, or a lagging replica).
    pub(crate) fn is_from_the_future(&self) -> bool {
        let text = self.refusal().map_or("", |r| r.message.as_str());
        self.code() == 504 && text.contains("Too large resource version")
    }
    /// Nobody answered: a retry later may succeed and nothing is known about the object.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::BrokenOff { .. } | Self::Deadline { .. })
    }
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
    /// The server is there but overloaded, starting, or ill.
    pub fn is_server_trouble(&self) -> bool {
        matches!(self.code(), 429 | 500..=599)
    }
    /// Worth another try without a change of the request.
    pub fn is_transient(&self) -> bool {
        self.is_unreachable() || self.is_server_trouble()
    }
}
