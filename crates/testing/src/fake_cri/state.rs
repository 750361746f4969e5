//! What the fake runtime has, and how it changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use api_types::runtime::v1::{
    self as v1, ContainerEventResponse, ContainerEventType, ContainerState, ContainerStatus, NamespaceMode,
    PodSandboxState, PodSandboxStatus,
};
use host::Clock;
use pod::{ContainerId, Containers, DesiredPod, SandboxId};
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

use super::{Flavor, Seeded};

const NAME: &str = "io.kubernetes.container.name";

/// To a command, given the container's name.
type Answer = Box<dyn Fn(&str, &[String]) -> v1::ExecSyncResponse + Send>;

pub(crate) struct State {
    pub flavor: Flavor,
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub containers: BTreeMap<String, Container>,
    pub images: BTreeMap<String, v1::Image>,
    pub failures: Vec<(String, Status)>,
    pub delays: HashMap<String, Duration>,
    pub endings: HashMap<String, (Duration, i32)>,
    pub stubborn: BTreeSet<String>,
    pub exec: Answer,
    /// Where exec, attach and port-forward are served.
    pub streaming: String,
    pub network_ready: bool,
    pub muted: bool,
    pub streams: Vec<UnboundedSender<ContainerEventResponse>>,
    pub calls: Vec<String>,
    /// Path and header `traceparent` of requests that had one.
    pub traceparents: Vec<(String, String)>,
    ids: u64,
    clock: Clock,
    last_time: i64,
}

pub(crate) struct Sandbox {
    pub status: PodSandboxStatus,
    pub config: v1::PodSandboxConfig,
}

pub(crate) struct Container {
    pub status: ContainerStatus,
    pub config: v1::ContainerConfig,
    pub sandbox: String,
}

