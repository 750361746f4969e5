//! TLS bootstrap: from a bootstrap token to the node's own client certificate and kubeconfig.

use std::{fs, io, path::PathBuf, time::Duration};

use apiserver::{ApiServer, ClientOptions};
use host::Clock;
use jiff::Timestamp;
use rcgen::KeyPair;

use super::{
    kubeconfig::{is_still_valid, write_from_bootstrap},
    request::{Purpose, Wanted, new_key, request},
    store::PairStore,
};
use crate::{CertificateError, Pair, Result, pair::user_of, ttl};

/// Without rotation: an administrator may have to approve by hand.
const LIMIT: Duration = Duration::from_secs(3600);

/// Options bootstrap-kubeconfig, kubeconfig, cert-dir and the node's name.
#[derive(Clone, Debug)]
pub struct FirstIdentity {
    pub bootstrap_kubeconfig: PathBuf,
    pub kubeconfig: PathBuf,
    pub cert_dir: PathBuf,
    pub node_name: String,
}

impl FirstIdentity {
    fn store(&self) -> PairStore {
        PairStore::client(&self.cert_dir)
    }

    /// A pair from an interrupted start, or one whose kubeconfig was lost.
    fn stored(&self, now: Timestamp) -> Option<Pair> {
        let store = self.store();
        store.load().filter(|pair| pair.is_valid_at(now) && store.is_of_node(pair, &self.node_name))
    }

    fn write_kubeconfig(&self) -> Result<()> {
        write_from_bootstrap(&self.bootstrap_kubeconfig, &self.kubeconfig, &self.store().current_path())
    }

    /// A client with the bootstrap credentials.
    async fn client(&self, options: ClientOptions) -> Result<ApiServer> {
        let failed = |source| CertificateError::Request { subject: user_of(&self.node_name), source: Box::new(source) };
        ApiServer::from_kubeconfig(&self.bootstrap_kubeconfig, options).await.map_err(failed)
    }

    fn wanted(&self, is_named: bool, limit: Duration) -> Wanted {
        Wanted { node_name: self.node_name.clone(), purpose: Purpose::Client, is_named, limit }
    }

    /// Tells a token that is not accepted from other failures.
    fn explained(&self, api: &ApiServer, error: CertificateError) -> CertificateError {
        match error {
            CertificateError::Request { source, .. } if source.is_unauthorized() => {
                CertificateError::Token { server: api.address(), path: self.bootstrap_kubeconfig.clone(), source }
            }
            other => other,
        }
    }

    /// One attempt at a certificate, as rotation makes them: with a new key, and the credentials that are there by now.
    pub(super) async fn request(&self, options: ClientOptions, limit: Duration, clock: Clock) -> Result<Pair> {
        let (api, key) = (self.client(options).await?, new_key()?);
        let asked = request(&api, &key, &self.wanted(false, limit), clock.wall()).await;
        let certificate = asked.map_err(|error| self.explained(&api, error))?;
        self.store().update(&certificate, &key.serialize_pem(), clock.wall())
    }
}

/// With rotation: makes sure of a kubeconfig, and says whether the certificate that it names is still to come. Nobody is
/// asked for it here, but bootstrap credentials that can't be used are told at once.
pub async fn prepare_identity(wanted: &FirstIdentity, options: ClientOptions, clock: Clock) -> Result<bool> {
    if is_still_valid(&wanted.kubeconfig, clock.wall()) {
        return Ok(false);
    }
    let is_to_come = wanted.stored(clock.wall()).is_none();
    if is_to_come {
        wanted.client(options).await?;
    }
    wanted.write_kubeconfig()?;
    Ok(is_to_come)
}

/// Without rotation: makes sure that the kubeconfig is there with a certificate that has not expired, and waits for it if
/// need be.
pub async fn ensure_identity(wanted: &FirstIdentity, options: ClientOptions, clock: Clock) -> Result<()> {
    if is_still_valid(&wanted.kubeconfig, clock.wall()) {
        return Ok(());
    }
    let pair = match wanted.stored(clock.wall()) {
        Some(pair) => pair,
        None => obtain(wanted, options, clock).await?,
    };
    ttl::client_expires(pair.not_after);
    wanted.write_kubeconfig()
}

