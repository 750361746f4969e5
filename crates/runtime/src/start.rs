//! Starting a container: environment, files, create, start, postStart.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use api_types::runtime::v1::PodSandboxConfig;
use apiserver::{ApiError, ServiceEntry};
use host::Dir;
use pod::{
    ContainerId, Containers, DesiredPod, ObservedPod, ObservedSandbox,
    api::Container,
    env::{ServiceEnv, ServicePort},
    fields::Addresses,
    mounts::{ContainerMount, EventType, ResolvedImage},
    quantity::{ApiList, Quantity},
    reason::event,
};
use tokio::sync::watch;

use crate::{
    container_config::{ContainerDevice, ContainerInput, container_config},
    counters,
    env::{EnvError, EnvFile, EnvInput, Environment, FileRef, References, Referents, environment},
    env_file::EnvFileError,
    error::{Result, RuntimeError},
    files,
    hooks::{self, HookSite},
    hostname::Hostname,
    names,
    runtime::{Runtime, SandboxRequest},
    sandbox_config::SandboxConfigError,
    stop::StopRequest,
};

/// The most of an env file that is read.
const MAX_ENV_FILE: u64 = 64 * 1024;

/// All that is known when a container is to start.
#[derive(Clone, Copy)]
pub struct StartRequest<'a> {
    pub pod: &'a DesiredPod,
    pub kind: Containers,
    pub name: &'a str,
    /// As planned; log files of containers that are gone may raise it.
    pub restart_count: u32,
    pub sandbox: &'a ObservedSandbox,
    pub observed: &'a ObservedPod,
    pub cgroup_parent: &'a str,
    /// Primary first.
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    /// The node's.
    pub allocatable: &'a ApiList,
    pub image: &'a ResolvedImage,
    /// Those of volumes: /etc/hosts and the termination log are added here.
    pub mounts: &'a [ContainerMount],
    /// Supplemental groups that volumes ask for.
    pub volume_groups: &'a [i64],
    /// Block volumes and plugins' devices.
    pub devices: &'a [ContainerDevice],
}

impl Runtime {
    /// On an error before the runtime has started it, the container may exist as created: the next plan sees it.
    pub async fn start_container(&self, request: StartRequest<'_>) -> Result<ContainerId> {
        let kind = request.kind.as_str();
        counters::STARTED_CONTAINERS.with_label_values(&[kind]).inc();
        let result = self.start(request).await;
        counters::image_volumes(request.mounts, &result);
        if let Err(e) = &result {
            counters::STARTED_CONTAINERS_ERRORS.with_label_values(&[kind, e.code()]).inc();
            if !matches!(e, RuntimeError::PostStart(_)) {
                self.event(request, EventType::Warning, event::FAILED, &format!("Error: {e}"));
            }
        }
        result
    }

    async fn start(&self, request: StartRequest<'_>) -> Result<ContainerId> {
        let StartRequest { pod, name, .. } = request;
        let (_, container) = pod.container(name).ok_or_else(|| RuntimeError::NoSuchContainer(name.to_owned()))?;
        let restart_count = self.restart_count(request);
        let handler = request.sandbox.runtime_handler.as_str();
        let userns = self.user_namespace(pod, handler).await?;
        let dns = self.dns(pod).await?;
        let made_with = SandboxRequest {
            attempt: request.sandbox.attempt,
            cgroup_parent: request.cgroup_parent,
            volume_groups: request.volume_groups,
        };
        let sandbox = self.sandbox_config(pod, made_with, dns.config, userns.clone())?;
        let env = self.environment(request, &container).await?;
        let mounts = self.own_mounts(request, &container)?;
        let input = ContainerInput {
            restart_count,
            image: request.image,
            env: &env,
            mounts: &mounts,
            devices: request.devices,
            volume_groups: request.volume_groups,
            userns,
            target: target(request)?,
            allocatable_memory: request.allocatable.get("memory").map_or(0, |q| Quantity::of(q).value()),
        };
        let config = container_config(pod, &container, input, self.config())?;
        files::make_log_dir(&self.config().root.container_log(&pod.key, &pod.uid, name))?;
        let log_path = config.log_path.clone();
        let (cri, sandbox_id, with) = (self.parts().cri.clone(), request.sandbox.id.clone(), sandbox.clone());
        let create = async move { cri.create_container(&sandbox_id, config, with).await };
        let created = self.shared.starts.run(&pod.uid, create).await;
        let id = created.map_err(RuntimeError::CreateContainer)?;
        self.event(request, EventType::Normal, event::CREATED, "Container created");
        // Error texts name the container, not its id, so that the next failure repeats this event.
        let (cri, container_id) = (self.parts().cri.clone(), id.clone());
        let started = self.shared.starts.run(&pod.uid, async move { cri.start_container(&container_id).await }).await;
        started.map_err(|mut e| {
            e.message = e.message.replace(id.as_str(), name);
            RuntimeError::StartContainer(e)
        })?;
        self.event(request, EventType::Normal, event::STARTED, "Container started");
        self.link_log(request, &id, &sandbox, &log_path);
        self.post_start(request, &container, &id).await?;
        Ok(id)
    }

