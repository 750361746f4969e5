//! Calls on sandboxes.

use api_types::runtime::v1::{
    LinuxContainerResources, PodSandboxConfig, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StopPodSandboxRequest, UpdatePodSandboxResourcesRequest,
};
use pod::SandboxId;

use crate::{Cri, call::call, error::Result};

impl Cri {
    /// Creates and starts a sandbox, its network included. An empty `handler` means the runtime's default.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<SandboxId> {
        let object = config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let mut client = self.runtime.clone();
        // Network plugins may be slow: twice the usual time, as upstream.
        let reply = call("run_podsandbox", &object, 2 * self.timeout, client.run_pod_sandbox(request)).await?;
        Ok(SandboxId::new(reply.pod_sandbox_id))
    }

    /// What the runtime knows of it beyond the CRI, in a JSON of its own; empty where it tells nothing.
    pub async fn sandbox_info(&self, id: &SandboxId) -> Result<String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: true };
        let mut client = self.runtime.clone();
        let mut reply =
            call("podsandbox_status", id.as_str(), self.timeout, client.pod_sandbox_status(request)).await?;
        Ok(reply.info.remove("info").unwrap_or_default())
    }

    /// Kills what is left in it and takes its network down. Succeeds where it is already done.
    pub async fn stop_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
        let mut client = self.runtime.clone();
        call("stop_podsandbox", id.as_str(), self.timeout, client.stop_pod_sandbox(request)).await.map(drop)
    }

    pub async fn remove_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
        let mut client = self.runtime.clone();
        call("remove_podsandbox", id.as_str(), self.timeout, client.remove_pod_sandbox(request)).await.map(drop)
    }

    /// Tells the runtime what the pod as a whole has now; only some runtimes care.
    pub async fn update_pod_sandbox_resources(
        &self,
        id: &SandboxId,
        overhead: Option<LinuxContainerResources>,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let request =
            UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.to_string(), overhead, resources: Some(resources) };
        let mut client = self.runtime.clone();
        let reply = client.update_pod_sandbox_resources(request);
        call("update_podsandbox_resources", id.as_str(), self.timeout, reply).await.map(drop)
    }
}
