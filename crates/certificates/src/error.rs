//! What can go wrong with certificates. No variant carries a key.

use std::{io, path::PathBuf};

use apiserver::ApiError;

pub type Result<T> = std::result::Result<T, CertificateError>;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
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
    #[error("cannot make {what}: {source}")]
    Generate { what: &'static str, source: rcgen::Error },
    #[error("cipher suite {name:?} is unknown")]
    CipherSuite { name: String },
    #[error("TLS version {name:?} is unknown")]
    TlsVersion { name: String },
    #[error("none of the configured cipher suites can be used")]
    NoCipherSuite,
    #[error("TLS configuration: {source}")]
    Tls { source: rustls::Error },
    #[error("kubeconfig {} can't be used: {detail}", path.display())]
    Kubeconfig { path: PathBuf, detail: String },
    #[error("the signing request {name} is another one's: {detail}")]
    OtherRequest { name: String, detail: String },
    /// A bootstrap token's answer as a rule, hence the advice.
    #[error(
        "{server} does not accept the credentials of {}; a bootstrap token lives a day: `kubeadm token create \
         --print-join-command` on a control plane node makes a new one", path.display()
    )]
    Token { server: String, path: PathBuf, source: Box<ApiError> },
    #[error("signing request for {subject}: {source}")]
    Request { subject: String, source: Box<ApiError> },
}

impl CertificateError {
    /// With everything below it, and what to do where that can be told.
    pub(crate) fn described(&self) -> String {
        advised(apiserver::with_causes(self))
    }
}

/// TLS tells no more than that it does not know the issuer, or that a date is wrong.
fn advised(error: String) -> String {
    if !error.contains("invalid peer certificate") {
        return error;
    }
    let advice = match error.contains("UnknownIssuer") || error.contains("BadSignature") {
        true => "the CA in the kubeconfig did not sign the server's certificate: take that of the cluster",
        false => "look at the server's name in the kubeconfig, its certificate and this machine's clock",
    };
    format!("{error} ({advice})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_says_where_it_is_and_how_to_get_another() {
        let refusal =
            apiserver::Refusal { code: 401, reason: String::new(), message: "Unauthorized".into(), retry_after: None };
        let source = Box::new(ApiError::Refused { operation: "create", object: "csr".into(), refusal });
        let error = CertificateError::Token { server: "192.0.2.1:6443".into(), path: "/boot.conf".into(), source };
        let text = error.described();
        for part in ["192.0.2.1:6443", "/boot.conf", "kubeadm token create --print-join-command", "Unauthorized"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_server_that_the_ca_did_not_sign_for_is_told_as_that() {
        let text = advised("client error (Connect): invalid peer certificate: UnknownIssuer".into());
        assert!(text.contains("the CA in the kubeconfig"), "{text}");
        assert_eq!(advised("Connection refused".into()), "Connection refused");
    }
}