impl State {
    pub fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            failures: Vec::new(),
            delays: HashMap::new(),
            endings: HashMap::new(),
            stubborn: BTreeSet::new(),
            exec: Box::new(|_, _| v1::ExecSyncResponse::default()),
            streaming: "http://127.0.0.1:1".to_owned(),
            network_ready: true,
            muted: false,
            streams: Vec::new(),
            calls: Vec::new(),
            traceparents: Vec::new(),
            ids: 0,
            clock: Clock::start(),
            last_time: 0,
        }
    }

    /// Wall time that never repeats, so that "newest" is always decided.
    fn time(&mut self) -> i64 {
        let wall = i64::try_from(self.clock.wall().as_nanosecond()).unwrap_or_default();
        self.last_time = wall.max(self.last_time + 1);
        self.last_time
    }

    fn id(&mut self, name: &str) -> String {
        self.ids += 1;
        format!("{name}-{}", self.ids)
    }

    pub fn add_image(&mut self, name: &str) {
        let image = v1::Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.to_owned()],
            size: 1000,
            spec: Some(v1::ImageSpec { image: name.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        self.images.insert(name.to_owned(), image);
    }

    pub fn image(&self, reference: &str) -> Option<&v1::Image> {
        self.images.get(reference).or_else(|| self.images.values().find(|i| i.id == reference))
    }

    pub fn run_sandbox(&mut self, config: v1::PodSandboxConfig, handler: String) -> String {
        let metadata = config.metadata.clone().unwrap_or_default();
        let id = self.id(&metadata.name);
        let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let options = security.and_then(|s| s.namespace_options.clone()).unwrap_or_default();
        let host = options.network == NamespaceMode::Node as i32;
        let ip = if host { String::new() } else { format!("10.0.{}.{}", self.ids / 250, self.ids % 250 + 1) };
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: PodSandboxState::SandboxReady as i32,
            created_at: self.time(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: handler,
        };
        self.sandboxes.insert(id.clone(), Sandbox { status, config });
        self.send_event(&id, ContainerEventType::ContainerCreatedEvent);
        self.send_event(&id, ContainerEventType::ContainerStartedEvent);
        id
    }

    pub fn stop_sandbox(&mut self, id: &str) {
        let running: Vec<String> =
            self.containers_of(id, |c| c.status.state == ContainerState::ContainerRunning as i32);
        for container in running {
            self.exit(&container, 137, None);
        }
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        if sandbox.status.state == PodSandboxState::SandboxReady as i32 {
            sandbox.status.state = PodSandboxState::SandboxNotready as i32;
            sandbox.status.network = None;
            self.send_event(id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub fn remove_sandbox(&mut self, id: &str) {
        self.stop_sandbox(id);
        for container in self.containers_of(id, |_| true) {
            self.remove_container(&container);
        }
        if self.sandboxes.remove(id).is_some() {
            self.send_event(id, ContainerEventType::ContainerDeletedEvent);
        }
    }

    fn containers_of(&self, sandbox: &str, which: impl Fn(&Container) -> bool) -> Vec<String> {
        let of = self.containers.iter().filter(|(_, c)| c.sandbox == sandbox && which(c));
        of.map(|(id, _)| id.clone()).collect()
    }

    pub fn create_container(&mut self, sandbox: &str, config: v1::ContainerConfig) -> Result<String, Status> {
        let Some(of) = self.sandboxes.get(sandbox) else {
            return Err(Status::not_found(format!("failed to find sandbox id {sandbox:?}: not found")));
        };
        if of.status.state != PodSandboxState::SandboxReady as i32 {
            return Err(Status::unknown(format!("sandbox container {sandbox:?} is not running")));
        }
        let log_directory = of.config.log_directory.clone();
        let image = config.image.clone().unwrap_or_default();
        let image_id = self.image(&image.image).map(|i| i.id.clone());
        let image_id = image_id.ok_or_else(|| Status::not_found(format!("image {:?} not found", image.image)))?;
        let metadata = config.metadata.clone().unwrap_or_default();
        // Two creations with the same attempt must not both succeed.
        if let Some(holder) = self.containers_of(sandbox, |c| c.status.metadata.as_ref() == Some(&metadata)).pop() {
            let text = format!("failed to reserve container name {:?}: name is reserved for {holder:?}", metadata.name);
            return Err(Status::unknown(text));
        }
        let id = self.id(&metadata.name);
        let status = ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: ContainerState::ContainerCreated as i32,
            created_at: self.time(),
            image_ref: image_id.clone(),
            image: Some(image),
            image_id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: format!("{log_directory}/{}", config.log_path),
            resources: config
                .linux
                .as_ref()
                .map(|l| v1::ContainerResources { linux: l.resources.clone(), windows: None }),
            ..Default::default()
        };
        self.containers.insert(id.clone(), Container { status, config, sandbox: sandbox.to_owned() });
        self.send_event(&id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    /// When and how it will end by itself, if scripted.
    pub fn start_container(&mut self, id: &str) -> Result<Option<(Duration, i32)>, Status> {
        let now = self.time();
        let container =
            self.containers.get_mut(id).ok_or_else(|| Status::not_found(format!("container {id:?} not found")))?;
        if container.status.state != ContainerState::ContainerCreated as i32 {
            return Err(Status::unknown(format!("container {id:?} is not in created state")));
        }
        container.status.state = ContainerState::ContainerRunning as i32;
        container.status.started_at = now;
        let name = container.status.labels.get(NAME).cloned().unwrap_or_default();
        self.send_event(id, ContainerEventType::ContainerStartedEvent);
        Ok(self.endings.get(&name).copied())
    }

    pub fn exit(&mut self, id: &str, exit_code: i32, reason: Option<&str>) {
        let now = self.time();
        let Some(container) = self.containers.get_mut(id) else { return };
        let status = &mut container.status;
        if status.state == ContainerState::ContainerExited as i32 {
            return;
        }
        status.state = ContainerState::ContainerExited as i32;
        status.finished_at = now;
        status.exit_code = exit_code;
        let usual = if exit_code == 0 { "Completed" } else { "Error" };
        status.reason = reason.unwrap_or(usual).to_owned();
        self.send_event(id, ContainerEventType::ContainerStoppedEvent);
    }

    pub fn remove_container(&mut self, id: &str) {
        self.exit(id, 137, None);
        if let Some(container) = self.containers.remove(id) {
            self.send_event_of(id, &container.sandbox, ContainerEventType::ContainerDeletedEvent);
        }
    }

    pub fn send_event(&mut self, id: &str, kind: ContainerEventType) {
        let sandbox = self.containers.get(id).map_or(id, |c| c.sandbox.as_str()).to_owned();
        self.send_event_of(id, &sandbox, kind);
    }

    fn send_event_of(&mut self, id: &str, sandbox: &str, kind: ContainerEventType) {
        if self.muted {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: self.time(),
            pod_sandbox_status: self.sandboxes.get(sandbox).map(|s| s.status.clone()),
            containers_statuses: Vec::new(),
        };
        self.streams.retain(|stream| stream.send(event.clone()).is_ok());
    }

    pub fn newest_container(&self, uid: &str, name: &str) -> Option<&str> {
        let of_pod = |c: &Container| c.status.labels.get("io.kubernetes.pod.uid").is_some_and(|u| u == uid);
        let named = |c: &Container| c.status.labels.get(NAME).is_some_and(|n| n == name);
        let matching = self.containers.values().filter(|c| of_pod(c) && named(c));
        matching.max_by_key(|c| c.status.created_at).map(|c| c.status.id.as_str())
    }

    pub fn running(&self) -> Vec<String> {
        let running = self.containers.values().filter(|c| c.status.state == ContainerState::ContainerRunning as i32);
        let mut names: Vec<String> = running.filter_map(|c| c.status.labels.get(NAME).cloned()).collect();
        names.sort();
        names
    }
}

/// A pod with its regular containers and sidecars running.
pub(crate) fn seed(state: &mut State, pod: &DesiredPod) -> Seeded {
    let mut labels = BTreeMap::from([
        ("io.kubernetes.pod.uid".to_owned(), pod.uid.to_string()),
        ("io.kubernetes.pod.name".to_owned(), pod.key.name.to_string()),
        ("io.kubernetes.pod.namespace".to_owned(), pod.key.namespace.to_string()),
    ]);
    let metadata = v1::PodSandboxMetadata {
        name: pod.key.name.to_string(),
        uid: pod.uid.to_string(),
        namespace: pod.key.namespace.to_string(),
        attempt: 0,
    };
    let network = if pod.host_network() { NamespaceMode::Node } else { NamespaceMode::Pod };
    let security_context = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(v1::NamespaceOption { network: network as i32, ..Default::default() }),
        ..Default::default()
    };
    let config = v1::PodSandboxConfig {
        metadata: Some(metadata),
        labels: labels.clone(),
        linux: Some(v1::LinuxPodSandboxConfig { security_context: Some(security_context), ..Default::default() }),
        ..Default::default()
    };
    let sandbox = state.run_sandbox(config, String::new());
    let mut containers = BTreeMap::new();
    for (kind, c) in pod.all_containers() {
        if kind == Containers::Init {
            continue;
        }
        let image = c.image.clone().unwrap_or_default();
        state.add_image(&image);
        labels.insert(NAME.to_owned(), c.name.clone());
        let path = c.termination_message_path.clone().unwrap_or_default();
        let policy = c.termination_message_policy.clone().unwrap_or_default();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: c.name.clone(), attempt: 0 }),
            image: Some(v1::ImageSpec { image, ..Default::default() }),
            labels: labels.clone(),
            annotations: BTreeMap::from([
                ("io.kubernetes.container.restartCount".to_owned(), "0".to_owned()),
                ("io.kubernetes.container.terminationMessagePath".to_owned(), path),
                ("io.kubernetes.container.terminationMessagePolicy".to_owned(), policy),
            ]),
            ..Default::default()
        };
        let id = state.create_container(&sandbox, config).expect("the sandbox is ready, the image present");
        state.start_container(&id).expect("it was just created");
        containers.insert(c.name, ContainerId::new(id));
    }
    Seeded { sandbox: SandboxId::new(sandbox), containers }
}
