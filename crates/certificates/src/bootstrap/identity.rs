//! The kubeconfig, the files that it names and the rotated pair: whoever replaces one of them gets a client that uses it.

use std::path::{Path, PathBuf};

use apiserver::ApiServer;
use host::Clock;
use jiff::Timestamp;

use super::{
    PairStore,
    kubeconfig::{ca_expiry, certificate_file, client_certificate_validity, expired, files_of},
    rotation::wait_until,
};
use crate::{Result, follow::Files, ttl};

/// Task: has the client read them again whenever one of them changes. `rotated`: where rotation stores its pair. Ends
/// only when dropped.
pub async fn follow_identity(kubeconfig: &Path, rotated: Option<&PairStore>, api: &ApiServer, clock: Clock) {
    loop {
        // Another kubeconfig may name other files. They are noted before they are loaded: no change falls between.
        let named = files_of(kubeconfig).into_iter().chain(rotated.map(PairStore::current_path));
        let mut files = Files::new(named.collect());
        if let Err(error) = api.reload_if_changed().await {
            tracing::warn!(error = apiserver::with_causes(&error), "changed client credentials not taken");
        }
        if let Some(at) = ca_expiry(kubeconfig) {
            ttl::cluster_ca_expires(at);
        }
        // One with a token or a plugin has no certificate.
        let Ok((file, not_after)) = in_use(kubeconfig, rotated, clock.wall()) else {
            files.changed().await;
            continue;
        };
        ttl::client_expires(not_after);
        if clock.wall() < not_after {
            tokio::select! {
                () = files.changed() => {}
                () = wait_until(clock, not_after) => {}
            }
            continue;
        }
        tracing::warn!("{}", expired(&file, not_after));
        files.changed().await;
    }
}

/// The file of the client certificate that the API client uses, and when that expires.
fn in_use(kubeconfig: &Path, rotated: Option<&PairStore>, now: Timestamp) -> Result<(PathBuf, Timestamp)> {
    let stored = rotated.and_then(|store| Some((store.current_path(), store.load()?.not_after)));
    match stored {
        Some((file, not_after)) if now < not_after => Ok((file, not_after)),
        _ => Ok((certificate_file(kubeconfig)?, client_certificate_validity(kubeconfig)?.1)),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pair(until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn the_expiry_shown_is_that_of_the_certificate_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (kubeconfig, named) = (dir.path().join("kubelet.conf"), dir.path().join("client.pem"));
        let store = PairStore::client(&dir.path().join("pki"));
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        assert!(in_use(&kubeconfig, Some(&store), now).is_err());

        let text = "users: [{name: u, user: {client-certificate: client.pem, client-key: client.pem}}]\n\
                    contexts: [{name: c, context: {cluster: k, user: u}}]\ncurrent-context: c\n";
        std::fs::write(&kubeconfig, text).unwrap();
        std::fs::write(&named, pair(2025).0).unwrap();
        let until = |year: i32| format!("{year}-01-01T00:00:00Z").parse::<Timestamp>().unwrap();
        assert_eq!(in_use(&kubeconfig, Some(&store), now).unwrap(), (named.clone(), until(2025)));

        let (certificate, key) = pair(2030);
        store.update(certificate.as_bytes(), &key, now).unwrap();
        assert_eq!(in_use(&kubeconfig, Some(&store), now).unwrap(), (store.current_path(), until(2030)));
        assert_eq!(in_use(&kubeconfig, None, now).unwrap(), (named, until(2025)), "no rotation");
    }
}
