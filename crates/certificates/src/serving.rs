//! The serving certificate of the moment.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use host::Clock;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Pair, Result, TlsOptions, follow::Files, self_signed, server_config, ttl};

/// Cheap to clone; all clones show the same pair. While there is none, handshakes fail.
#[derive(Clone, Default)]
pub struct ServingCertificate {
    pair: Arc<ArcSwapOption<Pair>>,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServingCertificate").field(&self.pair.load()).finish()
    }
}

impl ServingCertificate {
    pub fn current(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// The next handshake uses it.
    pub fn set(&self, pair: Pair) {
        ttl::serving_expires(pair.not_after);
        self.pair.store(Some(Arc::new(pair)));
    }

    /// kubelet.crt and kubelet.key of the certificate directory, made when there are none.
    pub fn load_self_signed(&self, dir: &Path, host_name: &str, ips: &[IpAddr], now: Timestamp) -> Result<()> {
        self.set(self_signed::load_or_make(dir, host_name, ips, now)?);
        Ok(())
    }

    /// tlsCertFile and tlsPrivateKeyFile.
    pub fn load_files(&self, certificate: &Path, key: &Path) -> Result<()> {
        self.set(Pair::from_files(certificate, key)?);
        Ok(())
    }

    /// Task: loads the files again whenever they change. A pair that does not fit (the key of a replaced pair comes a
    /// moment later, say) leaves the one in use.
    async fn follow_files(self, files: Files, certificate: PathBuf, key: PathBuf) {
        let again = || match self.load_files(&certificate, &key) {
            Ok(()) => tracing::info!(path = %certificate.display(), "serving certificate reloaded"),
            Err(error) => tracing::warn!(%error, "changed serving certificate not taken"),
        };
        files.follow(again).await;
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current()?.certified.clone())
    }
}

/// Where the serving certificate comes from, and how it is served.
#[derive(Clone, Debug, Default)]
pub struct ServingConfig {
    /// tlsCertFile and tlsPrivateKeyFile; without them the pair in `cert_dir` is used, and made if need be.
    pub files: Option<(PathBuf, PathBuf)>,
    pub cert_dir: PathBuf,
    pub host_name: String,
    pub ips: Vec<IpAddr>,
    pub min_version: String,
    pub cipher_suites: Vec<String>,
    pub curve_preferences: Vec<i32>,
}

/// A TLS server's side, whose certificate is kept up to date as long as this lives.
#[derive(Debug)]
pub struct Serving {
    config: Arc<rustls::ServerConfig>,
    _follower: Option<AbortOnDropHandle<()>>,
}

impl Serving {
    /// `clients`: None asks for no client certificate. Must be called inside a tokio runtime.
    pub fn new(config: &ServingConfig, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<Self> {
        let certificate = ServingCertificate::default();
        let follower = match &config.files {
            Some((file, key)) => {
                let files = Files::new(vec![file.clone(), key.clone()]);
                certificate.load_files(file, key)?;
                let follower = certificate.clone().follow_files(files, file.clone(), key.clone());
                Some(AbortOnDropHandle::new(tokio::spawn(follower)))
            }
            None => {
                let now = Clock::start().wall();
                certificate.load_self_signed(&config.cert_dir, &config.host_name, &config.ips, now)?;
                None
            }
        };
        Ok(Self { _follower: follower, ..Self::with_certificate(&certificate, config, clients)? })
    }

    /// With a certificate that somebody else keeps: `bootstrap::ServingRotation`.
    pub fn with_certificate(
        certificate: &ServingCertificate,
        config: &ServingConfig,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self> {
        let options = TlsOptions {
            min_version: config.min_version.clone(),
            cipher_suites: config.cipher_suites.clone(),
            curve_preferences: config.curve_preferences.clone(),
        };
        Ok(Self { config: server_config(certificate, &options, clients)?, _follower: None })
    }

    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pair_replaces_the_old_one_for_all_holders() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let serving = ServingCertificate::default();
        let holder = serving.clone();
        assert!(holder.current().is_none());
        serving.load_self_signed(one.path(), "a", &[], now).unwrap();
        assert_eq!(holder.current().unwrap().names.dns, ["a"]);
        self_signed::load_or_make(two.path(), "b", &[], now).unwrap();
        let files = ["kubelet.crt", "kubelet.key"].map(|name| two.path().join(name));
        serving.load_files(&files[0], &files[1]).unwrap();
        assert_eq!(holder.current().unwrap().names.dns, ["b"]);
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused_and_the_old_pair_stays() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let serving = ServingCertificate::default();
        serving.load_self_signed(one.path(), "a", &[], now).unwrap();
        self_signed::load_or_make(two.path(), "b", &[], now).unwrap();
        assert!(serving.load_files(&two.path().join("kubelet.crt"), &one.path().join("kubelet.key")).is_err());
        assert_eq!(serving.current().unwrap().names.dns, ["a"]);
    }
}
