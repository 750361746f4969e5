//! What a pod's security contexts mean for its volumes.

use pod::{DesiredPod, api::Container};

use crate::ownership::FsGroup;

/// The group that gets the volumes, if the pod names one.
pub(crate) fn fs_group(pod: &DesiredPod) -> Option<FsGroup> {
    let context = pod.spec().security_context.as_ref()?;
    let gid = u32::try_from(context.fs_group?).ok()?;
    let only_on_root_mismatch = context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
    Some(FsGroup { gid, read_only: false, only_on_root_mismatch })
}

/// The user that all containers of the pod run as, when they all say so and agree.
pub(crate) fn common_user(pod: &DesiredPod) -> Option<u32> {
    let of_pod = pod.spec().security_context.as_ref().and_then(|c| c.run_as_user);
    let of = |c: &Container| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod);
    let containers = pod.all_containers();
    let mut users = containers.iter().map(|(_, c)| of(c));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}

/// The mode of a token's file. With an owner it is his alone; with an fsGroup that group is let in afterwards (0640).
pub(crate) fn token_mode(default_mode: u32, owner: Option<u32>, group: Option<FsGroup>) -> u32 {
    if owner.is_some() || group.is_some() { 0o600 } else { default_mode }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::pod;

    #[test]
    fn a_common_user_needs_every_container_to_agree() {
        let user = |spec| common_user(&pod(spec));
        assert_eq!(user(json!({"containers": [{"name": "a"}]})), None);
        assert_eq!(user(json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}]})), Some(7));
        let own = |n: i64| json!({"name": format!("c{n}"), "securityContext": {"runAsUser": n}});
        assert_eq!(user(json!({"containers": [own(7), own(7)]})), Some(7));
        assert_eq!(user(json!({"containers": [own(7), own(8)]})), None);
        assert_eq!(user(json!({"containers": [own(7), {"name": "b"}]})), None);
        assert_eq!(user(json!({"initContainers": [own(8)], "containers": [own(7)]})), None);
    }

    #[test]
    fn a_token_is_private_as_soon_as_somebody_is_meant() {
        assert_eq!(token_mode(0o644, None, None), 0o644);
        assert_eq!(token_mode(0o644, Some(7), None), 0o600);
        let group = FsGroup { gid: 1, read_only: false, only_on_root_mismatch: false };
        assert_eq!(token_mode(0o644, None, Some(group)), 0o600);
    }
}
