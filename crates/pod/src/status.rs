//! The status of a pod, computed from what was observed and the few facts that no runtime shows.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, PodCondition, PodIP, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};

mod containers;
mod finish;
mod normal;
#[cfg(test)]
mod tests;

pub use containers::default_reason;
pub use normal::{check_transition, normalize, says_the_same, whole_seconds};

pub use crate::phase::is_terminal;
use crate::{
    DesiredPod, Life, Now, ObservedPod, ProbeResults, TerminationCause, WorkerReport,
    conditions::{self, Basis},
    phase::{self, is_terminal_field},
    qos::qos_class,
    quantity::{Amounts, Format, Quantity, to_api_list},
    resources::{self, QUOTA_PERIOD_US, pod_cgroup, pod_limits, pod_requests},
    restart_all,
};

/// Everything a status rests on.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    pub desired: &'a DesiredPod,
    pub observed: &'a ObservedPod,
    pub probes: &'a ProbeResults,
    pub report: &'a WorkerReport,
    /// The status computed last; without one (the agent has just started) that of the API object counts.
    pub previous: Option<&'a PodStatus>,
    /// Addresses of the node, primary first; empty while unknown.
    pub host_ips: &'a [String],
    pub now: Now,
}

static NO_STATUS: PodStatus = PodStatus {
    allocated_resources: None,
    conditions: None,
    container_statuses: None,
    ephemeral_container_statuses: None,
    extended_resource_claim_status: None,
    host_ip: None,
    host_ips: None,
    init_container_statuses: None,
    message: None,
    node_allocatable_resource_claim_statuses: None,
    nominated_node_name: None,
    observed_generation: None,
    phase: None,
    pod_ip: None,
    pod_ips: None,
    qos_class: None,
    reason: None,
    resize: None,
    resource_claim_statuses: None,
    resources: None,
    start_time: None,
    volume_health: None,
};

impl<'a> StatusInput<'a> {
    fn api(&self) -> &'a PodStatus {
        self.desired.pod.status.as_ref().unwrap_or(&NO_STATUS)
    }
    fn old(&self) -> &'a PodStatus {
        self.previous.unwrap_or_else(|| self.api())
    }
    /// Nothing of the pod runs or will ever run again.
    fn is_over(&self) -> bool {
        matches!(self.report.life, Life::Terminated | Life::Gone)
    }
    /// Its containers are being removed in order to be started all over again.
    fn is_restarting_all(&self) -> bool {
        conditions::is_true(self.old().conditions.as_ref(), conditions::ALL_CONTAINERS_RESTARTING)
            || restart_all::is_asked(self.desired, self.observed)
    }
    /// The final phase the pod has already, in our eyes or the API server's.
    fn final_phase(&self) -> Option<&'a str> {
        let phases = [self.api().phase.as_deref(), self.old().phase.as_deref()];
        phases.into_iter().flatten().find(|p| phase::is_terminal(p))
    }
}

/// The status to publish. A final phase appears in it only when nothing of the pod runs any more.
pub fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let mut status = match &input.report.life {
        Life::Rejected { reason, message } => rejected(input, reason, message),
        _ => regular(input),
    };
    status.start_time = start_time(input);
    status.observed_generation = observed_generation(input);
    status.qos_class = Some(qos_class(&input.desired.pod).as_str().to_owned());
    let api = input.api();
    // Not ours.
    status.resource_claim_statuses = api.resource_claim_statuses.clone();
    status.extended_resource_claim_status = api.extended_resource_claim_status.clone();
    status.node_allocatable_resource_claim_statuses = api.node_allocatable_resource_claim_statuses.clone();
    status.volume_health = input.old().volume_health.clone();
    normalize(input.desired, &mut status);
    status
}

