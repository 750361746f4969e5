//! The handle on what this crate does, and its actions on sandboxes.

use std::{sync::Arc, time::Duration};

use api_types::runtime::v1::{DnsConfig, UserNamespace};
use apiserver::{ApiServer, Events, Objects, Services};
use cri::Cri;
use host::Clock;
use pod::{ContainerId, DesiredPod, ObservedContainer, PodKey, PodUid, SandboxId, mounts::EventType};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    config::RuntimeConfig,
    counters,
    dns::{NodeDns, PodDns, pod_dns},
    error::{Result, RuntimeError},
    files,
    gate::Gate,
    names::pod_text,
    sandbox_config::{SandboxConfigError, SandboxInput, sandbox_config},
    uncut::Uncut,
    userns::{self, UsernsError},
};

/// What the runtime works with.
#[derive(Clone)]
pub struct RuntimeParts {
    pub cri: Cri,
    pub clock: Clock,
    pub events: Events,
    /// None: standalone, and pods that refer to API objects fail with a message that says so.
    pub api: Option<ApiServer>,
    pub objects: Option<Objects>,
    pub services: Services,
}

/// What a sandbox is made with besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct SandboxRequest<'a> {
    pub attempt: u32,
    pub cgroup_parent: &'a str,
    /// Supplemental groups that volumes ask for.
    pub volume_groups: &'a [i64],
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub parts: RuntimeParts,
    pub config: RuntimeConfig,
    /// Held while a pod is given its range of ids.
    userns: Mutex<()>,
    sandboxes: Gate,
    pub starts: Arc<Uncut>,
}

impl Runtime {
    pub fn new(parts: RuntimeParts, config: RuntimeConfig) -> Self {
        counters::show();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let sandboxes = Gate::for_cores(cores);
        let (userns, starts) = (Mutex::new(()), Arc::default());
        Self { shared: Arc::new(Shared { parts, config, userns, sandboxes, starts }) }
    }

    /// Returns when no container of the pod is being created or started any more, not even for somebody who has given
    /// that up.
    pub async fn settled(&self, pod: &PodUid) {
        self.shared.starts.settled(pod).await;
    }

    /// Whether it would return at once.
    pub fn is_settled(&self, pod: &PodUid) -> bool {
        self.shared.starts.is_settled(pod)
    }

    pub(crate) fn parts(&self) -> &RuntimeParts {
        &self.shared.parts
    }
    pub(crate) fn config(&self) -> &RuntimeConfig {
        &self.shared.config
    }

    /// On an error nothing is left, but for what the runtime itself may have failed to undo.
    pub async fn create_sandbox(&self, pod: &DesiredPod, request: SandboxRequest<'_>) -> Result<SandboxId> {
        counters::STARTED_PODS.inc();
        let own_users = userns::wants_own(pod);
        if own_users {
            counters::STARTED_USERNS_PODS.inc();
        }
        let result = self.run_sandbox(pod, request).await;
        if result.is_err() {
            counters::STARTED_PODS_ERRORS.inc();
            if own_users {
                counters::STARTED_USERNS_PODS_ERRORS.inc();
            }
            // Removes it only where it is empty: an earlier sandbox's logs stay.
            let _ = std::fs::remove_dir(self.config().root.pod_log(&pod.key, &pod.uid));
        }
        result
    }

    async fn run_sandbox(&self, pod: &DesiredPod, request: SandboxRequest<'_>) -> Result<SandboxId> {
        let handler = self.runtime_handler(pod).await?;
        let userns = self.user_namespace(pod, &handler).await?;
        let dns = self.dns(pod).await?;
        self.tell_about_dns(pod, &dns);
        let config = self.sandbox_config(pod, request, dns.config, userns)?;
        files::make_log_dir(config.log_directory.as_ref())?;
        let labels = [handler.as_str()];
        let run = async {
            let started = Instant::now();
            let result = self.parts().cri.run_pod_sandbox(config, &handler).await;
            counters::RUN_SANDBOX_DURATION.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
            result
        };
        let result = self.shared.sandboxes.pass(run).await;
        result.map_err(|e| {
            counters::RUN_SANDBOX_ERRORS.with_label_values(&labels).inc();
            RuntimeError::RunSandbox(e)
        })
    }

    pub(crate) fn sandbox_config(
        &self,
        pod: &DesiredPod,
        request: SandboxRequest<'_>,
        dns: DnsConfig,
        userns: UserNamespace,
    ) -> Result<api_types::runtime::v1::PodSandboxConfig> {
        let SandboxRequest { attempt, cgroup_parent, volume_groups } = request;
        let (cgroup_parent, volume_groups) = (cgroup_parent.to_owned(), volume_groups.to_vec());
        let input = SandboxInput { attempt, cgroup_parent, dns, userns, volume_groups };
        Ok(sandbox_config(pod, input, self.config())?)
    }

