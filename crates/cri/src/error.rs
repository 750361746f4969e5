//! What can go wrong between the agent and the runtime.

use std::error::Error;

use tonic::{Code, Status};

pub type Result<T> = std::result::Result<T, CriError>;

/// A call that failed: which operation, on what, and what the runtime said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {code}: {message}", code = spelled(self.code))]
pub struct CriError {
    /// As in the metric label `operation_type`, say `run_podsandbox`.
    pub operation: &'static str,
    /// The id, image or endpoint that it was about.
    pub object: String,
    pub code: Code,
    /// The runtime's own words; what kubectl shows.
    pub message: String,
}

/// Failures that runtimes mark by the first word of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    RegistryUnavailable,
    SignatureValidationFailed,
    /// Recursive read-only mounts can't be made.
    RroUnsupported,
    ImageVolumeMountFailed,
}

impl ErrorClass {
    const ALL: [Self; 4] = [
        Self::RegistryUnavailable,
        Self::SignatureValidationFailed,
        Self::RroUnsupported,
        Self::ImageVolumeMountFailed,
    ];

    /// The marker, which is also the reason that kubectl shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::SignatureValidationFailed => "SignatureValidationFailed",
            Self::RroUnsupported => "RROUnsupported",
            Self::ImageVolumeMountFailed => "ImageVolumeMountFailed",
        }
    }
}

impl CriError {
    pub(crate) fn from_status(operation: &'static str, object: &str, status: &Status) -> Self {
        let Some(cause) = status.source() else {
            return Self::new(operation, object, status.code(), status.message());
        };
        // Only what failed on this side of the socket has a cause. A connection that breaks under a call is no answer
        // of the runtime's, though it is given no code of its own here.
        let code = match status.code() {
            Code::Unknown | Code::Cancelled => Code::Unavailable,
            code => code,
        };
        let (said, cause) = (status.message(), root(cause).to_string());
        Self::new(operation, object, code, if said.contains(&cause) { cause } else { format!("{said}: {cause}") })
    }
    pub(crate) fn new(operation: &'static str, object: &str, code: Code, message: impl Into<String>) -> Self {
        Self { operation, object: object.to_owned(), code, message: message.into() }
    }
    /// The reply lacks a part that the interface promises.
    pub(crate) fn incomplete(operation: &'static str, object: &str, missing: &str) -> Self {
        Self::new(operation, object, Code::Internal, format!("the runtime's reply has no {missing}"))
    }

    /// In gRPC's own words: what upstream hands on to clients of the node's server, some of which look for the code.
    pub fn spelled_out(&self) -> String {
        format!("rpc error: code = {} desc = {}", spelled(self.code), self.message)
    }

    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }
    pub fn is_deadline(&self) -> bool {
        self.code == Code::DeadlineExceeded
    }
    pub fn class(&self) -> Option<ErrorClass> {
        ErrorClass::ALL.into_iter().find(|c| self.message.starts_with(c.as_str()))
    }
}

/// The innermost cause: "No such file or directory" says more than "transport error".
fn root<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// gRPC's own spelling of a code, as users know it from "rpc error: code = NotFound".
fn spelled(code: Code) -> String {
    format!("{code:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_and_object() {
        let e = CriError::from_status("stop_container", "c1", &Status::not_found("no such container"));
        assert_eq!(e.to_string(), "stop_container c1: NotFound: no such container");
        assert_eq!(e.spelled_out(), "rpc error: code = NotFound desc = no such container");
        assert!(e.is_not_found() && !e.is_unavailable());
    }

    #[test]
    fn the_first_word_of_the_message_is_the_class() {
        let class = |m: &str| CriError::new("pull_image", "nginx", Code::Unknown, m).class();
        assert_eq!(class("RegistryUnavailable: try later"), Some(ErrorClass::RegistryUnavailable));
        assert_eq!(class("SignatureValidationFailed"), Some(ErrorClass::SignatureValidationFailed));
        assert_eq!(class("failed: RegistryUnavailable"), None);
    }
}
