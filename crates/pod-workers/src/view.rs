//! What others (server, node, admission) may see of the pods: one cheap, always current table.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use pod::{DesiredPod, Life, PodUid, api::PodStatus};

/// One pod as its worker last left it.
#[derive(Clone, Debug)]
pub struct PodView {
    pub desired: DesiredPod,
    pub status: Arc<PodStatus>,
    pub life: Life,
}

impl PodView {
    /// Still counts against the node's resources: not finished, not refused.
    pub fn is_active(&self) -> bool {
        let terminal = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let over = matches!(self.life, Life::Terminated | Life::Gone | Life::Rejected { .. });
        !terminal && !over
    }
}

/// Shared by all workers; each writes only its own row.
#[derive(Clone, Debug, Default)]
pub struct PodsView(Arc<RwLock<HashMap<PodUid, Arc<PodView>>>>);

impl PodsView {
    pub fn get(&self, uid: &PodUid) -> Option<Arc<PodView>> {
        self.0.read().expect("a writer panicked").get(uid).cloned()
    }

    /// In order of namespace and name.
    pub fn list(&self) -> Vec<Arc<PodView>> {
        let mut pods: Vec<_> = self.0.read().expect("a writer panicked").values().cloned().collect();
        pods.sort_by(|a, b| a.desired.key.cmp(&b.desired.key));
        pods
    }

    pub(crate) fn set(&self, view: PodView) {
        self.0.write().expect("a writer panicked").insert(view.desired.uid.clone(), Arc::new(view));
    }

    pub(crate) fn remove(&self, uid: &PodUid) {
        self.0.write().expect("a writer panicked").remove(uid);
    }
}
