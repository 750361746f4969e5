//! Why an image can't be used, as kubectl shows it.

use std::time::Duration;

use cri::{Code, CriError};
use pod::{Waiting, reason};

use crate::reference::ReferenceError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    #[error("Failed to apply default image tag {:?}: {}", .0.image, .0)]
    InvalidName(ReferenceError),
    #[error("Failed to inspect image {image:?}: {}", rpc_text(.source))]
    Inspect { image: String, source: CriError },
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    #[error("Back-off pulling image {image:?}: {failure}")]
    BackOff { image: String, failure: String, left: Duration },
    #[error("{failure}")]
    Pull { failure: PullFailure, backoff: Duration },
}

/// What the runtime said of a pull, and the reason under which users know it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct PullFailure {
    pub reason: &'static str,
    pub text: String,
}

/// How long after a failed pull the pod is looked at again, to be shown as backing off.
const SHOW_FAILURE: Duration = Duration::from_secs(5);

impl ImageError {
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::InvalidName(_) => reason::INVALID_IMAGE_NAME,
            ImageError::Inspect { .. } => reason::IMAGE_INSPECT_ERROR,
            ImageError::NeverPull(_) => reason::ERR_IMAGE_NEVER_PULL,
            ImageError::BackOff { .. } => reason::IMAGE_PULL_BACK_OFF,
            ImageError::Pull { failure, .. } => failure.reason,
        }
    }

    pub fn waiting(&self) -> Waiting {
        Waiting { reason: self.reason().to_owned(), message: self.to_string() }
    }

    /// When the next `ensure` is worth while; None where nobody knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ImageError::BackOff { left, .. } => Some(*left),
            ImageError::Pull { backoff, .. } => Some((*backoff).min(SHOW_FAILURE)),
            ImageError::InvalidName(_) | ImageError::Inspect { .. } | ImageError::NeverPull(_) => None,
        }
    }
}

/// As gRPC errors print.
pub(crate) fn rpc_text(e: &CriError) -> String {
    format!("rpc error: code = {:?} desc = {}", e.code, e.message)
}

/// A code that says nothing is left out.
fn pull_text(e: &CriError) -> String {
    if e.code == Code::Unknown { e.message.clone() } else { rpc_text(e) }
}

impl PullFailure {
    pub(crate) fn pull(text: String) -> Self {
        Self { reason: reason::ERR_IMAGE_PULL, text }
    }

    /// Of one attempt or of several with different logins; `image` as the pod names it.
    pub(crate) fn of(image: &str, errors: &[CriError]) -> Self {
        let classified = errors.iter().find_map(|e| Some((e.class()?, e)));
        if let Some((class, e)) = classified {
            let (reason, what) = match class {
                cri::ErrorClass::RegistryUnavailable => (reason::REGISTRY_UNAVAILABLE, "the registry is unavailable"),
                cri::ErrorClass::SignatureValidationFailed => {
                    (reason::SIGNATURE_VALIDATION_FAILED, "the signature validation failed")
                }
                _ => return Self::pull(pull_text(e)),
            };
            let rest = e.message.strip_prefix(class.as_str()).unwrap_or_default();
            return Self { reason, text: format!("image pull failed for {image} because {what}{rest}") };
        }
        let mut texts: Vec<String> = errors.iter().map(pull_text).collect();
        texts.dedup();
        match texts.as_slice() {
            [one] => Self::pull(one.clone()),
            many => Self::pull(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_says_nothing_is_not_told() {
        let error = |code| CriError { operation: "pull", object: String::new(), code, message: "no route".to_owned() };
        assert_eq!(PullFailure::of("i", &[error(Code::Unknown)]).text, "no route");
        assert_eq!(PullFailure::of("i", &[error(Code::NotFound)]).text, "rpc error: code = NotFound desc = no route");
    }
}
