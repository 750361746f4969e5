//! What can go wrong between the agent and logind.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation}: {source}")]
    Logind { operation: &'static str, source: Box<zbus::Error> },
    #[error("cannot write {}: {source}", path.display())]
    Override { path: PathBuf, source: std::io::Error },
    #[error("logind holds a shutdown up for {held:?} only, {wanted:?} are needed")]
    TooShort { held: std::time::Duration, wanted: std::time::Duration },
    #[error("cannot write {}: {source}", path.display())]
    Record { path: PathBuf, source: host::HostError },
    #[error("cannot encode the times of the shutdown: {source}")]
    Encode { source: serde_json::Error },
}
