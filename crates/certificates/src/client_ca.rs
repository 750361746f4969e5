//! Which client certificates are believed: clientCAFile, read again when it changes.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    RootCertStore,
    crypto::ring::default_provider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    CertificateError, Result,
    follow::Files,
    pair::{Leaf, chain},
    ttl,
};

/// Cheap to clone; all clones show the same bundle, which is followed as long as one of them lives.
#[derive(Clone)]
pub struct ClientCa {
    verifier: Current,
    _follower: Option<Arc<AbortOnDropHandle<()>>>,
}

type Current = Arc<ArcSwapOption<Arc<dyn ClientCertVerifier>>>;

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("loaded", &self.verifier.load().is_some()).finish_non_exhaustive()
    }
}

impl ClientCa {
    /// No path: no client certificate is ever believed. The file must be usable at first; later a change that is not
    /// leaves the old one in force. Must be called inside a tokio runtime.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let verifier = Current::default();
        if path.as_os_str().is_empty() {
            return Ok(Self { verifier, _follower: None });
        }
        let files = Files::new(vec![path.to_owned()]);
        load(path, &verifier)?;
        let follower = tokio::spawn(follow_bundle(files, path.to_owned(), verifier.clone()));
        Ok(Self { verifier, _follower: Some(Arc::new(AbortOnDropHandle::new(follower))) })
    }

    /// Judges a chain by the bundle of the moment; None: there is none.
    pub fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.load().as_deref().cloned()
    }
}

/// Task: reads the bundle again whenever it changes; one that can't be used leaves the old one.
async fn follow_bundle(files: Files, path: PathBuf, verifier: Current) {
    let again = || match load(&path, &verifier) {
        Ok(()) => tracing::info!(path = %path.display(), "client CA bundle reloaded"),
        Err(error) => tracing::warn!(%error, "changed client CA bundle not taken"),
    };
    files.follow(again).await;
}

fn load(path: &Path, verifier: &Current) -> Result<()> {
    let (read, not_after) = read(path)?;
    verifier.store(Some(Arc::new(read)));
    if let Some(not_after) = not_after {
        ttl::client_ca_expires(not_after);
    }
    Ok(())
}

/// The bundle, and when the first of its certificates expires.
fn read(path: &Path) -> Result<(Arc<dyn ClientCertVerifier>, Option<Timestamp>)> {
    let pem = std::fs::read(path).map_err(|source| CertificateError::Read { path: path.into(), source })?;
    let unusable = |detail: String| CertificateError::CaBundle { path: path.into(), detail };
    let mut roots = RootCertStore::empty();
    let origin = path.display().to_string();
    let mut not_after: Option<Timestamp> = None;
    for certificate in chain(&pem, &origin)? {
        // What cannot be read is the verifier's to judge.
        let until = Leaf::read(&certificate, &origin).ok().map(|ca| ca.not_after);
        not_after = not_after.into_iter().chain(until).min();
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let verifier = builder.build().map_err(|error| unusable(error.to_string()))?;
    Ok((verifier, not_after))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{CertificateDer, UnixTime};

    use super::*;

    /// A CA's certificate as PEM, and one that it has signed.
    fn authority() -> (String, CertificateDer<'static>) {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        let mut leaf = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        (pem, signed.der().clone())
    }

    fn believes(ca: &ClientCa, leaf: &CertificateDer<'_>) -> bool {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_790_000_000));
        ca.verifier().is_some_and(|verifier| verifier.verify_client_cert(leaf, &[], now).is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_bundle_counts_for_all_holders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let ((old, old_leaf), (new, new_leaf)) = (authority(), authority());
        std::fs::write(&path, old).unwrap();
        let ca = ClientCa::from_file(&path).unwrap();
        assert!(believes(&ca, &old_leaf) && !believes(&ca, &new_leaf));
        std::fs::write(&path, new).unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(120)).await;
        assert!(!believes(&ca, &old_leaf) && believes(&ca.clone(), &new_leaf));
        std::fs::write(&path, "junk").unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(120)).await;
        assert!(believes(&ca, &new_leaf));
    }

    #[test]
    fn the_expiry_of_a_bundle_is_that_of_its_first_certificate_to_expire() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let until = |year| {
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            ca.not_after = rcgen::date_time_ymd(year, 1, 1);
            ca.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        std::fs::write(&path, until(2040) + &until(2031) + &until(2035)).unwrap();
        assert_eq!(read(&path).unwrap().1.unwrap().to_string(), "2031-01-01T00:00:00Z");
    }

    #[tokio::test]
    async fn a_bundle_that_cannot_be_used_at_first_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let missing = ClientCa::from_file(&path).unwrap_err().to_string();
        assert!(missing.contains("ca.crt"), "{missing}");
        std::fs::write(&path, "junk").unwrap();
        let broken = ClientCa::from_file(&path).unwrap_err().to_string();
        assert!(broken.contains("ca.crt"), "{broken}");
    }

    #[tokio::test]
    async fn without_a_file_no_certificate_is_believed() {
        assert!(ClientCa::from_file("").unwrap().verifier().is_none());
    }
}
