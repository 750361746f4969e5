//! The pods that the check makes: told to the runtime by the same code that tells it the agent's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use cri::Cri;
use pod::{
    ContainerId, DesiredPod, ObservedContainer, ObservedPod, PodUid, SandboxId, Source,
    api::{Container, Pod},
    mounts::{ImageUser, ResolvedImage},
};
use runtime::{
    Environment, RuntimeConfig,
    container_config::{ContainerInput, container_config},
    sandbox_config::{SandboxInput, sandbox_config},
    userns::{host_users, own_users},
};
use serde_json::{Value, json};

use super::report::{Checked, Fault, unexpected};

/// The namespace of the pods, the beginning of their UIDs, and their cgroup. The API server's UIDs are never like it,
/// so that what bears one is a remain of this check.
pub(super) const OWN: &str = "ferrolet-doctor";

/// Of a pod with users of its own.
pub(super) const OWN_USERS: u32 = 65_536;

/// Between two looks at something that takes a moment.
const PAUSE: Duration = Duration::from_millis(100);
/// As many looks.
const LOOKS: usize = 150;

/// Where pods are made.
pub(super) struct Place {
    pub cri: Cri,
    pub config: RuntimeConfig,
    pub cgroup_parent: String,
}

/// One pod of the check.
pub(super) struct TestPod<'a> {
    place: &'a Place,
    pub desired: DesiredPod,
    /// The id of the host that the pod's own users begin with.
    pub own_users: Option<u32>,
}

impl<'a> TestPod<'a> {
    pub(super) fn new(place: &'a Place, name: &str, spec: &Value) -> anyhow::Result<Self> {
        let uid = format!("{OWN}-{name}");
        let metadata =
            json!({"name": name, "namespace": OWN, "uid": uid, "labels": {"app.kubernetes.io/managed-by": OWN}});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?;
        let desired = DesiredPod::new(Source::Api, Arc::new(pod)).context("a pod of the check is incomplete")?;
        Ok(Self { place, desired, own_users: None })
    }

    pub(super) fn cri(&self) -> &Cri {
        &self.place.cri
    }

    pub(super) fn config(&self) -> &RuntimeConfig {
        &self.place.config
    }

    pub(super) fn log_dir(&self) -> PathBuf {
        self.place.config.root.pod_log(&self.desired.key, &self.desired.uid)
    }

    pub(super) fn container(&self, name: &str) -> Checked<&Container> {
        let found = self.desired.spec().containers.iter().find(|c| c.name == name);
        found.ok_or_else(|| Fault::Unexpected(format!("the check has no container {name}")))
    }

    fn sandbox_input(&self) -> SandboxInput {
        SandboxInput {
            cgroup_parent: self.place.cgroup_parent.clone(),
            userns: self.own_users.map_or_else(host_users, |first| own_users(first, OWN_USERS)),
            ..SandboxInput::default()
        }
    }

    pub(super) async fn run_sandbox(&self) -> Checked<SandboxId> {
        self.run_sandbox_by("").await
    }

    /// The handler is what a RuntimeClass names.
    pub(super) async fn run_sandbox_by(&self, handler: &str) -> Checked<SandboxId> {
        let config = sandbox_config(&self.desired, self.sandbox_input(), &self.place.config);
        let config = config.map_err(|error| Fault::Unexpected(error.to_string()))?;
        let dir = self.log_dir();
        fs::create_dir_all(&dir).map_err(|e| Fault::Unexpected(format!("cannot make {}: {e}", dir.display())))?;
        Ok(self.cri().run_pod_sandbox(config, handler).await?)
    }

    /// `image` as the runtime named it; `attempt` makes another container of the same name.
    pub(super) async fn create(
        &self,
        sandbox: &SandboxId,
        name: &str,
        image: &str,
        attempt: u32,
    ) -> Checked<ContainerId> {
        let image = ResolvedImage { image_ref: image.to_owned(), user: ImageUser::Root };
        let input = ContainerInput {
            restart_count: attempt,
            image: &image,
            env: &Environment::default(),
            mounts: &[],
            devices: &[],
            userns: self.own_users.map_or_else(host_users, |first| own_users(first, OWN_USERS)),
            volume_groups: &[],
            target: None,
            allocatable_memory: 0,
        };
        let told = |error: &dyn std::error::Error| Fault::Unexpected(error.to_string());
        let config = container_config(&self.desired, self.container(name)?, input, &self.place.config);
        let config = config.map_err(|error| told(&error))?;
        let sandbox_config = sandbox_config(&self.desired, self.sandbox_input(), &self.place.config);
        let sandbox_config = sandbox_config.map_err(|error| told(&error))?;
        let dir = self.log_dir().join(name);
        fs::create_dir_all(&dir).map_err(|e| Fault::Unexpected(format!("cannot make {}: {e}", dir.display())))?;
        Ok(self.cri().create_container(sandbox, config, sandbox_config).await?)
    }

