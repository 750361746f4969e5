//! The phase of a pod, from the statuses of its containers.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus};

use crate::{ContainerId, Containers, DesiredPod, desired::init_kind, reason, restart::after_exit};

pub const PENDING: &str = "Pending";
pub const RUNNING: &str = "Running";
pub const SUCCEEDED: &str = "Succeeded";
pub const FAILED: &str = "Failed";

/// Succeeded and Failed are final: no pod ever leaves them.
pub fn is_terminal(phase: &str) -> bool {
    phase == SUCCEEDED || phase == FAILED
}

/// As `is_terminal`, of a status field.
pub fn is_terminal_field(phase: Option<&str>) -> bool {
    phase.is_some_and(is_terminal)
}

/// What one container counts as.
enum Seen<'a> {
    Running {
        started: bool,
    },
    Ended(&'a ContainerStateTerminated),
    /// Waiting to run again.
    Between(&'a ContainerStateTerminated),
    /// Waiting for its first run.
    Waiting,
    Unknown,
}

fn seen<'a>(statuses: &'a [ContainerStatus], name: &str) -> Seen<'a> {
    let Some(status) = statuses.iter().find(|s| s.name == name) else { return Seen::Unknown };
    let last = status.last_state.as_ref().and_then(|l| l.terminated.as_ref());
    match &status.state {
        Some(ContainerState { running: Some(_), .. }) => Seen::Running { started: status.started == Some(true) },
        Some(ContainerState { terminated: Some(end), .. }) => Seen::Ended(end),
        Some(ContainerState { waiting: Some(_), .. }) => last.map_or(Seen::Waiting, Seen::Between),
        _ => Seen::Unknown,
    }
}

#[derive(Default)]
struct Counts {
    pending_init: usize,
    failed_init_for_good: usize,
    pending_sidecars: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// What a phase rests on besides the statuses.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Nothing of the pod will be started again, whatever the restart policy.
    pub over: bool,
    /// A regular container was made in the current sandbox.
    pub initialized: bool,
    /// Containers that are stopped in order to be started again.
    pub restarting: &'a HashSet<ContainerId>,
}

