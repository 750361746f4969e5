//! The worker of one pod: a single task that owns the pod's life.
//!
//! Reads: desired pod, observed pod, probe results, node facts. Writes: its row of the view, its status.
//! Wakes on: any of them changing, an action ending, the earliest of its own deadlines.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use pod::{
    ContainerId, ContainerState, DesiredPod, Life, Mono, ObservedPod, PodUid, ProbeResults, TerminationCause, Waiting,
    WorkerReport,
    api::PodStatus,
    backoff::{Backoff, BackoffLimits},
    plan::{InFlight, Plan, PlanInput, Retry, SandboxStep, plan},
    reason,
    resize::ResizeReport,
    status::is_finished,
};
use tokio::sync::watch;

use crate::{
    actions::{self, Setup},
    in_flight::{Done, Failure, Tasks},
    inbox::Inbox,
    parts::Parts,
    startup::Startup,
    termination,
};

mod changes;
mod publish;
mod removal;
mod resize;
mod spans;
mod step;
mod volumes;

use self::resize::Resizer;

/// Time before a failed step is tried again, where nobody knows better.
const RETRY: Duration = Duration::from_secs(10);
/// First and last delay of volume, sandbox and clean-up retries.
const FIRST_RETRY: Duration = Duration::from_millis(500);

pub(crate) struct Worker {
    parts: Parts,
    uid: PodUid,
    desired: DesiredPod,
    inbox: watch::Receiver<Inbox>,
    observed: watch::Receiver<Arc<ObservedPod>>,
    probes: watch::Receiver<Arc<ProbeResults>>,
    tasks: Tasks,
    in_flight: InFlight,
    /// Starts under way whose container has changed since: their failure says nothing of the new one.
    outdated_starts: HashSet<String>,
    /// Stops that failed, and when they may be tried again; until then they count as under way.
    failed_stops: HashMap<ContainerId, Mono>,
    /// After a failure that concerns the sandbox or all containers: not before this time.
    pod_retry: Option<Mono>,
    pruning: Pruning,
    backoff: Backoff,
    report: WorkerReport,
    status: Option<Arc<PodStatus>>,
    stage: Stage,
    /// The pod that its volumes were last made for.
    volumes_of: DesiredPod,
    /// When the worker began, and how long the pod had been here by then, fixed once: later jumps of the wall clock do
    /// not count, and the pod may be older than the machine's boot.
    began: Mono,
    age_at_begin: Duration,
    /// Until the pod has been seen to run.
    startup: Option<Arc<Startup>>,
    /// A completed pod keeps its dead containers and its directory until it is deleted.
    keeps_remains: bool,
    /// A step was held back by the node's network.
    awaits_network: bool,
    /// While terminating: when the grace period ends. It may only come nearer.
    deadline: Option<watch::Sender<Mono>>,
    wake_at: Option<Mono>,
    resizer: Resizer,
    /// The step that the pod is at has been told in an event.
    step_told: bool,
}

/// How far the pod's surroundings (cgroup, directories, volumes) have come.
enum Stage {
    Bare,
    Working { tries: u32 },
    Failed { again_at: Mono, tries: u32 },
    Ready(Arc<Setup>),
}

/// Whether what newer containers have replaced is being removed.
enum Pruning {
    Idle,
    Working,
    Failed { again_at: Mono },
}

enum Wake {
    Told,
    Seen,
    Due,
    Node,
    Done(Done),
    /// The dispatcher is gone: the agent is shutting down.
    Shutdown,
}

