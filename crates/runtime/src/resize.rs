//! New limits for what runs.

use api_types::runtime::v1::LinuxContainerResources;
use cri::CriError;
use pod::{ContainerId, DesiredPod, SandboxId, api::Container, quantity::Quantity};

use crate::{
    error::{Result, RuntimeError},
    resources::{container_resources, overhead},
    runtime::Runtime,
};

/// A pod's limits as a whole, its overhead included. Quota -1 and memory `i64::MAX`: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSize {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub cpu_period: i64,
    pub memory: i64,
}

impl Runtime {
    /// `container` carries the resources that it shall have.
    pub async fn resize_container(
        &self,
        pod: &DesiredPod,
        container: &Container,
        id: &ContainerId,
        allocatable_memory: i64,
    ) -> Result<()> {
        let resources = container_resources(pod, container, &self.config().resources, allocatable_memory);
        let updated = self.parts().cri.update_container_resources(id, resources, Default::default()).await;
        updated.map_err(RuntimeError::UpdateContainer)
    }

    /// Runtimes that do not care need not know.
    pub async fn resize_sandbox(&self, pod: &DesiredPod, id: &SandboxId, size: SandboxSize) -> Result<()> {
        let overhead = overhead(pod, &self.config().resources);
        let resources = without_overhead(pod, size);
        match self.parts().cri.update_pod_sandbox_resources(id, Some(overhead), resources).await {
            Err(error) if !is_unimplemented(&error) => Err(RuntimeError::UpdateSandbox(error)),
            _ => Ok(()),
        }
    }
}

/// containerd 2.2 says so in words only.
fn is_unimplemented(error: &CriError) -> bool {
    error.is_unimplemented() || error.message.contains("not implemented")
}

fn without_overhead(pod: &DesiredPod, size: SandboxSize) -> LinuxContainerResources {
    let extra =
        |name: &str| pod.spec().overhead.as_ref().and_then(|o| o.get(name)).map(Quantity::of).unwrap_or_default();
    let cpu = extra("cpu").milli_value();
    let less_quota = pod::resources::cpu_quota(cpu, size.cpu_period);
    LinuxContainerResources {
        cpu_shares: (size.cpu_shares - cpu * 1024 / 1000).max(pod::resources::MIN_SHARES as i64),
        cpu_period: size.cpu_period,
        cpu_quota: if size.cpu_quota > 0 { size.cpu_quota - less_quota } else { size.cpu_quota },
        memory_limit_in_bytes: if size.memory == i64::MAX { 0 } else { size.memory - extra("memory").value() },
        ..LinuxContainerResources::default()
    }
}
