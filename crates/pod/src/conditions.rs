//! The conditions of a pod that its node writes.

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{Containers, DesiredPod, ObservedPod, desired::init_kind, phase, restart_all, time::Timestamp};

pub const SCHEDULED: &str = "PodScheduled";
pub const READY: &str = "Ready";
pub const INITIALIZED: &str = "Initialized";
pub const CONTAINERS_READY: &str = "ContainersReady";
pub const READY_TO_START_CONTAINERS: &str = "PodReadyToStartContainers";
pub const RESIZE_PENDING: &str = "PodResizePending";
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";
pub const ALL_CONTAINERS_RESTARTING: &str = "AllContainersRestarting";
/// Written by several parties: ours replaces, theirs stays.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Whether the node is the only writer of that type.
pub fn is_ours(type_: &str) -> bool {
    [
        SCHEDULED,
        READY,
        INITIALIZED,
        CONTAINERS_READY,
        READY_TO_START_CONTAINERS,
        RESIZE_PENDING,
        RESIZE_IN_PROGRESS,
        ALL_CONTAINERS_RESTARTING,
    ]
    .contains(&type_)
}

pub fn find<'a>(conditions: Option<&'a Vec<PodCondition>>, type_: &str) -> Option<&'a PodCondition> {
    conditions.into_iter().flatten().find(|c| c.type_ == type_)
}

pub fn is_true(conditions: Option<&Vec<PodCondition>>, type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

/// What all conditions are made from.
pub(crate) struct Basis<'a> {
    pub desired: &'a DesiredPod,
    pub observed: &'a ObservedPod,
    /// Of init containers, then regular ones.
    pub statuses: &'a [ContainerStatus],
    pub phase: &'a str,
    pub old: Option<&'a Vec<PodCondition>>,
    pub now: Timestamp,
}

