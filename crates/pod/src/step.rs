//! The step that a pod is at, in words for people: what is being done for it and what it waits for.

use std::time::Duration;

use crate::{
    ContainerState, Containers, DesiredPod, Life, ObservedPod, WorkerReport, desired::init_kind, plan::InFlight,
    report::Step,
};

/// A step that has lasted so long and is blocked is told to the pod's users.
pub const LONG: Duration = Duration::from_secs(60);
/// Reason of the event that tells them.
pub const EVENT: &str = "StillWaiting";

#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    pub desired: &'a DesiredPod,
    pub observed: &'a ObservedPod,
    pub report: &'a WorkerReport,
    pub in_flight: &'a InFlight,
    /// The pod's cgroup, directories and volumes are there.
    pub prepared: bool,
    pub awaits_network: bool,
    pub resizing: bool,
}

/// What is being done, and what stands in the way of it.
pub fn step(input: &StepInput) -> (String, Option<String>) {
    let blocked = input.report.blocked.as_ref().map(|b| b.message.clone());
    match &input.report.life {
        Life::Pending | Life::Syncing => syncing(input, blocked),
        Life::Terminating { .. } => ("stopping containers".to_owned(), blocked.or_else(|| still_running(input))),
        Life::Terminated => ("removing volumes and cgroup".to_owned(), blocked),
        Life::Gone => ("finished".to_owned(), None),
        Life::Rejected { reason, message } => ("rejected".to_owned(), Some(format!("{reason}: {message}"))),
    }
}

fn syncing(input: &StepInput, blocked: Option<String>) -> (String, Option<String>) {
    if input.awaits_network {
        return ("waiting for the node's network".to_owned(), blocked);
    }
    if !input.prepared {
        return ("preparing cgroup, directories and volumes".to_owned(), blocked);
    }
    if input.in_flight.restart_all {
        return ("removing all containers to start them anew".to_owned(), blocked);
    }
    if input.in_flight.sandbox || input.observed.ready_sandbox().is_none() {
        let asked =
            || input.in_flight.sandbox.then(|| "the container runtime, which makes or stops a sandbox".to_owned());
        return ("making the sandbox".to_owned(), blocked.or_else(asked));
    }
    if input.resizing {
        return ("resizing".to_owned(), None);
    }
    let names = input.desired.init_containers().iter().chain(input.desired.regular_containers());
    for name in names.map(|c| &c.name) {
        if input.in_flight.starting.contains(name) {
            return (format!("starting container {name}"), Some("its image pull, start or postStart hook".to_owned()));
        }
        if let Some(waiting) = input.report.waiting_for(name) {
            let why = [waiting.reason.as_str(), waiting.message.as_str()].into_iter().filter(|t| !t.is_empty());
            return (format!("starting container {name}"), Some(why.collect::<Vec<_>>().join(": ")));
        }
    }
    let runs = |name: &str| input.observed.newest(name).is_some_and(|o| o.state == ContainerState::Running);
    let init = input.desired.init_containers().iter().filter(|c| init_kind(c) == Containers::Init);
    match init.map(|c| &c.name).find(|name| runs(name)) {
        Some(name) => (format!("running init container {name}"), None),
        None => ("running".to_owned(), None),
    }
}

fn still_running(input: &StepInput) -> Option<String> {
    let alive = input.observed.containers.iter().filter(|c| c.state == ContainerState::Running);
    let names: Vec<&str> = alive.map(|c| c.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("the end of {}", names.join(", ")))
}

/// When a step counts as lasting long; while containers stop, their grace period comes before.
pub fn patience(life: &Life) -> Duration {
    match life {
        Life::Terminating { grace, .. } => LONG.max(*grace + LONG),
        _ => LONG,
    }
}

/// The event's message, and the waiting message of containers that wait for this step.
pub fn text(step: &Step) -> Option<String> {
    Some(format!("{} waits for {}", step.doing, step.blocked_by.as_ref()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{PodKey, PodUid, Source, Waiting};

    fn told(report: &WorkerReport, in_flight: &InFlight, prepared: bool) -> (String, Option<String>) {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "a"}]}});
        let desired = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let observed = ObservedPod::empty(PodUid::new("u"), PodKey::new("default", "p"));
        step(&StepInput {
            desired: &desired,
            observed: &observed,
            report,
            in_flight,
            prepared,
            awaits_network: false,
            resizing: false,
        })
    }

    #[test]
    fn a_volume_that_cannot_be_mounted_is_what_a_pod_waits_for() {
        let blocked = Waiting { reason: "FailedMount".into(), message: "secret \"s\" not found".into() };
        let report = WorkerReport { blocked: Some(blocked), ..WorkerReport::default() };
        let (doing, blocked_by) = told(&report, &InFlight::default(), false);
        assert_eq!(doing, "preparing cgroup, directories and volumes");
        assert_eq!(blocked_by.as_deref(), Some("secret \"s\" not found"));
    }

    #[test]
    fn without_a_sandbox_that_is_the_step_and_nothing_blocks_it_before_it_fails() {
        let told = told(&WorkerReport::default(), &InFlight::default(), true);
        assert_eq!(told, ("making the sandbox".to_owned(), None));
    }

    #[test]
    fn a_pod_whose_sandbox_is_being_made_waits_for_the_runtime() {
        let in_flight = InFlight { sandbox: true, ..InFlight::default() };
        let (_, blocked_by) = told(&WorkerReport::default(), &in_flight, true);
        assert!(blocked_by.is_some_and(|by| by.contains("container runtime")));
    }

    #[test]
    fn a_long_grace_period_is_no_reason_to_worry() {
        let cause = crate::TerminationCause::Deleted;
        let life = Life::Terminating { cause, grace: Duration::from_secs(600), since: Default::default() };
        assert_eq!(patience(&life), Duration::from_secs(660));
        assert_eq!(patience(&Life::Syncing), LONG);
    }
}
