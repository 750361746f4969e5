//! Grants resizes: a pod gets other resources when the node has them, in an order that upstream fixes.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use pod::{
    DesiredPod, Mono, PodUid,
    mounts::EventType,
    qos::{QosClass, qos_class},
    resize::{self, Accepted, Condition, DEFERRED, INFEASIBLE, PodResources, ResizeReport, Verb, priority_bucket},
    resources::reserved_requests,
    time::Timestamp,
};

use super::Dispatcher;

/// Deferred resizes are looked at again though nothing was heard.
const RETRY: Duration = Duration::from_secs(180);

/// Why resizes are tried, in the words of the metrics.
#[derive(Clone, Copy)]
pub(super) enum Trigger {
    Time,
    Updated,
    Resized,
    Added,
    Ended,
}

impl Trigger {
    fn label(self) -> &'static str {
        match self {
            Trigger::Time => "periodic_retry",
            Trigger::Updated => "pod_updated",
            Trigger::Resized => "pod_resized",
            Trigger::Added => "pods_added",
            Trigger::Ended => "pod_terminated",
        }
    }
}

/// What became of a wish.
#[derive(Clone, Copy)]
pub(super) enum Resolution {
    Accepted,
    Reverted,
    Terminated,
}

impl Resolution {
    fn label(self) -> &'static str {
        match self {
            Resolution::Accepted => "accepted",
            Resolution::Reverted => "reverted",
            Resolution::Terminated => "terminated",
        }
    }
}

/// Pods that want other resources than they were granted.
#[derive(Default)]
pub(super) struct Resizes {
    wanted: HashMap<PodUid, Wanted>,
    pub retry_at: Option<Mono>,
}

struct Wanted {
    desired: DesiredPod,
    pending: Option<Condition>,
}

impl Wanted {
    fn is_infeasible(&self) -> bool {
        self.pending.as_ref().is_some_and(|p| p.reason == INFEASIBLE)
    }
}

impl Resizes {
    /// The pod wants nothing any more. True when it had been put off before.
    pub fn settle(&mut self, uid: &PodUid, resolution: Resolution, now: Timestamp) -> bool {
        let Some(wanted) = self.wanted.remove(uid) else { return false };
        self.count();
        let Some(deferred) = wanted.pending.filter(|p| p.reason == DEFERRED) else { return false };
        let time = Duration::try_from(now.duration_since(deferred.since)).unwrap_or_default();
        metrics::resizes::deferred_for(time, resolution.label(), priority_bucket(&wanted.desired));
        true
    }

    fn count(&self) {
        let reason = |pending: &Condition| if pending.reason == INFEASIBLE { "infeasible" } else { "deferred" };
        let waiting = |w: &Wanted| Some((reason(w.pending.as_ref()?), priority_bucket(&w.desired)));
        metrics::resizes::pending(self.wanted.values().filter_map(waiting));
    }

    /// Those that may be granted, in the order in which they are tried: what asks for no more first, then by priority
    /// and QoS class, then those that wait longest.
    fn order(&self, granted: impl Fn(&PodUid) -> Option<DesiredPod>) -> Vec<PodUid> {
        let rank = |(uid, wanted): (&PodUid, &Wanted)| {
            let grows = resize::increases(&wanted.desired, &granted(uid)?);
            let priority = Reverse(wanted.desired.spec().priority.unwrap_or(0));
            let class = qos_class(&wanted.desired.pod) != QosClass::Guaranteed;
            let since = wanted.pending.as_ref().map_or(Timestamp::MAX, |p| p.since);
            Some((grows, priority, class, since, uid.clone()))
        };
        let mut all: Vec<_> = self.wanted.iter().filter(|(_, w)| !w.is_infeasible()).filter_map(rank).collect();
        all.sort();
        all.into_iter().map(|(.., uid)| uid).collect()
    }
}

impl Dispatcher {
    /// The pod with what it was granted; what it wants besides is noted. A pod that is new here is granted all.
    pub(super) fn granted(&mut self, desired: DesiredPod) -> DesiredPod {
        let Some(record) = self.parts.allocated.get(&desired.uid) else {
            self.parts.allocated.init(&desired);
            return desired;
        };
        let now = self.parts.clock.wall();
        let Some(granted) = record.applied_to(&desired) else {
            self.resizes.settle(&desired.uid, Resolution::Reverted, now);
            return desired;
        };
        if desired.deletion_requested() {
            self.resizes.settle(&desired.uid, Resolution::Terminated, now);
            return granted;
        }
        let before = self.resizes.wanted.remove(&desired.uid);
        // A condition outlives the agent that wrote it, and a pod's newer wish replaces the one before.
        let pending = match before {
            Some(before) if PodResources::of(&before.desired).applied_to(&desired).is_none() => before.pending,
            Some(before) => before.pending.filter(|p| p.reason == DEFERRED),
            None => desired.pod.status.as_ref().and_then(|s| ResizeReport::from_status(s).pending),
        };
        self.resizes.wanted.insert(desired.uid.clone(), Wanted { desired, pending });
        self.resizes.count();
        granted
    }

