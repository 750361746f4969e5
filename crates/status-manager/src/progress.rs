//! Which changes of a status can wait a moment for the next one.

use k8s_openapi::api::core::v1::PodStatus;
use pod::status::says_the_same;

const SANDBOX: &str = "PodReadyToStartContainers";

/// Nothing but the steps between a sandbox and the start of its containers: addresses, ids, the condition that tells of
/// the sandbox. Who waits for a pod waits for what comes after them.
pub(crate) fn is_mere_progress(old: &PodStatus, new: &PodStatus) -> bool {
    let pending = |s: &PodStatus| s.phase.as_deref() == Some("Pending");
    pending(old) && pending(new) && says_the_same(&without_steps(old), &without_steps(new))
}

/// Nothing but what became of the sandbox. Of a pod that is being deleted, the end of all tells that too.
pub(crate) fn is_mere_end(old: &PodStatus, new: &PodStatus) -> bool {
    says_the_same(&without_sandbox(old), &without_sandbox(new))
}

pub(crate) fn without_sandbox(status: &PodStatus) -> PodStatus {
    let mut status = status.clone();
    status.conditions.iter_mut().for_each(|all| all.retain(|c| c.type_ != SANDBOX));
    status
}

fn without_steps(status: &PodStatus) -> PodStatus {
    let mut status = without_sandbox(status);
    (status.pod_ip, status.pod_ips) = (None, None);
    let kinds = [&mut status.init_container_statuses, &mut status.container_statuses];
    for container in kinds.into_iter().flatten().flatten() {
        if container.state.as_ref().is_none_or(|state| state.running.is_none() && state.terminated.is_none()) {
            container.container_id = None;
            container.image.clear();
            container.image_id.clear();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(ip: Option<&str>, ready_to_start: &str, container: Value) -> PodStatus {
        let conditions = json!([
            {"type": "PodReadyToStartContainers", "status": ready_to_start},
            {"type": "Ready", "status": "False"},
        ]);
        let made = json!({"phase": "Pending", "podIP": ip, "conditions": conditions, "containerStatuses": [container]});
        serde_json::from_value(made).unwrap()
    }
    fn waiting(reason: &str, id: &str) -> Value {
        json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "containerID": id,
            "state": {"waiting": {"reason": reason}}})
    }

    #[test]
    fn a_sandbox_and_a_containers_id_are_steps() {
        let first = status(None, "False", waiting("ContainerCreating", ""));
        let sandbox = status(Some("10.0.0.1"), "True", waiting("ContainerCreating", ""));
        let created = status(Some("10.0.0.1"), "True", waiting("ContainerCreating", "containerd://1"));
        assert!(is_mere_progress(&first, &sandbox) && is_mere_progress(&sandbox, &created));
    }

    #[test]
    fn of_an_end_only_the_sandbox_can_wait() {
        let ended = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}});
        let stopped = status(None, "False", ended.clone());
        assert!(is_mere_end(&status(None, "True", ended), &stopped));
        assert!(!is_mere_end(&stopped, &PodStatus { phase: Some("Succeeded".into()), ..stopped.clone() }));
    }

    #[test]
    fn a_failure_and_a_start_are_no_steps() {
        let created = status(Some("10.0.0.1"), "True", waiting("ContainerCreating", ""));
        let failed = status(Some("10.0.0.1"), "True", waiting("ErrImagePull", ""));
        let mut running = waiting("", "containerd://1");
        running["state"] = json!({"running": {}});
        let init_running = status(Some("10.0.0.1"), "True", running);
        assert!(!is_mere_progress(&created, &failed));
        assert!(!is_mere_progress(&created, &init_running));
    }
}
