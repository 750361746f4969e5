//! What others see of a pod: its row of the view, and its status for the API.

use std::sync::Arc;

use pod::{
    ContainerState, Life, TerminationCause, Waiting,
    api::PodStatus,
    status::{StatusInput, pod_status},
};

use super::Worker;
use crate::{
    startup::{Seen, is_stateful},
    view::PodView,
};

impl Worker {
    /// Of a pod whose first container has begun to run.
    fn count_start(&self, status: &PodStatus) {
        let phase = |status: &PodStatus| status.phase.clone().unwrap_or_default();
        let before = self.status.as_deref().map(phase).unwrap_or_default();
        if phase(status) == "Running" && matches!(before.as_str(), "" | "Pending") {
            metrics::pods::running(self.age_at_begin + self.parts.clock.mono().since(self.began));
        }
    }

    /// Once, when the API says for the first time that all of the pod runs.
    pub(super) fn count_startup(&mut self) {
        let Some(startup) = &self.startup else { return };
        match startup.seen(&self.desired, &self.observed.borrow(), self.parts.clock.wall()) {
            Seen::Starting => return,
            Seen::Running { total, own } => {
                let own = (!is_stateful(&self.desired)).then_some(own);
                metrics::pods::seen_running(total, own, !self.desired.host_network());
            }
            Seen::Over => {}
        }
        self.startup = None;
    }

    pub(super) fn publish(&mut self) {
        self.note_step();
        self.count_resize();
        let observed = self.observed.borrow().clone();
        let probes = self.probes.borrow().clone();
        let node = self.parts.node.borrow().clone();
        let mut report = self.report.clone();
        report.restarting.clone_from(&self.in_flight.restart);
        // A container is not up before its postStart hook has ended.
        for name in &self.in_flight.starting {
            let running = observed.newest(name).is_some_and(|c| c.state == ContainerState::Running);
            if running && !report.waiting.contains_key(name) {
                let reason = pod::status::default_reason(&self.desired).to_owned();
                let waiting = Waiting { reason, message: String::new() };
                report.waiting.insert(name.clone(), waiting);
            }
        }
        self.explain_waiting(&mut report);
        // What is told, which for a static pod is not all from here: its mirror knows since when things hold.
        let previous = self.parts.status.get(&self.uid).or_else(|| self.status.clone());
        let input = StatusInput {
            desired: &self.desired,
            observed: &observed,
            probes: &probes,
            report: &report,
            previous: previous.as_deref(),
            host_ips: &node.host_ips,
            now: self.parts.clock.now(),
        };
        let status = Arc::new(pod_status(&input));
        let life = self.report.life.clone();
        let finished = life == Life::Gone;
        let step = self.report.step.clone();
        self.count_start(&status);
        self.status = Some(status.clone());
        // What the runtime tells of an orphaned pod is too little for a status.
        if self.report.cause != Some(TerminationCause::Orphaned) {
            let (pod, status) = (self.desired.clone(), status.clone());
            self.parts.status.set(status_manager::StatusUpdate { pod, status, finished });
        }
        // After the status: who sees here that a pod is over may wait for the word of it to be sent.
        self.parts.view.set(PodView { desired: self.desired.clone(), status, life, step });
    }
}
