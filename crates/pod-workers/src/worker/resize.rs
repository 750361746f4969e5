//! A worker's part in a resize: what was granted is handed to runtime and kernel, and told.

use std::{collections::HashSet, sync::Arc};

use metrics::resizes::InProgress;
use pod::{
    ContainerId, Mono, ObservedPod,
    mounts::EventType,
    plan::Plan,
    resize::{self, Accepted, Condition, PodResources, ResizeInput, ResizePlan, Verb},
    resources::pod_cgroup,
};

use super::{RETRY, Stage, Worker};
use crate::{in_flight::Resized, inbox::Inbox};

/// How far a resize is.
#[derive(Default)]
pub(super) struct Resizer {
    stage: ResizeStage,
    accepted: Option<Accepted>,
    /// What the pod's cgroup was last made to fit.
    fits: Option<PodResources>,
    /// For the metrics.
    in_progress: Option<InProgress>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum ResizeStage {
    #[default]
    Idle,
    Working,
    Failed {
        again_at: Mono,
    },
}

impl Resizer {
    pub fn is_working(&self) -> bool {
        self.stage == ResizeStage::Working
    }
    pub fn abort(&mut self) {
        self.stage = ResizeStage::Idle;
    }
}

impl Worker {
    pub(super) fn count_resize(&mut self) {
        let before = self.resizer.in_progress.take();
        let resizing = self.report.resize.in_progress.is_some();
        self.resizer.in_progress = resizing.then(|| before.unwrap_or_else(InProgress::begun));
    }

    /// To be called before the new version of the pod takes the place of the old one.
    pub(super) fn heed_resize(&mut self, inbox: &Inbox) {
        let word = &inbox.resize;
        self.report.resize.pending = word.pending.clone();
        let Some(accepted) = word.accepted.filter(|a| self.resizer.accepted != Some(*a)) else { return };
        self.resizer.accepted = Some(accepted);
        // An earlier failure is no longer of interest.
        if self.resizer.stage != ResizeStage::Working {
            self.resizer.stage = ResizeStage::Idle;
        }
        self.report.resize.in_progress = Some(Condition::new(None, "", "", accepted.generation, accepted.at));
        let before = || pod_cgroup(&self.desired, true, pod::resources::QUOTA_PERIOD_US);
        self.report.enforced = Some(self.report.enforced.take().unwrap_or_else(before));
    }

    fn with_resize<T>(&self, observed: &ObservedPod, plan: &Plan, f: impl FnOnce(&ResizeInput) -> T) -> T {
        let mut stopping: HashSet<ContainerId> = self.in_flight.stopping.clone();
        stopping.extend(plan.stop.iter().map(|s| s.id.clone()));
        let starting: HashSet<String> = plan.start.iter().map(|s| s.name.clone()).collect();
        self.parts.actuated.read(&self.uid, |actuated| {
            let (stopping, starting) = (&stopping, &starting);
            f(&ResizeInput { pod: &self.desired, observed, actuated, stopping, starting })
        })
    }

    /// Begins what a resize asks for. Containers start when the pod's cgroup has room for them.
    pub(super) fn resize(&mut self, plan: &mut Plan, observed: &Arc<ObservedPod>) {
        let mut resize: ResizePlan = self.with_resize(observed, plan, resize::plan);
        if resize.pod && self.resizer.fits.as_ref() == Some(&PodResources::of(&self.desired)) {
            resize.pod = false;
        }
        for stop in &resize.stop {
            self.backoff.forget(&stop.name);
        }
        let stops = !resize.stop.is_empty();
        plan.stop.append(&mut resize.stop);
        if self.resizer.stage == ResizeStage::Working {
            plan.start.clear();
            return;
        }
        if stops || resize.waits || !resize.acts() {
            return;
        }
        if let ResizeStage::Failed { again_at } = self.resizer.stage
            && again_at > self.parts.clock.mono()
        {
            return self.wake_by(again_at);
        }
        plan.start.clear();
        self.resizer.stage = ResizeStage::Working;
        let sandbox = observed.ready_sandbox().map(|s| s.id.clone());
        self.tasks.spawn(crate::resize::resize(self.parts.clone(), self.desired.clone(), sandbox, resize));
    }

    pub(super) fn resized(&mut self, resized: Resized) {
        self.report.enforced = resized.enforced;
        match resized.result {
            Ok(fits) => {
                self.resizer.fits = Some(fits);
                self.resizer.stage = ResizeStage::Idle;
            }
            Err(message) => {
                self.resizer.stage = ResizeStage::Failed { again_at: self.parts.clock.mono() + RETRY };
                self.note_resize_error(&message);
            }
        }
    }

    fn note_resize_error(&mut self, message: &str) {
        let before = self.report.resize.in_progress.take();
        let generation = before.as_ref().map_or_else(|| self.generation(), |c| c.generation);
        let now = self.parts.clock.now().wall;
        let condition = Condition::new(before.as_ref(), resize::ERROR, message, generation, now);
        if before.is_none_or(|b| b.reason != condition.reason || b.message != condition.message) {
            let text = resize::summary(Verb::Error, &self.desired, generation, message);
            self.parts.events.pod(&self.desired, EventType::Warning, Verb::Error.event(), text);
        }
        self.report.resize.in_progress = Some(condition);
    }

    fn generation(&self) -> i64 {
        self.desired.pod.metadata.generation.unwrap_or_default()
    }

    /// Keeps the condition in step with what is still to be done.
    pub(super) fn note_resize(&mut self, observed: &ObservedPod) {
        if !matches!(self.stage, Stage::Ready(_)) {
            return;
        }
        let restarting = &self.in_flight.restart;
        let starts = self.report.resize.in_progress.is_some() && !self.in_flight.starting.is_empty();
        let under_way = starts
            || self.resizer.stage == ResizeStage::Working
            || self.with_resize(observed, &Plan::default(), |input| resize::in_progress(input, restarting));
        if under_way {
            let (generation, now) = (self.generation(), self.parts.clock.now().wall);
            let condition = || Condition::new(None, "", "", generation, now);
            self.report.resize.in_progress.get_or_insert_with(condition);
        } else if let Some(over) = self.report.resize.in_progress.take() {
            let text = resize::summary(Verb::Completed, &self.desired, over.generation, "");
            self.parts.events.pod(&self.desired, EventType::Normal, Verb::Completed.event(), text);
        }
    }
}
