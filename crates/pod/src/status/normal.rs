//! Statuses made comparable with what the API server gives back, and the changes that may not be made.

use k8s_openapi::{
    api::core::v1::{Container, ContainerState, ContainerStatus, PodCondition, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::containers::terminated;
use crate::{
    Containers, DesiredPod, conditions,
    desired::init_kind,
    quantity::{ApiList, Quantity},
    restart::after_exit,
    restart_all,
    time::Timestamp,
};

/// Bytes of termination messages per pod, shared out equally.
const MESSAGE_BYTES: usize = 12 * 1024;

/// Whole seconds everywhere, since the API keeps no more, and bounded termination messages.
pub fn normalize(desired: &DesiredPod, status: &mut PodStatus) {
    let containers =
        desired.init_containers().len() + desired.regular_containers().len() + desired.ephemeral_containers().len();
    let budget = MESSAGE_BYTES / containers.max(1);
    truncate(&mut status.start_time);
    for condition in status.conditions.iter_mut().flatten() {
        truncate(&mut condition.last_probe_time);
        truncate(&mut condition.last_transition_time);
    }
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    canonical_list(&mut status.allocated_resources);
    canonical(&mut status.resources);
    for container in lists.into_iter().flatten().flatten() {
        canonical_list(&mut container.allocated_resources);
        canonical(&mut container.resources);
        for state in [&mut container.state, &mut container.last_state].into_iter().flatten() {
            normalize_state(state, budget);
        }
    }
}

fn normalize_state(state: &mut ContainerState, budget: usize) {
    if let Some(running) = &mut state.running {
        truncate(&mut running.started_at);
    }
    if let Some(end) = &mut state.terminated {
        truncate(&mut end.started_at);
        truncate(&mut end.finished_at);
        if let Some(message) = &mut end.message {
            cut(message, budget);
        }
    }
}

/// Amounts as the API server writes them, whatever a manifest said.
fn canonical(resources: &mut Option<ResourceRequirements>) {
    if let Some(resources) = resources {
        canonical_list(&mut resources.requests);
        canonical_list(&mut resources.limits);
    }
}

fn canonical_list(list: &mut Option<ApiList>) {
    for amount in list.iter_mut().flat_map(|l| l.values_mut()) {
        *amount = Quantity::of(amount).to_api();
    }
}

fn truncate(time: &mut Option<Time>) {
    if let Some(Time(at)) = time {
        *at = whole_seconds(*at);
    }
}

pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_nanosecond().div_euclid(1_000_000_000) as i64).unwrap_or(at)
}

fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
}

/// Whether both say the same as far as the node is concerned: conditions of others, times of conditions and fields
/// that others own do not count.
pub fn says_the_same(a: &PodStatus, b: &PodStatus) -> bool {
    let ours = |status: &PodStatus| {
        let all = status.conditions.iter().flatten();
        let mut kept: Vec<_> = all
            .filter(|c| conditions::is_ours(&c.type_) || c.type_ == conditions::DISRUPTION_TARGET)
            .map(|c: &PodCondition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone()))
            .collect();
        kept.sort();
        kept
    };
    let rest = |status: &PodStatus| PodStatus {
        conditions: None,
        resource_claim_statuses: None,
        extended_resource_claim_status: None,
        node_allocatable_resource_claim_statuses: None,
        ..status.clone()
    };
    ours(a) == ours(b) && rest(a) == rest(b)
}

/// A container that has ended for good may not come back to life: Err names it. Such a status is a bug of ours and
/// must not reach the API.
pub fn check_transition(desired: &DesiredPod, old: &PodStatus, new: &PodStatus) -> Result<(), String> {
    if desired.restart_policy() == "Always" || restart_all::is_possible(desired) {
        return Ok(());
    }
    let check = |containers: &[Container],
                 old: &Option<Vec<ContainerStatus>>,
                 new: &Option<Vec<ContainerStatus>>,
                 what: &str| {
        for before in old.iter().flatten() {
            let Some(end) = terminated(before) else { continue };
            let container = containers.iter().find(|c| c.name == before.name);
            let restartable = container.is_some_and(|c| {
                init_kind(c) == Containers::Sidecar || after_exit(c, desired.restart_policy(), end.exit_code)
            });
            let after = new.iter().flatten().find(|s| s.name == before.name);
            if !restartable && after.is_some_and(|s| terminated(s).is_none()) {
                return Err(format!(
                    "terminated {what} {} attempted illegal transition to non-terminated state",
                    before.name
                ));
            }
        }
        Ok(())
    };
    check(desired.regular_containers(), &old.container_statuses, &new.container_statuses, "container")?;
    check(desired.init_containers(), &old.init_container_statuses, &new.init_container_statuses, "init container")
}
