//! Resizes, each a sentence.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, PodKey, PodUid, SandboxId, Source, time::Timestamp,
};

fn pod(spec: Value) -> DesiredPod {
    let pod = json!({"metadata": {"name": "p", "uid": "u", "generation": 2}, "spec": spec});
    DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

/// Containers `a` and `b`; a size is CPU then memory, request and limit alike.
fn two(a: (&str, &str), b: (&str, &str)) -> DesiredPod {
    let container = |name: &str, (cpu, memory): (&str, &str)| {
        let list = json!({"cpu": cpu, "memory": memory});
        json!({"name": name, "resources": {"requests": list, "limits": list}})
    };
    pod(json!({"containers": [container("a", a), container("b", b)]}))
}

fn running(names: &[&str]) -> ObservedPod {
    let mut observed = ObservedPod::empty(PodUid::new("u"), PodKey::new("default", "p"));
    observed.containers = names.iter().map(|name| container(name)).collect();
    observed
}

fn container(name: &str) -> ObservedContainer {
    ObservedContainer {
        id: ContainerId::new(format!("{name}-1")),
        sandbox_id: SandboxId::new("s"),
        name: name.to_owned(),
        restart_count: 0,
        state: ContainerState::Running,
        image: String::new(),
        image_id: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        annotations: Default::default(),
        mounts: Vec::new(),
        user: None,
        resources: None,
        log_path: String::new(),
    }
}

fn planned(before: &DesiredPod, after: &DesiredPod, observed: &ObservedPod, starting: &[&str]) -> ResizePlan {
    let starting: HashSet<String> = starting.iter().map(|s| (*s).to_owned()).collect();
    let (actuated, stopping) = (PodResources::of(before), HashSet::new());
    plan(&ResizeInput { pod: after, observed, actuated: &actuated, stopping: &stopping, starting: &starting })
}

fn names(updates: &[ContainerUpdate]) -> Vec<&str> {
    updates.iter().map(|u| u.name.as_str()).collect()
}

#[test]
fn equal_amounts_written_differently_are_no_resize() {
    let (before, after) = (two(("1", "1Gi"), ("1", "1Gi")), two(("1000m", "1024Mi"), ("1", "1Gi")));
    assert!(PodResources::of(&before).applied_to(&after).is_none());
    assert!(planned(&before, &after, &running(&["a", "b"]), &[]).is_empty());
}

#[test]
fn a_pod_keeps_what_it_was_granted_until_more_is() {
    let (granted, wanted) = (two(("1", "1Gi"), ("1", "1Gi")), two(("2", "1Gi"), ("1", "1Gi")));
    let shown = PodResources::of(&granted).applied_to(&wanted).unwrap();
    assert_eq!(shown.spec().containers, granted.spec().containers);
    assert_eq!(shown.pod.metadata.generation, Some(2));
    assert!(increases(&wanted, &granted) && !increases(&granted, &wanted));
}

#[test]
fn what_shrinks_makes_room_for_what_grows() {
    let (before, after) = (two(("100m", "64Mi"), ("200m", "128Mi")), two(("200m", "128Mi"), ("100m", "64Mi")));
    let plan = planned(&before, &after, &running(&["a", "b"]), &[]);
    assert_eq!((names(&plan.memory), names(&plan.cpu)), (vec!["b", "a"], vec!["b", "a"]));
    let same = PodLimits { cpu_shares: 307, cpu_quota: 30_000, memory: 192 << 20 };
    let order = [Step::ContainersMemory, Step::MemorySet, Step::ContainersCpu, Step::CpuSet];
    assert_eq!(steps(same, same, &plan), order);
}

#[test]
fn a_pod_grows_from_outside_and_shrinks_from_inside() {
    let small = PodLimits { cpu_shares: 102, cpu_quota: 10_000, memory: 64 << 20 };
    let large = PodLimits { cpu_shares: 204, cpu_quota: 20_000, memory: 128 << 20 };
    let plan = planned(&two(("1", "1Gi"), ("1", "1Gi")), &two(("2", "2Gi"), ("1", "1Gi")), &running(&["a", "b"]), &[]);
    use Step::*;
    let grows = [PodMemory, ContainersMemory, MemorySet, PodQuota, PodShares, ContainersCpu, CpuSet];
    assert_eq!(steps(small, large, &plan), grows);
    let shrinks = [ContainersMemory, PodMemory, MemorySet, ContainersCpu, PodShares, PodQuota, CpuSet];
    assert_eq!(steps(large, small, &plan), shrinks);
}

#[test]
fn a_container_that_asks_for_it_is_restarted_and_the_pod_resized_before_it_starts() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let sized = |memory: &str| {
        let resources = json!({"limits": {"cpu": "1", "memory": memory}});
        pod(json!({"containers": [{"name": "a", "resizePolicy": policy, "resources": resources}]}))
    };
    let (before, after) = (sized("64Mi"), sized("128Mi"));
    let plan = planned(&before, &after, &running(&["a"]), &[]);
    assert_eq!(plan.stop[0].message, "Container a resize requires restart");
    assert!(!plan.acts());
    let plan = planned(&before, &after, &running(&[]), &["a"]);
    assert!(plan.pod && plan.stop.is_empty());
}

