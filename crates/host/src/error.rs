//! The error of every operation on the machine's files and mounts.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What was tried, on which path, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct HostError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl HostError {
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Adds operation and path to a system call's result.
pub(crate) trait During<T> {
    fn during(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, HostError> {
        self.map_err(|source| HostError { operation, path: path.as_ref().to_owned(), source: source.into() })
    }
}
