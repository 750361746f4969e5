//! Containers that have ended since the status before, as `kubelet_terminated_containers_total` counts them. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};
use pod::Containers;

type Statuses = Option<Vec<ContainerStatus>>;

/// (`container_type`, how it ended) of each.
pub(crate) fn new_ones<'a>(
    old: Option<&'a PodStatus>,
    new: &'a PodStatus,
) -> impl Iterator<Item = (&'static str, &'a ContainerStateTerminated)> {
    type List = fn(&PodStatus) -> &Statuses;
    let lists: [(Containers, List); 3] = [
        (Containers::Init, |status| &status.init_container_statuses),
        (Containers::Regular, |status| &status.container_statuses),
        (Containers::Ephemeral, |status| &status.ephemeral_container_statuses),
    ];
    lists.into_iter().flat_map(move |(kind, list)| {
        let before = old.and_then(|old| list(old).as_deref()).unwrap_or_default();
        let ended_before = |name: &str| before.iter().any(|s| s.name == name && ending(s).is_some());
        let now = list(new).iter().flatten().filter(move |s| !ended_before(&s.name));
        now.filter_map(ending).map(move |ending| (kind.as_str(), ending))
    })
}

fn ending(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(state: Value) -> PodStatus {
        let container = |state: &Value| json!([{"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        serde_json::from_value(json!({"containerStatuses": container(&state),
            "initContainerStatuses": container(&json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))}))
        .unwrap()
    }

    #[test]
    fn an_end_counts_once() {
        let running = status(json!({"running": {}}));
        let ended = status(json!({"terminated": {"exitCode": 139, "reason": "Error"}}));
        let counted = |old: Option<&PodStatus>, new: &PodStatus| -> Vec<(&str, i32)> {
            new_ones(old, new).map(|(kind, ending)| (kind, ending.exit_code)).collect()
        };
        assert_eq!(counted(None, &ended), [("init_container", 0), ("container", 139)]);
        assert_eq!(counted(Some(&running), &ended), [("container", 139)]);
        assert_eq!(counted(Some(&ended), &ended), []);
    }
}
