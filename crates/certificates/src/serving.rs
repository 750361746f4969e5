//! The serving certificate of the moment.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use host::Clock;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Pair, Result, TlsOptions, bootstrap::wait_until, follow::Files, self_signed, server_config, ttl};

/// Where a pair could not be made anew.
const TRY_AGAIN: Duration = Duration::from_secs(10 * 60);

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
        files.follow(|| self.load_again(&certificate, &key)).await;
    }

    fn load_again(&self, certificate: &Path, key: &Path) {
        match self.load_files(certificate, key) {
            Ok(()) => tracing::info!(path = %certificate.display(), "serving certificate reloaded"),
            Err(error) => tracing::warn!(error = error.described(), "changed serving certificate not taken"),
        }
    }

    /// Task: the same for kubelet.crt and kubelet.key, and makes a pair of the kubelet's own anew before it expires.
    async fn follow_self_signed(self, mut files: Files, config: ServingConfig, clock: Clock) {
        let (certificate, key) = self_signed::files(&config.cert_dir);
        loop {
            let remake = self.current().and_then(|pair| self_signed::remake_at(&pair));
            let due = async {
                match remake {
                    Some(at) => wait_until(clock, at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = files.changed() => self.load_again(&certificate, &key),
                () = due => {
                    let ServingConfig { cert_dir, host_name, ips, .. } = &config;
                    if let Err(error) = self.load_self_signed(cert_dir, host_name, ips, clock.wall()) {
                        tracing::warn!(error = error.described(), "serving certificate not made anew");
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
            }
        }
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
                AbortOnDropHandle::new(tokio::spawn(follower))
            }
            None => {
                let clock = Clock::start();
                certificate.load_self_signed(&config.cert_dir, &config.host_name, &config.ips, clock.wall())?;
                let (file, key) = self_signed::files(&config.cert_dir);
                // Noted, then loaded once more: what has just been made is no change, and none falls between.
                let files = Files::new(vec![file.clone(), key.clone()]);
                certificate.load_files(&file, &key)?;
                AbortOnDropHandle::new(tokio::spawn(certificate.clone().follow_self_signed(
                    files,
                    config.clone(),
                    clock,
                )))
            }
        };
        Ok(Self { _follower: Some(follower), ..Self::with_certificate(&certificate, config, clients)? })
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

    #[tokio::test(start_paused = true)]
    async fn a_pair_put_in_the_place_of_the_self_signed_one_is_taken() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = Clock::start();
        let serving = ServingCertificate::default();
        serving.load_self_signed(dir.path(), "a", &[], clock.wall()).unwrap();
        let (file, key) = self_signed::files(dir.path());
        let config = ServingConfig { cert_dir: dir.path().into(), host_name: "a".into(), ..ServingConfig::default() };
        let follower = serving.clone().follow_self_signed(Files::new(vec![file.clone(), key.clone()]), config, clock);
        let _follower = AbortOnDropHandle::new(tokio::spawn(follower));
        self_signed::load_or_make(other.path(), "b", &[], clock.wall()).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (new_file, new_key) = self_signed::files(other.path());
        std::fs::copy(new_key, key).unwrap();
        std::fs::copy(new_file, file).unwrap();
        tokio::time::sleep(Duration::from_secs(180)).await;
        assert_eq!(serving.current().unwrap().names.dns, ["b"]);
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
