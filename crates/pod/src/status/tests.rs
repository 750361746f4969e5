//! One table per question that a status answers.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    ContainerId, ContainerProbes, ContainerState as State, Mono, ObservedContainer, ObservedSandbox, PodKey, Source,
    Verdict, Waiting, observed::ObservedMount, time::Timestamp,
};

mod resources;
mod restart;
mod restart_all;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).unwrap()
}

/// A pod and what is seen of it; a test changes what it is about.
struct Case {
    object: Value,
    source: Source,
    observed: ObservedPod,
    probes: ProbeResults,
    report: WorkerReport,
    previous: Option<PodStatus>,
    host_ips: Vec<String>,
    now: i64,
}

fn case(spec: Value) -> Case {
    let mut full = json!({"restartPolicy": "Always", "containers": [{"name": "app", "image": "nginx"}]});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    let mut observed = ObservedPod::empty("u".into(), PodKey::new("ns", "p"));
    observed.sandboxes.push(ObservedSandbox {
        id: "sb".into(),
        attempt: 0,
        ready: true,
        created_at: at(0),
        ips: vec!["10.0.0.9".into()],
        host_network: full["hostNetwork"] == json!(true),
        runtime_handler: String::new(),
    });
    Case {
        object: json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 2}, "spec": full}),
        source: Source::Api,
        observed,
        probes: ProbeResults::default(),
        report: WorkerReport { life: Life::Syncing, first_seen: Some(at(-5)), ..WorkerReport::default() },
        previous: None,
        host_ips: vec!["192.168.0.1".into()],
        now: 100,
    }
}

fn seen(name: &str, id: &str, state: State) -> ObservedContainer {
    ObservedContainer {
        id: id.into(),
        sandbox_id: "sb".into(),
        name: name.into(),
        restart_count: 0,
        state,
        image: "docker.io/nginx".into(),
        image_id: "sha256:1".into(),
        created_at: at(1),
        started_at: (state != State::Created).then(|| at(2)),
        finished_at: (state == State::Exited).then(|| at(3)),
        exit_code: 0,
        reason: if state == State::Exited { "Completed".into() } else { String::new() },
        message: String::new(),
        annotations: Default::default(),
        mounts: Vec::new(),
        user: None,
        resources: None,
        log_path: String::new(),
    }
}

impl Case {
    fn running(self, name: &str, id: &str) -> Self {
        self.with(seen(name, id, State::Running))
    }
    fn exited(self, name: &str, id: &str, code: i32) -> Self {
        self.with(ObservedContainer { exit_code: code, ..seen(name, id, State::Exited) })
    }
    /// Newest first, as observations are.
    fn with(mut self, container: ObservedContainer) -> Self {
        self.observed.containers.push(container);
        self
    }
    fn nothing_seen(mut self) -> Self {
        self.observed.sandboxes.clear();
        self.observed.containers.clear();
        self
    }
    fn waits(mut self, name: &str, reason: &str) -> Self {
        self.report.waiting.insert(name.into(), Waiting { reason: reason.into(), message: "why".into() });
        self
    }
    fn life(mut self, life: Life) -> Self {
        self.report.life = life;
        self
    }
    fn cause(mut self, cause: TerminationCause) -> Self {
        self.report.cause = Some(cause);
        self
    }
    fn api(mut self, status: Value) -> Self {
        self.object["status"] = status;
        self
    }
    fn deleted(mut self) -> Self {
        self.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self
    }
    fn probe(mut self, id: &str, probes: ContainerProbes) -> Self {
        self.probes.0.insert(ContainerId::from(id), probes);
        self
    }
    fn after(mut self, previous: &PodStatus) -> Self {
        self.previous = Some(previous.clone());
        self
    }
    fn status(&self) -> PodStatus {
        let pod = Arc::new(serde_json::from_value(self.object.clone()).unwrap());
        let desired = DesiredPod::new(self.source, pod).unwrap();
        pod_status(&StatusInput {
            desired: &desired,
            observed: &self.observed,
            probes: &self.probes,
            report: &self.report,
            previous: self.previous.as_ref(),
            host_ips: &self.host_ips,
            now: Now { mono: Mono::from_secs(100), wall: at(self.now) },
        })
    }
    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }
    /// `state` of a container as JSON.
    fn state(&self, name: &str) -> Value {
        serde_json::to_value(container(&self.status(), name).state).unwrap()
    }
}

