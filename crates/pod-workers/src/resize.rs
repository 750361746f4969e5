//! A resize as runtime and kernel see it: one future that its worker owns. What is done is recorded step by step, so
//! that a resize which breaks off goes on from there.

use std::collections::BTreeMap;

use cgroups::{EnforcedLimits, Limits, Who};
use pod::{
    DesiredPod, SandboxId,
    api::{Container, ResourceRequirements},
    quantity::{ApiList, Format, Quantity},
    resize::{
        ContainerUpdate, Given, MemoryUse, PodLimits, PodResources, ResizePlan, Shrinking, Step, shrinking, steps,
        too_small,
    },
    resources::PodCgroup,
};
use runtime::SandboxSize;

use crate::{
    actions::relist,
    in_flight::{Done, Resized},
    parts::Parts,
};

pub(crate) async fn resize(parts: Parts, pod: DesiredPod, sandbox: Option<SandboxId>, plan: ResizePlan) -> Done {
    let begun = parts.clock.mono();
    let result = match parts.allocated.flushed().await {
        Ok(()) => Resizing { parts: &parts, pod: &pod, sandbox: sandbox.as_ref(), plan: &plan }.run().await,
        // What was granted must be known after a crash, or its traces would look like somebody else's.
        Err(error) => Err(format!("what is granted can't be recorded: {error}")),
    };
    metrics::resizes::actuated(parts.clock.mono().since(begun), result.is_ok());
    if let Err(error) = parts.actuated.flushed().await {
        tracing::error!(pod = %pod.key, %error, "what was resized is not known after a crash");
    }
    relist(&parts, &pod).await;
    let enforced = if result.is_err() { enforced(&parts, &pod).await.ok().flatten() } else { None };
    if let Err(message) = &result {
        tracing::warn!(pod = %pod.key, uid = %pod.uid, %message, "resize failed");
    }
    let result = result.map(|()| PodResources::of(&pod));
    Done::Resized(Box::new(Resized { result, enforced: enforced.map(pod_cgroup) }))
}

struct Resizing<'a> {
    parts: &'a Parts,
    pod: &'a DesiredPod,
    sandbox: Option<&'a SandboxId>,
    plan: &'a ResizePlan,
}

impl Resizing<'_> {
    async fn run(&self) -> Result<(), String> {
        let limits = self.parts.cgroups.pod_limits(self.pod);
        let now = match enforced(self.parts, self.pod).await? {
            Some(enforced) => pod_limits(&enforced),
            None => return self.take(&steps(NO_CGROUP, NO_CGROUP, self.plan), &limits, NO_CGROUP).await,
        };
        let wanted = PodLimits {
            cpu_shares: limits.cpu_shares.unwrap_or(now.cpu_shares),
            cpu_quota: limits.cpu_quota.filter(|q| *q != 0).unwrap_or(now.cpu_quota),
            memory: limits.memory.filter(|m| *m != 0).unwrap_or(now.memory),
        };
        let shrinking = shrinking(now, wanted, self.plan);
        if let Some(why) = too_small(&shrinking, &memory_use(self.parts, self.pod, &shrinking).await) {
            return Err(why);
        }
        self.take(&steps(now, wanted, self.plan), &limits, now).await
    }

    async fn take(&self, steps: &[Step], limits: &Limits, mut now: PodLimits) -> Result<(), String> {
        for step in steps {
            let part = match step {
                Step::PodMemory => {
                    Limits { memory: limits.memory, unified: limits.unified.clone(), ..Limits::default() }
                }
                Step::PodQuota => {
                    Limits { cpu_quota: limits.cpu_quota, cpu_period: limits.cpu_period, ..Limits::default() }
                }
                Step::PodShares => Limits { cpu_shares: limits.cpu_shares, ..Limits::default() },
                Step::ContainersMemory => {
                    self.containers(&self.plan.memory, memory_only).await?;
                    continue;
                }
                Step::ContainersCpu => {
                    self.containers(&self.plan.cpu, |update| update.after).await?;
                    continue;
                }
                Step::MemorySet => {
                    self.pod_level_is_set("memory");
                    continue;
                }
                Step::CpuSet => {
                    self.pod_level_is_set("cpu");
                    continue;
                }
            };
            now = self.pod_cgroup(part, now, limits.cpu_period).await?;
        }
        Ok(())
    }

    /// The runtime is told first: it may say no.
    async fn pod_cgroup(&self, part: Limits, now: PodLimits, period: Option<u64>) -> Result<PodLimits, String> {
        let next = PodLimits {
            cpu_shares: part.cpu_shares.unwrap_or(now.cpu_shares),
            cpu_quota: part.cpu_quota.unwrap_or(now.cpu_quota),
            memory: part.memory.unwrap_or(now.memory),
        };
        self.sandbox(next, period).await?;
        if let Err(error) = self.parts.cgroups.set_pod(self.pod, &part).await {
            if let Err(also) = self.sandbox(now, period).await {
                tracing::warn!(pod = %self.pod.key, error = %also, "the runtime was not told that a resize failed");
            }
            return Err(error.to_string());
        }
        Ok(next)
    }

    async fn sandbox(&self, limits: PodLimits, period: Option<u64>) -> Result<(), String> {
        let Some(sandbox) = self.sandbox else { return Ok(()) };
        let size = SandboxSize {
            cpu_shares: i64::try_from(limits.cpu_shares).unwrap_or(i64::MAX),
            cpu_quota: limits.cpu_quota,
            cpu_period: period.and_then(|p| i64::try_from(p).ok()).unwrap_or_default(),
            memory: limits.memory,
        };
        self.parts.runtime.resize_sandbox(self.pod, sandbox, size).await.map_err(|e| e.to_string())
    }

    async fn containers(
        &self,
        updates: &[ContainerUpdate],
        size: impl Fn(&ContainerUpdate) -> Given,
    ) -> Result<(), String> {
        let allocatable = self.parts.node.borrow().allocatable.get("memory").map_or(0, |m| m.value());
        for update in updates {
            let Some((_, container)) = self.pod.container(&update.name) else { continue };
            let container = Container { resources: Some(requirements(size(update))), ..container };
            let updated = self.parts.runtime.resize_container(self.pod, &container, &update.id, allocatable).await;
            updated.map_err(|e| e.to_string())?;
            let recorded = container.resources.unwrap_or_default();
            self.parts.actuated.set_container(&self.pod.uid, &update.name, recorded);
        }
        Ok(())
    }

    fn pod_level_is_set(&self, name: &str) {
        let Some(given) = self.pod.spec().resources.as_ref().filter(|_| self.plan.pod_level) else { return };
        self.parts.actuated.set_pod_level(&self.pod.uid, |actuated| {
            copy(name, given.requests.as_ref(), &mut actuated.requests);
            copy(name, given.limits.as_ref(), &mut actuated.limits);
        });
    }
}

