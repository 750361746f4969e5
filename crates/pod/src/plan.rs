//! What to do next for a pod that shall run: desired and observed in, comparable data out.
//!
//! The worker executes a plan's steps as tasks it owns and plans again at every event, so a plan lists only what
//! may begin now; what already began comes back in as [`InFlight`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use crate::{
    ContainerId, ContainerState, Containers, DesiredPod, Mono, Now, ObservedContainer, ObservedPod, ProbeResults,
    Verdict, Waiting, backoff::Backoff, reason,
};

mod init;

/// Everything a decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    pub desired: &'a DesiredPod,
    pub observed: &'a ObservedPod,
    pub probes: &'a ProbeResults,
    pub backoff: &'a Backoff,
    pub in_flight: &'a InFlight,
    pub now: Now,
}

/// What the worker has begun or must remember between plans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InFlight {
    /// Names of containers being started (image pull, create, start, postStart).
    pub starting: HashSet<String>,
    pub stopping: HashSet<ContainerId>,
    /// When containers ended, as understood when that was first seen.
    pub ended: HashMap<ContainerId, Mono>,
    /// Containers that were stopped in order to be started again, alone or with their sandbox, whatever the restart
    /// policy says of their exit.
    pub restart: HashSet<ContainerId>,
    /// After a failed start: not before this time, and why it failed.
    pub retry: HashMap<String, Retry>,
    /// The sandbox is being made or torn down.
    pub sandbox: bool,
    /// All containers are being removed in order to start all over again.
    pub restart_all: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub at: Mono,
    pub waiting: Waiting,
}

