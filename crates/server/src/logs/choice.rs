//! Which container of that name a log request means: the status says it, so that what a client reads fits what it saw.

use pod::{
    ContainerId,
    api::{ContainerStatus, PodStatus},
};

/// The id as the status shows it (`containerd://...`) and as the runtime knows it. `Err` is for the client.
pub fn container_id(
    pod: &str,
    status: Option<&PodStatus>,
    container: &str,
    previous: bool,
) -> Result<(String, ContainerId), String> {
    let shown = shown_id(pod, status, container, previous)?;
    let bare = shown.split_once("://").map_or(shown.as_str(), |(_, id)| id);
    let id = ContainerId::new(bare);
    Ok((shown, id))
}

fn shown_id(pod: &str, status: Option<&PodStatus>, container: &str, previous: bool) -> Result<String, String> {
    let Some(status) = status.and_then(|status| find(status, container)) else {
        return Err(format!("container \"{container}\" in pod \"{pod}\" is not available"));
    };
    let given = |id: Option<&String>| id.filter(|id| !id.is_empty()).cloned();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = || given(last.and_then(|last| last.container_id.as_ref()));
    if previous {
        return last_id()
            .ok_or_else(|| format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"));
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return given(status.container_id.as_ref())
            .ok_or_else(|| format!("container \"{container}\" in pod \"{pod}\" is not available"));
    }
    let gone = || format!("container \"{container}\" in pod \"{pod}\" is terminated");
    if let Some(terminated) = &state.terminated {
        return given(terminated.container_id.as_ref()).or_else(last_id).ok_or_else(gone);
    }
    if last.is_some() {
        return last_id().ok_or_else(gone);
    }
    let why = match state.waiting.as_ref().map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
        None => return Err(format!("container \"{container}\" in pod \"{pod}\" is waiting to start - no logs yet")),
        Some(pod::reason::ERR_IMAGE_PULL) => "image can't be pulled",
        Some(pod::reason::IMAGE_PULL_BACK_OFF) => "trying and failing to pull image",
        Some(reason) => reason,
    };
    Err(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"))
}

fn find<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

#[cfg(test)]
mod tests {
    use pod::api::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting};

    use super::*;

    fn status(state: ContainerState, last: Option<&str>) -> PodStatus {
        let terminated = |id: &str| ContainerStateTerminated { container_id: Some(id.into()), ..Default::default() };
        let last_state = last.map(|id| ContainerState { terminated: Some(terminated(id)), ..Default::default() });
        let container = ContainerStatus {
            name: "c".into(),
            container_id: Some("containerd://now".into()),
            state: Some(state),
            last_state,
            ..Default::default()
        };
        PodStatus { init_container_statuses: Some(vec![container]), ..Default::default() }
    }

    fn waiting(reason: &str) -> ContainerState {
        let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: None };
        ContainerState { waiting: Some(waiting), ..Default::default() }
    }

    fn terminated(id: &str) -> ContainerState {
        let terminated = ContainerStateTerminated { container_id: Some(id.into()), ..Default::default() };
        ContainerState { terminated: Some(terminated), ..Default::default() }
    }

    fn running() -> ContainerState {
        ContainerState { running: Some(ContainerStateRunning::default()), ..Default::default() }
    }

    fn id(status: &PodStatus, previous: bool) -> Result<String, String> {
        container_id("p", Some(status), "c", previous).map(|(_, id)| id.to_string())
    }

    #[test]
    fn the_running_one_else_the_one_that_ended_last() {
        assert_eq!(id(&status(running(), Some("containerd://old")), false).unwrap(), "now");
        assert_eq!(id(&status(terminated("containerd://ended"), None), false).unwrap(), "ended");
        assert_eq!(id(&status(terminated(""), Some("containerd://old")), false).unwrap(), "old");
        assert_eq!(id(&status(waiting("CrashLoopBackOff"), Some("containerd://old")), false).unwrap(), "old");
    }

    #[test]
    fn previous_is_the_one_before() {
        assert_eq!(id(&status(running(), Some("containerd://old")), true).unwrap(), "old");
        let none = id(&status(running(), None), true).unwrap_err();
        assert_eq!(none, r#"previous terminated container "c" in pod "p" not found"#);
    }

    #[test]
    fn what_has_not_started_says_why() {
        let why = |reason| id(&status(waiting(reason), None), false).unwrap_err();
        assert_eq!(why("ContainerCreating"), r#"container "c" in pod "p" is waiting to start: ContainerCreating"#);
        assert_eq!(why("ErrImagePull"), r#"container "c" in pod "p" is waiting to start: image can't be pulled"#);
        assert_eq!(
            why("ImagePullBackOff"),
            r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#
        );
        let unknown = container_id("p", Some(&PodStatus::default()), "c", false).unwrap_err();
        assert_eq!(unknown, r#"container "c" in pod "p" is not available"#);
    }
}
