//! Hands every word about a pod to that pod's worker; admits new pods; ends what nobody wants.
//!
//! Reads: source events, commands, orphans that the PLEG sees. Writes: workers' inboxes. Wakes on: any of them,
//! or a worker's end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use node::NodeFacts;
use pod::{DesiredPod, Life, ObservedPod, PodKey, PodUid, TerminationCause, admit::NodeView, backoff::BackoffLimits};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

mod affinity;
mod leftovers;
mod preemption;
mod resizes;

use self::{
    affinity::FreshNodes,
    leftovers::Leftovers,
    preemption::Preemptions,
    resizes::{Resizes, Resolution, Trigger},
};
use crate::{
    inbox::{End, Inbox},
    parts::Parts,
    qos,
    view::PodView,
    worker::Worker,
};

/// What the sources say, in the words of this crate (the wiring translates).
#[derive(Clone, Debug)]
pub enum PodCommand {
    Set(DesiredPod),
    Removed(PodUid),
    /// Every source has delivered its first full state: what runs and is not wanted may now be ended.
    SourcesReady,
    /// End a pod for the node's sake (eviction, shutdown, preemption).
    End {
        uid: PodUid,
        cause: TerminationCause,
        grace: Option<Duration>,
    },
}

#[derive(Clone, Debug)]
pub struct DispatcherConfig {
    pub backoff: BackoffLimits,
    /// Waits for the Node object before the first admission (API mode).
    pub needs_node: bool,
    pub sysctls: pod::sysctl::SysctlPolicy,
    /// The kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// Containers may swap: their memory can't be resized in place.
    pub limited_swap: bool,
    /// What the node's status declares.
    pub declared_features: Vec<String>,
}

/// Runs until the commands end.
pub struct Dispatcher {
    parts: Parts,
    config: DispatcherConfig,
    workers: HashMap<PodUid, watch::Sender<Inbox>>,
    tasks: JoinSet<PodUid>,
    /// What is not one pod's: the QoS classes.
    helpers: JoinSet<()>,
    /// Pods whose predecessor is still being taken down: a static pod of the same name, or the pod itself, which was
    /// removed and came back.
    successors: HashMap<PodKey, DesiredPod>,
    /// Pods that wait for node facts before they can be admitted, in order of arrival.
    unadmitted: Vec<DesiredPod>,
    resizes: Resizes,
    preemptions: Preemptions,
    leftovers: Leftovers,
    fresh_nodes: FreshNodes,
    sources_ready: bool,
    /// As the workers know them.
    host_ips: Vec<String>,
    /// The node shuts down: it takes no more pods.
    shutting_down: watch::Receiver<bool>,
    ended: Box<dyn Fn(&PodUid) + Send>,
}

impl Dispatcher {
    pub fn new(parts: Parts, config: DispatcherConfig) -> Self {
        let host_ips = parts.node.borrow().host_ips.clone();
        Self {
            parts,
            config,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            helpers: JoinSet::new(),
            successors: HashMap::new(),
            unadmitted: Vec::new(),
            resizes: Resizes::default(),
            preemptions: Preemptions::default(),
            leftovers: Leftovers::default(),
            fresh_nodes: FreshNodes::default(),
            sources_ready: false,
            host_ips,
            shutting_down: watch::channel(false).1,
            ended: Box::new(|_| {}),
        }
    }

    /// Has somebody told of each pod of which nothing is left here.
    #[must_use]
    pub fn on_end(mut self, ended: impl Fn(&PodUid) + Send + 'static) -> Self {
        self.ended = Box::new(ended);
        self
    }

    /// Refuses new pods while this is true.
    #[must_use]
    pub fn refuses_while(mut self, shutting_down: watch::Receiver<bool>) -> Self {
        self.shutting_down = shutting_down;
        self
    }

