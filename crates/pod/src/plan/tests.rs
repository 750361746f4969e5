//! The planner's cases, each a sentence.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{ContainerProbes, ObservedSandbox, PodKey, PodUid, SandboxId, Source, time::Timestamp};

/// A pod, what the runtime shows of it, and everything else a plan rests on.
struct Case {
    spec: Value,
    sandboxes: Vec<ObservedSandbox>,
    containers: Vec<ObservedContainer>,
    probes: ProbeResults,
    backoff: Backoff,
    in_flight: InFlight,
    now: Now,
}

const NOW: i64 = 1_000_000;

fn wall(seconds_ago: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds_ago).expect("in range")
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> ObservedSandbox {
    ObservedSandbox {
        id: SandboxId::new(id),
        attempt,
        ready,
        created_at: wall(100),
        ips: if ready { vec!["10.0.0.1".into()] } else { vec![] },
        host_network: false,
        runtime_handler: String::new(),
    }
}

fn case(spec: Value) -> Case {
    Case {
        spec,
        sandboxes: vec![sandbox("s", 0, true)],
        containers: Vec::new(),
        probes: ProbeResults::default(),
        backoff: Backoff::default(),
        in_flight: InFlight::default(),
        now: Now { mono: Mono::from_secs(NOW as u64), wall: wall(0) },
    }
}

fn one(policy: &str) -> Case {
    case(json!({"restartPolicy": policy, "containers": [{"name": "app", "image": "i"}]}))
}

impl Case {
    fn with(mut self, name: &str, state: ContainerState, exit_code: i32) -> Self {
        let n = self.containers.iter().filter(|c| c.name == name).count() as u32;
        let sandbox_id = self.sandboxes.first().map_or_else(|| SandboxId::new("s"), |s| s.id.clone());
        self.containers.insert(
            0,
            ObservedContainer {
                id: ContainerId::new(format!("{name}-{n}")),
                sandbox_id,
                name: name.into(),
                restart_count: n,
                state,
                image: "i".into(),
                image_id: "i".into(),
                created_at: wall(50),
                started_at: Some(wall(50)),
                finished_at: (state == ContainerState::Exited).then(|| wall(5)),
                exit_code,
                reason: String::new(),
                message: String::new(),
                annotations: BTreeMap::new(),
                mounts: Vec::new(),
                user: None,
                resources: None,
                log_path: String::new(),
            },
        );
        self
    }
    fn running(self, name: &str) -> Self {
        self.with(name, ContainerState::Running, 0)
    }
    fn exited(self, name: &str, code: i32) -> Self {
        self.with(name, ContainerState::Exited, code)
    }
    fn probe(mut self, id: &str, set: impl Fn(&mut ContainerProbes)) -> Self {
        set(self.probes.0.entry(ContainerId::new(id)).or_default());
        self
    }
    fn starting(mut self, name: &str) -> Self {
        self.in_flight.starting.insert(name.into());
        self
    }
    fn plan(&self) -> Plan {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": self.spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        let desired = DesiredPod::new(Source::Api, std::sync::Arc::new(pod)).expect("complete");
        let mut observed = ObservedPod::empty(PodUid::new("u"), PodKey::new("n", "p"));
        observed.sandboxes = self.sandboxes.clone();
        observed.containers = self.containers.clone();
        plan(&PlanInput {
            desired: &desired,
            observed: &observed,
            probes: &self.probes,
            backoff: &self.backoff,
            in_flight: &self.in_flight,
            now: self.now,
        })
    }
    fn starts(&self) -> Vec<String> {
        self.plan().start.into_iter().map(|s| s.name).collect()
    }
    fn stops(&self) -> Vec<String> {
        self.plan().stop.into_iter().map(|s| s.id.to_string()).collect()
    }
}

#[test]
fn a_new_pod_gets_a_sandbox_first() {
    let mut c = one("Always");
    c.sandboxes.clear();
    let plan = c.plan();
    assert_eq!(plan, Plan { sandbox: SandboxStep::Create { attempt: 0 }, ..Plan::default() });
}

#[test]
fn nothing_is_planned_while_the_sandbox_is_in_the_making() {
    let mut c = one("Always");
    c.sandboxes.clear();
    c.in_flight.sandbox = true;
    assert_eq!(c.plan(), Plan::default());
}

#[test]
fn regular_containers_start_one_after_the_other_in_spec_order() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(case(spec.clone()).starts(), ["a"]);
    assert!(case(spec.clone()).starting("a").starts().is_empty());
    assert_eq!(case(spec).running("a").starts(), ["b"]);
}