    fn event(&self, request: StartRequest<'_>, kind: EventType, reason: &str, text: &str) {
        self.parts().events.container(request.pod, request.name, kind, reason, text);
    }

    fn restart_count(&self, request: StartRequest<'_>) -> u32 {
        if request.observed.newest(request.name).is_some() {
            return request.restart_count;
        }
        let dir = self.config().root.container_log(&request.pod.key, &request.pod.uid, request.name);
        request.restart_count.max(files::restarts_by_logs(&dir))
    }

    /// A container's environment as it would be started with; `subPathExpr` refers to it too.
    pub async fn environment(&self, request: StartRequest<'_>, container: &Container) -> Result<Environment> {
        let pod = request.pod;
        let services = &self.parts().services;
        // A static pod must start without an API server: it takes what there is.
        if !pod.is_static() && !services.is_synced() {
            return Err(RuntimeError::ServicesUnknown);
        }
        let referents = self.referents(pod, &References::of(container)).await?;
        let input = EnvInput {
            pod,
            container,
            referents: &referents,
            services: &self.service_env(pod),
            addresses: Addresses { pod_ips: request.pod_ips, host_ips: request.host_ips },
            allocatable: request.allocatable,
        };
        Ok(environment(&input)?)
    }

    fn service_env(&self, pod: &DesiredPod) -> Vec<ServiceEnv> {
        let services = &self.parts().services;
        let kubernetes = services.get("default", "kubernetes");
        kubernetes.into_iter().chain(services.in_namespace(&pod.key.namespace)).map(|s| describe(&s)).collect()
    }

