//! What a pod and its containers may use, and the kernel's units for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::{
    Containers, DesiredPod,
    desired::init_kind,
    qos::{QosClass, qos_class},
    quantity::{Amounts, ApiList, Quantity, add_all, amounts, max_all},
};

pub const MIN_SHARES: u64 = 2;
pub const MAX_SHARES: u64 = 262_144;
pub const QUOTA_PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;
/// CPU limits up to here all become the smallest quota.
pub const MIN_MILLI_CPU_LIMIT: i64 = 10;

/// Whether `spec.resources` says something about a resource it may speak about.
pub fn pod_level_set(spec: &PodSpec) -> bool {
    let Some(resources) = &spec.resources else { return false };
    any_pod_level(resources.requests.as_ref()) || any_pod_level(resources.limits.as_ref())
}

fn any_pod_level(list: Option<&ApiList>) -> bool {
    list.is_some_and(|l| l.keys().any(|name| is_pod_level(name)))
}

/// The resources that `spec.resources` may set for the whole pod.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

fn of_container(container: &Container, side: Side) -> Amounts {
    amounts(list_of(container, side))
}

fn list_of(container: &Container, side: Side) -> Option<&ApiList> {
    let resources = container.resources.as_ref()?;
    match side {
        Side::Requests => resources.requests.as_ref(),
        Side::Limits => resources.limits.as_ref(),
    }
}

/// One entry of a container's requests or limits; zero when it is not set.
pub fn container_request(container: &Container, name: &str) -> Quantity {
    list_of(container, Side::Requests).and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default()
}
pub fn container_limit(container: &Container, name: &str) -> Quantity {
    list_of(container, Side::Limits).and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default()
}

/// What all containers need together: the sum of regular ones and sidecars, or, when greater, what the hungriest
/// moment of initialisation needs (an init container beside the sidecars that were started before it).
fn aggregate(spec: &PodSpec, side: Side) -> Amounts {
    aggregate_of(spec, |container| of_container(container, side))
}

fn aggregate_of(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add_all(&mut total, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if init_kind(container) == Containers::Sidecar {
            add_all(&mut total, &own);
            add_all(&mut sidecars, &own);
            max_all(&mut peak, &sidecars);
        } else {
            let mut moment = own;
            add_all(&mut moment, &sidecars);
            max_all(&mut peak, &moment);
        }
    }
    max_all(&mut total, &peak);
    total
}

/// The sum over containers, without pod-level resources and overhead.
pub fn container_requests(spec: &PodSpec) -> Amounts {
    aggregate(spec, Side::Requests)
}

