//! What can go wrong between a request and its reply.

use http::StatusCode;

use crate::reply::{self, Reply};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listening on {address}")]
    Listen { address: String, source: std::io::Error },
    #[error("reviewing the token of a request")]
    TokenReview { source: ReviewError },
    #[error("reviewing access of {user}")]
    AccessReview { user: String, source: ReviewError },
    #[error("dialing the runtime's streaming server at {address}")]
    DialRuntime { address: String, source: std::io::Error },
    #[error("the runtime's streaming server at {address} does not answer")]
    RuntimeSilent { address: String },
    #[error("the runtime's streaming URL {url:?} cannot be used: {why}")]
    StreamUrl { url: String, why: &'static str },
    #[error("asking the runtime's streaming server to upgrade")]
    Upgrade { source: hyper::Error },
    #[error("reading log file {path}")]
    ReadLog { path: String, source: std::io::Error },
    #[error("reading {path}")]
    ReadFile { path: String, source: std::io::Error },
}

/// A review that gave no answer, as the API client says it.
pub type ReviewError = Box<dyn std::error::Error + Send + Sync>;

impl ServerError {
    /// For a client: what failed with its causes, joined as Go joins wrapped errors.
    pub fn chain(&self) -> String {
        apiserver::with_causes(self)
    }

    pub fn reply(&self) -> Reply {
        reply::text(StatusCode::INTERNAL_SERVER_ERROR, self.chain())
    }
}