impl Worker {
    pub fn new(parts: Parts, inbox: watch::Receiver<Inbox>, life: Life, limits: BackoffLimits) -> Self {
        let desired = inbox.borrow().desired.clone();
        let uid = desired.uid.clone();
        let now = parts.clock.now();
        let first_seen = desired.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now.wall, |t| t.0);
        let status = parts.status.get(&uid).or_else(|| desired.pod.status.clone().map(Arc::new));
        let resize = status.as_deref().map(ResizeReport::from_status).unwrap_or_default();
        Self {
            observed: parts.pleg.subscribe(&uid, &desired.key),
            probes: parts.prober.results(&uid),
            report: WorkerReport { life, first_seen: Some(first_seen), resize, ..WorkerReport::default() },
            backoff: Backoff::new(limits),
            tasks: Tasks::default(),
            in_flight: InFlight::default(),
            outdated_starts: HashSet::new(),
            failed_stops: HashMap::new(),
            pod_retry: None,
            pruning: Pruning::Idle,
            stage: Stage::Bare,
            began: now.mono,
            age_at_begin: now.age_of(first_seen),
            startup: Startup::of(&desired),
            keeps_remains: false,
            awaits_network: false,
            deadline: None,
            wake_at: None,
            resizer: Resizer::default(),
            step_told: false,
            parts,
            uid,
            volumes_of: desired.clone(),
            desired,
            inbox,
            status,
        }
    }

    /// Ends when nothing of the pod is left here and its source has forgotten it.
    pub async fn run(mut self) {
        if self.is_finished_already() {
            self.begin_termination(TerminationCause::Completed, None);
        }
        loop {
            self.step();
            if self.report.life == Life::Gone && self.inbox.borrow().removed {
                break;
            }
            match self.wait().await {
                Wake::Done(done) => self.absorb(done),
                Wake::Shutdown => return,
                Wake::Told | Wake::Seen | Wake::Due | Wake::Node => {}
            }
        }
        self.parts.pleg.forget(&self.uid);
        self.parts.prober.remove(&self.uid);
        self.parts.status.forget(&self.uid);
        self.parts.view.remove(&self.uid);
    }

    /// The API already holds a terminal phase: nothing may start again, whatever the runtime shows.
    fn is_finished_already(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed")) && !matches!(self.report.life, Life::Rejected { .. })
    }

    async fn wait(&mut self) -> Wake {
        let clock = self.parts.clock;
        let wake_at = self.wake_at;
        tokio::select! {
            told = self.inbox.changed() => if told.is_ok() { Wake::Told } else { Wake::Shutdown },
            // A sender that is gone has nothing more to say: it may not wake for ever.
            Ok(()) = self.observed.changed() => Wake::Seen,
            Ok(()) = self.probes.changed() => Wake::Seen,
            Ok(()) = self.parts.node.changed(), if self.awaits_network => Wake::Node,
            Some(done) = self.tasks.next(), if !self.tasks.is_empty() => Wake::Done(done),
            () = clock.sleep_until(wake_at.unwrap_or_default()), if wake_at.is_some() => Wake::Due,
        }
    }

    fn step(&mut self) {
        self.wake_at = None;
        if self.observed.borrow().version == 0 {
            return; // it is there but could not be read yet: neither empty nor known
        }
        self.awaits_network = false;
        let inbox = self.inbox.borrow_and_update().clone();
        self.heed_resize(&inbox);
        self.forgive_changed(&inbox.desired);
        self.desired = inbox.desired.clone();
        self.count_startup();
        self.turn_to_end(&inbox);
        self.begin_span();
        match self.report.life {
            Life::Pending | Life::Syncing => {
                self.report.life = Life::Syncing;
                self.keep_volumes_current();
                self.sync();
            }
            Life::Terminating { .. } => {
                let observed = self.observed.borrow_and_update().clone();
                self.probe(&observed); // readiness goes on until the last container has ended
                self.terminate();
            }
            Life::Terminated => self.clean_up(inbox.removed),
            Life::Rejected { .. } if self.desired.deletion_requested() || inbox.removed => {
                self.report.life = Life::Gone;
            }
            Life::Rejected { .. } => {}
            Life::Gone if self.observed.borrow().is_running() => self.stop_latecomers(),
            Life::Gone => self.clean_up_after_deletion(inbox.removed),
        }
        std::mem::take(&mut self.tasks.span).release();
        self.publish();
    }

    // ---- the way to the end

    fn turn_to_end(&mut self, inbox: &Inbox) {
        match &self.report.life {
            Life::Pending | Life::Syncing => {
                let deleted = self.desired.deletion_requested() || inbox.removed;
                if deleted && !self.is_orphan() {
                    self.begin_termination(TerminationCause::Deleted, None);
                } else if !self.desired.is_static() && is_finished(&self.desired) {
                    // Ours comes only after the end: somebody else has declared the pod over.
                    self.begin_termination(TerminationCause::Completed, None);
                } else if let Some(end) = &inbox.end {
                    self.begin_termination(end.cause.clone(), end.grace);
                } else {
                    self.check_active_deadline();
                }
            }
            Life::Terminating { .. } => {
                if self.desired.deletion_requested() {
                    self.deletion_joins();
                    self.shorten_grace(termination::grace(&self.desired));
                }
                if let Some(grace) = inbox.end.as_ref().and_then(|end| end.grace) {
                    self.shorten_grace(grace);
                }
            }
            _ => {}
        }
    }

    fn check_active_deadline(&mut self) {
        let Some(secs) = self.desired.spec().active_deadline_seconds else { return };
        let allowed = Duration::from_secs(secs.max(0) as u64);
        let due = self.began + allowed.saturating_sub(self.age_at_begin);
        if due > self.parts.clock.mono() {
            return self.wake_by(due);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.parts.events.pod(
            &self.desired,
            pod::mounts::EventType::Normal,
            reason::event::DEADLINE_EXCEEDED,
            &message,
        );
        let reason = reason::event::DEADLINE_EXCEEDED.to_owned();
        self.begin_termination(TerminationCause::Failed { reason, message, disruption: false }, None);
    }

    fn begin_termination(&mut self, cause: TerminationCause, grace: Option<Duration>) {
        let grace = grace.unwrap_or_else(|| termination::grace(&self.desired)).max(Duration::from_secs(1));
        let since = self.parts.clock.mono();
        self.tasks.abort_all();
        self.in_flight = InFlight::default();
        self.outdated_starts.clear();
        self.resizer.abort();
        self.failed_stops.clear();
        self.stage = Stage::Bare;
        self.pruning = Pruning::Idle;
        self.report.cause = Some(cause.clone());
        self.report.life = Life::Terminating { cause, grace, since };
        self.begin_span();
        self.report.waiting.clear();
        self.report.blocked = None;
        self.deadline = None;
        self.parts.prober.terminating(&self.uid);
    }

    fn deletion_joins(&mut self) {
        if let Life::Terminating { cause, .. } = &mut self.report.life
            && *cause == TerminationCause::Completed
        {
            *cause = TerminationCause::Deleted;
            self.report.cause = Some(TerminationCause::Deleted);
        }
    }

    fn shorten_grace(&mut self, wanted: Duration) {
        let ends = self.parts.clock.mono() + wanted.max(Duration::from_secs(1));
        let Life::Terminating { grace, since, .. } = &mut self.report.life else { return };
        if ends >= *since + *grace {
            return;
        }
        *grace = ends.since(*since);
        if let Some(deadline) = &self.deadline {
            deadline.send_replace(ends);
        }
    }

    fn terminate(&mut self) {
        if self.deadline.is_some() {
            return; // under way; its end wakes us
        }
        if let Stage::Failed { again_at, .. } = self.stage
            && again_at > self.parts.clock.mono()
        {
            return self.wake_by(again_at);
        }
        let Life::Terminating { grace, since, .. } = &self.report.life else { return };
        let ends = (*since + *grace).max(self.parts.clock.mono() + Duration::from_secs(1));
        let (tx, rx) = watch::channel(ends);
        self.deadline = Some(tx);
        self.begin_stage();
        self.tasks.spawn(termination::terminate(self.parts.clone(), self.desired.clone(), rx));
    }

    fn clean_up(&mut self, removed: bool) {
        if matches!(self.stage, Stage::Working { .. }) {
            return;
        }
        if let Stage::Failed { again_at, .. } = self.stage
            && again_at > self.parts.clock.mono()
        {
            return self.wake_by(again_at);
        }
        let entirely = removed || self.desired.deletion_requested();
        self.keeps_remains = !entirely;
        self.begin_stage();
        self.tasks.spawn(crate::remains::clean_up(self.parts.clone(), self.desired.clone(), entirely));
    }

    /// A pod that completed long ago keeps its dead containers for their logs until somebody deletes it.
    fn clean_up_after_deletion(&mut self, removed: bool) {
        let wanted = removed || self.desired.deletion_requested();
        if wanted && (self.keeps_remains || !self.observed.borrow().sandboxes.is_empty()) {
            self.report.life = Life::Terminated;
            self.clean_up(removed);
        }
    }

    /// A sandbox whose making was cut off may come to be after all. The pod has ended, so that nobody waits for it.
    fn stop_latecomers(&mut self) {
        match self.stage {
            Stage::Working { .. } => return,
            Stage::Failed { again_at, .. } if again_at > self.parts.clock.mono() => return self.wake_by(again_at),
            _ => {}
        }
        self.begin_stage();
        let (parts, desired) = (self.parts.clone(), self.desired.clone());
        self.tasks.spawn(async move {
            let (_deadline, at_once) = watch::channel(parts.clock.mono());
            termination::terminate(parts, desired, at_once).await
        });
    }

    fn begin_stage(&mut self) {
        let tries = if let Stage::Failed { tries, .. } = self.stage { tries } else { 0 };
        self.stage = Stage::Working { tries };
    }

    // ---- keeping it running

    fn sync(&mut self) {
        let observed = self.observed.borrow_and_update().clone();
        let probes = self.probes.borrow_and_update().clone();
        self.in_flight.restart.retain(|id| observed.container(id).is_some());
        self.in_flight.retry.retain(|name, _| self.desired.container(name).is_some());
        self.note_ends(&observed);
        self.retry_stops();
        self.report.waiting.retain(|name, _| observed.newest(name).is_none_or(|c| c.state != ContainerState::Running));
        self.probe(&observed);
        if !self.surroundings_ready() {
            return;
        }
        let input = PlanInput {
            desired: &self.desired,
            observed: &observed,
            probes: &probes,
            backoff: &self.backoff,
            in_flight: &self.in_flight,
            now: self.parts.clock.now(),
        };
        let plan = plan(&input);
        self.perform(plan, &observed);
        self.note_resize(&observed);
        self.prune(&observed);
    }

    /// When a container ended is worked out once: a jump of the wall clock after that moves no back-off.
    fn note_ends(&mut self, observed: &ObservedPod) {
        let now = self.parts.clock.now();
        let ended = &mut self.in_flight.ended;
        ended.retain(|id, _| observed.container(id).is_some());
        for c in observed.containers.iter().filter(|c| c.state == ContainerState::Exited) {
            if let Some(at) = c.finished_at {
                ended.entry(c.id.clone()).or_insert_with(|| now.mono_of(at));
            }
        }
    }

    fn retry_stops(&mut self) {
        let now = self.parts.clock.mono();
        let stopping = &mut self.in_flight.stopping;
        self.failed_stops.retain(|id, again_at| {
            let waits = *again_at > now;
            if !waits {
                stopping.remove(id);
            }
            waits
        });
        if let Some(next) = self.failed_stops.values().min().copied() {
            self.wake_by(next);
        }
    }

    fn probe(&self, observed: &ObservedPod) {
        let host_ip = self.parts.node.borrow().host_ips.first().cloned();
        self.parts.prober.sync(&self.desired, observed, host_ip.as_deref());
    }

    fn waits_for_network(&self) -> bool {
        matches!(self.report.life, Life::Pending | Life::Syncing)
            && !self.desired.host_network()
            && !self.parts.node.borrow().network_ready
    }

    /// Volumes first, then the sandbox: a pod whose volume fails has no address, as upstream.
    fn surroundings_ready(&mut self) -> bool {
        let now = self.parts.clock.mono();
        match &self.stage {
            Stage::Ready(_) => return !self.blocked_by_network(),
            Stage::Working { .. } => return false,
            Stage::Failed { again_at, .. } if *again_at > now => {
                let at = *again_at;
                self.wake_by(at);
                return false;
            }
            Stage::Failed { .. } | Stage::Bare => {}
        }
        if self.blocked_by_network() {
            return false;
        }
        self.begin_stage();
        self.volumes_of = self.desired.clone();
        self.tasks.spawn(actions::set_up(self.parts.clone(), self.desired.clone()));
        false
    }

    fn blocked_by_network(&mut self) -> bool {
        if !self.waits_for_network() || self.observed.borrow().ready_sandbox().is_some() {
            return false;
        }
        self.awaits_network = true;
        let message = format!("network is not ready: {}", self.parts.node.borrow().network_message);
        let blocked = Waiting { reason: reason::event::NETWORK_NOT_READY.to_owned(), message };
        if self.report.blocked.as_ref() != Some(&blocked) {
            self.warn(reason::event::NETWORK_NOT_READY, &blocked.message);
            self.report.blocked = Some(blocked);
        }
        true
    }

    fn perform(&mut self, mut plan: Plan, observed: &Arc<ObservedPod>) {
        if plan.complete {
            self.begin_termination(TerminationCause::Completed, None);
            return self.terminate();
        }
        let concerns_all = plan.restart_all || plan.sandbox != SandboxStep::Keep;
        if let Some(at) = self.pod_retry.filter(|at| concerns_all && *at > self.parts.clock.mono()) {
            return self.wake_by(at);
        }
        if plan.restart_all {
            return self.restart_all();
        }
        let Stage::Ready(setup) = &self.stage else { return };
        let setup = setup.clone();
        if let Some(at) = plan.wake_at {
            self.wake_by(at);
        }
        self.note_held_back(&plan);
        if plan.sandbox == SandboxStep::Keep {
            self.resize(&mut plan, observed);
        }
        match plan.sandbox {
            SandboxStep::Keep => {}
            SandboxStep::Teardown => {
                self.in_flight.sandbox = true;
                let regular = self.desired.regular_containers().iter().filter_map(|c| observed.newest(&c.name));
                let alive = regular.filter(|o| matches!(o.state, ContainerState::Running | ContainerState::Unknown));
                self.in_flight.restart.extend(alive.map(|o| o.id.clone()));
                self.tasks.spawn(termination::tear_down_sandbox(self.parts.clone(), self.desired.clone()));
            }
            SandboxStep::Create { attempt } => {
                self.in_flight.sandbox = true;
                let (parts, desired) = (self.parts.clone(), self.desired.clone());
                if attempt > 0 {
                    let event = "Pod sandbox changed, it will be killed and re-created.";
                    parts.events.pod(&desired, pod::mounts::EventType::Normal, reason::event::SANDBOX_CHANGED, event);
                }
                let before = observed.clone();
                self.tasks.spawn(actions::create_sandbox(parts, desired, setup.clone(), before, attempt));
            }
        }
        for stop in plan.stop {
            self.in_flight.stopping.insert(stop.id.clone());
            if stop.restart {
                self.in_flight.restart.insert(stop.id.clone());
            }
            let task = actions::stop(self.parts.clone(), self.desired.clone(), observed.clone(), stop);
            self.tasks.spawn(task);
        }
        for start in plan.start {
            if let Some(ended) = start.predecessor_ended {
                self.backoff.restarted(&start.name, ended, self.parts.clock.mono());
            }
            self.in_flight.retry.remove(&start.name);
            self.in_flight.starting.insert(start.name.clone());
            let name = start.name.clone();
            let (parts, desired, startup) = (self.parts.clone(), self.desired.clone(), self.startup.clone());
            let task = actions::start(parts, desired, observed.clone(), setup.clone(), start, startup);
            self.tasks.spawn_start(&name, task);
        }
    }

    /// One BackOff event when a container begins to be held back, not one a second.
    fn note_held_back(&mut self, plan: &Plan) {
        for (name, waiting) in &plan.waiting {
            let before = self.report.waiting.insert(name.clone(), waiting.clone());
            if waiting.reason == reason::CRASH_LOOP_BACK_OFF && before.as_ref() != Some(waiting) {
                let pod = format!("{}_{}({})", self.desired.key.name, self.desired.key.namespace, self.uid);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.parts.events.container(
                    &self.desired,
                    name,
                    pod::mounts::EventType::Warning,
                    reason::event::BACK_OFF,
                    &message,
                );
            }
        }
    }

    // ---- what comes back

    fn absorb(&mut self, done: Done) {
        let now = self.parts.clock.mono();
        match done {
            Done::Setup(Ok(setup)) => {
                self.report.blocked = None;
                self.report.enforced = None;
                self.stage = Stage::Ready(Arc::new(setup));
            }
            Done::Setup(Err(failure)) => self.retry_stage(failure),
            Done::Sandbox(result) => {
                self.in_flight.sandbox = false;
                match result {
                    Ok(()) => {
                        self.pod_retry = None;
                        self.report.blocked = None;
                    }
                    Err(failure) => {
                        let message = format!("Failed to create pod sandbox: {}", failure.waiting.message);
                        self.warn(reason::event::FAILED_CREATE_POD_SANDBOX, &message);
                        self.report.blocked = Some(failure.waiting);
                        self.pod_retry = Some(now + RETRY);
                    }
                }
            }
            Done::Started { name, result } => {
                let is_outdated = self.outdated_starts.remove(&name);
                if !self.in_flight.starting.remove(&name) {
                    return; // given up while it was ending
                }
                match result {
                    Ok(()) => {
                        self.report.waiting.remove(&name);
                    }
                    Err(_) if is_outdated => {}
                    Err(failure) => {
                        let at = now + failure.retry_after.unwrap_or(RETRY);
                        self.report.waiting.insert(name.clone(), failure.waiting.clone());
                        self.in_flight.retry.insert(name, Retry { at, waiting: failure.waiting });
                    }
                }
            }
            Done::Stopped { id, result } => match result {
                Ok(()) => _ = self.in_flight.stopping.remove(&id),
                Err(failure) => {
                    self.warn(reason::event::FAILED_KILL_POD, &failure.waiting.message);
                    self.failed_stops.insert(id, now + RETRY);
                }
            },
            Done::TornDown(Ok(())) => self.in_flight.sandbox = false,
            Done::TornDown(Err(failure)) => {
                self.in_flight.sandbox = false;
                self.warn(&failure.waiting.reason, &failure.waiting.message);
                self.pod_retry = Some(now + RETRY);
            }
            Done::Pruned { all: true } => self.pruning = Pruning::Idle,
            Done::Pruned { all: false } => self.pruning = Pruning::Failed { again_at: now + RETRY },
            Done::Refreshed => {}
            Done::Resized(resized) => self.resized(*resized),
            Done::RemovedAll(result) => {
                self.in_flight.restart_all = false;
                if let Err(failure) = result {
                    self.warn(&failure.waiting.reason, &failure.waiting.message);
                    self.pod_retry = Some(now + RETRY);
                }
            }
            Done::Terminated(Ok(())) => {
                self.deadline = None;
                self.stage = Stage::Bare;
                self.report.life = Life::Terminated;
            }
            Done::Cleaned(Ok(())) => {
                self.stage = Stage::Bare;
                self.report.life = Life::Gone;
            }
            Done::Terminated(Err(failure)) => {
                self.deadline = None;
                self.retry_stage(failure);
            }
            Done::Cleaned(Err(failure)) => self.retry_stage(failure),
        }
    }

    fn retry_stage(&mut self, failure: Failure) {
        let tries = if let Stage::Working { tries } = self.stage { tries } else { 0 };
        // Nobody waits minutes for a pod to end since its runtime was away for some.
        let starts = matches!(self.report.life, Life::Pending | Life::Syncing);
        let most = Duration::from_secs(if starts { 122 } else { 10 });
        let delay = FIRST_RETRY.saturating_mul(1 << tries.min(8)).min(most);
        tracing::warn!(pod = %self.desired.key, uid = %self.uid, error = %failure.waiting.message, retry_in = ?delay, "pod step failed");
        if !failure.event_sent {
            self.warn(&failure.waiting.reason, &failure.waiting.message);
        }
        self.report.blocked = Some(failure.waiting);
        self.stage = Stage::Failed { again_at: self.parts.clock.mono() + delay, tries: tries + 1 };
    }

    fn warn(&self, reason: &str, message: &str) {
        self.parts.events.pod(&self.desired, pod::mounts::EventType::Warning, reason, message);
    }

    fn wake_by(&mut self, at: Mono) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn is_orphan(&self) -> bool {
        self.inbox.borrow().end.as_ref().is_some_and(|end| end.cause == TerminationCause::Orphaned)
    }
}
