//! The last status of a pod: nothing is left on the node, so whatever is still open must be closed.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::containers::{ended, is_running, is_waiting, last_terminated, lost, terminated};
use crate::{
    Containers, DesiredPod,
    desired::init_kind,
    phase::{self, is_terminal_field},
};

const LOST: &str = "The container could not be located when the pod was terminated";

/// A container without a known end is taken to have failed, so that no pod is reported as successful by mistake; one
/// that never had a chance to start (its pod was never initialised) stays waiting. The phase becomes final.
pub(super) fn finish(desired: &DesiredPod, status: &mut PodStatus) {
    if was_initialized(desired, status) {
        status.container_statuses.iter_mut().flatten().for_each(close);
    }
    let init = status.init_container_statuses.as_deref_mut().unwrap_or_default();
    let tried = init.iter().rposition(|s| !is_waiting(s) || last_terminated(s).is_some()).map_or(1, |last| last + 1);
    init.iter_mut().take(tried).for_each(close);
    if !desired.is_static() && !is_terminal_field(status.phase.as_deref()) {
        status.phase = Some(phase::FAILED.to_owned());
    }
}

fn close(status: &mut ContainerStatus) {
    if terminated(status).is_none() {
        status.state = Some(ended(lost(LOST)));
    }
}

fn was_initialized(desired: &DesiredPod, status: &PodStatus) -> bool {
    let Some(last) = desired.init_containers().last() else { return true };
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    if regular.iter().any(|s| last_terminated(s).is_some() || !is_waiting(s)) {
        return true;
    }
    let of_last = status.init_container_statuses.iter().flatten().find(|s| s.name == last.name);
    of_last.is_some_and(|s| match init_kind(last) {
        Containers::Sidecar => is_running(s) && s.started == Some(true),
        _ => [terminated(s), last_terminated(s)].into_iter().flatten().any(|end| end.exit_code == 0),
    })
}
