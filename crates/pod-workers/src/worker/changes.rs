//! What went wrong with a container before its definition changed holds the new one back no more.

use std::sync::Arc;

use pod::DesiredPod;

use super::Worker;

impl Worker {
    /// To be called before the new version of the pod takes the place of the old one.
    pub(super) fn forgive_changed(&mut self, new: &DesiredPod) {
        if Arc::ptr_eq(&self.desired.pod, &new.pod) {
            return;
        }
        let containers = new.init_containers().iter().chain(new.regular_containers());
        let changed = containers.filter(|c| {
            let before = self.desired.container(&c.name);
            before.is_some_and(|(_, b)| b.image != c.image || b.resources != c.resources)
        });
        for name in changed.map(|c| &c.name) {
            self.in_flight.retry.remove(name);
            self.backoff.forget(name);
            self.report.waiting.remove(name);
            if self.in_flight.starting.contains(name) {
                self.outdated_starts.insert(name.clone());
            }
        }
    }
}
