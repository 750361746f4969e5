//! What has to change so that running containers have what was allocated.

use std::collections::HashSet;

use crate::{
    ContainerId, ContainerState, DesiredPod, ObservedContainer, ObservedPod,
    api::{Container, ResourceRequirements},
    plan::StopContainer,
    quantity::Quantity,
    resize::PodResources,
};

/// CPU in thousandths, memory in bytes; 0: not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

impl Given {
    /// A container without a limit of its own has the pod's.
    pub fn of(pod_level: Option<&ResourceRequirements>, own: Option<&ResourceRequirements>) -> Self {
        let own = own.cloned().unwrap_or_default();
        let limits = pod_level.and_then(|r| r.limits.as_ref());
        let request =
            |name: &str| own.requests.as_ref().and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default();
        let limit = |name: &str| {
            let limit = own.limits.as_ref().and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default();
            if limit.is_zero() { limits.and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default() } else { limit }
        };
        Self {
            cpu_request: request("cpu").milli_value(),
            cpu_limit: limit("cpu").milli_value(),
            memory_request: request("memory").value(),
            memory_limit: limit("memory").value(),
        }
    }
}

/// A container's resources as they are recorded when it is made: with the limits that it has from the pod.
pub fn effective(pod: &DesiredPod, container: &Container) -> ResourceRequirements {
    let mut own = container.resources.clone().unwrap_or_default();
    let of_pod = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    for name in ["cpu", "memory"] {
        let limits = own.limits.get_or_insert_default();
        if limits.get(name).is_none_or(|l| Quantity::of(l).is_zero())
            && let Some(limit) = of_pod.and_then(|l| l.get(name)).filter(|l| !Quantity::of(l).is_zero())
        {
            limits.insert(name.to_owned(), limit.clone());
        }
    }
    own.limits = own.limits.filter(|l| !l.is_empty());
    own
}

/// Everything a resize rests on. `pod` carries the allocated resources.
#[derive(Clone, Copy, Debug)]
pub struct ResizeInput<'a> {
    pub pod: &'a DesiredPod,
    pub observed: &'a ObservedPod,
    pub actuated: &'a PodResources,
    /// Containers that are being stopped: they get their new size when they start again.
    pub stopping: &'a HashSet<ContainerId>,
    /// Containers about to be started.
    pub starting: &'a HashSet<String>,
}

/// One running container whose limits change.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerUpdate {
    pub id: ContainerId,
    pub name: String,
    pub before: Given,
    pub after: Given,
}

/// What has to be done; nothing when it equals its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResizePlan {
    /// Containers that ask for a restart when they are resized.
    pub stop: Vec<StopContainer>,
    /// Those that get less first.
    pub memory: Vec<ContainerUpdate>,
    pub cpu: Vec<ContainerUpdate>,
    /// The pod's cgroup changes though no running container does: a container restarts with another size.
    pub pod: bool,
    /// `spec.resources` changed.
    pub pod_level: bool,
    /// A container is being stopped to be resized: the rest is done when it has ended.
    pub waits: bool,
}

impl ResizePlan {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    /// Something of runtime or kernel has to be told.
    pub fn acts(&self) -> bool {
        self.pod || self.pod_level || !self.memory.is_empty() || !self.cpu.is_empty()
    }
}

pub(super) fn needs_restart(container: &Container, resource: &str) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().find(|p| p.resource_name == resource).is_some_and(|p| p.restart_policy == "RestartContainer")
}

fn sizes(input: &ResizeInput, container: &Container) -> (Given, Given) {
    let before = Given::of(input.actuated.pod_level.as_ref(), input.actuated.containers.get(&container.name));
    let after = Given::of(input.pod.spec().resources.as_ref(), container.resources.as_ref());
    (before, after)
}

/// See the module's header.
pub fn plan(input: &ResizeInput) -> ResizePlan {
    let mut plan = ResizePlan { pod_level: pod_level_differs(input), ..ResizePlan::default() };
    for container in input.pod.init_containers().iter().chain(input.pod.regular_containers()) {
        let (before, after) = sizes(input, container);
        if before == after {
            continue;
        }
        match input.observed.newest(&container.name).filter(|o| o.state == ContainerState::Running) {
            Some(seen) if input.stopping.contains(&seen.id) => plan.waits = true,
            Some(seen) => plan_running(&mut plan, container, seen, before, after),
            None => plan.pod |= input.starting.contains(&container.name),
        }
    }
    plan
}

fn pod_level_differs(input: &ResizeInput) -> bool {
    let whole = |r: Option<&ResourceRequirements>| Given::of(None, r);
    whole(input.actuated.pod_level.as_ref()) != whole(input.pod.spec().resources.as_ref())
}

fn plan_running(plan: &mut ResizePlan, container: &Container, seen: &ObservedContainer, before: Given, after: Given) {
    let cpu = before.cpu_request != after.cpu_request || before.cpu_limit != after.cpu_limit;
    let memory = before.memory_request != after.memory_request || before.memory_limit != after.memory_limit;
    if (cpu && needs_restart(container, "cpu")) || (memory && needs_restart(container, "memory")) {
        plan.stop.push(StopContainer {
            id: seen.id.clone(),
            name: container.name.clone(),
            grace: None,
            message: format!("Container {} resize requires restart", container.name),
            restart: true,
            discard: false,
        });
        return;
    }
    let update = ContainerUpdate { id: seen.id.clone(), name: container.name.clone(), before, after };
    if memory {
        let limits = (before.memory_limit, after.memory_limit);
        let grows =
            if limits.0 != limits.1 { limits.1 > limits.0 } else { after.memory_request > before.memory_request };
        put(&mut plan.memory, update.clone(), grows);
    }
    if cpu {
        let limits = (before.cpu_limit, after.cpu_limit);
        let grows = if limits.0 != limits.1 { limits.1 > limits.0 } else { after.cpu_request > before.cpu_request };
        put(&mut plan.cpu, update, grows);
    }
}

/// What shrinks makes room for what grows.
fn put(list: &mut Vec<ContainerUpdate>, update: ContainerUpdate, grows: bool) {
    if grows { list.push(update) } else { list.insert(0, update) }
}

/// Something that runs, or is being restarted for it, has not got yet what was allocated.
pub fn in_progress(input: &ResizeInput, restarting: &HashSet<ContainerId>) -> bool {
    let sidecars = input.pod.init_containers().iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut containers = sidecars.chain(input.pod.regular_containers());
    let waits = |c: &Container| {
        let (before, after) = sizes(input, c);
        let newest = input.observed.newest(&c.name);
        before != after && newest.is_some_and(|o| o.state == ContainerState::Running || restarting.contains(&o.id))
    };
    let pod_level = input.pod.spec().resources.is_some() && input.actuated.pod_level.is_some();
    containers.any(waits) || (pod_level && pod_level_differs(input))
}