#[test]
fn a_container_held_back_does_not_hold_the_next_one() {
    let mut c = case(json!({"containers": [{"name": "a"}, {"name": "b"}]})).exited("a", 1);
    c.backoff.restarted("a", c.now.mono - Duration::from_secs(6), c.now.mono - Duration::from_secs(6));
    let plan = c.plan();
    assert_eq!(plan.start.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(plan.waiting["a"].reason, reason::CRASH_LOOP_BACK_OFF);
    assert_eq!(plan.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(plan.wake_at, Some(c.now.mono + Duration::from_secs(5)));
}

#[test]
fn a_crash_is_restarted_at_once_the_first_time_with_the_next_count() {
    let plan = one("Always").exited("app", 1).plan();
    assert_eq!(plan.start[0].restart_count, 1);
    assert_eq!(plan.start[0].predecessor_ended, Some(Mono::from_secs(NOW as u64 - 5)));
}

#[test]
fn restart_policy_decides_over_an_exit() {
    for (policy, code, restarted) in
        [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 0, false), ("Never", 1, false)]
    {
        let plan = one(policy).exited("app", code).plan();
        assert_eq!((!plan.start.is_empty(), plan.complete), (restarted, !restarted), "{policy} {code}");
    }
}

#[test]
fn a_containers_own_rules_come_before_its_policy_and_the_pods() {
    let spec = |values: Value| {
        json!({"restartPolicy": "Never", "containers": [{"name": "app", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": values}}]}]})
    };
    assert_eq!(case(spec(json!([42]))).exited("app", 42).starts(), ["app"]);
    assert!(case(spec(json!([1]))).exited("app", 42).plan().complete);
}

#[test]
fn a_failed_liveness_stops_the_container_and_restarts_it_even_if_it_then_ends_well() {
    let c = one("OnFailure").running("app").probe("app-0", |p| p.liveness = Some(Verdict::Failure));
    let plan = c.plan();
    assert_eq!(plan.stop[0].message, "Container app failed liveness probe, will be restarted");
    assert!(plan.stop[0].restart);
    let mut after = one("OnFailure").exited("app", 0);
    after.in_flight.restart.insert(ContainerId::new("app-0"));
    assert_eq!(after.starts(), ["app"]);
}

#[test]
fn a_container_stopped_with_its_sandbox_has_not_succeeded() {
    let mut c = one("OnFailure").exited("app", 0);
    c.sandboxes[0] = sandbox("s", 0, false);
    assert!(c.plan().complete);
    c.in_flight.restart.insert(ContainerId::new("app-0"));
    assert_eq!(c.plan().sandbox, SandboxStep::Create { attempt: 1 });
}

#[test]
fn a_container_being_stopped_is_not_stopped_again() {
    let mut c = one("Always").running("app").probe("app-0", |p| p.liveness = Some(Verdict::Failure));
    c.in_flight.stopping.insert(ContainerId::new("app-0"));
    assert!(c.stops().is_empty());
}

#[test]
fn a_changed_image_replaces_the_container_whatever_the_policy() {
    let mut c = one("Never").running("app");
    c.containers[0].annotations.insert("io.kubernetes.container.hash".into(), "0".into());
    assert_eq!(c.stops(), ["app-0"]);
    assert!(c.plan().stop[0].restart);
}

#[test]
fn a_dead_sandbox_is_torn_down_while_something_runs_and_replaced_when_nothing_does() {
    let mut c = one("Always").running("app");
    c.sandboxes[0] = sandbox("s", 0, false);
    assert_eq!(c.plan().sandbox, SandboxStep::Teardown);
    let mut c = one("Always").exited("app", 0);
    c.sandboxes[0] = sandbox("s", 0, false);
    assert_eq!(c.plan().sandbox, SandboxStep::Create { attempt: 1 });
}

#[test]
fn a_pod_that_never_restarts_is_over_with_its_sandbox_once_it_has_run() {
    let mut c = one("Never").exited("app", 0);
    c.sandboxes[0] = sandbox("s", 0, false);
    assert!(c.plan().complete);
    let mut c = one("Never");
    c.sandboxes[0] = sandbox("s", 0, false);
    assert_eq!(c.plan().sandbox, SandboxStep::Create { attempt: 1 });
}

#[test]
fn init_containers_run_one_by_one_before_the_others() {
    let spec = json!({"initContainers": [{"name": "i1"}, {"name": "i2"}], "containers": [{"name": "app"}]});
    assert_eq!(case(spec.clone()).starts(), ["i1"]);
    assert!(case(spec.clone()).starting("i1").starts().is_empty());
    assert!(case(spec.clone()).running("i1").starts().is_empty());
    assert_eq!(case(spec.clone()).exited("i1", 0).starts(), ["i2"]);
    assert_eq!(case(spec.clone()).exited("i2", 0).starts(), ["app"], "i1's record may be gone");
    assert!(case(spec).exited("i1", 0).exited("i2", 0).running("app").plan().start.is_empty());
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts_and_is_retried_otherwise() {
    let spec =
        |p: &str| json!({"restartPolicy": p, "initContainers": [{"name": "i"}], "containers": [{"name": "app"}]});
    assert!(case(spec("Never")).exited("i", 1).plan().complete);
    assert_eq!(case(spec("Always")).exited("i", 1).starts(), ["i"]);
}

#[test]
fn a_sidecar_lets_the_next_one_start_when_it_is_up() {
    let spec = json!({"initContainers": [{"name": "side", "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 1}}}], "containers": [{"name": "app"}]});
    assert!(case(spec.clone()).running("side").starts().is_empty());
    let up = case(spec.clone()).running("side").probe("side-0", |p| p.startup = Some(Verdict::Success));
    assert_eq!(up.starts(), ["app"]);
    let failed = case(spec).running("side").probe("side-0", |p| p.startup = Some(Verdict::Failure));
    assert_eq!(failed.stops(), ["side-0"]);
}

#[test]
fn a_sidecar_that_ends_is_restarted_even_if_the_pod_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "app"}]});
    assert_eq!(case(spec.clone()).exited("side", 1).running("app").starts(), ["side"]);
    let over = case(spec).running("side").exited("app", 0).plan();
    assert!(over.complete, "a sidecar keeps no pod alive");
}

#[test]
fn an_ephemeral_container_starts_beside_the_others_and_only_once() {
    let spec = json!({"containers": [{"name": "app"}], "ephemeralContainers": [{"name": "debug"}]});
    let starts = |c: Case| c.starts();
    assert_eq!(starts(case(spec.clone()).running("app")), ["debug"]);
    assert!(starts(case(spec).running("app").exited("debug", 1)).is_empty());
}

#[test]
fn a_failed_start_is_retried_when_its_time_has_come() {
    let waiting = Waiting { reason: reason::ERR_IMAGE_PULL.into(), message: "no".into() };
    let mut c = one("Always");
    let at = c.now.mono + Duration::from_secs(10);
    c.in_flight.retry.insert("app".into(), Retry { at, waiting: waiting.clone() });
    let plan = c.plan();
    assert_eq!((plan.start.len(), plan.waiting.get("app"), plan.wake_at), (0, Some(&waiting), Some(at)));
    c.now.mono = at;
    assert_eq!(c.starts(), ["app"]);
}

#[test]
fn a_container_that_was_made_but_never_started_is_removed_before_its_place_is_taken() {
    let c = one("Always").with("app", ContainerState::Created, 0);
    let plan = c.plan();
    assert!(plan.start.is_empty());
    assert!(plan.stop[0].discard);
    assert!(!plan.stop[0].restart, "one that comes to run unseen, and ends, has ended");
    let mut going = one("Always").with("app", ContainerState::Created, 0);
    going.in_flight.stopping.insert(ContainerId::new("app-0"));
    assert_eq!((going.starts().len(), going.stops().len()), (0, 0));
    assert_eq!(one("Always").plan().start[0].restart_count, 0);
}

/// Three containers; `app` asks with exit code 42 for everything to begin anew.
fn with_restart_all() -> Case {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    case(json!({"restartPolicy": "Never", "initContainers": [{"name": "init"}], "containers": [
        {"name": "app", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "other", "image": "i"}]}))
}

#[test]
fn an_exit_may_ask_for_all_containers_to_begin_anew() {
    let c = with_restart_all().exited("init", 0).running("other").exited("app", 42);
    assert_eq!(c.plan(), Plan { restart_all: true, ..Plan::default() });
    let other_code = with_restart_all().exited("init", 0).running("other").exited("app", 1);
    assert!(!other_code.plan().restart_all);
    let mut under_way = c;
    under_way.in_flight.restart_all = true;
    assert_eq!(under_way.plan(), Plan::default());
}

#[test]
fn when_all_containers_are_removed_the_first_init_container_starts() {
    assert_eq!(with_restart_all().starts(), ["init"]);
}

#[test]
fn those_that_asked_to_begin_anew_are_removed_last() {
    let c = with_restart_all().exited("init", 0).exited("app", 1).exited("app", 42).running("other");
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": c.spec});
    let desired = DesiredPod::new(Source::Api, std::sync::Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
    let mut observed = ObservedPod::empty(PodUid::new("u"), PodKey::new("n", "p"));
    observed.containers = c.containers;
    let order: Vec<_> = crate::restart_all::order(&desired, &observed).into_iter().map(|o| o.id.to_string()).collect();
    assert_eq!(order, ["app-0", "other-0", "init-0", "app-1"]);
}
