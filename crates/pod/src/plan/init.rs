//! Init containers and sidecars: one after the other, read from the last one backwards, since the records of
//! those that completed may be gone from the runtime.

use super::{Plan, PlanInput, definition_changed, stop, stop_unknown, try_start};
use crate::{ContainerState, Containers, ObservedContainer, SandboxId, Verdict, api::Container, desired::init_kind};

pub(super) enum Progress {
    /// Regular containers may start.
    Initialized,
    Pending,
    /// A container failed for good: so has the pod.
    Failed,
}

/// What one init container asks for.
enum Need {
    Nothing,
    /// This one is to be started (again).
    Start,
    /// It has done its part: the next one may run.
    Next,
    Fail,
}

pub(super) fn plan_init(input: &PlanInput, plan: &mut Plan) -> Progress {
    let init = input.desired.init_containers();
    let Some(sandbox) = input.observed.sandbox() else { return Progress::Pending };
    if init.is_empty() {
        return Progress::Initialized;
    }
    let mut initialized = regular_container_ran(input, &sandbox.id);
    // True once a later container of the list has been seen: those before it have completed.
    let mut passed = initialized;
    let mut to_start = Vec::new();
    for (i, c) in init.iter().enumerate().rev() {
        let sidecar = init_kind(c) == Containers::Sidecar;
        let Some(o) = active(input, &sandbox.id, &c.name) else {
            if input.in_flight.starting.contains(&c.name) {
                passed = true;
            } else if passed && sidecar {
                to_start.push(i);
            }
            continue;
        };
        if passed && !sidecar {
            continue;
        }
        match need(input, plan, c, o, sidecar) {
            Need::Nothing => {}
            Need::Start => to_start.push(i),
            Need::Next if i + 1 == init.len() => initialized = true,
            Need::Next if !passed => to_start.push(i + 1),
            Need::Next => {}
            Need::Fail => return Progress::Failed,
        }
        passed = true;
    }
    if !passed {
        to_start.push(0);
    }
    start_in_order(input, plan, to_start);
    if initialized { Progress::Initialized } else { Progress::Pending }
}

fn start_in_order(input: &PlanInput, plan: &mut Plan, mut to_start: Vec<usize>) {
    to_start.sort_unstable();
    to_start.dedup();
    for i in to_start {
        let c = &input.desired.init_containers()[i];
        if plan.stop.iter().any(|s| s.name == c.name) || is_stopping(input, &c.name) {
            continue; // started once it has stopped
        }
        try_start(input, plan, init_kind(c), &c.name);
    }
}

fn is_stopping(input: &PlanInput, name: &str) -> bool {
    input
        .observed
        .newest(name)
        .is_some_and(|o| input.in_flight.stopping.contains(&o.id) && o.state == ContainerState::Running)
}

/// The newest container of that name in the current sandbox: those of an earlier sandbox do not count.
fn active<'a>(input: &'a PlanInput, sandbox: &SandboxId, name: &str) -> Option<&'a ObservedContainer> {
    input.observed.containers.iter().find(|o| o.name == name && o.sandbox_id == *sandbox)
}

fn regular_container_ran(input: &PlanInput, sandbox: &SandboxId) -> bool {
    input.desired.regular_containers().iter().any(|c| {
        input.in_flight.starting.contains(&c.name)
            || active(input, sandbox, &c.name).is_some_and(|o| o.state != ContainerState::Created)
    })
}

fn need(input: &PlanInput, plan: &mut Plan, c: &Container, o: &ObservedContainer, sidecar: bool) -> Need {
    if input.in_flight.starting.contains(&c.name) {
        return Need::Nothing; // its postStart hook may still run
    }
    match o.state {
        ContainerState::Created => Need::Start,
        ContainerState::Running if sidecar => running_sidecar(input, plan, c, o),
        ContainerState::Running => Need::Nothing,
        ContainerState::Exited if sidecar => Need::Start,
        ContainerState::Exited if o.exit_code == 0 => Need::Next,
        ContainerState::Exited => {
            let again = crate::restart::after_exit(c, input.desired.restart_policy(), o.exit_code);
            if again { Need::Start } else { Need::Fail }
        }
        ContainerState::Unknown => {
            let policy = c.restart_policy.as_deref().unwrap_or(input.desired.restart_policy());
            if !sidecar && policy == "Never" {
                return Need::Fail;
            }
            stop_unknown(input, plan, o);
            Need::Start
        }
    }
}

/// A sidecar lets the next one start when it is up; its liveness concerns only itself.
fn running_sidecar(input: &PlanInput, plan: &mut Plan, c: &Container, o: &ObservedContainer) -> Need {
    let probes = input.probes.of(&o.id);
    if let Some(probe) = &c.startup_probe {
        match probes.startup {
            None => return Need::Nothing,
            Some(Verdict::Failure) => {
                let message = format!("Init container {} failed startup probe", c.name);
                stop(input, plan, o, probe.termination_grace_period_seconds, message, true);
                return Need::Nothing;
            }
            Some(Verdict::Success) => {}
        }
    }
    if definition_changed(c, o) {
        stop(input, plan, o, None, format!("Init container {} definition changed", c.name), true);
    } else if probes.liveness == Some(Verdict::Failure) {
        let grace = c.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
        stop(input, plan, o, grace, format!("Init container {} failed liveness probe", c.name), true);
    }
    Need::Next
}
