//! A pod as the container runtime shows it.

use std::collections::BTreeMap;

use crate::{ContainerId, PodKey, PodUid, SandboxId, time::Timestamp};

/// All sandboxes and containers of one pod, newest first. `version` grows with every observation.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedPod {
    pub uid: PodUid,
    pub key: PodKey,
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    pub id: SandboxId,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// Primary first; empty for host network and for a sandbox that is not ready.
    pub ips: Vec<String>,
    pub host_network: bool,
    pub runtime_handler: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    Running,
    Exited,
    /// The runtime has lost it.
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub name: String,
    /// CRI attempt; equals the annotation io.kubernetes.container.restartCount.
    pub restart_count: u32,
    pub state: ContainerState,
    /// The image as the spec named it (status.image) and the reference that the runtime resolved (status.imageID).
    pub image: String,
    pub image_id: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    /// As the runtime says: Completed, Error, OOMKilled, StartError, ...
    pub reason: String,
    /// The runtime's message, with the termination message read per the container's policy already in place.
    pub message: String,
    /// From the annotations that were set at creation (io.kubernetes.container.*), absent for a foreign container.
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<ObservedMount>,
    pub user: Option<ObservedUser>,
    pub resources: Option<ObservedResources>,
    /// Absolute; empty where the runtime does not say.
    pub log_path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedMount {
    pub container_path: String,
    pub host_path: String,
    pub readonly: bool,
    pub recursive_read_only: bool,
    /// The image that an image volume was mounted from.
    pub image: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedUser {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

/// What the runtime enforces now, in the kernel's units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedResources {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub cpu_period: i64,
    pub memory_limit_bytes: i64,
}

impl ObservedPod {
    pub fn empty(uid: PodUid, key: PodKey) -> Self {
        Self { uid, key, sandboxes: Vec::new(), containers: Vec::new(), version: 0 }
    }
    /// The newest container of that name, of whatever sandbox.
    pub fn newest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }
    /// The second newest one of that name: what `lastState` and `kubectl logs -p` show.
    pub fn previous(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }
    pub fn container(&self, id: &ContainerId) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| &c.id == id)
    }
    pub fn sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first()
    }
    pub fn ready_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.iter().find(|s| s.ready)
    }
    /// Anything that may still use the node: a ready sandbox or a container not yet exited.
    pub fn is_running(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready)
            || self.containers.iter().any(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
    }
}
