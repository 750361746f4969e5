//! TLS bootstrap: from a bootstrap token to the node's own client certificate and kubeconfig.

use std::{fs, io, path::PathBuf, time::Duration};

use apiserver::{ApiServer, ClientOptions};
use host::Clock;
use rcgen::KeyPair;

use super::{
    kubeconfig::{is_still_valid, write_from_bootstrap},
    request::{Purpose, Wanted, new_key, request},
    store::PairStore,
};
use crate::{CertificateError, Result, pair::user_of, ttl};

/// An administrator may have to approve by hand.
const LIMIT: Duration = Duration::from_secs(3600);

/// Options bootstrap-kubeconfig, kubeconfig, cert-dir and the node's name.
#[derive(Clone, Debug)]
pub struct FirstIdentity {
    pub bootstrap_kubeconfig: PathBuf,
    pub kubeconfig: PathBuf,
    pub cert_dir: PathBuf,
    pub node_name: String,
}

/// Makes sure that the kubeconfig is there with a certificate that has not expired; returns at once if it is.
pub async fn ensure_identity(wanted: &FirstIdentity, options: ClientOptions, clock: Clock) -> Result<()> {
    if is_still_valid(&wanted.kubeconfig, clock.wall()) {
        return Ok(());
    }
    let store = PairStore::client(&wanted.cert_dir);
    // A pair from an interrupted start, or one whose kubeconfig was lost.
    let usable = store.load().filter(|pair| pair.is_valid_at(clock.wall()));
    let usable = usable.filter(|pair| store.is_of_node(pair, &wanted.node_name));
    let pair = match usable {
        Some(pair) => pair,
        None => obtain(wanted, &store, options, clock).await?,
    };
    ttl::client_expires(pair.not_after);
    write_from_bootstrap(&wanted.bootstrap_kubeconfig, &wanted.kubeconfig, &store.current_path())
}

async fn obtain(
    wanted: &FirstIdentity,
    store: &PairStore,
    options: ClientOptions,
    clock: Clock,
) -> Result<crate::Pair> {
    let subject = || user_of(&wanted.node_name);
    let api = ApiServer::from_kubeconfig(&wanted.bootstrap_kubeconfig, options)
        .await
        .map_err(|source| CertificateError::Request { subject: subject(), source: Box::new(source) })?;
    let key = pending_key(store)?;
    let asked = Wanted { node_name: wanted.node_name.clone(), purpose: Purpose::Client, is_first: true, limit: LIMIT };
    let refused = |error| match error {
        CertificateError::Request { source, .. } if source.is_unauthorized() => {
            CertificateError::Token { server: api.address(), path: wanted.bootstrap_kubeconfig.clone(), source }
        }
        other => other,
    };
    let certificate = ask_patiently(&api, &key, &asked, clock).await.map_err(refused)?;
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