/// What the pod reserves on the node, overhead included.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    let mut total = aggregate(spec, Side::Requests);
    apply_pod_level(&mut total, spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    add_all(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// What the pod keeps others from: while a resize is under way, the most of what is granted, what is said to be granted
/// and what is enforced.
pub fn reserved_requests(pod: &DesiredPod) -> Amounts {
    let Some(status) = &pod.pod.status else { return pod_requests(pod.spec()) };
    let spec = pod.spec();
    let statuses = || status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let mut total = aggregate_of(spec, |container| {
        let mut own = of_container(container, Side::Requests);
        if let Some(seen) = statuses().find(|s| s.name == container.name) {
            max_all(&mut own, &amounts(seen.resources.as_ref().and_then(|r| r.requests.as_ref())));
            max_all(&mut own, &amounts(seen.allocated_resources.as_ref()));
        }
        own
    });
    let pod_level = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    apply_pod_level(&mut total, pod_level);
    for name in pod_level.into_iter().flat_map(|l| l.keys()).filter(|name| is_pod_level(name)) {
        let enforced = status.resources.as_ref().and_then(|r| r.requests.as_ref());
        let seen = [enforced, status.allocated_resources.as_ref()].into_iter().flatten().filter_map(|l| l.get(name));
        let most = seen.map(Quantity::of).chain(total.get(name).copied()).max().unwrap_or_default();
        total.insert(name.clone(), most);
    }
    add_all(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// What the pod may use at most, overhead included where there is a limit.
pub fn pod_limits(spec: &PodSpec) -> Amounts {
    let mut total = aggregate(spec, Side::Limits);
    apply_pod_level(&mut total, spec.resources.as_ref().and_then(|r| r.limits.as_ref()));
    for (name, overhead) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = total.get_mut(&name).filter(|l| !l.is_zero()) {
            *limit = limit.plus(overhead);
        }
    }
    total
}

fn apply_pod_level(total: &mut Amounts, pod_level: Option<&ApiList>) {
    for (name, amount) in pod_level.into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        total.insert(name.clone(), Quantity::of(amount));
    }
}

/// cgroup v1 `cpu.shares` for a CPU request.
pub fn cpu_shares(milli_cpu: i64) -> u64 {
    let shares = u64::try_from(milli_cpu.saturating_mul(1024) / 1000).unwrap_or(0);
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of CPU time per period for a CPU limit; 0: none.
pub fn cpu_quota(milli_cpu: i64, period_us: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu.saturating_mul(period_us) / 1000).max(MIN_QUOTA_US) }
}

/// The way back, rounded up: what a request must have been for these shares. 0: nothing known.
pub fn shares_to_milli_cpu(shares: i64) -> i64 {
    if shares < MIN_SHARES as i64 { 0 } else { (shares * 1000 + 1023) / 1024 }
}

/// The limit that a quota enforces, rounded up; 0: none.
pub fn quota_to_milli_cpu(quota: i64, period: i64) -> i64 {
    if quota <= 0 || period <= 0 { 0 } else { quota * 1000 / period }
}

/// Bytes of a huge page size in a resource name `hugepages-2Mi`.
pub fn huge_page_size(resource: &str) -> Option<i64> {
    let size: Quantity = resource.strip_prefix("hugepages-")?.parse().ok()?;
    Some(size.value())
}

/// Limits by page size in bytes.
pub fn huge_page_limits(list: &Amounts) -> BTreeMap<i64, i64> {
    let mut limits = BTreeMap::new();
    for (name, amount) in list {
        if let Some(size) = huge_page_size(name) {
            *limits.entry(size).or_insert(0) += amount.value();
        }
    }
    limits
}

/// What a pod's cgroup gets. A `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCgroup {
    pub cpu_shares: u64,
    /// Quota and period in microseconds; quota -1: unlimited.
    pub cpu_quota: Option<(i64, i64)>,
    pub memory_limit: Option<i64>,
    pub huge_pages: BTreeMap<i64, i64>,
}

pub fn pod_cgroup(desired: &DesiredPod, enforce_cpu_limits: bool, period_us: i64) -> PodCgroup {
    let spec = desired.spec();
    let (requests, limits) = (pod_requests(spec), pod_limits(spec));
    let get = |list: &Amounts, name: &str| list.get(name).copied().unwrap_or_default();
    let quota = if enforce_cpu_limits { cpu_quota(get(&limits, "cpu").milli_value(), period_us) } else { -1 };
    let memory = get(&limits, "memory").value();
    let huge_pages = huge_page_limits(&requests);
    let shares = cpu_shares(get(&requests, "cpu").milli_value());
    match qos_class(&desired.pod) {
        QosClass::Guaranteed => PodCgroup {
            cpu_shares: shares,
            cpu_quota: Some((quota, period_us)),
            memory_limit: Some(memory),
            huge_pages,
        },
        QosClass::Burstable => PodCgroup {
            cpu_shares: shares,
            cpu_quota: all_limited(spec, "cpu").then_some((quota, period_us)),
            memory_limit: all_limited(spec, "memory").then_some(memory),
            huge_pages,
        },
        QosClass::BestEffort => PodCgroup { cpu_shares: MIN_SHARES, huge_pages, ..PodCgroup::default() },
    }
}

/// Whether the sum of limits is the pod's limit.
pub fn all_limited(spec: &PodSpec, name: &str) -> bool {
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.all(|c| !container_limit(c, name).is_zero()) || !pod_level_limit(spec, name).is_zero()
}

fn pod_level_limit(spec: &PodSpec, name: &str) -> Quantity {
    let limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    limits.and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default()
}

fn pod_level_request(spec: &PodSpec, name: &str) -> Quantity {
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    requests.and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default()
}