fn container(status: &PodStatus, name: &str) -> ContainerStatus {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name).unwrap().clone()
}
fn condition(status: &PodStatus, type_: &str) -> PodCondition {
    conditions::find(status.conditions.as_ref(), type_).unwrap().clone()
}
fn told(status: &PodStatus, type_: &str) -> String {
    let c = condition(status, type_);
    [Some(c.status), c.reason, c.message].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
fn terminating(cause: TerminationCause) -> Life {
    Life::Terminating { cause, grace: Duration::from_secs(30), since: Mono::from_secs(90) }
}
fn deadline() -> TerminationCause {
    TerminationCause::Failed { reason: "DeadlineExceeded".into(), message: "too long".into(), disruption: false }
}

// ---- the whole document

#[test]
fn a_running_pod_is_told_completely() {
    let status = case(json!({})).running("app", "c1").status();
    let since = "1970-01-12T13:48:20Z";
    let condition =
        |type_: &str| json!({"type": type_, "status": "True", "observedGeneration": 2, "lastTransitionTime": since});
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
        "phase": "Running", "qosClass": "BestEffort", "observedGeneration": 2, "startTime": "1970-01-12T13:46:35Z",
        "hostIP": "192.168.0.1", "hostIPs": [{"ip": "192.168.0.1"}], "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}],
        "resources": {},
        "conditions": [condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"),
            condition("ContainersReady"), condition("PodScheduled")],
        "containerStatuses": [{"name": "app", "image": "docker.io/nginx", "imageID": "sha256:1", "containerID": "containerd://c1",
            "ready": true, "started": true, "restartCount": 0, "resources": {},
            "state": {"running": {"startedAt": "1970-01-12T13:46:42Z"}}}]})
    );
}