/// What may begin now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub sandbox: SandboxStep,
    pub start: Vec<StartContainer>,
    pub stop: Vec<StopContainer>,
    /// Why containers that should run do not; only reasons that the plan itself knows.
    pub waiting: BTreeMap<String, Waiting>,
    /// A container's exit asks for all of them to be removed and started again, see [`crate::restart_all`]. Nothing
    /// else is in such a plan.
    pub restart_all: bool,
    /// Everything has ended and nothing is to be started: the pod is to be terminated.
    pub complete: bool,
    /// When to plan again though nothing happened.
    pub wake_at: Option<Mono>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxStep {
    #[default]
    Keep,
    /// Stop what still runs and the sandbox itself; a new one is made when nothing is left running.
    Teardown,
    Create {
        attempt: u32,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct StartContainer {
    pub kind: Containers,
    pub name: String,
    pub restart_count: u32,
    /// When the container's predecessor ended, for the back-off.
    pub predecessor_ended: Option<Mono>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StopContainer {
    pub id: ContainerId,
    pub name: String,
    /// Probe-level terminationGracePeriodSeconds.
    pub grace: Option<Duration>,
    pub message: String,
    pub restart: bool,
    /// It was made but, as far as anybody has seen, never started: it is removed before its place is taken.
    pub discard: bool,
}

/// See the module's header.
pub fn plan(input: &PlanInput) -> Plan {
    let mut plan = Plan::default();
    if input.in_flight.sandbox || input.in_flight.restart_all {
        return plan;
    }
    if crate::restart_all::is_asked(input.desired, input.observed) {
        plan.restart_all = true;
        return plan;
    }
    match sandbox_step(input) {
        SandboxNeed::Usable => {}
        SandboxNeed::Step(step) => {
            plan.sandbox = step;
            return plan;
        }
        SandboxNeed::NothingToRun => {
            plan.complete = true;
            return plan;
        }
    }
    plan_ephemeral(input, &mut plan);
    match init::plan_init(input, &mut plan) {
        init::Progress::Failed => Plan { complete: true, ..Plan::default() },
        init::Progress::Pending => plan,
        init::Progress::Initialized => {
            plan_regular(input, &mut plan);
            plan
        }
    }
}

enum SandboxNeed {
    Usable,
    Step(SandboxStep),
    NothingToRun,
}

fn sandbox_step(input: &PlanInput) -> SandboxNeed {
    let (desired, observed) = (input.desired, input.observed);
    let Some(newest) = observed.sandbox() else {
        return SandboxNeed::Step(SandboxStep::Create { attempt: 0 });
    };
    let host_network = desired.host_network();
    let one_ready = observed.sandboxes.iter().filter(|s| s.ready).count() == 1;
    let has_address = host_network || !newest.ips.is_empty();
    if newest.ready && one_ready && newest.host_network == host_network && has_address {
        return SandboxNeed::Usable;
    }
    // A pod that never restarts and has run is over with its sandbox, and so is one whose containers all succeeded.
    let never_again = desired.restart_policy() == "Never" && !observed.containers.is_empty();
    if never_again || nothing_left_to_start(input) {
        return SandboxNeed::NothingToRun;
    }
    if !input.in_flight.starting.is_empty() || !input.in_flight.stopping.is_empty() {
        return SandboxNeed::Step(SandboxStep::Keep); // their end wakes the next plan
    }
    if observed.is_running() {
        return SandboxNeed::Step(SandboxStep::Teardown);
    }
    SandboxNeed::Step(SandboxStep::Create { attempt: newest.attempt + 1 })
}

/// Initialised earlier, and every regular container has succeeded under a policy that only restarts failures.
fn nothing_left_to_start(input: &PlanInput) -> bool {
    let regular = input.desired.regular_containers();
    let initialized = regular.iter().any(|c| input.observed.newest(&c.name).is_some());
    initialized
        && regular.iter().all(|c| {
            let policy = c.restart_policy.as_deref().unwrap_or(input.desired.restart_policy());
            let newest = input.observed.newest(&c.name);
            policy == "OnFailure"
                && newest.is_some_and(|o| has_succeeded(o) && !input.in_flight.restart.contains(&o.id))
        })
}

fn has_succeeded(c: &ObservedContainer) -> bool {
    c.state == ContainerState::Exited && c.exit_code == 0
}

/// Ephemeral containers start whenever there is a sandbox, and never again.
fn plan_ephemeral(input: &PlanInput, plan: &mut Plan) {
    for c in input.desired.ephemeral_containers() {
        if input.observed.newest(&c.name).is_none() {
            try_start(input, plan, Containers::Ephemeral, &c.name);
        }
    }
}

fn plan_regular(input: &PlanInput, plan: &mut Plan) {
    let mut kept = 0;
    let mut wanted = 0;
    // As upstream, containers start in spec order: the next one when the one before is up (postStart included) or failed.
    let mut earlier_in_flight = false;
    for c in input.desired.regular_containers() {
        let in_flight = input.in_flight.starting.contains(&c.name);
        if in_flight {
            wanted += 1;
            earlier_in_flight = true;
            continue;
        }
        match input.observed.newest(&c.name) {
            Some(o) if o.state == ContainerState::Running => {
                kept += 1;
                plan_running(input, plan, c, o);
            }
            newest => {
                if newest.is_some_and(|o| !should_restart(input, c, o)) {
                    continue;
                }
                wanted += 1;
                if earlier_in_flight {
                    continue;
                }
                if let Some(o) = newest.filter(|o| o.state == ContainerState::Unknown) {
                    stop_unknown(input, plan, o);
                    continue;
                }
                earlier_in_flight |= try_start(input, plan, Containers::Regular, &c.name);
            }
        }
    }
    if kept + wanted == 0 {
        *plan = Plan { complete: true, ..Plan::default() };
    }
}

/// A running container is stopped when its definition changed or a probe gave up on it.
fn plan_running(input: &PlanInput, plan: &mut Plan, c: &crate::api::Container, o: &ObservedContainer) {
    let policy = c.restart_policy.as_deref().unwrap_or(input.desired.restart_policy());
    let probes = input.probes.of(&o.id);
    let (what, grace, restart) = if definition_changed(c, o) {
        (format!("Container {} definition changed", c.name), None, true)
    } else if probes.liveness == Some(Verdict::Failure) {
        let grace = c.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
        (format!("Container {} failed liveness probe", c.name), grace, policy != "Never")
    } else if probes.startup == Some(Verdict::Failure) {
        let grace = c.startup_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
        (format!("Container {} failed startup probe", c.name), grace, policy != "Never")
    } else {
        return;
    };
    let message = if restart { format!("{what}, will be restarted") } else { what };
    stop(input, plan, o, grace, message, restart);
}

fn stop_unknown(input: &PlanInput, plan: &mut Plan, o: &ObservedContainer) {
    let message = "Container is in \"unknown\" state, try killing it before restart".to_owned();
    stop(input, plan, o, None, message, true);
}

fn stop(
    input: &PlanInput,
    plan: &mut Plan,
    o: &ObservedContainer,
    grace_secs: Option<i64>,
    message: String,
    restart: bool,
) {
    if input.in_flight.stopping.contains(&o.id) {
        return;
    }
    let grace = grace_secs.map(|s| Duration::from_secs(s.max(0) as u64));
    plan.stop.push(StopContainer { id: o.id.clone(), name: o.name.clone(), grace, message, restart, discard: false });
}

/// Only a change of image or name replaces a running container; an unlabelled (foreign) one is left alone.
fn definition_changed(c: &crate::api::Container, o: &ObservedContainer) -> bool {
    o.annotations.get("io.kubernetes.container.hash").is_some_and(|h| *h != crate::hash::container_hash_text(c))
}

/// Whether a container that is not running is to run again.
fn should_restart(input: &PlanInput, c: &crate::api::Container, o: &ObservedContainer) -> bool {
    match o.state {
        ContainerState::Running => false,
        ContainerState::Created | ContainerState::Unknown => true,
        ContainerState::Exited => {
            input.in_flight.restart.contains(&o.id)
                || crate::restart::after_exit(c, input.desired.restart_policy(), o.exit_code)
        }
    }
}

/// Starts the container unless something holds it back. True when a later container must wait for it.
fn try_start(input: &PlanInput, plan: &mut Plan, kind: Containers, name: &str) -> bool {
    if input.in_flight.starting.contains(name) {
        return true;
    }
    let newest = input.observed.newest(name);
    if let Some(o) = newest.filter(|o| o.state == ContainerState::Created) {
        discard(input, plan, o);
        return true;
    }
    let ended = newest.filter(|o| o.state == ContainerState::Exited).and_then(|o| {
        let noted = input.in_flight.ended.get(&o.id).copied();
        noted.or_else(|| o.finished_at.map(|at| input.now.mono_of(at)))
    });
    if let Some(retry) = input.in_flight.retry.get(name).filter(|r| r.at > input.now.mono) {
        hold(plan, name, retry.waiting.clone(), retry.at);
        return false;
    }
    if let Some(held) = ended.and_then(|at| input.backoff.holds(name, at, input.now.mono)) {
        hold(plan, name, crash_loop(input.desired, name, held.delay), held.until);
        return false;
    }
    let restart_count = newest.map_or(0, |o| o.restart_count + 1);
    plan.start.push(StartContainer { kind, name: name.to_owned(), restart_count, predecessor_ended: ended });
    true
}

/// A start that was cut off (by a crash of the agent, say) may still come to pass in the runtime: were its container
/// left there, two instances could run. Removing it makes sure, and its restart count is free again. It is no restart:
/// one that does come to run, and ends, has ended for good where the restart policy says so.
fn discard(input: &PlanInput, plan: &mut Plan, o: &ObservedContainer) {
    if !input.in_flight.stopping.contains(&o.id) {
        let (id, name) = (o.id.clone(), o.name.clone());
        plan.stop.push(StopContainer { id, name, grace: None, message: String::new(), restart: false, discard: true });
    }
}

fn hold(plan: &mut Plan, name: &str, waiting: Waiting, until: Mono) {
    plan.waiting.insert(name.to_owned(), waiting);
    plan.wake_at = Some(plan.wake_at.map_or(until, |at| at.min(until)));
}

fn crash_loop(desired: &DesiredPod, name: &str, delay: Duration) -> Waiting {
    let pod = format!("{}_{}({})", desired.key.name, desired.key.namespace, desired.uid);
    let message = format!("back-off {} restarting failed container={name} pod={pod}", go_duration(delay));
    Waiting { reason: reason::CRASH_LOOP_BACK_OFF.to_owned(), message }
}

/// Whole seconds as Go prints them: `10s`, `2m40s`, `5m0s`.
fn go_duration(d: Duration) -> String {
    match (d.as_secs() / 60, d.as_secs() % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests;
