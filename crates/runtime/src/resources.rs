//! Resource limits in the runtime's terms: cgroup v1 values, and on v2 the keys that CRI has no field for.

use std::{collections::BTreeMap, time::Duration};

use api_types::runtime::v1::{HugepageLimit, LinuxContainerResources};
use pod::{
    DesiredPod,
    api::{Container, PodSpec},
    memory_qos::{self, MemoryQos},
    qos::{QosClass, qos_class},
    quantity::{Amounts, ApiList, Quantity},
    resources,
};

/// Configuration and machine facts that limits depend on.
#[derive(Clone, Debug)]
pub struct ResourceRules {
    pub cgroup_v2: bool,
    pub cpu_cfs_quota: bool,
    pub cpu_cfs_quota_period: Duration,
    /// v2 only: without it an OOM ends the whole container.
    pub single_process_oom_kill: bool,
    pub swap: SwapBehavior,
    /// The kernel accounts swap (memory.swap.max or memory.memsw exists).
    pub swap_controller: bool,
    pub memory_capacity: i64,
    pub swap_capacity: i64,
    /// In bytes, all that the machine supports.
    pub huge_page_sizes: Vec<i64>,
    /// None: the feature MemoryQoS is off.
    pub memory_qos: Option<MemoryQos>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapBehavior {
    #[default]
    NoSwap,
    LimitedSwap,
}

impl Default for ResourceRules {
    fn default() -> Self {
        Self {
            cgroup_v2: true,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            single_process_oom_kill: false,
            swap: SwapBehavior::NoSwap,
            swap_controller: false,
            memory_capacity: 0,
            swap_capacity: 0,
            huge_page_sizes: Vec::new(),
            memory_qos: Some(MemoryQos::default()),
        }
    }
}

/// `allocatable_memory` is the node's, 0 where unknown.
pub fn container_resources(
    pod: &DesiredPod,
    container: &Container,
    rules: &ResourceRules,
    allocatable_memory: i64,
) -> LinuxContainerResources {
    let period = rules.cpu_cfs_quota_period.as_micros() as i64;
    let cgroup = resources::container_cgroup(pod, container, rules.cpu_cfs_quota, period);
    let mut out = LinuxContainerResources {
        cpu_shares: cgroup.cpu_shares,
        cpu_quota: cgroup.cpu_quota,
        cpu_period: cgroup.cpu_period,
        memory_limit_in_bytes: cgroup.memory_limit,
        oom_score_adj: resources::oom_score_adj(pod, container, rules.memory_capacity),
        hugepage_limits: huge_pages(pod, container, rules),
        unified: group_oom(rules),
        ..LinuxContainerResources::default()
    };
    set_swap(&mut out, pod, container, rules);
    set_memory_qos(&mut out, pod, container, rules, allocatable_memory);
    out
}

/// The sum of the pod's containers, for runtimes that size a virtual machine by it.
pub fn sandbox_resources(pod: &DesiredPod, rules: &ResourceRules) -> LinuxContainerResources {
    let without_overhead = PodSpec { overhead: None, ..pod.spec().clone() };
    let requests = resources::pod_requests(&without_overhead);
    let limits = resources::pod_limits(&without_overhead);
    let limit = |name: &str| limits.get(name).copied().unwrap_or_default();
    let request = requests.get("cpu").copied().unwrap_or_else(|| limit("cpu"));
    plain(request, limit("cpu"), limit("memory"), rules)
}

pub fn overhead(pod: &DesiredPod, rules: &ResourceRules) -> LinuxContainerResources {
    let Some(overhead) = &pod.spec().overhead else { return LinuxContainerResources::default() };
    let amount = |name: &str| overhead.get(name).map(Quantity::of).unwrap_or_default();
    plain(amount("cpu"), amount("cpu"), amount("memory"), rules)
}

fn plain(request: Quantity, cpu: Quantity, memory: Quantity, rules: &ResourceRules) -> LinuxContainerResources {
    let mut out = LinuxContainerResources {
        cpu_shares: resources::cpu_shares(request.milli_value()) as i64,
        memory_limit_in_bytes: memory.value(),
        unified: group_oom(rules),
        ..LinuxContainerResources::default()
    };
    if rules.cpu_cfs_quota {
        out.cpu_period = rules.cpu_cfs_quota_period.as_micros() as i64;
        out.cpu_quota = resources::cpu_quota(cpu.milli_value(), out.cpu_period);
    }
    out
}

fn group_oom(rules: &ResourceRules) -> BTreeMap<String, String> {
    let on = rules.cgroup_v2 && !rules.single_process_oom_kill;
    on.then(|| ("memory.oom.group".to_owned(), "1".to_owned())).into_iter().collect()
}

/// Every size is limited, to 0 where nothing was asked for; the container's own limits win over the pod's.
fn huge_pages(pod: &DesiredPod, container: &Container, rules: &ResourceRules) -> Vec<HugepageLimit> {
    let of_pod = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    let mut limits = resources::huge_page_limits(&to_amounts(of_pod));
    limits.extend(resources::huge_page_limits(&to_amounts(list(container, Side::Limits))));
    let limit = |size: &i64| limits.get(size).copied().unwrap_or(0).max(0) as u64;
    rules.huge_page_sizes.iter().map(|s| HugepageLimit { page_size: page_size_name(*s), limit: limit(s) }).collect()
}

/// `2MB`, `1GB`: as the kernel's control files are named.
fn page_size_name(bytes: i64) -> String {
    const KIB: i64 = 1024;
    match bytes {
        b if b >= KIB * KIB * KIB => format!("{}GB", b / (KIB * KIB * KIB)),
        b if b >= KIB * KIB => format!("{}MB", b / (KIB * KIB)),
        b => format!("{}KB", b / KIB),
    }
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

fn list(container: &Container, side: Side) -> Option<&ApiList> {
    let resources = container.resources.as_ref()?;
    match side {
        Side::Requests => resources.requests.as_ref(),
        Side::Limits => resources.limits.as_ref(),
    }
}

fn to_amounts(list: Option<&ApiList>) -> Amounts {
    list.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

fn memory(container: &Container, side: Side) -> i64 {
    list(container, side).and_then(|l| l.get("memory")).map_or(0, |q| Quantity::of(q).value())
}

fn set_swap(out: &mut LinuxContainerResources, pod: &DesiredPod, container: &Container, rules: &ResourceRules) {
    if !rules.swap_controller {
        return;
    }
    if !rules.cgroup_v2 {
        // Memory plus swap may not exceed the memory limit: no swap.
        out.memory_swap_limit_in_bytes = out.memory_limit_in_bytes;
        return;
    }
    let swap = if may_swap(pod, container, rules) { swap_share(memory(container, Side::Requests), rules) } else { 0 };
    out.unified.insert("memory.swap.max".to_owned(), swap.to_string());
}

fn may_swap(pod: &DesiredPod, container: &Container, rules: &ResourceRules) -> bool {
    let (request, limit) = (memory(container, Side::Requests), memory(container, Side::Limits));
    rules.swap == SwapBehavior::LimitedSwap
        && !pod.is_critical()
        && qos_class(&pod.pod) == QosClass::Burstable
        && request != limit
}

/// Swap in proportion to the memory asked for.
fn swap_share(request: i64, rules: &ResourceRules) -> i64 {
    if rules.memory_capacity <= 0 || request > rules.memory_capacity {
        return 0;
    }
    (request as f64 / rules.memory_capacity as f64 * rules.swap_capacity as f64) as i64
}

fn set_memory_qos(
    out: &mut LinuxContainerResources,
    pod: &DesiredPod,
    container: &Container,
    rules: &ResourceRules,
    allocatable: i64,
) {
    if !rules.cgroup_v2 {
        return;
    }
    let mut set = |key: &str, value: String| drop(out.unified.insert(key.to_owned(), value));
    let Some(qos) = rules.memory_qos else {
        // Clears what an earlier agent with the feature on may have left.
        return set("memory.high", "max".to_owned());
    };
    let request = memory(container, Side::Requests);
    if request == 0 || !qos.tiered_reservation {
        set("memory.min", "0".to_owned());
        set("memory.low", "0".to_owned());
    } else if qos_class(&pod.pod) == QosClass::Guaranteed {
        set("memory.min", request.to_string());
    } else {
        set("memory.low", request.to_string());
    }
    if let Some(high) = qos.throttling_factor.and_then(|f| throttled_at(pod, container, f, allocatable)) {
        set("memory.high", high.to_string());
    }
}

fn throttled_at(pod: &DesiredPod, container: &Container, factor: f64, allocatable: i64) -> Option<i64> {
    let (request, limit) = (memory(container, Side::Requests), memory(container, Side::Limits));
    let pod_limits = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    let pod_throttles = limit == 0 && pod_limits.is_some_and(|l| l.contains_key("memory"));
    if pod_throttles || (request == limit && request != 0) {
        return None;
    }
    let ceiling = if limit != 0 { limit } else { allocatable };
    memory_qos::memory_high(request, ceiling, factor, rustix::param::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
    use pod::api::ResourceRequirements;

    const GIB: i64 = 1 << 30;

    fn amounts(pairs: &[(&str, &str)]) -> Option<ApiList> {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), ApiQuantity((*v).to_owned()))).collect())
    }