    pub(super) async fn start(&self, id: &ContainerId) -> Checked<()> {
        Ok(self.cri().start_container(id).await?)
    }

    pub(super) async fn observe(&self) -> Checked<ObservedPod> {
        Ok(self.cri().observe_pod(&self.desired.uid).await?)
    }

    /// The container, as soon as it is as wanted.
    pub(super) async fn until(
        &self,
        id: &ContainerId,
        what: &str,
        wanted: impl Fn(&ObservedContainer) -> bool,
    ) -> Checked<ObservedContainer> {
        let mut seen = None;
        for _ in 0..LOOKS {
            seen = self.observe().await?.container(id).cloned();
            if let Some(container) = seen.as_ref().filter(|container| wanted(container)) {
                return Ok(container.clone());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let state = seen.map_or("not listed".to_owned(), |c| format!("{:?}, exit code {}", c.state, c.exit_code));
        unexpected(format!("container is not {what}, but {state}"))
    }

    /// What a command prints that is run in the container by the shell.
    pub(super) async fn shell(&self, id: &ContainerId, script: &str) -> Checked {
        let command = ["sh", "-c", script].map(str::to_owned);
        let output = self.cri().exec_sync(id, &command, Duration::from_secs(10)).await?;
        if output.exit_code != 0 {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return unexpected(format!("`{script}` exits {}: {said}", output.exit_code));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The file, as soon as it has that in it.
pub(super) async fn until_written(file: &Path, wanted: &str) -> Checked<()> {
    for _ in 0..LOOKS {
        if fs::read_to_string(file).is_ok_and(|text| text.contains(wanted)) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    unexpected(format!("{} has no line with {wanted:?}", file.display()))
}

/// Removes all pods of this check, of an earlier run too: their containers, logs and cgroup. What remains is told.
pub(super) async fn remove_all(place: &Place) -> Checked<()> {
    let all = place.cri.observe_all().await?;
    if let Some((_, error)) = all.failed.into_iter().find(|(uid, _)| is_own(uid)) {
        return Err(error.into());
    }
    for pod in all.pods.iter().filter(|pod| is_own(&pod.uid)) {
        for container in &pod.containers {
            gone(place.cri.stop_container(&container.id, Duration::ZERO).await)?;
            gone(place.cri.remove_container(&container.id).await)?;
        }
        for sandbox in &pod.sandboxes {
            gone(place.cri.stop_pod_sandbox(&sandbox.id).await)?;
            gone(place.cri.remove_pod_sandbox(&sandbox.id).await)?;
        }
    }
    remove_logs(place);
    remove_cgroups(&place.cgroup_parent);
    let left = place.cri.observe_all().await?.pods.iter().filter(|pod| is_own(&pod.uid)).count();
    if left > 0 { unexpected(format!("{left} pods of the check")) } else { Ok(()) }
}

fn is_own(uid: &PodUid) -> bool {
    uid.as_str().strip_prefix(OWN).is_some_and(|rest| rest.starts_with('-'))
}

/// What is not there any more needs no removal.
fn gone(removed: cri::Result<()>) -> cri::Result<()> {
    removed.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

/// Pods' log directories are named NAMESPACE_NAME_UID; the UID is what makes one ours.
fn remove_logs(place: &Place) {
    let entries = fs::read_dir(place.config.root.pod_logs()).into_iter().flatten().flatten();
    let own = |name: &str| name.rsplit_once('_').is_some_and(|(_, uid)| is_own(&PodUid::new(uid)));
    entries.filter(|entry| own(&entry.file_name().to_string_lossy())).for_each(|entry| {
        let _ = fs::remove_dir_all(entry.path());
    });
}

/// The cgroup that cgroupfs runtimes make above the containers' own, in each hierarchy. One in use stays, as rmdir has
/// it. A slice of systemd is not ours.
fn remove_cgroups(parent: &str) {
    if !parent.ends_with(OWN) {
        return;
    }
    let relative = parent.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let _ = fs::remove_dir(hierarchy.join(relative));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_cluster_is_never_taken_for_one_of_the_check() {
        assert!(is_own(&PodUid::new("ferrolet-doctor-main")));
        for other in ["706a7f95-0414-4dc6-9626-d0e99f20dfbe", "ferrolet-doctor", "ferrolet-doctors-1", ""] {
            assert!(!is_own(&PodUid::new(other)), "{other}");
        }
    }
}