#[test]
fn a_limit_of_the_whole_pod_reaches_containers_without_one() {
    let sized = |cpu: &str| {
        pod(json!({"resources": {"limits": {"cpu": cpu}}, "containers": [{"name": "a"}, {"name": "b",
            "resources": {"limits": {"cpu": "50m"}}}]}))
    };
    let (before, after) = (sized("100m"), sized("200m"));
    let plan = planned(&before, &after, &running(&["a", "b"]), &[]);
    assert!(plan.pod_level);
    assert_eq!(names(&plan.cpu), ["a"]);
    assert_eq!((plan.cpu[0].before.cpu_limit, plan.cpu[0].after.cpu_limit), (100, 200));
    assert_eq!(effective(&after, &after.spec().containers[0]).limits.unwrap()["cpu"].0, "200m");
}

#[test]
fn memory_limits_do_not_go_below_what_is_used() {
    let plan =
        planned(&two(("1", "64Mi"), ("1", "64Mi")), &two(("1", "32Mi"), ("1", "64Mi")), &running(&["a", "b"]), &[]);
    let limits = |memory: i64| PodLimits { cpu_shares: 2, cpu_quota: -1, memory };
    let shrinking = shrinking(limits(128 << 20), limits(96 << 20), &plan);
    assert_eq!(shrinking.containers.len(), 1);
    let used = |pod, a| MemoryUse { pod: Some(pod), containers: vec![Some(a)] };
    assert_eq!(too_small(&shrinking, &used(1 << 20, 1 << 20)), None);
    assert_eq!(
        too_small(&shrinking, &used(1 << 30, 5)).unwrap(),
        "cannot decrease memory limits: attempting to set pod memory limit (100663296) below current usage (1073741824)"
    );
    assert!(too_small(&shrinking, &MemoryUse::default()).unwrap().contains("missing pod memory usage"));
}

#[test]
fn a_container_on_its_way_down_counts_only_if_it_is_restarted_for_its_resize() {
    let (before, after) = (two(("1", "64Mi"), ("1", "64Mi")), two(("2", "64Mi"), ("1", "64Mi")));
    let (actuated, none) = (PodResources::of(&before), HashSet::new());
    let mut observed = running(&["a", "b"]);
    let starting = HashSet::new();
    let going = |observed: &ObservedPod, restarting: &HashSet<ContainerId>| {
        let input = ResizeInput { pod: &after, observed, actuated: &actuated, stopping: &none, starting: &starting };
        in_progress(&input, restarting)
    };
    assert!(going(&observed, &none));
    observed.containers[0].state = ContainerState::Exited;
    assert!(!going(&observed, &none));
    assert!(going(&observed, &[ContainerId::new("a-1")].into()));
}

#[test]
fn containers_that_may_swap_keep_their_memory() {
    let sized = |request: &str| {
        let resources = json!({"requests": {"memory": request}, "limits": {"memory": "1Gi"}});
        pod(json!({"containers": [{"name": "a", "resources": resources}]}))
    };
    let (before, after) = (sized("100Mi"), sized("200Mi"));
    assert_eq!(infeasible(&after, &before, false), None);
    assert!(infeasible(&after, &before, true).is_some());
}

/// Written by the upstream kubelet.
const FILE: &str = r#"{"data":"{\"entries\":{\"ccc1d725-8a42-49e4-a1fb-5a823172a720\":{\"ContainerResources\":{\"c\":{\"limits\":{\"cpu\":\"200m\",\"memory\":\"100Mi\"},\"requests\":{\"cpu\":\"100m\",\"memory\":\"50Mi\"}},\"d\":{\"limits\":{\"cpu\":\"200m\",\"memory\":\"100Mi\"},\"requests\":{\"cpu\":\"100m\",\"memory\":\"50Mi\"}}},\"PodLevelResources\":null,\"EmptyDirVolumeLimits\":null}}}","checksum":2110409176}"#;

#[test]
fn upstreams_file_is_read_and_written_to_the_byte() {
    let records = decode(FILE).unwrap();
    assert_eq!(records["ccc1d725-8a42-49e4-a1fb-5a823172a720"].containers.len(), 2);
    assert_eq!(encode(&records), FILE);
    let damaged = FILE.replace("200m", "300m");
    assert!(matches!(decode(&damaged), Err(RecordError::Checksum { .. })));
}

#[test]
fn an_event_tells_all_sizes_and_the_generation_that_asked_for_them() {
    let pod = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}));
    let text = summary(Verb::Deferred, &pod, 2, "no room");
    let expected =
        r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"1"}}}],"generation":2,"error":"no room"}"#;
    assert_eq!(text, format!("Pod resize Deferred: {expected}"));
}

#[test]
fn a_reason_keeps_its_time_while_its_message_changes() {
    let at = |s: i64| Timestamp::from_second(s).unwrap();
    let first = Condition::new(None, DEFERRED, "no cpu", 2, at(1));
    let second = Condition::new(Some(&first), DEFERRED, "no memory", 2, at(2));
    assert_eq!((second.since, second.looked_at), (at(1), at(2)));
    assert_eq!(Condition::new(Some(&second), INFEASIBLE, "", 2, at(3)).since, at(3));
    let report = ResizeReport { pending: Some(second), in_progress: None };
    let status = k8s_openapi::api::core::v1::PodStatus { conditions: Some(report.to_api()), ..Default::default() };
    assert_eq!(ResizeReport::from_status(&status), report);
}

#[test]
fn any_record_is_read_or_refused() {
    let seeds = [record::encode(&Default::default()).into_bytes()];
    fuzz::each_of("record", &seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let _ = record::decode(text);
    });
}