/// `statuses`: of init and regular containers.
pub fn phase(desired: &DesiredPod, statuses: &[ContainerStatus], facts: Facts<'_>) -> &'static str {
    let Facts { over, initialized, restarting } = facts;
    let counts = count(desired, statuses, restarting);
    if counts.failed_init_for_good > 0 {
        return FAILED;
    }
    // A sidecar that starts again does not throw a pod back that was initialised once.
    if counts.pending_init > 0 || (counts.pending_sidecars > 0 && !initialized) || counts.waiting > 0 {
        return PENDING;
    }
    let end = if counts.stopped == counts.succeeded { SUCCEEDED } else { FAILED };
    match counts {
        Counts { unknown: 1.., .. } => PENDING,
        Counts { running: 1.., .. } => RUNNING,
        Counts { stopped: 0, .. } => PENDING,
        // A static pod's phase says how it would go on: its manifest is still there.
        _ if over && !desired.is_static() => end,
        _ if counts.stopped != counts.stopped_for_good => RUNNING,
        _ => end,
    }
}

fn count(desired: &DesiredPod, statuses: &[ContainerStatus], restarting: &HashSet<ContainerId>) -> Counts {
    let runs_again = |container: &Container, end: &ContainerStateTerminated| {
        is_restarting(restarting, end) || runs_again(desired, container, end)
    };
    let mut n = Counts::default();
    for container in desired.init_containers() {
        match (init_kind(container), seen(statuses, &container.name)) {
            (Containers::Sidecar, sidecar) => count_sidecar(&mut n, &sidecar),
            (_, Seen::Ended(end) | Seen::Between(end)) => {
                if end.exit_code != 0 && !runs_again(container, end) {
                    n.failed_init_for_good += 1;
                }
            }
            _ => n.pending_init += 1,
        }
    }
    for container in desired.regular_containers() {
        match seen(statuses, &container.name) {
            Seen::Running { .. } => n.running += 1,
            Seen::Ended(end) => {
                count_end(&mut n, runs_again(container, end));
                n.succeeded += usize::from(end.exit_code == 0);
            }
            Seen::Between(end) => count_end(&mut n, runs_again(container, end)),
            Seen::Waiting => n.waiting += 1,
            Seen::Unknown => n.unknown += 1,
        }
    }
    n
}

fn count_end(n: &mut Counts, again: bool) {
    n.stopped += 1;
    n.stopped_for_good += usize::from(!again);
}

/// A sidecar that ended says nothing about the pod.
fn count_sidecar(n: &mut Counts, sidecar: &Seen<'_>) {
    match sidecar {
        Seen::Running { started } => {
            n.running += 1;
            n.pending_sidecars += usize::from(!started);
        }
        Seen::Ended(_) | Seen::Between(_) => {}
        Seen::Waiting => {
            n.waiting += 1;
            n.pending_sidecars += 1;
        }
        Seen::Unknown => n.unknown += 1,
    }
}

fn is_restarting(restarting: &HashSet<ContainerId>, end: &ContainerStateTerminated) -> bool {
    let id = end.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
    id.is_some_and(|id| restarting.contains(id))
}

fn runs_again(desired: &DesiredPod, container: &Container, end: &ContainerStateTerminated) -> bool {
    after_exit(container, desired.restart_policy(), end.exit_code)
        || end.reason.as_deref() == Some(reason::RESTARTING_ALL_CONTAINERS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    fn pod(policy: &str, spec: Value) -> DesiredPod {
        let mut full = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": full});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn status(name: &str, rest: Value) -> ContainerStatus {
        let mut status = json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        for (k, v) in rest.as_object().unwrap() {
            status[k] = v.clone();
        }
        serde_json::from_value(status).unwrap()
    }
    fn running(name: &str) -> ContainerStatus {
        status(name, json!({"state": {"running": {}}, "started": true}))
    }
    fn ended(name: &str, code: i32) -> ContainerStatus {
        status(name, json!({"state": {"terminated": {"exitCode": code}}}))
    }
    fn between(name: &str, code: i32) -> ContainerStatus {
        status(
            name,
            json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": code}}}),
        )
    }
    fn waiting(name: &str) -> ContainerStatus {
        status(name, json!({"state": {"waiting": {"reason": "ContainerCreating"}}}))
    }
    fn phase(pod: &DesiredPod, statuses: &[ContainerStatus], over: bool, initialized: bool) -> &'static str {
        super::phase(pod, statuses, Facts { over, initialized, restarting: &HashSet::new() })
    }
    fn of(policy: &str, statuses: &[ContainerStatus]) -> &'static str {
        phase(&pod(policy, json!({})), statuses, false, true)
    }

    #[test]
    fn regular_containers_decide_with_the_restart_policy() {
        for policy in ["Always", "OnFailure", "Never"] {
            assert_eq!(of(policy, &[waiting("a"), waiting("b")]), PENDING, "{policy}");
            assert_eq!(of(policy, &[running("a"), running("b")]), RUNNING, "{policy}");
            assert_eq!(of(policy, &[running("a"), waiting("b")]), PENDING, "{policy}");
            assert_eq!(of(policy, &[running("a"), ended("b", 1)]), RUNNING, "{policy}");
            assert_eq!(of(policy, &[running("a")]), PENDING, "{policy}: one is unknown");
            assert_eq!(of(policy, &[]), PENDING, "{policy}");
        }
        let table = [("Always", RUNNING, RUNNING), ("OnFailure", SUCCEEDED, RUNNING), ("Never", SUCCEEDED, FAILED)];
        for (policy, all_well, one_failed) in table {
            assert_eq!(of(policy, &[ended("a", 0), ended("b", 0)]), all_well, "{policy}");
            assert_eq!(of(policy, &[ended("a", 0), ended("b", 3)]), one_failed, "{policy}");
        }
        assert_eq!(of("Always", &[running("a"), between("b", 1)]), RUNNING);
        assert_eq!(of("OnFailure", &[ended("a", 0), between("b", 1)]), RUNNING);
    }

    #[test]
    fn the_end_of_a_pod_ignores_the_restart_policy_unless_it_is_static() {
        let all = [ended("a", 0), ended("b", 0)];
        assert_eq!(phase(&pod("Always", json!({})), &all, true, true), SUCCEEDED);
        assert_eq!(phase(&pod("Always", json!({})), &[ended("a", 0), ended("b", 137)], true, true), FAILED);
        let api = pod("Always", json!({}));
        let manifest = DesiredPod { source: Source::File, ..api };
        assert_eq!(phase(&manifest, &all, true, true), RUNNING);
    }

    #[test]
    fn init_containers_hold_the_pod_back_and_may_fail_it() {
        let with_init = |policy: &str| pod(policy, json!({"initContainers": [{"name": "i"}]}));
        let rest = [waiting("a"), waiting("b")];
        let of = |policy: &str, init: ContainerStatus| {
            phase(&with_init(policy), &[&[init][..], &rest].concat(), false, false)
        };
        assert_eq!(of("Never", running("i")), PENDING);
        assert_eq!(of("Never", ended("i", 0)), PENDING);
        assert_eq!(of("Never", ended("i", 1)), FAILED);
        assert_eq!(of("OnFailure", ended("i", 1)), PENDING);
        assert_eq!(of("Always", between("i", 1)), PENDING);
        let running = [ended("i", 0), running("a"), running("b")];
        assert_eq!(phase(&with_init("Never"), &running, false, true), RUNNING);
    }

    #[test]
    fn sidecars_count_as_running_but_not_as_ended() {
        let p = pod("Never", json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
        let unstarted = status("s", json!({"state": {"running": {}}, "started": false}));
        let apps = [running("a"), running("b")];
        let of =
            |sidecar: ContainerStatus, initialized| phase(&p, &[&[sidecar][..], &apps].concat(), false, initialized);
        assert_eq!(of(unstarted.clone(), false), PENDING);
        assert_eq!(of(unstarted, true), RUNNING);
        assert_eq!(of(ended("s", 1), true), RUNNING);
        assert_eq!(of(waiting("s"), true), PENDING);
        assert_eq!(phase(&p, &[running("s"), ended("a", 0), ended("b", 0)], false, true), RUNNING);
        assert_eq!(phase(&p, &[ended("s", 137), ended("a", 0), ended("b", 0)], true, true), SUCCEEDED);
    }

    #[test]
    fn a_containers_own_rules_keep_the_pod_running() {
        let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let p =
            pod("Never", json!({"containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}]}));
        assert_eq!(phase(&p, &[ended("a", 42)], false, true), RUNNING);
        assert_eq!(phase(&p, &[ended("a", 1)], false, true), FAILED);
        let always = pod("Never", json!({"containers": [{"name": "a", "restartPolicy": "Always"}]}));
        assert_eq!(phase(&always, &[ended("a", 1)], false, true), RUNNING);
    }
}