    /// Counts what the newer version of a pod asks for.
    pub(super) fn note_asked(&self, desired: &DesiredPod) {
        let wanted = self.resizes.wanted.get(&desired.uid).map(|wanted| wanted.desired.clone());
        let granted = || self.workers.get(&desired.uid).map(|inbox| inbox.borrow().desired.clone());
        for [resource, requirement, operation] in
            wanted.or_else(granted).iter().flat_map(|before| resize::asked(before, desired))
        {
            metrics::resizes::requested(resource, requirement, operation);
        }
    }

    /// Whether the pod wants something that nobody has judged yet.
    pub(super) fn wants_anew(&self, uid: &PodUid) -> bool {
        self.resizes.wanted.get(uid).is_some_and(|wanted| {
            let generation = wanted.desired.pod.metadata.generation.unwrap_or_default();
            wanted.pending.as_ref().is_none_or(|p| p.generation != generation)
        })
    }

    pub(super) fn pending_resize(&self, uid: &PodUid) -> Option<Condition> {
        self.resizes.wanted.get(uid)?.pending.clone()
    }

    /// The newer version reserves less than the older one.
    pub(super) fn frees(before: &DesiredPod, after: &DesiredPod) -> bool {
        let (old, new) = (reserved_requests(before), reserved_requests(after));
        old.iter().any(|(name, much)| new.get(name).copied().unwrap_or_default() < *much)
    }

    pub(super) fn retry_resizes(&mut self, trigger: Trigger) {
        self.resizes.retry_at = None;
        if self.resizes.wanted.is_empty() || !self.sources_ready {
            return; // they are retried when all pods are known
        }
        let granted = |uid: &PodUid| self.workers.get(uid).map(|inbox| inbox.borrow().desired.clone());
        for uid in self.resizes.order(granted) {
            self.try_resize(&uid, trigger);
        }
        let deferred = self.resizes.wanted.values().any(|w| !w.is_infeasible());
        self.resizes.retry_at = deferred.then(|| self.parts.clock.mono() + RETRY);
    }

    fn try_resize(&mut self, uid: &PodUid, trigger: Trigger) {
        let (Some(wanted), Some(inbox)) = (self.resizes.wanted.get(uid), self.workers.get(uid)) else { return };
        let (desired, granted) = (wanted.desired.clone(), inbox.borrow().desired.clone());
        let verdict = match resize::infeasible(&desired, &granted, self.config.limited_swap) {
            Some(never) => Err((INFEASIBLE, never.to_owned())),
            None => {
                let node = self.node_view(&self.parts.node.borrow());
                let Some(fits) = self.fits_or_preempts(&desired, &node) else { return };
                fits.map_err(|refusal| (DEFERRED, refusal.message))
            }
        };
        match verdict {
            Ok(()) => self.grant(desired, trigger),
            Err((reason, message)) => self.postpone(&desired, reason, &message),
        }
    }

    fn grant(&mut self, desired: DesiredPod, trigger: Trigger) {
        let generation = desired.pod.metadata.generation.unwrap_or_default();
        self.parts.allocated.set(&desired.uid, PodResources::of(&desired));
        if self.resizes.settle(&desired.uid, Resolution::Accepted, self.parts.clock.wall()) {
            metrics::resizes::accepted_after_deferral(trigger.label());
        }
        let message = resize::summary(Verb::Started, &desired, generation, "");
        self.parts.events.pod(&desired, EventType::Normal, Verb::Started.event(), message);
        let accepted = Accepted { generation, at: self.parts.clock.now().wall };
        if let Some(inbox) = self.workers.get(&desired.uid) {
            inbox.send_modify(|inbox| {
                inbox.desired = desired;
                inbox.resize.pending = None;
                inbox.resize.accepted = Some(accepted);
            });
        }
    }

    fn postpone(&mut self, desired: &DesiredPod, reason: &str, message: &str) {
        let Some(wanted) = self.resizes.wanted.get_mut(&desired.uid) else { return };
        let generation = desired.pod.metadata.generation.unwrap_or_default();
        let before = wanted.pending.take();
        let news = before.as_ref().is_none_or(|b| b.reason != reason || b.generation != generation);
        let now = self.parts.clock.now().wall;
        let pending = Condition::new(before.as_ref(), reason, message, generation, now);
        wanted.pending = Some(pending.clone());
        self.resizes.count();
        if news {
            let verb = if reason == INFEASIBLE { Verb::Infeasible } else { Verb::Deferred };
            if reason == INFEASIBLE {
                metrics::resizes::infeasible("swap_limitation"); // the one reason there is
            }
            let text = resize::summary(verb, desired, generation, message);
            self.parts.events.pod(desired, EventType::Warning, verb.event(), text);
        }
        let said = before.is_some_and(|b| b.reason == reason && b.generation == generation && b.message == message);
        if let Some(inbox) = self.workers.get(&desired.uid).filter(|_| !said) {
            inbox.send_modify(|inbox| inbox.resize.pending = Some(pending));
        }
    }
}
