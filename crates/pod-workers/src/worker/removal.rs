//! What a worker removes while its pod goes on: containers that newer ones have replaced, and all of them where the pod
//! starts anew.

use pod::{ObservedPod, plan::InFlight};

use super::{Pruning, Worker};
use crate::remains;

impl Worker {
    /// Starts under way and reasons to wait belong to the past. A new plan is made when all containers are gone.
    pub(super) fn restart_all(&mut self) {
        self.tasks.abort_starts();
        self.outdated_starts.clear();
        self.failed_stops.clear();
        self.in_flight = InFlight { restart_all: true, ..InFlight::default() };
        self.report.waiting.clear();
        self.tasks.spawn(remains::remove_to_restart(self.parts.clone(), self.desired.clone()));
    }

    /// Of each container the newest and the one before are kept (state and lastState); older ones go.
    pub(super) fn prune(&mut self, observed: &ObservedPod) {
        let dead = pod::remains::superseded(observed);
        if dead.containers.is_empty() && dead.sandboxes.is_empty() {
            return;
        }
        match self.pruning {
            Pruning::Working => return,
            Pruning::Failed { again_at } if again_at > self.parts.clock.mono() => return self.wake_by(again_at),
            Pruning::Idle | Pruning::Failed { .. } => {}
        }
        self.pruning = Pruning::Working;
        let task = remains::prune(self.parts.clone(), self.desired.clone(), dead.containers, dead.sandboxes);
        self.tasks.spawn(task);
    }
}