fn copy(name: &str, from: Option<&ApiList>, to: &mut Option<ApiList>) {
    if let Some(amount) = from.and_then(|list| list.get(name)) {
        to.get_or_insert_default().insert(name.to_owned(), amount.clone());
    }
}

/// Memory goes first, with the CPU as it is.
fn memory_only(update: &ContainerUpdate) -> Given {
    Given { memory_request: update.after.memory_request, memory_limit: update.after.memory_limit, ..update.before }
}

fn requirements(given: Given) -> ResourceRequirements {
    let list = |cpu: i64, memory: i64| {
        let cpu = (cpu != 0).then(|| ("cpu".to_owned(), Quantity::from_milli(cpu, Format::DecimalSi).to_api()));
        let memory =
            (memory != 0).then(|| ("memory".to_owned(), Quantity::from_value(memory, Format::BinarySi).to_api()));
        let list: BTreeMap<_, _> = cpu.into_iter().chain(memory).collect();
        (!list.is_empty()).then_some(list)
    };
    ResourceRequirements {
        requests: list(given.cpu_request, given.memory_request),
        limits: list(given.cpu_limit, given.memory_limit),
        claims: None,
    }
}

/// Without cgroups for pods none of theirs is touched.
const NO_CGROUP: PodLimits = PodLimits { cpu_shares: 0, cpu_quota: -1, memory: i64::MAX };

async fn enforced(parts: &Parts, pod: &DesiredPod) -> Result<Option<EnforcedLimits>, String> {
    if !parts.cgroups.has_pods() {
        return Ok(None);
    }
    let (cgroups, uid) = (parts.cgroups.clone(), pod.uid.clone());
    let read = tokio::task::spawn_blocking(move || cgroups.enforced_limits(&uid)).await;
    read.map_err(|e| e.to_string())?.map(Some).map_err(|e| format!("unable to get pod cgroup config: {e}"))
}

fn pod_limits(enforced: &EnforcedLimits) -> PodLimits {
    PodLimits {
        cpu_shares: enforced.cpu_shares.unwrap_or_default(),
        cpu_quota: enforced.cpu_quota.unwrap_or(-1),
        memory: enforced.memory.unwrap_or(i64::MAX),
    }
}

fn pod_cgroup(enforced: EnforcedLimits) -> PodCgroup {
    let period = enforced.cpu_period.and_then(|p| i64::try_from(p).ok());
    PodCgroup {
        cpu_shares: enforced.cpu_shares.unwrap_or_default(),
        cpu_quota: enforced.cpu_quota.zip(period),
        memory_limit: enforced.memory,
        ..PodCgroup::default()
    }
}

async fn memory_use(parts: &Parts, pod: &DesiredPod, shrinking: &Shrinking) -> MemoryUse {
    let (cgroups, uid) = (parts.cgroups.clone(), pod.uid.clone());
    let (whole, ids) = (shrinking.pod.is_some(), shrinking.containers.clone());
    let read = move || {
        let used = |who: Who<'_>| cgroups.usage(who).ok().and_then(|usage| usage.memory).map(|m| m.usage);
        MemoryUse {
            pod: whole.then(|| used(Who::Pod(&uid))).flatten(),
            containers: ids.iter().map(|(id, ..)| used(Who::Container(&uid, id))).collect(),
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}