    async fn referents(&self, pod: &DesiredPod, refs: &References) -> Result<Referents> {
        let mut out = Referents::default();
        let namespace = &*pod.key.namespace;
        let no_api =
            |kind, name: &str| RuntimeError::NoApi { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        for name in &refs.config_maps {
            let objects = self.parts().objects.as_ref().ok_or_else(|| no_api("configMap", name))?;
            keep(&mut out.config_maps, name, objects.config_map(namespace, name).await)?;
        }
        for name in &refs.secrets {
            let objects = self.parts().objects.as_ref().ok_or_else(|| no_api("secret", name))?;
            keep(&mut out.secrets, name, objects.secret(namespace, name).await)?;
        }
        for file in &refs.files {
            if let Some(read) = self.env_file(pod, file)? {
                out.files.insert(file.clone(), read);
            }
        }
        Ok(out)
    }

    /// Env files live in emptyDir volumes, which containers may write: nothing outside the volume is ever opened. A
    /// volume that no container mounts is never made, and so has none.
    fn env_file(&self, pod: &DesiredPod, file: &FileRef) -> Result<Option<EnvFile>> {
        let is_volume = |v: &&pod::api::Volume| v.name == file.volume && v.empty_dir.is_some();
        if !pod.spec().volumes.iter().flatten().any(|v| is_volume(&v)) {
            return Ok(None);
        }
        let dir = self.config().root.pod_volume(&pod.uid, "kubernetes.io/empty-dir", &file.volume);
        let volume = match Dir::open(&dir) {
            Err(e) if e.is_not_found() => return Ok(None),
            opened => opened,
        };
        let read = volume.and_then(|d| d.read(Path::new(&file.path), MAX_ENV_FILE));
        let content = read.map_err(|e| {
            tracing::warn!(pod = %pod.key, path = file.path, error = %e, "can't read an env file");
            EnvError::File(EnvFileError::Unreadable(e.to_string()))
        })?;
        let content = String::from_utf8_lossy(&content).into_owned();
        Ok(Some(EnvFile { path: dir.join(&file.path), content }))
    }

    fn own_mounts(&self, request: StartRequest<'_>, container: &Container) -> Result<Vec<ContainerMount>> {
        let (root, pod) = (&self.config().root, request.pod);
        let host = Hostname::of(pod, &self.config().cluster_domain).map_err(SandboxConfigError::from)?;
        let mut mounts = request.mounts.to_vec();
        mounts.extend(files::hosts_mount(root, pod, container, &host, request.pod_ips)?);
        mounts.extend(files::termination_log(root, pod, container)?);
        Ok(mounts)
    }

    fn link_log(&self, request: StartRequest<'_>, id: &ContainerId, sandbox: &PodSandboxConfig, log_path: &str) {
        let links = self.config().root.container_logs();
        let link = names::log_symlink(links, &request.pod.key, request.name, id);
        files::link_log(&Path::new(&sandbox.log_directory).join(log_path), &link);
    }

    async fn post_start(&self, request: StartRequest<'_>, container: &Container, id: &ContainerId) -> Result<()> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let pod_ip = request.pod_ips.first().map(String::as_str).unwrap_or_default();
        let parts = self.parts();
        let site = HookSite { cri: &parts.cri, events: &parts.events, pod: request.pod, container, id, pod_ip };
        let Err(failure) = hooks::run(site, hook).await else { return Ok(()) };
        // The hook's output stays out of the event: it may hold a secret.
        tracing::warn!(pod = %request.pod.key, container = request.name, error = %failure, "postStart hook failed");
        self.event(request, EventType::Warning, event::FAILED_POST_START_HOOK, "PostStartHook failed");
        let grace = names::grace(request.pod);
        let (_keep, deadline) = watch::channel(parts.clock.mono() + grace);
        let message = event::FAILED_POST_START_HOOK.to_owned();
        let stop = StopRequest { deadline, run_pre_stop: true, message, turn: None };
        if let Err(e) = self.stop_started(request.pod, container, id, pod_ip, stop).await {
            tracing::warn!(pod = %request.pod.key, container = request.name, error = %e, "can't stop a container whose postStart hook failed");
        }
        Err(RuntimeError::PostStart(failure))
    }
}

/// What does not exist is left out: whether that matters is the environment's rule.
fn keep<T>(map: &mut BTreeMap<String, Arc<T>>, name: &str, read: std::result::Result<Arc<T>, ApiError>) -> Result<()> {
    match read {
        Ok(object) => {
            map.insert(name.to_owned(), object);
            Ok(())
        }
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(RuntimeError::Referent(e)),
    }
}

fn describe(service: &ServiceEntry) -> ServiceEnv {
    let port = |p: &apiserver::ServicePortEntry| ServicePort {
        name: Some(p.name.clone()).filter(|n| !n.is_empty()),
        port: p.port,
        protocol: p.protocol.clone(),
    };
    ServiceEnv {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        cluster_ip: service.cluster_ip.clone(),
        ports: service.ports.iter().map(port).collect(),
    }
}

/// The container that an ephemeral one looks into.
fn target<'a>(request: StartRequest<'a>) -> Result<Option<&'a ContainerId>> {
    if request.kind != Containers::Ephemeral {
        return Ok(None);
    }
    let spec = request.pod.ephemeral_containers().iter().find(|c| c.name == request.name);
    let Some(target) = spec.and_then(|c| c.target_container_name.as_deref()).filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let found = request.observed.newest(target).map(|c| &c.id);
    found.map(Some).ok_or_else(|| RuntimeError::NoTarget(target.to_owned()))
}