fn rejected(input: &StatusInput<'_>, reason: &str, message: &str) -> PodStatus {
    let foreign = foreign_conditions(input);
    PodStatus {
        phase: Some(phase::FAILED.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        conditions: (!foreign.is_empty()).then_some(foreign),
        ..PodStatus::default()
    }
}

fn regular(input: &StatusInput<'_>) -> PodStatus {
    let init = containers::of_init(input);
    let regular = containers::of_regular(input);
    let ephemeral = containers::of_ephemeral(input);
    let all: Vec<ContainerStatus> = init.iter().chain(&regular).cloned().collect();
    let set = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let phase = current_phase(input, &all);
    let (reason, message) = reason_and_message(input, &phase);
    let mut status = PodStatus {
        conditions: Some(conditions(input, &all, &phase)),
        init_container_statuses: set(init),
        container_statuses: set(regular),
        ephemeral_container_statuses: set(ephemeral),
        resources: Some(pod_resources(input, &phase)),
        allocated_resources: Some(to_api_list(&pod_requests(input.desired.spec()))).filter(|l| !l.is_empty()),
        phase: Some(phase),
        reason,
        message,
        ..PodStatus::default()
    };
    addresses(input, &mut status);
    if input.report.life == Life::Gone {
        finish::finish(input.desired, &mut status);
    }
    if let Some(phase) = status.phase.clone().filter(|p| phase::is_terminal(p)) {
        let conditions = status.conditions.as_deref_mut().unwrap_or_default();
        conditions::close(conditions, &phase, input.now.wall);
    }
    status
}

// ---- phase

fn current_phase(input: &StatusInput<'_>, statuses: &[ContainerStatus]) -> String {
    if let Some(phase) = input.final_phase() {
        return phase.to_owned();
    }
    if input.is_over() && matches!(input.report.cause(), Some(TerminationCause::Failed { .. })) {
        return phase::FAILED.to_owned();
    }
    let facts = phase::Facts {
        over: input.is_over(),
        initialized: was_initialized(input),
        restarting: &input.report.restarting,
    };
    let phase = phase::phase(input.desired, statuses, facts);
    if phase::is_terminal(phase) && !input.is_over() {
        // What holds the node's resources may not be reported as finished.
        return input.old().phase.clone().unwrap_or_else(|| phase::PENDING.to_owned());
    }
    phase.to_owned()
}

/// A regular container was made in the sandbox that is up now.
fn was_initialized(input: &StatusInput<'_>) -> bool {
    let Some(sandbox) = input.observed.sandbox().filter(|s| s.ready) else { return false };
    let regular = input.desired.regular_containers();
    let mut here = input.observed.containers.iter().filter(|c| c.sandbox_id == sandbox.id);
    here.any(|c| regular.iter().any(|r| r.name == c.name))
}

/// They belong to the phase: kept while it lasts, set by what ended the pod.
fn reason_and_message(input: &StatusInput<'_>, phase: &str) -> (Option<String>, Option<String>) {
    let (old, api) = (input.old(), input.api());
    if old.phase.as_deref() == Some(phase) {
        let first = |a: &Option<String>, b: &Option<String>| {
            a.clone().filter(|t| !t.is_empty()).or_else(|| b.clone().filter(|t| !t.is_empty()))
        };
        return (first(&old.reason, &api.reason), first(&old.message, &api.message));
    }
    match input.report.cause() {
        Some(TerminationCause::Failed { reason, message, .. }) if phase == phase::FAILED => {
            (Some(reason.clone()), Some(message.clone()))
        }
        _ => (None, None),
    }
}

// ---- conditions

/// Those of others, as the API has them.
fn foreign_conditions(input: &StatusInput<'_>) -> Vec<PodCondition> {
    let all = input.api().conditions.iter().flatten();
    all.filter(|c| !conditions::is_ours(&c.type_)).cloned().collect()
}

fn conditions(input: &StatusInput<'_>, statuses: &[ContainerStatus], phase: &str) -> Vec<PodCondition> {
    let basis = Basis {
        desired: input.desired,
        observed: input.observed,
        statuses,
        phase,
        old: input.old().conditions.as_ref(),
        now: input.now.wall,
    };
    let mut list = foreign_conditions(input);
    if !input.is_over() && !phase::is_terminal(phase) {
        list.extend(input.report.resize.to_api());
    }
    if let Some(target) = disruption_target(input, &basis) {
        list.retain(|c| c.type_ != conditions::DISRUPTION_TARGET);
        list.push(target);
    }
    let own = basis.own(&list);
    list.extend(own);
    list
}

/// Ours appears together with the final phase, and stays.
fn disruption_target(input: &StatusInput<'_>, basis: &Basis<'_>) -> Option<PodCondition> {
    if let Some(old) = conditions::find(input.old().conditions.as_ref(), conditions::DISRUPTION_TARGET) {
        return Some(old.clone());
    }
    match input.report.cause() {
        Some(TerminationCause::Failed { reason, message, disruption: true })
            if input.is_over() && !is_terminal_field(input.api().phase.as_deref()) =>
        {
            let preempted = reason == crate::preempt::REASON;
            Some(basis.disruption_target(if preempted { crate::preempt::DISRUPTION } else { message }))
        }
        _ => None,
    }
}

// ---- the rest

fn start_time(input: &StatusInput<'_>) -> Option<Time> {
    let known = input.old().start_time.clone();
    known.or(Some(Time(input.report.first_seen.unwrap_or(input.now.wall))))
}

/// Of the newest spec that was acted on; it never goes back.
fn observed_generation(input: &StatusInput<'_>) -> Option<i64> {
    let generation = input.desired.pod.metadata.generation;
    generation.max(input.old().observed_generation).filter(|g| *g != 0)
}

/// One address per family, that of the node's primary address first, in canonical form.
pub fn sort_pod_ips(ips: &[String], host_ips: &[String]) -> Vec<String> {
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let six_first = host_ips.first().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6());
    let of_family = |six: bool| parsed.iter().find(|ip| ip.is_ipv6() == six);
    [of_family(six_first), of_family(!six_first)].into_iter().flatten().map(ToString::to_string).collect()
}

