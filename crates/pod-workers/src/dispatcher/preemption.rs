//! Critical pods get in: others make room for them.

use std::collections::HashMap;

use pod::{
    DesiredPod, PodUid, TerminationCause,
    admit::{NodeView, Rejection, shortages},
    mounts::EventType,
    preempt,
};

use super::Dispatcher;
use crate::inbox::End;

/// Who was ended for which critical pod.
#[derive(Default)]
pub(super) struct Preemptions(HashMap<PodUid, Vec<PodUid>>);

impl Preemptions {
    pub fn forget(&mut self, uid: &PodUid) {
        self.0.remove(uid);
    }
}

impl Dispatcher {
    /// None: others are on their way out to make room, or the node is asked for; then is the time to try again.
    pub(super) fn fits_or_preempts(&mut self, desired: &DesiredPod, node: &NodeView) -> Option<Result<(), Rejection>> {
        let active = self.active();
        if let Some(victims) = self.preemptions.0.get(&desired.uid) {
            if active.iter().any(|pod| victims.contains(&pod.uid)) {
                return None;
            }
            self.preemptions.forget(&desired.uid);
        }
        let active: Vec<&DesiredPod> = active.iter().collect();
        let Err(refusal) = self.verdict(desired, &active, node)? else { return Some(Ok(())) };
        // Only want of resources is a reason to end others.
        if !desired.is_critical() || !refusal.reason.starts_with("OutOf") {
            return Some(Err(refusal));
        }
        let shortages = shortages(desired, &active, node);
        match preempt::victims(desired, &active, &shortages) {
            Ok(victims) => {
                self.preempt(desired, &victims, shortages.first().map_or("", |first| &first.resource));
                None
            }
            Err(why) => {
                let message = "Unexpected error while attempting to recover from admission failure: preemption: error";
                let message = format!("{message} finding a set of pods to preempt: {why}");
                Some(Err(Rejection::new("UnexpectedAdmissionError", message)))
            }
        }
    }

    fn preempt(&mut self, critical: &DesiredPod, victims: &[&DesiredPod], resource: &str) {
        for victim in victims {
            metrics::admission::preempted(resource);
            tracing::info!(pod = %victim.key, uid = %victim.uid, critical = %critical.key, "preempting a pod");
            self.parts.events.pod(victim, EventType::Warning, preempt::REASON, preempt::MESSAGE);
            let cause = TerminationCause::Failed {
                reason: preempt::REASON.to_owned(),
                message: preempt::MESSAGE.to_owned(),
                disruption: true,
            };
            if let Some(inbox) = self.workers.get(&victim.uid) {
                inbox.send_modify(|inbox| inbox.end = Some(End { cause, grace: None }));
            }
        }
        let victims = victims.iter().map(|victim| victim.uid.clone()).collect();
        self.preemptions.0.insert(critical.uid.clone(), victims);
    }
}