/// What a container's cgroup gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerCgroup {
    pub cpu_shares: i64,
    /// 0: none; -1: unlimited.
    pub cpu_quota: i64,
    pub cpu_period: i64,
    /// 0: none.
    pub memory_limit: i64,
    pub huge_pages: BTreeMap<i64, i64>,
}

/// A container without a limit of its own gets the pod's.
pub fn container_cgroup(
    desired: &DesiredPod,
    container: &Container,
    enforce_cpu_limits: bool,
    period_us: i64,
) -> ContainerCgroup {
    let own_or_pod = |name: &str| {
        let own = container_limit(container, name);
        if own.is_zero() { pod_level_limit(desired.spec(), name) } else { own }
    };
    let (cpu, memory) = (own_or_pod("cpu"), own_or_pod("memory"));
    let has_request = list_of(container, Side::Requests).is_some_and(|l| l.contains_key("cpu"));
    let request = if has_request { container_request(container, "cpu") } else { cpu };
    ContainerCgroup {
        cpu_shares: cpu_shares(request.milli_value()) as i64,
        cpu_quota: if enforce_cpu_limits { cpu_quota(cpu.milli_value(), period_us) } else { 0 },
        cpu_period: if enforce_cpu_limits { period_us } else { 0 },
        memory_limit: memory.value(),
        huge_pages: huge_page_limits(&of_container(container, Side::Limits)),
    }
}

const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;

/// How readily the kernel kills a container's processes when memory runs out: the more it asked for, the less.
pub fn oom_score_adj(desired: &DesiredPod, container: &Container, memory_capacity: i64) -> i64 {
    let spec = desired.spec();
    let node_critical = desired.is_critical() && spec.priority_class_name.as_deref() == Some("system-node-critical");
    match qos_class(&desired.pod) {
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE_ADJ,
        _ if node_critical => return GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => {}
    }
    let capacity = memory_capacity.max(1);
    let share = unassigned_memory_per_container(spec);
    let score = |request: i64| 1000 - i128::from(request) * 1000 / i128::from(capacity);
    let memory = |c: &Container| container_request(c, "memory").value();
    let mut adj = score(memory(container) + share);
    let is_sidecar =
        spec.init_containers.iter().flatten().any(|c| c.name == container.name && init_kind(c) == Containers::Sidecar);
    if is_sidecar {
        // A sidecar must not die before the containers it serves.
        let least = spec.containers.iter().map(memory).min().unwrap_or(0);
        adj = adj.min(score(least + share));
    }
    let lowest = i128::from(1000 + GUARANTEED_OOM_SCORE_ADJ);
    adj.clamp(lowest, i128::from(BEST_EFFORT_OOM_SCORE_ADJ) - 1) as i64
}

