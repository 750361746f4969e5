//! interim
use std::time::Duration;
use pod::{Waiting, reason};
use crate::pulls::PullFailure;
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{message}")]
    InvalidName { message: String },
    #[error("{message}")]
    Inspect { message: String },
    #[error("{message}")]
    NeverPull { message: String },
    #[error("{message}")]
    BackOff { message: String, retry_after: Duration },
    #[error("{message}")]
    Pull { message: String },
}
impl ImageError {
    pub(crate) fn of_pull(_: &str, failure: &PullFailure) -> Self { Self::Pull { message: failure.to_string() } }
    pub fn waiting(&self) -> Waiting {
        let reason = match self {
            Self::InvalidName { .. } => reason::INVALID_IMAGE_NAME,
            Self::Inspect { .. } => reason::IMAGE_INSPECT_ERROR,
            Self::NeverPull { .. } => reason::ERR_IMAGE_NEVER_PULL,
            Self::BackOff { .. } => reason::IMAGE_PULL_BACK_OFF,
            Self::Pull { .. } => reason::ERR_IMAGE_PULL,
        };
        Waiting { reason: reason.to_owned(), message: self.to_string() }
    }
    pub fn retry_after(&self) -> Option<Duration> {
        match self { Self::BackOff { retry_after, .. } => Some(*retry_after), Self::Pull { .. } => Some(Duration::from_secs(5)), _ => None }
    }
}
