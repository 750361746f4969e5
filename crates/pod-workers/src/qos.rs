//! Keeps the QoS classes' cgroups in step with the pods that count.
//!
//! Reads: the view. Writes: cgroups. Wakes on: a change of the active pods; a failed write is tried again.

use std::{sync::Arc, time::Duration};

use cgroups::Cgroups;
use pod::DesiredPod;
use tokio::time::timeout;

use crate::view::PodsView;

const RETRY: Duration = Duration::from_secs(60);

/// Runs until dropped. Changes that come while a write is under way are answered by the next one, all together.
pub(crate) async fn follow(view: PodsView, cgroups: Arc<Cgroups>) {
    let mut changes = view.active_changes();
    loop {
        changes.borrow_and_update();
        let updated = {
            // Not kept until the next change: these versions of the pods are soon old.
            let active: Vec<DesiredPod> = view.active().iter().map(|pod| pod.desired.clone()).collect();
            cgroups.update_qos(&active).await
        };
        let changed = match &updated {
            Ok(()) => changes.changed().await,
            Err(error) => {
                tracing::warn!(%error, "the burstable pods' share of the CPU is not updated; trying again");
                timeout(RETRY, changes.changed()).await.unwrap_or(Ok(()))
            }
        };
        if changed.is_err() {
            return;
        }
    }
}
