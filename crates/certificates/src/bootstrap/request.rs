//! One certificate from the cluster: key, signing request, wait.

use std::{pin::pin, time::Duration};

use apiserver::{ApiServer, SigningRequest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use sha2::{Digest, Sha512_256};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    CertificateError, Result,
    pair::{Leaf, NODES, Names, chain, user_of},
    self_signed::alternatives,
};

const REMIND: Duration = Duration::from_secs(60);

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub node_name: String,
    pub purpose: Purpose,
    /// Named after what is asked, so that a start after an interrupted one finds its request again. Else the server names it.
    pub is_named: bool,
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
pub async fn request(api: &ApiServer, key: &KeyPair, wanted: &Wanted, now: Timestamp) -> Result<Vec<u8>> {
    let subject = user_of(&wanted.node_name);
    let signing_request = SigningRequest {
        request: signing_request(key, &subject, &wanted.purpose)?.into_bytes(),
        signer: wanted.purpose.signer().to_owned(),
        usages: wanted.purpose.usages(),
        expiration_seconds: None,
        name: wanted.is_named.then(|| digested_name(key, &subject, &wanted.purpose)),
    };
    let failed = |source| CertificateError::Request { subject: subject.clone(), source: Box::new(source) };
    let found = signing_request.name.clone();
    let made = match (api.create_csr(signing_request).await, found) {
        (Err(error), Some(name)) if error.is_already_exists() => {
            let found = api.get_csr(&name).await.map_err(failed)?;
            compatible(&found, key, &subject, &wanted.purpose, now)
                .map_err(|detail| CertificateError::OtherRequest { name, detail })?;
            found
        }
        (made, _) => made.map_err(failed)?,
    };
    let name = made.metadata.name.unwrap_or_default();
    tracing::info!(
        name,
        signer = wanted.purpose.signer(),
        "certificate requested; waiting for it to be approved and signed"
    );
    let waiting = || tracing::warn!("{}", waits_for(&name, wanted.purpose.signer()));
    reminding(api.wait_for_certificate(&name, wanted.limit), waiting).await.map_err(failed)
}

fn waits_for(name: &str, signer: &str) -> String {
    format!(
        "waiting for the signing request {name} to be approved, and signed by {signer}; \
         by hand: `kubectl certificate approve {name}`"
    )
}

/// What the future comes to; `remind` is called each minute until then.
async fn reminding<T>(future: impl Future<Output = T>, mut remind: impl FnMut()) -> T {
    let mut future = pin!(future);
    loop {
        match tokio::time::timeout(REMIND, &mut future).await {
            Ok(done) => return done,
            Err(_) => remind(),
        }
    }
}

/// Upstream's name for the same request: digest of key, common name, organization and usages, each told apart from the
/// next by a byte that base64 has not.
fn digested_name(key: &KeyPair, subject: &str, purpose: &Purpose) -> String {
    let usages = purpose.usages();
    let mut digest = Sha512_256::new();
    let key = key.subject_public_key_info();
    let parts = [&key[..], subject.as_bytes(), NODES.as_bytes()];
    for part in parts.into_iter().chain(usages.iter().map(|usage| usage.as_bytes())) {
        digest.update(URL_SAFE_NO_PAD.encode(part));
        digest.update(b"|");
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(digest.finalize()))
}

/// Whether a certificate for the request that was found would be of use; `Err` says why not.
fn compatible(
    found: &CertificateSigningRequest,
    key: &KeyPair,
    subject: &str,
    purpose: &Purpose,
    now: Timestamp,
) -> std::result::Result<(), String> {
    let der = CertificateSigningRequestDer::from_pem_slice(&found.spec.request.0).map_err(|error| error.to_string())?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    let info = &request.certification_request_info;
    let (theirs, ours) = (info.subject.to_string(), format!("O={NODES}, CN={subject}"));
    if theirs != ours {
        return Err(format!("its subject is {theirs:?} and not {ours:?}"));
    }
    if found.spec.signer_name != purpose.signer() {
        return Err(format!("its signer is {:?}", found.spec.signer_name));
    }
    if info.subject_pki.raw != key.subject_public_key_info() {
        return Err("it was made with another key".to_owned());
    }
    let signed = found.status.as_ref().and_then(|status| status.certificate.as_ref());
    let signed = signed.filter(|certificate| !certificate.0.is_empty());
    for der in signed.map(|pem| chain(&pem.0, "it")).transpose().map_err(|error| error.to_string())?.iter().flatten() {
        let leaf = Leaf::read(der, "it").map_err(|error| error.to_string())?;
        if leaf.not_after < now {
            return Err(format!("its certificate expired at {}", leaf.not_after));
        }
    }
    Ok(())
}

fn signing_request(key: &KeyPair, subject: &str, purpose: &Purpose) -> Result<String> {
    let failed = |source| CertificateError::Generate { what: "a signing request", source };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, NODES);
    params.distinguished_name.push(DnType::CommonName, subject);
    if let Purpose::Serving(names) = purpose {
        params.subject_alt_names = alternatives(names).map_err(failed)?;
    }
    params.serialize_request(key).and_then(|request| request.pem()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequestStatus};
    use rcgen::date_time_ymd;

    use super::*;

    #[test]
    fn the_first_requests_name_depends_on_key_and_node_only() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        let name = digested_name(&one, "system:node:n", &Purpose::Client);
        assert_eq!(name, digested_name(&one, "system:node:n", &Purpose::Client));
        assert_ne!(name, digested_name(&one, "system:node:m", &Purpose::Client));
        assert_ne!(name, digested_name(&other, "system:node:n", &Purpose::Client));
        assert_eq!(name.len(), "node-csr-".len() + 43, "{name}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_approval_says_so_each_minute_and_how_to_give_it() {
        let mut count = 0;
        let done = reminding(tokio::time::sleep(Duration::from_secs(200)), || count += 1);
        done.await;
        assert_eq!(count, 3);
        let text = waits_for("csr-x", Purpose::Client.signer());
        assert!(text.contains("`kubectl certificate approve csr-x`") && text.contains("apiserver-client"), "{text}");
    }

    #[test]
    fn a_request_found_is_waited_on_if_it_is_ours_and_its_certificate_still_good() {
        let (key, subject, purpose) = (new_key().unwrap(), "system:node:n", Purpose::Client);
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut found = CertificateSigningRequest::default();
        found.spec.request = ByteString(signing_request(&key, subject, &purpose).unwrap().into_bytes());
        found.spec.signer_name = purpose.signer().to_owned();
        assert_eq!(compatible(&found, &key, subject, &purpose, now), Ok(()));
        let refused = |subject, purpose: &Purpose| compatible(&found, &key, subject, purpose, now).unwrap_err();
        assert!(refused("system:node:m", &purpose).contains("subject"));
        assert!(refused(subject, &Purpose::Serving(Names::default())).contains("signer"));
        assert!(compatible(&found, &new_key().unwrap(), subject, &purpose, now).unwrap_err().contains("key"));
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(2026, 1, 1);
        let certificate = Some(ByteString(params.self_signed(&key).unwrap().pem().into_bytes()));
        found.status = Some(CertificateSigningRequestStatus { certificate, conditions: None });
        assert!(compatible(&found, &key, subject, &purpose, now).unwrap_err().contains("expired"));
    }

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