#[test]
fn a_new_pod_waits_with_the_default_reason() {
    let status =
        case(json!({"containers": [{"name": "b", "image": "i"}, {"name": "a", "image": "j"}]})).nothing_seen().status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let names: Vec<&str> = status.container_statuses.iter().flatten().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let a = container(&status, "a");
    assert_eq!((a.image.as_str(), a.image_id.as_str(), a.started, a.ready), ("j", "", Some(false), false));
    assert_eq!(serde_json::to_value(a.state).unwrap(), json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(told(&status, "Ready"), "False ContainersNotReady containers with unready status: [b a]");
    assert_eq!(told(&status, "PodReadyToStartContainers"), "False PodSandboxNotReady no pod sandbox exists");
    assert_eq!(told(&status, "Initialized"), "True");
    assert_eq!(told(&status, "PodScheduled"), "True");
}

// ---- waiting, running, ended

#[test]
fn with_init_containers_all_wait_for_initialisation() {
    let c = case(json!({"initContainers": [{"name": "i1"}, {"name": "i2"}]})).running("i1", "x");
    let status = c.status();
    assert_eq!(c.state("app"), json!({"waiting": {"reason": "PodInitializing"}}));
    assert_eq!(c.state("i2"), json!({"waiting": {"reason": "PodInitializing"}}));
    assert_eq!(
        told(&status, "Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i1 i2]"
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_completed_init_container_is_ready_and_keeps_its_end() {
    let c = case(json!({"initContainers": [{"name": "i"}]})).running("app", "a").exited("i", "x", 0);
    let status = c.status();
    assert!(container(&status, "i").ready);
    assert_eq!(c.state("i")["terminated"]["reason"], "Completed");
    assert_eq!(told(&status, "Initialized"), "True");
}

#[test]
fn the_worker_says_why_a_container_waits() {
    let c = case(json!({})).waits("app", "ImagePullBackOff");
    assert_eq!(c.state("app"), json!({"waiting": {"reason": "ImagePullBackOff", "message": "why"}}));
}

#[test]
fn a_crashed_container_waits_and_shows_its_last_end() {
    let c = case(json!({})).exited("app", "c1", 7).waits("app", "CrashLoopBackOff");
    let status = c.status();
    let app = container(&status, "app");
    assert_eq!(c.state("app")["waiting"]["reason"], "CrashLoopBackOff");
    let last = app.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (7, Some("containerd://c1")));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_crashed_container_without_a_reason_to_wait_shows_its_end() {
    let c = case(json!({})).exited("app", "c1", 7);
    assert_eq!(c.state("app")["terminated"]["exitCode"], 7);
}

#[test]
fn what_will_not_run_again_does_not_wait() {
    let c = case(json!({"restartPolicy": "Never"})).exited("app", "c1", 7).waits("app", "CrashLoopBackOff");
    assert_eq!(c.state("app")["terminated"]["exitCode"], 7);
    let c = case(json!({})).exited("app", "c1", 7).waits("app", "CrashLoopBackOff").deleted();
    assert_eq!(c.state("app")["terminated"]["exitCode"], 7);
}

#[test]
fn a_restarted_container_shows_the_end_of_the_one_before() {
    let newest = ObservedContainer { restart_count: 3, ..seen("app", "c2", State::Running) };
    let status = case(json!({})).with(newest).exited("app", "c1", 9).status();
    let app = container(&status, "app");
    assert_eq!((app.restart_count, app.last_state.unwrap().terminated.unwrap().exit_code), (3, 9));
}

#[test]
fn the_last_end_survives_the_removal_of_the_dead_container() {
    let before = case(json!({})).exited("app", "c1", 9).waits("app", "CrashLoopBackOff").status();
    let newest = ObservedContainer { restart_count: 1, ..seen("app", "c2", State::Running) };
    let status = case(json!({})).with(newest).after(&before).status();
    assert_eq!(container(&status, "app").last_state.unwrap().terminated.unwrap().exit_code, 9);
}

#[test]
fn a_restart_count_never_falls() {
    let newest = ObservedContainer { restart_count: 5, ..seen("app", "c2", State::Running) };
    let before = case(json!({})).with(newest).status();
    let again = case(json!({})).running("app", "c2").after(&before).status();
    assert_eq!(container(&again, "app").restart_count, 5);
}

#[test]
fn a_created_container_waits_as_it_did_before_it_was_created() {
    let c = case(json!({})).with(seen("app", "c1", State::Created));
    assert_eq!(c.state("app"), json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(c.phase(), "Pending");
    let c = case(json!({"initContainers": [{"name": "i"}]})).with(seen("i", "c1", State::Created));
    assert_eq!(c.state("i"), json!({"waiting": {"reason": "PodInitializing"}}));
}

#[test]
fn a_container_in_its_post_start_hook_is_not_up_yet() {
    let c = case(json!({})).running("app", "c1").waits("app", "ContainerCreating");
    let app = container(&c.status(), "app");
    assert_eq!((app.started, app.ready, c.phase().as_str()), (Some(false), false, "Pending"));
}

#[test]
fn an_ephemeral_container_has_a_state_and_no_say() {
    let c = case(json!({"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}))
        .running("app", "a")
        .running("debug", "d");
    let status = c.status();
    let debug = container(&status, "debug");
    assert_eq!((debug.started, debug.ready), (None, false));
    assert_eq!(told(&status, "Ready"), "True");
}

// ---- containers nobody knows any more

#[test]
fn a_container_that_vanished_after_running_has_failed_in_an_unknown_way() {
    let before = case(json!({})).running("app", "c1").status();
    let c = case(json!({})).after(&before);
    let app = container(&c.status(), "app");
    let last = app.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code), (Some("ContainerStatusUnknown"), 137));
    assert_eq!(app.restart_count, 1);
    assert_eq!(c.phase(), "Running");
    let once = case(json!({})).after(&c.status()).status();
    assert_eq!(container(&once, "app").restart_count, 1, "counted once");
    let deleted = case(json!({})).after(&before).deleted().status();
    assert_eq!(container(&deleted, "app").restart_count, 0);
}

#[test]
fn a_run_once_container_that_vanished_fails_its_pod_at_the_end() {
    let before = case(json!({"restartPolicy": "Never"})).running("app", "c1").status();
    let c = case(json!({"restartPolicy": "Never"})).after(&before);
    assert_eq!(c.phase(), "Running", "not before nothing runs");
    assert_eq!(c.life(Life::Terminated).phase(), "Failed");
}

#[test]
fn a_removed_container_whose_end_was_told_keeps_it() {
    let before = case(json!({"restartPolicy": "Never"})).exited("app", "c1", 0).status();
    let c = case(json!({"restartPolicy": "Never"})).nothing_seen().after(&before).life(Life::Terminated);
    assert_eq!((c.state("app")["terminated"]["exitCode"].clone(), c.phase()), (json!(0), "Succeeded".to_owned()));
}

#[test]
fn a_container_the_runtime_lost_sight_of_has_ended() {
    let before = case(json!({})).running("app", "c1").status();
    let c = case(json!({})).with(seen("app", "c1", State::Unknown)).after(&before);
    assert_eq!(c.state("app")["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(container(&c.status(), "app").restart_count, 1);
}

#[test]
fn a_forgotten_init_container_counts_as_done_once_the_pod_was_initialised() {
    let c =
        case(json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]})).running("app", "a");
    assert_eq!(c.state("i")["terminated"]["exitCode"], 0);
    assert_eq!(c.state("s")["waiting"]["reason"], "PodInitializing");
}

// ---- probes

fn probed(kind: &str) -> Value {
    json!({"containers": [{"name": "app", "image": "i", kind: {"tcpSocket": {"port": 1}}}]})
}

#[test]
fn readiness_follows_its_probe() {
    let ready = |verdict| {
        let c = case(probed("readinessProbe")).running("app", "c1");
        container(&c.probe("c1", ContainerProbes { readiness: verdict, ..Default::default() }).status(), "app").ready
    };
    assert_eq!((ready(None), ready(Some(Verdict::Success)), ready(Some(Verdict::Failure))), (false, true, false));
}

#[test]
fn an_unstarted_container_is_not_ready() {
    let of = |verdict| {
        let c = case(probed("startupProbe")).running("app", "c1");
        let app = container(&c.probe("c1", ContainerProbes { startup: verdict, ..Default::default() }).status(), "app");
        (app.started, app.ready)
    };
    assert_eq!(of(None), (Some(false), false));
    assert_eq!(of(Some(Verdict::Failure)), (Some(false), false));
    assert_eq!(of(Some(Verdict::Success)), (Some(true), true));
}

#[test]
fn after_a_restart_of_the_agent_the_same_container_stays_ready() {
    let spec = || {
        json!({"containers": [{"name": "app", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}},
        "startupProbe": {"tcpSocket": {"port": 1}}}]})
    };
    let both = ContainerProbes { startup: Some(Verdict::Success), readiness: Some(Verdict::Success), liveness: None };
    let before = case(spec()).running("app", "c1").probe("c1", both).status();
    let api = serde_json::to_value(&before).unwrap();
    let same = case(spec()).running("app", "c1").api(api.clone()).status();
    assert!(container(&same, "app").ready);
    assert_eq!(told(&same, "Ready"), "True");
    let replaced = container(&case(spec()).running("app", "c2").api(api.clone()).status(), "app");
    assert_eq!((replaced.started, replaced.ready), (Some(false), false));
    let failing = ContainerProbes { readiness: Some(Verdict::Failure), ..both };
    assert!(!container(&case(spec()).running("app", "c1").api(api).probe("c1", failing).status(), "app").ready);
}

#[test]
fn a_sidecar_counts_for_readiness() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let c = case(spec).running("app", "a").running("s", "x");
    assert_eq!(told(&c.status(), "ContainersReady"), "False ContainersNotReady containers with unready status: [s]");
    let ready = ContainerProbes { readiness: Some(Verdict::Success), ..Default::default() };
    assert_eq!(told(&c.probe("x", ready).status(), "ContainersReady"), "True");
}

// ---- conditions

#[test]
fn a_transition_time_stays_while_the_status_does() {
    let before = case(json!({})).running("app", "c1").status();
    let mut later = case(json!({})).running("app", "c1").after(&before);
    later.now = 500;
    assert_eq!(
        condition(&later.status(), "Ready").last_transition_time,
        condition(&before, "Ready").last_transition_time
    );
    let mut unready = case(json!({})).exited("app", "c1", 1).after(&before);
    unready.now = 500;
    assert_eq!(condition(&unready.status(), "Ready").last_transition_time, Some(Time(at(500))));
    assert_eq!(
        condition(&unready.status(), "PodScheduled").last_transition_time,
        condition(&before, "PodScheduled").last_transition_time
    );
}

#[test]
fn conditions_of_others_are_kept_as_the_api_has_them() {
    let foreign = json!({"type": "example.com/x", "status": "True", "reason": "Mine", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = case(json!({}))
        .running("app", "c1")
        .api(json!({"conditions": [foreign, {"type": "Ready", "status": "False"}]}))
        .status();
    let all = status.conditions.unwrap();
    assert_eq!(serde_json::to_value(&all[0]).unwrap(), foreign);
    assert_eq!(all.iter().filter(|c| c.type_ == "Ready").count(), 1);
}

#[test]
fn readiness_gates_must_be_true_too() {
    let with_gate = |conditions: Value| {
        let c = case(json!({"readinessGates": [{"conditionType": "x/y"}]}))
            .running("app", "c1")
            .api(json!({"conditions": conditions}));
        (told(&c.status(), "Ready"), told(&c.status(), "ContainersReady"))
    };
    let closed = with_gate(json!([{"type": "x/y", "status": "False"}]));
    assert_eq!(
        closed.0,
        "False ReadinessGatesNotReady the status of pod readiness gate \"x/y\" is not \"True\", but False"
    );
    assert_eq!(closed.1, "True");
    let missing = with_gate(json!([]));
    assert_eq!(
        missing.0,
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist."
    );
    assert_eq!(with_gate(json!([{"type": "x/y", "status": "True"}])).0, "True");
}

#[test]
fn the_sandbox_condition_names_what_is_wrong() {
    let mut c = case(json!({}));
    let of = |c: &Case| told(&c.status(), "PodReadyToStartContainers");
    assert_eq!(of(&c), "True");
    c.observed.sandboxes[0].ips.clear();
    assert_eq!(of(&c), "False PodSandboxNotReady pod sandbox has no IP address");
    c.observed.sandboxes[0].ready = false;
    assert_eq!(of(&c), "False PodSandboxNotReady pod sandbox is not ready");
}

#[test]
fn once_initialised_always_initialised() {
    let spec = || json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let before = case(spec()).running("app", "a").running("s", "x").status();
    let status = case(spec()).exited("s", "x", 1).after(&before).status();
    assert_eq!(told(&status, "Initialized"), "True");
}

#[test]
fn the_observed_generation_never_falls() {
    let status = case(json!({})).api(json!({"observedGeneration": 7})).status();
    assert_eq!(status.observed_generation, Some(7));
    assert_eq!(condition(&status, "Ready").observed_generation, Some(2));
}

// ---- the end of a pod

#[test]
fn a_final_phase_comes_only_when_nothing_runs() {
    let before = case(json!({"restartPolicy": "Never"})).running("app", "c1").status();
    let done = |life| case(json!({"restartPolicy": "Never"})).exited("app", "c1", 0).after(&before).life(life);
    assert_eq!(done(Life::Syncing).phase(), "Running");
    assert_eq!(done(terminating(TerminationCause::Completed)).phase(), "Running");
    let over = done(Life::Terminated).status();
    assert_eq!(over.phase.as_deref(), Some("Succeeded"));
    assert_eq!(told(&over, "Ready"), "False PodCompleted");
    assert_eq!(told(&over, "ContainersReady"), "False PodCompleted");
    assert_eq!(told(&over, "Initialized"), "True PodCompleted");
}

#[test]
fn a_deleted_pod_ends_by_its_exit_codes_whatever_its_policy() {
    for (code, phase) in [(0, "Succeeded"), (137, "Failed")] {
        let c = case(json!({})).exited("app", "c1", code).deleted().cause(TerminationCause::Deleted);
        assert_eq!(c.life(Life::Terminated).phase(), phase);
    }
}

#[test]
fn a_pod_that_was_ended_says_why() {
    let before = case(json!({})).running("app", "c1").status();
    let ending = case(json!({})).running("app", "c1").after(&before).life(terminating(deadline())).status();
    assert_eq!((ending.phase.as_deref(), ending.reason), (Some("Running"), None));
    let over = case(json!({})).exited("app", "c1", 0).after(&before).cause(deadline()).life(Life::Terminated).status();
    assert_eq!(
        (over.phase.as_deref(), over.reason.as_deref(), over.message.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"), Some("too long"))
    );
    assert_eq!(told(&over, "Ready"), "False PodFailed");
    let gone = case(json!({})).nothing_seen().after(&over).cause(deadline()).life(Life::Gone).status();
    assert_eq!((gone.phase.as_deref(), gone.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_disruption_is_told_with_the_final_phase() {
    let cause =
        || TerminationCause::Failed { reason: "Evicted".into(), message: "low on memory".into(), disruption: true };
    let early = case(json!({})).running("app", "c1").life(terminating(cause())).status();
    assert!(conditions::find(early.conditions.as_ref(), "DisruptionTarget").is_none());
    let over = case(json!({})).exited("app", "c1", 1).cause(cause()).life(Life::Terminated).status();
    assert_eq!(told(&over, "DisruptionTarget"), "True TerminationByKubelet low on memory");
    let kept = case(json!({})).nothing_seen().after(&over).cause(cause()).life(Life::Gone).status();
    assert_eq!(told(&kept, "DisruptionTarget"), "True TerminationByKubelet low on memory");
}

#[test]
fn a_final_phase_of_the_api_server_is_never_left() {
    let c = case(json!({})).running("app", "c1").api(json!({"phase": "Failed", "reason": "Evicted", "message": "m"}));
    let status = c.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref()),
        (Some("Failed"), Some("Evicted"), Some("m"))
    );
    assert_eq!(told(&status, "Ready"), "False PodFailed");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_does_not_restart() {
    let c = case(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]})).exited("i", "x", 1);
    assert_eq!(c.phase(), "Pending");
    let over = c.life(Life::Terminated);
    assert_eq!(over.phase(), "Failed");
    assert_eq!(over.state("app"), json!({"waiting": {"reason": "PodInitializing"}}));
    let gone = over.life(Life::Gone);
    assert_eq!(gone.state("app"), json!({"waiting": {"reason": "PodInitializing"}}), "it was never to start");
}

#[test]
fn a_pod_deleted_before_it_started_fails_with_unknown_containers() {
    let c = case(json!({})).nothing_seen().deleted().cause(TerminationCause::Deleted).life(Life::Terminated);
    assert_eq!(c.phase(), "Pending");
    let gone = c.life(Life::Gone);
    assert_eq!(gone.phase(), "Failed");
    assert_eq!(gone.state("app")["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(gone.state("app")["terminated"]["exitCode"], 137);
}

#[test]
fn init_containers_that_never_had_their_turn_stay_waiting() {
    let spec = json!({"initContainers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
    let c = case(spec).exited("a", "x", 0).deleted().life(Life::Gone);
    assert_eq!(c.state("a")["terminated"]["exitCode"], 0);
    assert_eq!(c.state("b"), json!({"waiting": {"reason": "PodInitializing"}}));
    let spec = json!({"initContainers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(case(spec).nothing_seen().deleted().life(Life::Gone).state("a")["terminated"]["exitCode"], 137);
}

#[test]
fn a_static_pod_has_no_final_phase_of_its_own() {
    let mut c = case(json!({})).exited("app", "c1", 0).life(Life::Terminated);
    c.source = Source::File;
    assert_eq!(c.phase(), "Running");
    c.report.life = Life::Gone;
    assert_eq!(c.phase(), "Running");
}

#[test]
fn a_rejected_pod_says_why_and_nothing_else() {
    let c = case(json!({})).nothing_seen().life(Life::Rejected { reason: "OutOfcpu".into(), message: "no cpu".into() });
    let status = c.api(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "x/y", "status": "True"}]})).status();
    assert_eq!(
        serde_json::to_value(status).unwrap(),
        json!({
        "phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: no cpu", "qosClass": "BestEffort",
        "observedGeneration": 2, "startTime": "1970-01-12T13:46:35Z", "conditions": [{"type": "x/y", "status": "True"}]})
    );
}

// ---- addresses, times, amounts

#[test]
fn the_address_outlives_the_sandbox() {
    let before = case(json!({})).running("app", "c1").status();
    let status = case(json!({})).nothing_seen().after(&before).life(Life::Terminated).status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
}

#[test]
fn a_host_network_pod_has_the_nodes_addresses() {
    let mut c = case(json!({"hostNetwork": true}));
    c.observed.sandboxes[0].ips.clear();
    assert_eq!(c.status().pod_ip.as_deref(), Some("192.168.0.1"));
    let before = c.status();
    c.previous = Some(before);
    c.host_ips = vec!["192.168.0.2".into(), "fd00::1".into()];
    let status = c.status();
    let ips: Vec<String> = status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect();
    assert_eq!(ips, ["192.168.0.1", "fd00::1"], "set once, but a second family may come");
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.2"));
}

#[test]
fn a_pod_that_has_ended_stays_where_it_ran() {
    let mut c = case(json!({"restartPolicy": "Never"})).exited("app", "c1", 0).life(Life::Terminated);
    let before = c.status();
    assert_eq!((before.phase.as_deref(), before.host_ip.as_deref()), (Some("Succeeded"), Some("192.168.0.1")));
    c.previous = Some(before.clone());
    c.host_ips = vec!["192.168.0.2".into()];
    assert_eq!(c.status().host_ip, before.host_ip);
    assert_eq!(c.status().host_ips, before.host_ips);
}

#[test]
fn addresses_come_in_the_nodes_preferred_order() {
    let ips = |list: &[&str], host: &str| {
        sort_pod_ips(&list.iter().map(ToString::to_string).collect::<Vec<_>>(), &[host.to_owned()])
    };
    assert_eq!(ips(&["fd00:0::2", "10.0.0.2", "10.0.0.3"], "1.1.1.1"), ["10.0.0.2", "fd00::2"]);
    assert_eq!(ips(&["10.0.0.2", "fd00::2"], "fd00::9"), ["fd00::2", "10.0.0.2"]);
    assert_eq!(ips(&["10.0.0.2"], "fd00::9"), ["10.0.0.2"]);
}

#[test]
fn the_start_time_is_set_once() {
    let status = case(json!({})).api(json!({"startTime": "2026-01-01T00:00:00Z"})).status();
    assert_eq!(serde_json::to_value(status.start_time).unwrap(), json!("2026-01-01T00:00:00Z"));
}

#[test]
fn times_are_whole_seconds_and_messages_bounded() {
    let mut end = ObservedContainer { message: "é".repeat(10_000), ..seen("app", "c1", State::Exited) };
    end.finished_at = Some(Timestamp::from_nanosecond(1_700_000_000_999_999_999).unwrap());
    let status = case(json!({})).with(end).status();
    let end = container(&status, "app").state.unwrap().terminated.unwrap();
    assert_eq!(end.finished_at, Some(Time(Timestamp::from_second(1_700_000_000).unwrap())));
    assert_eq!(end.message.unwrap().len(), 12 * 1024);
}

// ---- comparing

#[test]
fn the_same_picture_gives_the_same_status() {
    let first = case(json!({})).running("app", "c1").status();
    let mut again = case(json!({})).running("app", "c1").after(&first);
    again.now = 900;
    assert_eq!(again.status(), first);
    assert!(says_the_same(&first, &again.status()));
}

#[test]
fn a_container_may_not_come_back_from_its_final_end() {
    let check = |policy: &str, code: i32| {
        let c = case(json!({"restartPolicy": policy}));
        let pod = Arc::new(serde_json::from_value(c.object.clone()).unwrap());
        let desired = DesiredPod::new(Source::Api, pod).unwrap();
        let (old, new) = (c.exited("app", "c1", code).status(), case(json!({})).running("app", "c1").status());
        check_transition(&desired, &old, &new).is_ok()
    };
    assert!(check("Always", 0) && check("OnFailure", 1));
    assert!(!check("OnFailure", 0) && !check("Never", 1) && !check("Never", 0));
}