fn addresses(input: &StatusInput<'_>, status: &mut PodStatus) {
    let old = input.old();
    let old_pod_ips = || -> Vec<String> {
        let list: Vec<String> = old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        if list.is_empty() { old.pod_ip.iter().cloned().collect() } else { list }
    };
    let newest = input.observed.sandbox().filter(|s| s.ready);
    let mut ips = sort_pod_ips(newest.map(|s| s.ips.as_slice()).unwrap_or_default(), input.host_ips);
    if ips.is_empty() && (input.observed.ready_sandbox().is_none() || input.desired.host_network()) {
        // The runtime forgets the address with the sandbox; the API keeps it.
        ips = old_pod_ips();
    }
    if input.desired.host_network() {
        inherit_host_ips(&mut ips, input.host_ips);
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
    // Where a pod has ended is where it ran, whatever address the node gets later.
    let stays = old.host_ip.is_some() && is_terminal_field(status.phase.as_deref());
    match input.host_ips {
        [first, ..] if !stays => {
            status.host_ip = Some(first.clone());
            status.host_ips = Some(input.host_ips.iter().take(2).map(|ip| HostIP { ip: ip.clone() }).collect());
        }
        _ => (status.host_ip, status.host_ips) = (old.host_ip.clone(), old.host_ips.clone()),
    }
}

/// A pod on the host network has the node's addresses; once set they stay, but a second family may come to them.
fn inherit_host_ips(ips: &mut Vec<String>, host_ips: &[String]) {
    let is_six = |ip: &str| ip.contains(':');
    if ips.is_empty() {
        ips.extend(host_ips.first().cloned());
    }
    if let ([only], [_, second, ..]) = (ips.as_slice(), host_ips)
        && is_six(only) != is_six(second)
    {
        ips.push(second.clone());
    }
}

/// What the pod as a whole is given; while it runs, what its cgroup enforces.
fn pod_resources(input: &StatusInput<'_>, phase: &str) -> ResourceRequirements {
    let spec = input.desired.spec();
    let set = |list: Amounts| Some(to_api_list(&list)).filter(|l| !l.is_empty());
    let own = spec.resources.clone().unwrap_or_default();
    if phase != phase::RUNNING {
        return ResourceRequirements { requests: set(pod_requests(spec)), limits: set(pod_limits(spec)), ..own };
    }
    let enforced = input.report.enforced.clone();
    let in_between = enforced.is_some();
    let cgroup = enforced.unwrap_or_else(|| pod_cgroup(input.desired, true, QUOTA_PERIOD_US));
    let mut requests = crate::quantity::amounts(own.requests.as_ref());
    let mut limits = crate::quantity::amounts(own.limits.as_ref());
    let cpu = resources::shares_to_milli_cpu(cgroup.cpu_shares as i64);
    if (in_between || !requests.contains_key("cpu")) && cpu > resources::MIN_SHARES as i64 {
        requests.insert("cpu".into(), Quantity::from_milli(cpu, Format::DecimalSi));
    }
    if let Some(memory) = pod_requests(spec).get("memory") {
        requests.entry("memory".into()).or_insert(*memory);
    }
    if let Some((quota, period)) = cgroup.cpu_quota {
        let cpu = resources::quota_to_milli_cpu(quota, period);
        if cpu > resources::MIN_MILLI_CPU_LIMIT {
            limits.insert("cpu".into(), Quantity::from_milli(cpu, Format::DecimalSi));
        }
    }
    if let Some(memory) = cgroup.memory_limit.filter(|m| *m > 0) {
        limits.insert("memory".into(), Quantity::from_value(memory, Format::BinarySi));
    }
    ResourceRequirements { requests: set(requests), limits: set(limits), ..own }
}

/// Whether the pod may already be reported as finished in the API.
pub fn is_finished(desired: &DesiredPod) -> bool {
    is_terminal_field(desired.pod.status.as_ref().and_then(|s| s.phase.as_deref()))
}
