//! The node's addresses show in the status of every pod that runs.

use std::sync::Arc;

use node::NodeFacts;
use pod::{Life, api::PodStatus};
use tokio::sync::watch;

use super::Worker;

impl Worker {
    /// The status that tells the node's addresses, of a pod that follows them.
    pub(super) fn told_addresses(&self) -> Option<Arc<PodStatus>> {
        let lives = matches!(self.report.life, Life::Pending | Life::Syncing);
        self.status.clone().filter(|_| lives)
    }
}

/// Until the node has changed in a way that concerns the pod, which most changes do not. None: it will not change any
/// more.
pub(super) async fn facts_that_matter(
    node: &mut watch::Receiver<Arc<NodeFacts>>,
    any: bool,
    told: Option<Arc<PodStatus>>,
) -> Option<()> {
    loop {
        node.changed().await.ok()?;
        if any || told.as_ref().is_some_and(|told| are_others(&node.borrow_and_update().host_ips, told)) {
            return Some(());
        }
    }
}

/// A status has at most two, and keeps what it has while none is known.
fn are_others(now: &[String], told: &PodStatus) -> bool {
    !now.is_empty() && !now.iter().take(2).eq(told.host_ips.iter().flatten().map(|ip| &ip.ip))
}
