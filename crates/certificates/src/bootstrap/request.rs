//! One certificate from the cluster: key, signing request, wait.

use std::time::Duration;

use apiserver::{ApiServer, SigningRequest};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::{CertificateError, Result, pair::Names, self_signed::alternatives};

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub node_name: String,
    pub purpose: Purpose,
    pub generate_name: &'static str,
    /// How long to wait for somebody to approve.
    pub limit: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Serving(Names),
}

impl Purpose {
    fn signer(&self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Serving(_) => "kubernetes.io/kubelet-serving",
        }
    }
    /// Of an ECDSA key; approvers compare the list exactly.
    fn usages(&self) -> Vec<String> {
        let auth = match self {
            Purpose::Client => "client auth",
            Purpose::Serving(_) => "server auth",
        };
        vec!["digital signature".to_owned(), auth.to_owned()]
    }
}

/// ECDSA P-256.
pub fn new_key() -> Result<KeyPair> {
    KeyPair::generate().map_err(|source| CertificateError::Generate { what: "a private key", source })
}

/// The certificate chain as PEM.
pub async fn request(api: &ApiServer, key: &KeyPair, wanted: &Wanted) -> Result<Vec<u8>> {
    let subject = format!("system:node:{}", wanted.node_name);
    let signing_request = SigningRequest {
        request: signing_request(key, &subject, &wanted.purpose)?.into_bytes(),
        signer: wanted.purpose.signer().to_owned(),
        usages: wanted.purpose.usages(),
        expiration_seconds: None,
        generate_name: wanted.generate_name.to_owned(),
    };
    let failed = |source| CertificateError::Request { subject: subject.clone(), source: Box::new(source) };
    let made = api.create_csr(signing_request).await.map_err(failed)?;
    let name = made.metadata.name.unwrap_or_default();
    tracing::info!(
        name,
        signer = wanted.purpose.signer(),
        "certificate requested; waiting for it to be approved and signed"
    );
    api.wait_for_certificate(&name, wanted.limit).await.map_err(failed)
}

fn signing_request(key: &KeyPair, subject: &str, purpose: &Purpose) -> Result<String> {
    let failed = |source| CertificateError::Generate { what: "a signing request", source };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, subject);
    if let Purpose::Serving(names) = purpose {
        params.subject_alt_names = alternatives(names).map_err(failed)?;
    }
    params.serialize_request(key).and_then(|request| request.pem()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
    use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

    use super::*;

    #[test]
    fn a_request_names_the_node_and_its_group() {
        let key = new_key().unwrap();
        let names = Names::of_host("n", &["192.0.2.2".parse().unwrap()]);
        for (purpose, with_names) in [(Purpose::Client, false), (Purpose::Serving(names), true)] {
            let pem = signing_request(&key, "system:node:n", &purpose).unwrap();
            assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
            let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
            let subject = &request.certification_request_info.subject;
            assert_eq!(subject.to_string(), "O=system:nodes, CN=system:node:n");
            assert_eq!(request.requested_extensions().is_some(), with_names);
        }
    }

    #[test]
    fn each_purpose_has_its_signer_and_usages() {
        assert_eq!(Purpose::Client.usages(), ["digital signature", "client auth"]);
        assert_eq!(Purpose::Serving(Names::default()).usages(), ["digital signature", "server auth"]);
        assert_eq!(Purpose::Client.signer(), "kubernetes.io/kube-apiserver-client-kubelet");
    }
}