    pub async fn run(mut self, mut commands: mpsc::Receiver<PodCommand>) {
        let mut orphans = self.parts.pleg.orphans();
        let mut node = self.parts.node.clone();
        let mut active = self.parts.view.active_changes();
        let clock = self.parts.clock;
        loop {
            let retry_at = self.resizes.retry_at;
            let sweep_at = self.leftovers.again_at;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    Ok(uid) => self.worker_ended(&uid),
                    Err(error) => tracing::error!(%error, "a pod worker ended abnormally"),
                },
                Some(Err(error)) = self.helpers.join_next(), if !self.helpers.is_empty() => {
                    tracing::error!(%error, "a helper of the pod workers ended abnormally");
                }
                Some(clean) = self.leftovers.sweep.join_next(), if !self.leftovers.sweep.is_empty() => self.swept(clean),
                Some(answer) = self.fresh_nodes.answers.join_next(), if !self.fresh_nodes.answers.is_empty() => {
                    self.node_answered(answer);
                }
                Ok(()) = orphans.changed() => {}
                Ok(()) = node.changed() => self.node_has_changed(),
                Ok(()) = active.changed() => self.room_has_changed(),
                () = clock.sleep_until(retry_at.unwrap_or_default()), if retry_at.is_some() => {
                    self.retry_resizes(Trigger::Time);
                }
                () = clock.sleep_until(sweep_at.unwrap_or_default()), if sweep_at.is_some() => self.sweep_leftovers(),
            }
            if self.sources_ready {
                let unwanted = orphans.borrow_and_update().clone();
                self.end_orphans(&unwanted);
            }
        }
    }

    /// A pod that began before the node had its address shows it and is probed there as soon as there is one.
    fn node_has_changed(&mut self) {
        let facts = self.parts.node.borrow().clone();
        if self.host_ips != facts.host_ips {
            self.host_ips.clone_from(&facts.host_ips);
            self.workers.values().for_each(|inbox| inbox.send_modify(|_| {}));
        }
        self.admit_waiting();
    }

    fn obey(&mut self, command: PodCommand) {
        match command {
            PodCommand::Set(desired) => self.set(desired),
            PodCommand::Removed(uid) => self.removed(&uid),
            PodCommand::SourcesReady if self.sources_ready => {} // a source has listed anew
            PodCommand::SourcesReady => {
                self.sources_ready = true;
                self.parts.view.set_complete();
                self.sweep_leftovers();
                self.retry_resizes(Trigger::Added);
                self.helpers.spawn(qos::follow(self.parts.view.clone(), self.parts.cgroups.clone()));
            }
            PodCommand::End { uid, cause, grace } => {
                if let Some(inbox) = self.workers.get(&uid) {
                    inbox.send_modify(|inbox| inbox.end = Some(End { cause, grace }));
                }
            }
        }
    }

    fn set(&mut self, desired: DesiredPod) {
        if let Some(inbox) = self.workers.get(&desired.uid) {
            if inbox.borrow().removed {
                // Its end has begun, and nothing takes that back: a manifest that is put back is a new start.
                self.successors.insert(desired.key.clone(), desired);
            } else {
                self.renew(desired);
            }
            return;
        }
        if let Some(waiting) = self.unadmitted.iter_mut().find(|p| p.uid == desired.uid) {
            *waiting = desired;
            return self.admit_waiting(); // a deletion waits for nobody
        }
        if desired.is_static() && self.predecessor_of(&desired).is_some() {
            self.successors.insert(desired.key.clone(), desired);
            return;
        }
        self.unadmitted.push(desired);
        self.admit_waiting();
    }

    /// A newer version of a pod that has a worker.
    fn renew(&mut self, desired: DesiredPod) {
        let uid = desired.uid.clone();
        let refused = self.parts.allocated.get(&uid).is_none();
        self.note_asked(&desired);
        let mut granted = if refused { desired.clone() } else { self.granted(desired.clone()) };
        if self.wants_anew(&uid) {
            // The worker may not see the new generation before there is a word about its resources.
            self.retry_resizes(Trigger::Updated);
            granted = self.parts.allocated.read(&uid, |record| record.applied_to(&desired)).unwrap_or(desired);
        }
        let pending = self.pending_resize(&uid);
        let Some(inbox) = self.workers.get(&uid) else { return };
        let frees = Self::frees(&inbox.borrow().desired, &granted);
        inbox.send_modify(|inbox| {
            inbox.desired = granted;
            inbox.resize.pending = pending;
        });
        if frees {
            self.retry_resizes(Trigger::Resized);
        }
    }

    fn predecessor_of(&self, desired: &DesiredPod) -> Option<PodUid> {
        let same_name = |inbox: &watch::Sender<Inbox>| {
            let inbox = inbox.borrow();
            inbox.desired.is_static() && inbox.desired.key == desired.key
        };
        self.workers.iter().find(|(_, inbox)| same_name(inbox)).map(|(uid, _)| uid.clone())
    }

    fn removed(&mut self, uid: &PodUid) {
        self.unadmitted.retain(|p| p.uid != *uid);
        self.preemptions.forget(uid);
        self.fresh_nodes.forget(uid);
        self.successors.retain(|_, p| p.uid != *uid);
        if let Some(inbox) = self.workers.get(uid) {
            inbox.send_modify(|inbox| inbox.removed = true);
        } else {
            (self.ended)(uid);
        }
    }

    fn worker_ended(&mut self, uid: &PodUid) {
        let Some(inbox) = self.workers.remove(uid) else { return };
        (self.ended)(uid);
        self.resizes.settle(uid, Resolution::Terminated, self.parts.clock.wall());
        self.preemptions.forget(uid);
        self.parts.allocated.remove(uid);
        self.parts.actuated.remove(uid);
        let key = inbox.borrow().desired.key.clone();
        if let Some(successor) = self.successors.remove(&key) {
            if successor.uid == *uid {
                metrics::pods::restarted(successor.is_static());
            }
            self.set(successor);
        }
    }

    /// Pods are admitted one by one, in creation order where several wait, so that each sees the ones before it.
    fn admit_waiting(&mut self) {
        let node = self.parts.node.borrow().clone();
        if self.config.needs_node && !node.from_api {
            // Static pods and pods that already run need nobody's word.
            let (free, waiting) = std::mem::take(&mut self.unadmitted)
                .into_iter()
                .partition(|p: &DesiredPod| p.is_static() || self.is_exempt(p));
            self.unadmitted = waiting;
            for desired in free {
                self.start_worker(desired, Life::Pending);
            }
            return;
        }
        let mut waiting = std::mem::take(&mut self.unadmitted);
        waiting.sort_by_key(|p| p.pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
        let view = self.node_view(&node);
        for desired in waiting {
            match self.admit(&desired, &view) {
                Some(life) => self.start_worker(desired, life),
                None => self.unadmitted.push(desired), // until those that make room for it are gone
            }
        }
        self.retry_resizes(Trigger::Added);
    }

    fn admit(&mut self, desired: &DesiredPod, node: &NodeView) -> Option<Life> {
        if self.is_exempt(desired) {
            return Some(Life::Pending);
        }
        let refusal = match self.fits_or_preempts(desired, node)? {
            Ok(()) => return Some(Life::Pending),
            Err(refusal) => refusal,
        };
        tracing::warn!(pod = %desired.key, uid = %desired.uid, reason = %refusal.reason, message = %refusal.message, "pod refused");
        let warning = pod::mounts::EventType::Warning;
        self.parts.events.pod(desired, warning, &refusal.reason, &refusal.message);
        metrics::admission::rejected(&refusal.reason);
        Some(Life::Rejected { reason: refusal.reason, message: refusal.message })
    }

    fn room_has_changed(&mut self) {
        if self.unadmitted.is_empty() {
            self.retry_resizes(Trigger::Ended);
        } else {
            self.admit_waiting();
        }
    }

    /// The pods that use the node, with what they were granted, which their workers may not have seen yet. As upstream,
    /// a pod that its source has forgotten does not count, though it may still be on its way out: the scheduler has
    /// given its place away.
    fn active(&self) -> Vec<DesiredPod> {
        let granted = |row: Arc<PodView>| match self.workers.get(&row.desired.uid) {
            Some(inbox) if inbox.borrow().removed => None,
            Some(inbox) => Some(inbox.borrow().desired.clone()),
            None => Some(row.desired.clone()),
        };
        self.parts.view.active().into_iter().filter_map(granted).collect()
    }

    fn node_view(&self, facts: &NodeFacts) -> NodeView {
        let node = facts.node.as_deref();
        let meta = node.map(|n| &n.metadata);
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let pressed = conditions.iter().filter(|c| c.type_.ends_with("Pressure") && c.status == "True");
        NodeView {
            name: meta.and_then(|m| m.name.clone()).unwrap_or_default(),
            labels: meta.and_then(|m| m.labels.clone()).unwrap_or_default(),
            taints: node.and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.clone()).unwrap_or_default(),
            allocatable: pod::quantity::to_api_list(&facts.allocatable),
            sysctls: self.config.sysctls.clone(),
            pressure: pressed.map(|c| c.type_.clone()).collect(),
            supplemental_groups_policy: facts.features.is_some_and(|f| f.supplemental_groups_policy),
            app_armor: self.config.app_armor,
            declared_features: self.config.declared_features.clone(),
            shutting_down: *self.shutting_down.borrow(),
        }
    }

    /// What runs, has run, or is on its way out is never refused afterwards.
    fn is_exempt(&self, desired: &DesiredPod) -> bool {
        let phase = desired.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let known = self.parts.pleg.snapshot().iter().any(|o| o.uid == desired.uid && !o.sandboxes.is_empty());
        desired.deletion_requested() || matches!(phase, Some("Succeeded" | "Failed" | "Running")) || known
    }

    fn start_worker(&mut self, desired: DesiredPod, life: Life) {
        let uid = desired.uid.clone();
        let refused = matches!(life, Life::Rejected { .. });
        if !refused {
            metrics::pods::admitted(desired.regular_containers().len());
        }
        let desired = if refused { desired } else { self.granted(desired) };
        let mut inbox = Inbox::new(desired);
        inbox.resize.pending = self.pending_resize(&uid);
        self.spawn(inbox, life, uid);
    }

    fn spawn(&mut self, inbox: Inbox, life: Life, uid: PodUid) {
        // The next pod to be admitted must see this one, though its worker has not run yet.
        let desired = inbox.desired.clone();
        let status = Arc::new(desired.pod.status.clone().unwrap_or_default());
        self.parts.view.set(PodView { desired, status, life: life.clone(), step: None });
        let (tx, rx) = watch::channel(inbox);
        let worker = Worker::new(self.parts.clone(), rx, life, self.config.backoff);
        self.workers.insert(uid.clone(), tx);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    /// Runs here, wanted by nobody: stopped with the shortest grace, then cleaned up like any deleted pod.
    fn end_orphans(&mut self, unwanted: &[ObservedPod]) {
        for observed in unwanted {
            let mut waiting = self.unadmitted.iter().chain(self.successors.values());
            if self.workers.contains_key(&observed.uid) || waiting.any(|p| p.uid == observed.uid) {
                continue;
            }
            tracing::info!(pod = %observed.key, uid = %observed.uid, "ending a pod that no source wants");
            metrics::pods::orphaned();
            let Some(stand_in) = runtime::restored(observed) else { continue };
            let mut inbox = Inbox::new(stand_in);
            inbox.removed = true;
            inbox.end = Some(End { cause: TerminationCause::Orphaned, grace: Some(Duration::from_secs(1)) });
            self.spawn(inbox, Life::Pending, observed.uid.clone());
        }
    }
}
