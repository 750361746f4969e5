//! CRI replies to `pod::observed`: pure functions.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::runtime::v1::{
    self as v1, ContainerStatus, LinuxContainerResources, Mount, NamespaceMode, PodSandboxState, PodSandboxStatus,
};
use pod::{
    ContainerId, ContainerState, ObservedContainer, ObservedSandbox, PodKey, PodUid, SandboxId,
    observed::{ObservedMount, ObservedResources, ObservedUser},
    time::Timestamp,
};

use crate::labels;

type Map = BTreeMap<String, String>;

/// Whose it is, from its labels. None for what no kubelet made.
pub(crate) fn owner(of: &Map) -> Option<(PodUid, PodKey)> {
    let label = |key| of.get(key).map(String::as_str);
    let uid = label(labels::POD_UID).filter(|u| !u.is_empty())?;
    let key =
        PodKey::new(label(labels::POD_NAMESPACE).unwrap_or_default(), label(labels::POD_NAME).unwrap_or_default());
    Some((PodUid::new(uid), key))
}

pub(crate) fn container_state(state: i32) -> ContainerState {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

pub(crate) fn is_ready(state: i32) -> bool {
    state == PodSandboxState::SandboxReady as i32
}

pub(crate) fn sandbox(s: PodSandboxStatus) -> ObservedSandbox {
    let ready = is_ready(s.state);
    let network_mode = s.linux.and_then(|l| l.namespaces).and_then(|n| n.options).map(|o| o.network);
    ObservedSandbox {
        id: SandboxId::new(s.id),
        attempt: s.metadata.map(|m| m.attempt).unwrap_or_default(),
        ready,
        created_at: timestamp(s.created_at).unwrap_or_default(),
        ips: s.network.filter(|_| ready).map(ips).unwrap_or_default(),
        host_network: network_mode == Some(NamespaceMode::Node as i32),
        runtime_handler: s.runtime_handler,
    }
}

/// Primary first. None at all if one of them is no address, as upstream.
fn ips(network: v1::PodSandboxNetworkStatus) -> Vec<String> {
    let mut ips: Vec<String> = Vec::with_capacity(1 + network.additional_ips.len());
    // A runtime that is not in charge of the address says "".
    ips.extend(Some(network.ip).filter(|ip| !ip.is_empty()));
    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    if ips.iter().all(|ip| ip.parse::<IpAddr>().is_ok()) { ips } else { Vec::new() }
}

/// `sandbox_id` comes from the list: a container's status does not tell it.
pub(crate) fn container(s: ContainerStatus, sandbox_id: SandboxId) -> ObservedContainer {
    let state = container_state(s.state);
    let exited = state == ContainerState::Exited;
    let metadata = s.metadata.unwrap_or_default();
    let name = s.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(metadata.name);
    let count = s.annotations.get(labels::RESTART_COUNT).and_then(|c| c.parse().ok());
    ObservedContainer {
        id: ContainerId::new(s.id),
        sandbox_id,
        name,
        restart_count: count.unwrap_or(metadata.attempt),
        state,
        image: s.image.map(|i| i.image).unwrap_or_default(),
        image_id: if s.image_ref.is_empty() { s.image_id } else { s.image_ref },
        created_at: timestamp(s.created_at).unwrap_or_default(),
        started_at: timestamp(s.started_at).filter(|_| state != ContainerState::Created),
        finished_at: timestamp(s.finished_at).filter(|_| exited),
        exit_code: if exited { s.exit_code } else { 0 },
        reason: if exited { s.reason } else { String::new() },
        message: if exited { s.message } else { String::new() },
        annotations: s.annotations.into_iter().filter(|(key, _)| key.starts_with("io.kubernetes.")).collect(),
        mounts: s.mounts.into_iter().map(mount).collect(),
        user: s.user.and_then(|u| u.linux).map(|u| ObservedUser {
            uid: u.uid,
            gid: u.gid,
            supplemental_groups: u.supplemental_groups,
        }),
        resources: s.resources.and_then(|r| r.linux).map(|r| resources(&r)),
        log_path: s.log_path,
    }
}

fn mount(m: Mount) -> ObservedMount {
    ObservedMount {
        container_path: m.container_path,
        host_path: m.host_path,
        readonly: m.readonly,
        recursive_read_only: m.recursive_read_only,
        image: m.image.map(|i| i.image).filter(|i| !i.is_empty()),
    }
}

fn resources(r: &LinuxContainerResources) -> ObservedResources {
    ObservedResources {
        cpu_shares: r.cpu_shares,
        cpu_quota: r.cpu_quota,
        cpu_period: r.cpu_period,
        memory_limit_bytes: r.memory_limit_in_bytes,
    }
}

/// CRI counts nanoseconds and writes 0 for "not yet".
fn timestamp(nanos: i64) -> Option<Timestamp> {
    if nanos == 0 { None } else { Timestamp::from_nanosecond(i128::from(nanos)).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> Map {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }
    fn status(state: v1::ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: "c1".into(),
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 3 }),
            state: state as i32,
            created_at: 1_000_000_000,
            started_at: 2_000_000_000,
            finished_at: 3_000_000_000,
            exit_code: 137,
            reason: "OOMKilled".into(),
            image_ref: "repo@sha256:1".into(),
            image_id: "sha256:2".into(),
            labels: map(&[(labels::CONTAINER_NAME, "app")]),
            annotations: map(&[(labels::RESTART_COUNT, "7"), ("example.com/own", "x")]),
            ..Default::default()
        }
    }

    #[test]
    fn a_running_container_has_no_end() {
        let c = container(status(v1::ContainerState::ContainerRunning), "s1".into());
        assert_eq!((c.finished_at, c.exit_code, c.reason.as_str()), (None, 0, ""));
        assert_eq!(c.started_at, Timestamp::from_second(2).ok());
    }

    #[test]
    fn a_created_container_has_not_started() {
        assert_eq!(container(status(v1::ContainerState::ContainerCreated), "s1".into()).started_at, None);
    }

    #[test]
    fn an_exited_container_tells_how() {
        let c = container(status(v1::ContainerState::ContainerExited), "s1".into());
        assert_eq!((c.exit_code, c.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(c.finished_at, Timestamp::from_second(3).ok());
    }

    #[test]
    fn the_restart_count_is_the_annotation_else_the_attempt() {
        let mut s = status(v1::ContainerState::ContainerRunning);
        assert_eq!(container(s.clone(), "s1".into()).restart_count, 7);
        s.annotations.clear();
        assert_eq!(container(s, "s1".into()).restart_count, 3);
    }

    #[test]
    fn image_id_is_the_reference_and_the_id_only_where_there_is_none() {
        let mut s = status(v1::ContainerState::ContainerRunning);
        assert_eq!(container(s.clone(), "s1".into()).image_id, "repo@sha256:1");
        s.image_ref.clear();
        assert_eq!(container(s, "s1".into()).image_id, "sha256:2");
    }

    #[test]
    fn annotations_of_others_are_dropped() {
        let c = container(status(v1::ContainerState::ContainerRunning), "s1".into());
        assert_eq!(c.annotations, map(&[(labels::RESTART_COUNT, "7")]));
    }

    #[test]
    fn a_state_that_is_not_known_yet_is_unknown() {
        assert_eq!(container_state(99), ContainerState::Unknown);
    }

    fn ready_sandbox(ip: &str, more: &[&str]) -> PodSandboxStatus {
        let additional_ips = more.iter().map(|ip| v1::PodIp { ip: (*ip).to_owned() }).collect();
        PodSandboxStatus {
            state: PodSandboxState::SandboxReady as i32,
            network: Some(v1::PodSandboxNetworkStatus { ip: ip.to_owned(), additional_ips }),
            ..Default::default()
        }
    }

    #[test]
    fn addresses_keep_their_order_and_one_that_is_none_voids_all() {
        assert_eq!(sandbox(ready_sandbox("10.0.0.1", &["fd00::1"])).ips, ["10.0.0.1", "fd00::1"]);
        assert_eq!(sandbox(ready_sandbox("", &[])).ips, [""; 0]);
        assert_eq!(sandbox(ready_sandbox("10.0.0.1", &["nonsense"])).ips, [""; 0]);
    }

    #[test]
    fn a_sandbox_that_is_not_ready_has_no_address() {
        let mut s = ready_sandbox("10.0.0.1", &[]);
        s.state = PodSandboxState::SandboxNotready as i32;
        assert_eq!(sandbox(s).ips, [""; 0]);
    }

    #[test]
    fn host_network_is_the_nodes_namespace() {
        let options = v1::NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() };
        let namespaces = Some(v1::Namespace { options: Some(options) });
        let s = PodSandboxStatus { linux: Some(v1::LinuxPodSandboxStatus { namespaces }), ..Default::default() };
        assert!(sandbox(s).host_network);
        assert!(!sandbox(PodSandboxStatus::default()).host_network);
    }

    #[test]
    fn what_no_kubelet_made_has_no_owner() {
        assert_eq!(owner(&map(&[("app", "web")])), None);
        let of = map(&[(labels::POD_UID, "u1"), (labels::POD_NAME, "web"), (labels::POD_NAMESPACE, "default")]);
        assert_eq!(owner(&of), Some(("u1".into(), PodKey::new("default", "web"))));
    }

    #[test]
    fn any_reply_is_understood_or_refused() {
        use prost::Message as _;
        let seeds = [
            status(v1::ContainerState::ContainerExited).encode_to_vec(),
            PodSandboxStatus { id: "s1".into(), created_at: i64::MIN, ..Default::default() }.encode_to_vec(),
        ];
        fuzz::each_of("cri", &seeds, |bytes| {
            if let Ok(status) = ContainerStatus::decode(bytes) {
                let _ = container(status, SandboxId::new("s1"));
            }
            if let Ok(status) = PodSandboxStatus::decode(bytes) {
                let _ = sandbox(status);
            }
        });
    }
}