    /// The runtime's name for the pod's RuntimeClass; empty for the default one.
    pub async fn runtime_handler(&self, pod: &DesiredPod) -> Result<String> {
        let Some(name) = pod.spec().runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let failed = |detail: String| RuntimeError::RuntimeClass { name: name.to_owned(), detail };
        let api = self.parts().api.as_ref().ok_or_else(|| failed("no kubeClient defined".to_owned()))?;
        match api.get_runtime_class(name).await {
            Ok(class) => Ok(class.handler),
            Err(e) if e.is_not_found() => Err(failed(format!("runtimeclass.node.k8s.io {name:?} not found"))),
            Err(e) => Err(failed(e.to_string())),
        }
    }

    /// Fails closed: a pod that wants users of its own never runs with the host's.
    pub(crate) async fn user_namespace(&self, pod: &DesiredPod, handler: &str) -> Result<UserNamespace> {
        if !userns::wants_own(pod) {
            return Ok(userns::host_users());
        }
        let status = self.parts().cri.status().await.map_err(UsernsError::RuntimeStatus)?;
        if !status.handlers.iter().any(|h| h.name == handler && h.user_namespaces) {
            return Err(UsernsError::Unsupported { handler: handler.to_owned() }.into());
        }
        let _one_at_a_time = self.shared.userns.lock().await;
        Ok(userns::of_pod(&self.config().root, &pod.uid, &self.config().user_ids)?)
    }

    /// The node's resolv.conf is read anew each time: it changes under a running agent.
    pub(crate) async fn dns(&self, pod: &DesiredPod) -> Result<PodDns> {
        let config = self.config();
        let resolv_conf = match &config.resolv_conf {
            Some(path) => {
                let read = tokio::fs::read(path).await.map_err(|e| SandboxConfigError::ResolvConf {
                    path: path.display().to_string(),
                    detail: e.to_string(),
                })?;
                Some(String::from_utf8_lossy(&read).into_owned())
            }
            None => None,
        };
        let node = NodeDns {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf,
            node_ips: config.node_ips.clone(),
        };
        Ok(pod_dns(pod, &node))
    }

    fn tell_about_dns(&self, pod: &DesiredPod, dns: &PodDns) {
        let events = &self.parts().events;
        for text in &dns.exceeded {
            events.pod(pod, EventType::Warning, "DNSConfigForming", text.as_str());
        }
        if dns.missing_cluster_dns {
            let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" \
                policy. Falling back to \"Default\" policy.";
            events.node(EventType::Warning, "MissingClusterDNS", text);
            let text = format!("pod: {:?}. {text}", pod_text(&pod.key, &pod.uid));
            events.pod(pod, EventType::Warning, "MissingClusterDNS", text);
        }
    }

    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<()> {
        match self.parts().cri.stop_pod_sandbox(id).await {
            Err(e) if !e.is_not_found() => Err(RuntimeError::StopSandbox(e)),
            _ => Ok(()),
        }
    }

    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        match self.parts().cri.remove_pod_sandbox(id).await {
            Err(e) if !e.is_not_found() => Err(RuntimeError::RemoveSandbox(e)),
            _ => Ok(()),
        }
    }

    /// The logs go first: if they can't, the container stays to be tried again.
    pub async fn remove_container(&self, key: &PodKey, container: &ObservedContainer) -> Result<()> {
        files::remove_logs(&self.config().root, key, container)?;
        self.remove_container_but_logs(&container.id).await
    }

    /// What is left of the logs tells how often the container has been started.
    pub async fn remove_container_but_logs(&self, id: &ContainerId) -> Result<()> {
        match self.parts().cri.remove_container(id).await {
            Err(e) if !e.is_not_found() => Err(RuntimeError::RemoveContainer(e)),
            _ => Ok(()),
        }
    }

    /// The pod's log directory with all that is in it.
    pub fn remove_logs(&self, key: &PodKey, uid: &PodUid) {
        files::remove_pod_logs(&self.config().root, key, uid);
    }

    /// Removes the logs of pods that are gone, and links to logs that are.
    pub fn sweep_logs(&self, is_known: impl Fn(&PodUid) -> bool, is_alive: impl Fn(&ContainerId) -> bool) {
        files::sweep_logs(&self.config().root, is_known, is_alive);
    }

    /// The least time that a container is given to end by itself.
    pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);
}
