//! What others (server, node, admission) may see of the pods: one cheap, always current table.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use pod::{DesiredPod, Life, PodUid, api::PodStatus, report::Step};
use tokio::sync::watch;

/// One pod as its worker last left it.
#[derive(Clone, Debug)]
pub struct PodView {
    pub desired: DesiredPod,
    pub status: Arc<PodStatus>,
    pub life: Life,
    /// What is being done for it; None before its worker has looked at it.
    pub step: Option<Step>,
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
pub struct PodsView(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rows: RwLock<HashMap<PodUid, Arc<PodView>>>,
    active: watch::Sender<()>,
    any: watch::Sender<()>,
    complete: watch::Sender<bool>,
}

impl PodsView {
    /// Wakes when a pod becomes active, stops being so, or is active with another spec.
    pub fn active_changes(&self) -> watch::Receiver<()> {
        self.0.active.subscribe()
    }

    /// Wakes after each write of a row, also where little or nothing is new in it.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.any.subscribe()
    }

    /// True once every source has told its pods: before that some that run may be missing.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.0.complete.subscribe()
    }

    pub(crate) fn set_complete(&self) {
        self.0.complete.send_replace(true);
    }

    pub fn active(&self) -> Vec<Arc<PodView>> {
        self.list().into_iter().filter(|pod| pod.is_active()).collect()
    }

    pub fn get(&self, uid: &PodUid) -> Option<Arc<PodView>> {
        self.0.rows.read().expect("a writer panicked").get(uid).cloned()
    }

    /// In order of namespace and name.
    pub fn list(&self) -> Vec<Arc<PodView>> {
        let mut pods: Vec<_> = self.0.rows.read().expect("a writer panicked").values().cloned().collect();
        pods.sort_by(|a, b| a.desired.key.cmp(&b.desired.key));
        pods
    }

    pub(crate) fn set(&self, view: PodView) {
        let view = Arc::new(view);
        let before = self.0.rows.write().expect("a writer panicked").insert(view.desired.uid.clone(), view.clone());
        if !counts_the_same(before.as_deref(), Some(&view)) {
            self.0.active.send_replace(());
        }
        self.0.any.send_replace(());
    }

    pub(crate) fn remove(&self, uid: &PodUid) {
        let before = self.0.rows.write().expect("a writer panicked").remove(uid);
        if !counts_the_same(before.as_deref(), None) {
            self.0.active.send_replace(());
        }
        self.0.any.send_replace(());
    }
}

/// Most updates of a pod change its status only.
fn counts_the_same(before: Option<&PodView>, after: Option<&PodView>) -> bool {
    let active = |view: Option<&PodView>| view.filter(|v| v.is_active()).map(|v| v.desired.clone());
    match (active(before), active(after)) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(&a.pod, &b.pod) || a.spec() == b.spec(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use pod::Source;
    use serde_json::json;

    use super::*;

    fn row(phase: &str, cpu: &str) -> PodView {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": phase},
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}});
        let desired = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let status = Arc::new(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() });
        PodView { desired, status, life: Life::Syncing, step: None }
    }

    #[test]
    fn only_changes_of_what_counts_wake() {
        let view = PodsView::default();
        let mut changes = view.active_changes();
        let mut woken = |change: &dyn Fn()| {
            change();
            let woken = changes.has_changed().unwrap();
            changes.borrow_and_update();
            woken
        };
        assert!(woken(&|| view.set(row("Pending", "1"))));
        assert!(!woken(&|| view.set(row("Running", "1"))));
        assert!(woken(&|| view.set(row("Running", "2"))));
        assert!(woken(&|| view.set(row("Succeeded", "2"))));
        assert!(!woken(&|| view.remove(&"u".into())));
    }
}
