//! The kubeconfig, the files that it names and the rotated pair: whoever replaces one of them gets a client that uses it.

use std::path::Path;

use apiserver::ApiServer;

use super::{PairStore, kubeconfig::files_of};
use crate::follow::Files;

/// Task: has the client read them again whenever one of them changes. `rotated`: where rotation stores its pair. Ends
/// only when dropped.
pub async fn follow_identity(kubeconfig: &Path, rotated: Option<&PairStore>, api: &ApiServer) {
    loop {
        // Another kubeconfig may name other files. They are noted before they are loaded: no change falls between.
        let named = files_of(kubeconfig).into_iter().chain(rotated.map(PairStore::current_path));
        let mut files = Files::new(named.collect());
        if let Err(error) = api.reload_if_changed().await {
            tracing::warn!(%error, "changed client credentials not taken");
        }
        files.changed().await;
    }
}
