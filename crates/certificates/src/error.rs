//! What can go wrong with certificates. No variant carries a key.

use std::{io, path::PathBuf};

use apiserver::ApiError;

pub type Result<T> = std::result::Result<T, CertificateError>;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    WriteAtomically { path: PathBuf, source: host::HostError },
    #[error("{} should be a symbolic link but is a file", path.display())]
    NoLink { path: PathBuf },
    #[error("no certificate in {origin}")]
    NoCertificate { origin: String },
    #[error("no usable private key in {origin}")]
    NoKey { origin: String },
    #[error("certificate and key of {origin} can't be used: {detail}")]
    Unusable { origin: String, detail: String },
    #[error("CA bundle {} can't be used: {detail}", path.display())]
    CaBundle { path: PathBuf, detail: String },
    #[error("cannot make {what}")]
    Generate { what: &'static str, source: rcgen::Error },
    #[error("cipher suite {name:?} is unknown")]
    CipherSuite { name: String },
    #[error("TLS version {name:?} is unknown")]
    TlsVersion { name: String },
    #[error("none of the configured cipher suites can be used")]
    NoCipherSuite,
    #[error("TLS configuration")]
    Tls { source: rustls::Error },
    #[error("kubeconfig {} can't be used: {detail}", path.display())]
    Kubeconfig { path: PathBuf, detail: String },
    #[error("the signing request {name} is another one's: {detail}")]
    OtherRequest { name: String, detail: String },
    #[error("signing request for {subject}")]
    Request { subject: String, source: Box<ApiError> },
}