    fn pod_of(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> DesiredPod {
        let resources = ResourceRequirements { requests: amounts(requests), limits: amounts(limits), claims: None };
        pod("web", |s| s.containers[0].resources = Some(resources))
    }

    fn rules() -> ResourceRules {
        ResourceRules { memory_capacity: 10 * GIB, ..ResourceRules::default() }
    }

    fn resources(pod: &DesiredPod, rules: &ResourceRules) -> LinuxContainerResources {
        container_resources(pod, &pod.spec().containers[0], rules, 8 * GIB)
    }

    fn unified(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_burstable_container_on_v2() {
        let pod = pod_of(&[("cpu", "100m"), ("memory", "1Gi")], &[("cpu", "500m"), ("memory", "2Gi")]);
        let expected = LinuxContainerResources {
            cpu_shares: 102,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 2 * GIB,
            oom_score_adj: 900,
            unified: unified(&[("memory.oom.group", "1"), ("memory.min", "0"), ("memory.low", "0")]),
            ..LinuxContainerResources::default()
        };
        assert_eq!(resources(&pod, &rules()), expected);
    }

    #[test]
    fn on_v1_there_are_no_unified_keys_and_swap_is_bounded_by_memory() {
        let pod = pod_of(&[], &[("memory", "1Gi")]);
        let got = resources(&pod, &ResourceRules { cgroup_v2: false, swap_controller: true, ..rules() });
        assert_eq!((got.unified.len(), got.memory_swap_limit_in_bytes), (0, GIB));
    }

    #[test]
    fn limited_swap_follows_the_memory_request() {
        let rules =
            ResourceRules { swap: SwapBehavior::LimitedSwap, swap_controller: true, swap_capacity: GIB, ..rules() };
        let swap = |pod: &DesiredPod| resources(pod, &rules).unified["memory.swap.max"].clone();
        assert_eq!(swap(&pod_of(&[("memory", "5Gi")], &[])), (GIB / 2).to_string());
        assert_eq!(swap(&pod_of(&[("memory", "1Gi"), ("cpu", "1")], &[("memory", "1Gi")])), "0");
        assert_eq!(swap(&pod_of(&[], &[])), "0");
    }

    #[test]
    fn memory_qos_protects_requests_and_throttles_below_the_limit() {
        let qos = MemoryQos { tiered_reservation: true, throttling_factor: Some(0.5) };
        let rules = ResourceRules { memory_qos: Some(qos), single_process_oom_kill: true, ..rules() };
        let burstable = resources(&pod_of(&[("memory", "1Gi")], &[("memory", "3Gi")]), &rules);
        let low_and_high = [("memory.low", (GIB).to_string()), ("memory.high", (2 * GIB).to_string())];
        assert_eq!(burstable.unified, low_and_high.map(|(k, v)| (k.to_owned(), v)).into());
        let free = resources(&pod_of(&[], &[]), &rules);
        assert_eq!(free.unified["memory.high"], (4 * GIB).to_string());
        let off = resources(&pod_of(&[], &[]), &ResourceRules { memory_qos: None, ..rules.clone() });
        assert_eq!(off.unified, unified(&[("memory.high", "max")]));
    }

    #[test]
    fn every_huge_page_size_is_limited() {
        let rules = ResourceRules { huge_page_sizes: vec![2 << 20, GIB, 64 << 10], ..rules() };
        let pod = pod_of(&[("hugepages-2Mi", "4Mi")], &[("hugepages-2Mi", "4Mi")]);
        let got: Vec<_> = resources(&pod, &rules).hugepage_limits.into_iter().map(|h| (h.page_size, h.limit)).collect();
        assert_eq!(got, [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0), ("64KB".to_owned(), 0)]);
    }

    #[test]
    fn the_sandbox_gets_the_pods_sum_without_its_overhead() {
        let mut spec = pod_of(&[("cpu", "1")], &[("memory", "1Gi")]).spec().clone();
        spec.overhead = amounts(&[("cpu", "250m"), ("memory", "64Mi")]);
        let pod = pod("web", |s| *s = spec);
        let sandbox = sandbox_resources(&pod, &rules());
        assert_eq!((sandbox.cpu_shares, sandbox.cpu_quota, sandbox.memory_limit_in_bytes), (1024, 0, GIB));
        let extra = overhead(&pod, &rules());
        assert_eq!((extra.cpu_shares, extra.cpu_quota, extra.memory_limit_in_bytes), (256, 25_000, 64 << 20));
    }
}
