//! Certificate signing requests: make one, wait for its certificate.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokio::sync::mpsc;

use crate::{
    ApiError, ApiServer,
    follow::{Change, Collection, follow},
    owned::Owned,
    request::{Call, path},
    rows::{Row, slim_meta},
};

const GROUP: &str = "certificates.k8s.io/v1";

/// What to ask a signer for.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// PEM.
    pub request: Vec<u8>,
    /// `kubernetes.io/kube-apiserver-client-kubelet` or `kubernetes.io/kubelet-serving`.
    pub signer: String,
    pub usages: Vec<String>,
    pub expiration_seconds: Option<i32>,
    /// None: the server makes one that begins with `csr-`.
    pub name: Option<String>,
}

impl Row for CertificateSigningRequest {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        ""
    }
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }
    fn slim(&mut self) {
        slim_meta(&mut self.metadata, true);
    }
}

impl ApiServer {
    /// Creates the request and returns the object with the name that the server gave it.
    pub async fn create_csr(&self, wanted: SigningRequest) -> Result<CertificateSigningRequest, ApiError> {
        let generate_name = wanted.name.is_none().then(|| "csr-".to_owned());
        let metadata = ObjectMeta { name: wanted.name, generate_name, ..ObjectMeta::default() };
        let spec = CertificateSigningRequestSpec {
            request: ByteString(wanted.request),
            signer_name: wanted.signer,
            usages: Some(wanted.usages),
            expiration_seconds: wanted.expiration_seconds,
            ..CertificateSigningRequestSpec::default()
        };
        let request = CertificateSigningRequest { metadata, spec, status: None };
        self.ask(Call::create(path::group(GROUP, "certificatesigningrequests"), "certificatesigningrequest", &request)?)
            .await
    }

    pub async fn get_csr(&self, name: &str) -> Result<CertificateSigningRequest, ApiError> {
        let path = path::group_named(GROUP, "certificatesigningrequests", name);
        self.ask(Call::get(path, object(name))).await
    }

    /// Waits until the request has a certificate (PEM), is denied or failed (forbidden), or deleted (not found).
    pub async fn wait_for_certificate(&self, name: &str, limit: Duration) -> Result<Vec<u8>, ApiError> {
        let (changes_in, mut changes) = mpsc::channel(1);
        let collection = Collection {
            path: path::group(GROUP, "certificatesigningrequests"),
            field_selector: Some(format!("metadata.name={name}")),
            object: object(name),
        };
        let _follower = Owned::spawn(follow::<CertificateSigningRequest>(self.clone(), collection, changes_in));
        let verdict = async {
            while let Some(change) = changes.recv().await {
                let request = match change {
                    Change::Synced(requests) => requests.into_iter().next(),
                    Change::Applied(request) => Some(*request),
                    Change::Deleted(_) => None,
                };
                let Some(request) = request else { break };
                if let Some(verdict) = verdict(&request) {
                    return verdict;
                }
            }
            Err(ApiError::not_found("watch", object(name)))
        };
        let late = ApiError::Deadline { operation: "watch", object: object(name), limit };
        tokio::time::timeout(limit, verdict).await.unwrap_or(Err(late))
    }
}

fn verdict(request: &CertificateSigningRequest) -> Option<Result<Vec<u8>, ApiError>> {
    let status = request.status.as_ref()?;
    let refused = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
    if let Some(condition) = refused {
        let message = format!("{}: {}", condition.type_, condition.message.as_deref().unwrap_or_default());
        let refusal = crate::Refusal { code: 403, reason: "Forbidden".to_owned(), message, retry_after: None };
        return Some(Err(ApiError::Refused { operation: "watch", object: object(request.name()), refusal }));
    }
    let certificate = status.certificate.as_ref().filter(|c| !c.0.is_empty())?;
    Some(Ok(certificate.0.clone()))
}

fn object(name: &str) -> String {
    format!("certificatesigningrequest {name}")
}