/// Memory requested for the pod but for no container is shared out equally.
fn unassigned_memory_per_container(spec: &PodSpec) -> i64 {
    let pod = pod_level_request(spec, "memory");
    if pod.is_zero() {
        return 0;
    }
    let assigned = container_requests(spec).get("memory").copied().unwrap_or_default();
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    (pod.value() - assigned.value()).max(0) / (count.max(1) as i64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }
    fn pod(value: Value) -> DesiredPod {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": value});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn wants(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }
    fn sidecar(name: &str, cpu: &str) -> Value {
        let mut c = wants(name, cpu);
        c["restartPolicy"] = json!("Always");
        c
    }
    fn cpu(list: &Amounts) -> String {
        list["cpu"].to_string()
    }

    #[test]
    fn regular_containers_add_up_and_a_big_init_container_wins() {
        assert_eq!(cpu(&pod_requests(&spec(json!({"containers": [wants("a", "1"), wants("b", "2")]})))), "3");
        let with_init =
            spec(json!({"containers": [wants("a", "1")], "initContainers": [wants("i", "4"), wants("j", "2")]}));
        assert_eq!(cpu(&pod_requests(&with_init)), "4");
    }

    #[test]
    fn sidecars_count_beside_everything_started_after_them() {
        let s = spec(json!({"containers": [wants("a", "1")],
            "initContainers": [wants("before", "5"), sidecar("s", "2"), wants("after", "3")]}));
        // regular + sidecar = 3; before = 5; after + sidecar = 5
        assert_eq!(cpu(&pod_requests(&s)), "5");
        let s =
            spec(json!({"containers": [wants("a", "1")], "initContainers": [sidecar("s", "2"), sidecar("t", "3")]}));
        assert_eq!(cpu(&pod_requests(&s)), "6");
    }

    #[test]
    fn pod_level_resources_replace_the_sum_and_overhead_comes_on_top() {
        let s = spec(
            json!({"containers": [wants("a", "1")], "resources": {"requests": {"cpu": "4"}}, "overhead": {"cpu": "100m", "memory": "1Mi"}}),
        );
        let requests = pod_requests(&s);
        assert_eq!((cpu(&requests), requests["memory"].to_string()), ("4100m".into(), "1Mi".into()));
        let limits = pod_limits(&s);
        assert_eq!(cpu(&limits), "1100m");
        assert!(!limits.contains_key("memory"));
    }

    #[test]
    fn shares_and_quota_keep_the_kernels_bounds() {
        assert_eq!((cpu_shares(0), cpu_shares(1), cpu_shares(100), cpu_shares(1_000_000)), (2, 2, 102, 262_144));
        assert_eq!((cpu_quota(0, 100_000), cpu_quota(1, 100_000), cpu_quota(1500, 100_000)), (0, 1000, 150_000));
        assert_eq!((shares_to_milli_cpu(102), shares_to_milli_cpu(2), shares_to_milli_cpu(0)), (100, 2, 0));
        assert_eq!((quota_to_milli_cpu(150_000, 100_000), quota_to_milli_cpu(-1, 100_000)), (1500, 0));
    }

    #[test]
    fn a_burstable_pod_is_capped_only_when_every_container_is() {
        let limited =
            json!({"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}}});
        let free = json!({"name": "b"});
        let one = pod_cgroup(&pod(json!({"containers": [limited]})), true, 100_000);
        assert_eq!((one.cpu_shares, one.cpu_quota, one.memory_limit), (102, Some((100_000, 100_000)), Some(1 << 30)));
        let two = pod_cgroup(&pod(json!({"containers": [limited, free]})), true, 100_000);
        assert_eq!((two.cpu_quota, two.memory_limit), (None, None));
        let best = pod_cgroup(&pod(json!({"containers": [free]})), true, 100_000);
        assert_eq!(best, PodCgroup { cpu_shares: 2, ..PodCgroup::default() });
    }

    #[test]
    fn a_container_without_request_takes_its_limit_and_without_limit_the_pods() {
        let p = pod(
            json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "2", "hugepages-2Mi": "4Mi"}}}, {"name": "b"}],
            "resources": {"limits": {"cpu": "3", "memory": "1Gi"}}}),
        );
        let a = container_cgroup(&p, &p.regular_containers()[0], true, 100_000);
        assert_eq!((a.cpu_shares, a.cpu_quota, a.memory_limit), (2048, 200_000, 1 << 30));
        assert_eq!(a.huge_pages, BTreeMap::from([(2 << 20, 4 << 20)]));
        let b = container_cgroup(&p, &p.regular_containers()[1], true, 100_000);
        assert_eq!((b.cpu_shares, b.cpu_quota), (3072, 300_000));
        assert_eq!(container_cgroup(&p, &p.regular_containers()[1], false, 100_000).cpu_quota, 0);
    }

    #[test]
    fn oom_scores_rank_the_classes() {
        let gib = 1_i64 << 30;
        let burst = |memory: &str| {
            let p = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": memory}}}]}));
            oom_score_adj(&p, &p.regular_containers()[0], 10 * gib)
        };
        assert_eq!((burst("1Gi"), burst("1"), burst("10Gi")), (900, 999, 3));
        let p = pod(json!({"containers": [{"name": "a"}]}));
        assert_eq!(oom_score_adj(&p, &p.regular_containers()[0], gib), 1000);
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let p = pod(json!({"containers": [{"name": "a", "resources": {"requests": both, "limits": both}}]}));
        assert_eq!(oom_score_adj(&p, &p.regular_containers()[0], gib), -997);
    }

    #[test]
    fn a_sidecar_scores_no_higher_than_its_pods_smallest_container() {
        let p = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "5Gi"}}}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
        assert_eq!(oom_score_adj(&p, &p.init_containers()[0], 10 << 30), 500);
    }
}
