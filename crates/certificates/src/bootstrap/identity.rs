//! The kubeconfig and the files that it names: whoever replaces one of them gets a client that uses it.

use std::path::Path;

use apiserver::ApiServer;

use super::kubeconfig::files_of;
use crate::follow::Files;

/// Task: has the client read them again whenever one of them changes. Ends only when dropped.
pub async fn follow_identity(kubeconfig: &Path, api: &ApiServer) {
    loop {
        // Another kubeconfig may name other files. They are noted before they are loaded: no change falls between.
        let mut files = Files::new(files_of(kubeconfig));
        if let Err(error) = api.reload_if_changed().await {
            tracing::warn!(%error, "changed client credentials not taken");
        }
        files.changed().await;
    }
}