async fn obtain(wanted: &FirstIdentity, options: ClientOptions, clock: Clock) -> Result<Pair> {
    let (api, store) = (wanted.client(options).await?, wanted.store());
    let key = pending_key(&store)?;
    let asked = ask_patiently(&api, &key, &wanted.wanted(true, LIMIT), clock).await;
    let certificate = asked.map_err(|error| wanted.explained(&api, error))?;
    let pair = store.update(&certificate, &key.serialize_pem(), clock.wall())?;
    match fs::remove_file(store.pending_key_path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::info!(%error, "leftover of the bootstrap stays")
        }
        _ => {}
    }
    Ok(pair)
}

/// The API server may come up later than the node; a refusal is final.
async fn ask_patiently(api: &ApiServer, key: &KeyPair, wanted: &Wanted, clock: Clock) -> Result<Vec<u8>> {
    let mut pause = Duration::from_secs(1);
    loop {
        match request(api, key, wanted, clock.wall()).await {
            Err(error) if matches!(&error, CertificateError::Request { source, .. } if source.is_transient()) => {
                let (server, error) = (api.address(), error.described());
                tracing::warn!(server, error, "the node has no certificate yet: bootstrap waits for the API server");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(15));
            }
            result => return result,
        }
    }
}

/// The key of a request that an earlier start made, so that restarts don't pile up keys.
fn pending_key(store: &PairStore) -> Result<KeyPair> {
    let path = store.pending_key_path();
    if let Ok(pem) = fs::read_to_string(&path)
        && let Ok(key) = KeyPair::from_pem(&pem)
    {
        return Ok(key);
    }
    let key = new_key()?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|source| CertificateError::Write { path: dir.into(), source })?;
    }
    host::atomic_file::write(&path, key.serialize_pem().as_bytes(), 0o600)
        .map_err(|source| CertificateError::WriteAtomically { path, source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn with_rotation_a_kubeconfig_is_written_before_there_is_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let wanted = FirstIdentity {
            bootstrap_kubeconfig: path("bootstrap.conf"),
            kubeconfig: path("kubelet.conf"),
            cert_dir: path("pki"),
            node_name: "n".to_owned(),
        };
        let clock = Clock::start();
        let prepare = || prepare_identity(&wanted, ClientOptions::default(), clock);
        assert!(prepare().await.is_err(), "there are no bootstrap credentials");
        let cluster = |ca: &str| {
            format!(
                "clusters: [{{name: k, cluster: {{server: 'https://192.0.2.1:6443'{ca}}}}}]\n\
                 users: [{{name: u, user: {{token: abcdef.0123456789abcdef}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\ncurrent-context: c\n"
            )
        };
        fs::write(&wanted.bootstrap_kubeconfig, cluster(", certificate-authority: /nowhere")).unwrap();
        assert!(prepare().await.is_err(), "the CA can't be read");
        assert!(!wanted.kubeconfig.exists());
        fs::write(&wanted.bootstrap_kubeconfig, cluster("")).unwrap();
        assert!(prepare().await.unwrap());
        assert!(fs::read_to_string(&wanted.kubeconfig).unwrap().contains("pki/kubelet-client-current.pem"));

        // A client of that kubeconfig can be had, and has its identity as soon as there is one.
        let identity = Some(wanted.store().identity(clock));
        let options = ClientOptions { identity, awaits_identity: true, ..ClientOptions::default() };
        let api = ApiServer::from_kubeconfig(&wanted.kubeconfig, options).await.unwrap();
        assert!(api.awaits_identity());
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let key = new_key().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        wanted.store().update(certificate.as_bytes(), &key.serialize_pem(), clock.wall()).unwrap();
        api.reload().await.unwrap();
        assert!(!api.awaits_identity() && !prepare().await.unwrap());
    }

    #[test]
    fn a_pending_key_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        let first = pending_key(&store).unwrap();
        assert_eq!(pending_key(&store).unwrap().serialize_pem(), first.serialize_pem());
        fs::write(store.pending_key_path(), "junk").unwrap();
        assert_ne!(pending_key(&store).unwrap().serialize_pem(), first.serialize_pem());
    }
}
