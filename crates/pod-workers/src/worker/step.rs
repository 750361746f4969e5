//! A worker tells at which step its pod is, since when, and what that step waits for.

use pod::{
    ContainerState, Waiting, WorkerReport,
    mounts::EventType,
    report::Step,
    step::{EVENT, StepInput, patience, step, text},
};

use super::{Stage, Worker};

impl Worker {
    /// Works out the step anew; one that lasts long is told in an event, once.
    pub(super) fn note_step(&mut self) {
        let observed = self.observed.borrow().clone();
        let (doing, blocked_by) = step(&StepInput {
            desired: &self.desired,
            observed: &observed,
            report: &self.report,
            in_flight: &self.in_flight,
            prepared: matches!(self.stage, Stage::Ready(_)),
            awaits_network: self.awaits_network,
            resizing: self.resizer.is_working(),
        });
        let now = self.parts.clock.mono();
        let before = self.report.step.take().filter(|s| s.doing == doing);
        if before.is_none() {
            self.step_told = false;
        }
        let since = before.map_or(now, |s| s.since);
        let step = Step { doing, since, blocked_by };
        if let Some(text) = text(&step).filter(|_| !self.step_told && !self.is_rejected()) {
            let due = since + patience(&self.report.life);
            if due <= now {
                self.step_told = true;
                let lasted = now.since(since).as_secs();
                let message = format!("For {lasted} seconds: {text}");
                self.parts.events.pod(&self.desired, EventType::Normal, EVENT, message);
            } else {
                self.wake_by(due);
            }
        }
        self.report.step = Some(step);
    }

    fn is_rejected(&self) -> bool {
        matches!(self.report.life, pod::Life::Rejected { .. })
    }

    /// Containers of which nothing is known but that they wait say what for, once that lasts long. No other message is
    /// touched: upstream fixes them.
    pub(super) fn explain_waiting(&self, report: &mut WorkerReport) {
        let Some(message) = self.report.step.as_ref().filter(|_| self.step_told).and_then(text) else { return };
        let observed = self.observed.borrow();
        let containers = self.desired.init_containers().iter().chain(self.desired.regular_containers());
        for name in containers.map(|c| &c.name) {
            let made = observed.newest(name).is_some_and(|c| c.state != ContainerState::Created);
            if !made && !report.waiting.contains_key(name) {
                let reason = pod::status::default_reason(&self.desired).to_owned();
                report.waiting.insert(name.clone(), Waiting { reason, message: message.clone() });
            }
        }
    }
}
