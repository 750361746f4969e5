//! The order in which a resize reaches the kernel: what grows, grows from the pod inwards; what shrinks, from the
//! containers outwards. Limits never pass below requests on the way.

use crate::{ContainerId, resize::ResizePlan};

/// What a pod's cgroup enforces or shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLimits {
    pub cpu_shares: u64,
    /// -1: none.
    pub cpu_quota: i64,
    /// `i64::MAX`: none.
    pub memory: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    PodMemory,
    PodQuota,
    PodShares,
    ContainersMemory,
    ContainersCpu,
    /// From here on the pod-level memory, or CPU, counts as set.
    MemorySet,
    CpuSet,
}

/// Memory first: it is the one that may be refused.
pub fn steps(now: PodLimits, wanted: PodLimits, plan: &ResizePlan) -> Vec<Step> {
    let mut steps = Vec::new();
    let whole = plan.pod || plan.pod_level;
    if whole || !plan.memory.is_empty() {
        let pod = [Step::PodMemory];
        around(
            &mut steps,
            &pod[..usize::from(wanted.memory > now.memory)],
            !plan.memory.is_empty(),
            Step::ContainersMemory,
        );
        steps.extend_from_slice(&pod[..usize::from(wanted.memory < now.memory)]);
        steps.push(Step::MemorySet);
    }
    if whole || !plan.cpu.is_empty() {
        let mut before = Vec::new();
        before.extend((wanted.cpu_quota > now.cpu_quota).then_some(Step::PodQuota));
        before.extend((wanted.cpu_shares > now.cpu_shares).then_some(Step::PodShares));
        around(&mut steps, &before, !plan.cpu.is_empty(), Step::ContainersCpu);
        steps.extend((wanted.cpu_shares < now.cpu_shares).then_some(Step::PodShares));
        steps.extend((wanted.cpu_quota < now.cpu_quota).then_some(Step::PodQuota));
        steps.push(Step::CpuSet);
    }
    steps
}

fn around(steps: &mut Vec<Step>, before: &[Step], containers: bool, step: Step) {
    steps.extend_from_slice(before);
    steps.extend(containers.then_some(step));
}

/// Memory limits that go down, and may not go below what is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shrinking {
    pub pod: Option<i64>,
    pub containers: Vec<(ContainerId, String, i64)>,
}

pub fn shrinking(now: PodLimits, wanted: PodLimits, plan: &ResizePlan) -> Shrinking {
    if plan.memory.is_empty() && !plan.pod {
        return Shrinking::default();
    }
    let shrinks = |before: i64, after: i64| after != 0 && (before == 0 || after < before);
    let containers = plan.memory.iter().filter(|u| shrinks(u.before.memory_limit, u.after.memory_limit));
    Shrinking {
        pod: (wanted.memory < now.memory).then_some(wanted.memory),
        containers: containers.map(|u| (u.id.clone(), u.name.clone(), u.after.memory_limit)).collect(),
    }
}

/// Bytes used by the pod and by the containers of [`Shrinking`], in its order; None where nobody could tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub pod: Option<u64>,
    pub containers: Vec<Option<u64>>,
}

/// Why the limits cannot go down now.
pub fn too_small(shrinking: &Shrinking, used: &MemoryUse) -> Option<String> {
    let mut reasons = Vec::new();
    if let Some(limit) = shrinking.pod {
        match used.pod {
            None => reasons.push("missing pod memory usage".to_owned()),
            Some(used) if used >= limit.unsigned_abs() => {
                reasons.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
            }
            Some(_) => {}
        }
    }
    for ((_, name, limit), used) in shrinking.containers.iter().zip(&used.containers) {
        match used {
            None => reasons.push(format!("missing container {name:?} memory usage")),
            Some(used) if *used >= limit.unsigned_abs() => reasons.push(format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            )),
            Some(_) => {}
        }
    }
    let all = match reasons.as_slice() {
        [] => return None,
        [only] => only.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {all}"))
}