impl Basis<'_> {
    fn condition(&self, type_: &str, good: bool, why: &str, message: String) -> PodCondition {
        let set = |text: String| (!text.is_empty()).then_some(text);
        let status = if good { "True" } else { "False" };
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: set(why.to_owned()),
            message: set(message),
            observed_generation: self.desired.pod.metadata.generation.filter(|g| *g != 0),
            last_transition_time: Some(self.since(type_, status)),
            last_probe_time: None,
        }
    }

    /// The time of the last change stays as long as the status does.
    fn since(&self, type_: &str, status: &str) -> Time {
        let same = find(self.old, type_).filter(|c| c.status == status);
        same.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(self.now))
    }

    fn status(&self, name: &str) -> Option<&ContainerStatus> {
        self.statuses.iter().find(|s| s.name == name)
    }

    /// Those of our own, in the order that upstream writes them. `foreign`: what readiness gates look at.
    pub fn own(&self, foreign: &[PodCondition]) -> Vec<PodCondition> {
        let mut all = vec![
            self.ready_to_start_containers(),
            self.initialized(),
            self.ready(foreign),
            self.containers_ready(CONTAINERS_READY),
            self.condition(SCHEDULED, true, "", String::new()),
        ];
        if restart_all::is_possible(self.desired) {
            all.push(self.all_containers_restarting());
        }
        all
    }

    fn all_containers_restarting(&self) -> PodCondition {
        let asked = || restart_all::is_asked(self.desired, self.observed);
        let (on, why, message) = match self.phase {
            phase::SUCCEEDED => (false, "PodCompleted", ""),
            phase::FAILED => (false, "PodFailed", ""),
            _ if asked() => (true, "RestartAllContainersStarted", "container exited with restart policy rule"),
            _ => (false, "", ""),
        };
        let condition = self.condition(ALL_CONTAINERS_RESTARTING, on, why, message.to_owned());
        PodCondition { observed_generation: None, ..condition }
    }

    fn ready_to_start_containers(&self) -> PodCondition {
        let obstacle = sandbox_obstacle(self.desired, self.observed);
        let why = if obstacle.is_some() { "PodSandboxNotReady" } else { "" };
        self.condition(READY_TO_START_CONTAINERS, obstacle.is_none(), why, obstacle.unwrap_or_default().to_owned())
    }

    fn initialized(&self) -> PodCondition {
        let mut unknown = Vec::new();
        let mut incomplete = Vec::new();
        for container in self.desired.init_containers() {
            match self.status(&container.name) {
                None => unknown.push(container.name.as_str()),
                Some(status) => {
                    let sidecar = init_kind(container) == Containers::Sidecar;
                    let done = if sidecar { status.started == Some(true) } else { status.ready };
                    if !done {
                        incomplete.push(container.name.as_str());
                    }
                }
            }
        }
        if self.phase == phase::SUCCEEDED && unknown.is_empty() {
            return self.condition(INITIALIZED, true, "PodCompleted", String::new());
        }
        let message = problems(&[("unknown", &unknown), ("incomplete", &incomplete)]);
        // Once initialised, always initialised: a sidecar may be starting again, and all containers may be.
        let before = any_regular_started(self.desired, self.statuses) || is_true(self.old, INITIALIZED);
        if message.is_empty() || before {
            return self.condition(INITIALIZED, true, "", String::new());
        }
        self.condition(INITIALIZED, false, "ContainersNotInitialized", message)
    }

    fn containers_ready(&self, type_: &str) -> PodCondition {
        let mut unknown = Vec::new();
        let mut unready = Vec::new();
        let sidecars = self.desired.init_containers().iter().filter(|c| init_kind(c) == Containers::Sidecar);
        for container in sidecars.chain(self.desired.regular_containers()) {
            match self.status(&container.name) {
                None => unknown.push(container.name.as_str()),
                Some(status) if !status.ready => unready.push(container.name.as_str()),
                Some(_) => {}
            }
        }
        match self.phase {
            phase::SUCCEEDED if unknown.is_empty() => {
                return self.condition(type_, false, "PodCompleted", String::new());
            }
            phase::FAILED => return self.condition(type_, false, "PodFailed", String::new()),
            _ => {}
        }
        let message = problems(&[("unknown", &unknown), ("unready", &unready)]);
        if message.is_empty() {
            return self.condition(type_, true, "", String::new());
        }
        self.condition(type_, false, "ContainersNotReady", message)
    }

    fn ready(&self, foreign: &[PodCondition]) -> PodCondition {
        let containers = self.containers_ready(READY);
        if containers.status != "True" {
            return containers;
        }
        let gates = self.desired.spec().readiness_gates.as_deref().unwrap_or_default();
        let closed = gates.iter().filter_map(|gate| {
            let name = &gate.condition_type;
            match foreign.iter().find(|c| &c.type_ == name) {
                None => Some(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        });
        let message = closed.collect::<Vec<_>>().join(", ");
        if message.is_empty() {
            return containers;
        }
        self.condition(READY, false, "ReadinessGatesNotReady", message)
    }

    /// The pod was ended by its node, not by its owner.
    pub fn disruption_target(&self, message: &str) -> PodCondition {
        self.condition(DISRUPTION_TARGET, true, "TerminationByKubelet", message.to_owned())
    }
}

fn problems(kinds: &[(&str, &Vec<&str>)]) -> String {
    let named = kinds.iter().filter(|(_, names)| !names.is_empty());
    let texts: Vec<String> =
        named.map(|(kind, names)| format!("containers with {kind} status: [{}]", names.join(" "))).collect();
    texts.join(", ")
}

/// Why a sandbox must be made before containers can start; None: there is a good one.
pub fn sandbox_obstacle(desired: &DesiredPod, observed: &ObservedPod) -> Option<&'static str> {
    let Some(newest) = observed.sandbox() else { return Some("no pod sandbox exists") };
    if observed.sandboxes.iter().filter(|s| s.ready).count() > 1 {
        return Some("multiple pod sandboxes are ready and need to be reconciled");
    }
    if !newest.ready {
        return Some("pod sandbox is not ready");
    }
    if newest.host_network != desired.host_network() {
        return Some("network namespace mode changed and sandbox needs to be recreated");
    }
    if !desired.host_network() && newest.ips.is_empty() {
        return Some("pod sandbox has no IP address");
    }
    None
}

fn any_regular_started(desired: &DesiredPod, statuses: &[ContainerStatus]) -> bool {
    let started = |s: &ContainerStatus| {
        s.state
            .as_ref()
            .is_some_and(|ContainerState { running, terminated, .. }| running.is_some() || terminated.is_some())
    };
    let regular = |s: &ContainerStatus| desired.regular_containers().iter().any(|c| c.name == s.name);
    statuses.iter().any(|s| regular(s) && started(s))
}

/// With a final phase nothing is ready, whatever was computed before the phase was known.
pub(crate) fn close(conditions: &mut [PodCondition], phase: &str, now: Timestamp) {
    let why = if phase == phase::FAILED { "PodFailed" } else { "PodCompleted" };
    for condition in conditions.iter_mut().filter(|c| [READY, CONTAINERS_READY].contains(&c.type_.as_str())) {
        if condition.status == "True" {
            condition.status = "False".to_owned();
            condition.reason = Some(why.to_owned());
            condition.message = None;
            condition.last_transition_time = Some(Time(now));
        }
    }
}
