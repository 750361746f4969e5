//! What a probe or a lifecycle hook does to a container: HTTP GET, TCP connect, gRPC health check, exec.
//!
//! Each handler bounds its own time, keeps no connection, and answers with an [`Outcome`] whose text is what
//! `kubectl describe` shows, spelled as upstream's kubelet spells it.

pub mod exec;
pub mod grpc;
pub mod http;
mod http_exchange;
pub mod port;
pub mod spelling;
pub mod tcp;
mod tls;

pub use exec::exec;
pub use grpc::grpc_health;
pub use http::{HttpError, HttpRequest, Purpose, http_get, http_hook};
pub use port::{PortError, resolve_port};
pub use tcp::tcp_connect;

/// The most of a body or of a command's output that is read.
pub const MAX_OUTPUT: usize = 10 * 1024;

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the body or output.
    Success(String),
    /// Good, but somebody should look (a redirect to another host).
    Warning(String),
    /// The container answered badly or not at all.
    Failure(String),
    /// The attempt itself went wrong and says nothing about the container.
    Unknown(String),
}

impl Outcome {
    pub fn text(&self) -> &str {
        match self {
            Outcome::Success(t) | Outcome::Warning(t) | Outcome::Failure(t) | Outcome::Unknown(t) => t,
        }
    }
    /// Success or Warning.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Success(_) | Outcome::Warning(_))
    }
}
