//! A pod as somebody wants it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use crate::{PodKey, PodUid};

/// Where a pod was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Api,
    File,
    Http,
}

impl Source {
    /// The value of the annotation `kubernetes.io/config.source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Api => "api",
            Source::File => "file",
            Source::Http => "http",
        }
    }
}

/// One pod that this node shall run. `pod` has defaults applied, no managedFields, and both metadata and spec set.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    pub uid: PodUid,
    pub key: PodKey,
    pub source: Source,
    pub pod: Arc<Pod>,
}

/// The four lists a pod's containers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Containers {
    /// Runs to its end before the next one starts.
    Init,
    /// A restartable init container.
    Sidecar,
    Regular,
    Ephemeral,
}

impl Containers {
    /// The label value of `kubelet_started_containers_total{container_type}` and others.
    pub fn as_str(self) -> &'static str {
        match self {
            Containers::Init | Containers::Sidecar => "init_container",
            Containers::Regular => "container",
            Containers::Ephemeral => "ephemeral_container",
        }
    }
}

impl DesiredPod {
    /// None when the object lacks uid, name, or spec (an API server never sends such a one).
    pub fn new(source: Source, pod: Arc<Pod>) -> Option<Self> {
        let uid = PodUid::new(pod.metadata.uid.as_deref()?);
        let name = pod.metadata.name.as_deref()?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let key = PodKey::new(namespace, name);
        pod.spec.as_ref()?;
        Some(Self { uid, key, source, pod })
    }

    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("DesiredPod::new refuses a pod without spec")
    }
    pub fn is_static(&self) -> bool {
        self.source != Source::Api
    }
    /// Static pods, mirror pods and those of priority at least 2000000000 are critical.
    pub fn is_critical(&self) -> bool {
        self.is_static() || self.is_mirror() || self.spec().priority.is_some_and(|p| p >= 2_000_000_000)
    }
    pub fn is_mirror(&self) -> bool {
        self.annotation("kubernetes.io/config.mirror").is_some()
    }
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
    pub fn deletion_requested(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    pub fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }

    pub fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    pub fn regular_containers(&self) -> &[Container] {
        &self.spec().containers
    }
    pub fn ephemeral_containers(&self) -> &[EphemeralContainer] {
        self.spec().ephemeral_containers.as_deref().unwrap_or_default()
    }

    /// Every container of the pod in spec order: init, regular, then ephemeral ones as plain containers.
    pub fn all_containers(&self) -> Vec<(Containers, Container)> {
        let init = self.init_containers().iter().map(|c| (init_kind(c), c.clone()));
        let regular = self.regular_containers().iter().map(|c| (Containers::Regular, c.clone()));
        let ephemeral = self.ephemeral_containers().iter().map(|c| (Containers::Ephemeral, ephemeral_as_container(c)));
        init.chain(regular).chain(ephemeral).collect()
    }

    /// The container of that name, whichever list it is in.
    pub fn container(&self, name: &str) -> Option<(Containers, Container)> {
        if let Some(c) = self.init_containers().iter().find(|c| c.name == name) {
            return Some((init_kind(c), c.clone()));
        }
        if let Some(c) = self.regular_containers().iter().find(|c| c.name == name) {
            return Some((Containers::Regular, c.clone()));
        }
        let c = self.ephemeral_containers().iter().find(|c| c.name == name)?;
        Some((Containers::Ephemeral, ephemeral_as_container(c)))
    }
}

/// An init container with `restartPolicy: Always` is a sidecar.
pub fn init_kind(c: &Container) -> Containers {
    if c.restart_policy.as_deref() == Some("Always") { Containers::Sidecar } else { Containers::Init }
}

/// An ephemeral container has the fields of a container but for those it may not use.
pub fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        env_from: c.env_from.clone(),
        env: c.env.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        ..Container::default()
    }
}
