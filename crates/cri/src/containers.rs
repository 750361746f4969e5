//! Calls on containers.

use std::{collections::BTreeMap, time::Duration};

use api_types::runtime::v1::{
    ContainerConfig, CreateContainerRequest, ExecSyncRequest, LinuxContainerResources, PodSandboxConfig,
    RemoveContainerRequest, ReopenContainerLogRequest, StartContainerRequest, StopContainerRequest,
    UpdateContainerResourcesRequest,
};
use pod::{ContainerId, SandboxId};

use crate::{Cri, call::call, error::Result, lost_task};

/// What a command in a container left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

impl Cri {
    pub async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<ContainerId> {
        let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
        let object = format!("{name} in sandbox {sandbox}");
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut client = self.runtime.clone();
        let reply = call("create_container", &object, self.timeout, client.create_container(request)).await?;
        Ok(ContainerId::new(reply.container_id))
    }

    pub async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let request = StartContainerRequest { container_id: id.to_string() };
        let mut client = self.runtime.clone();
        call("start_container", id.as_str(), self.timeout, client.start_container(request)).await.map(drop)
    }

    /// Sends the stop signal and, after `grace`, kills. Returns when the container has ended.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_string(), timeout: whole_seconds(grace) };
        let mut client = self.runtime.clone();
        let deadline = self.timeout.saturating_add(grace);
        call("stop_container", id.as_str(), deadline, client.stop_container(request)).await.map(drop)
    }

    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        match self.try_remove_container(id).await {
            Err(error) if lost_task::is_cause_of(&error) => {
                self.end_lost_task(id).await?;
                self.try_remove_container(id).await?;
            }
            removed => removed?,
        }
        self.details.forget(id);
        Ok(())
    }

    async fn try_remove_container(&self, id: &ContainerId) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.to_string() };
        let mut client = self.runtime.clone();
        call("remove_container", id.as_str(), self.timeout, client.remove_container(request)).await.map(drop)
    }

    pub async fn update_container_resources(
        &self,
        id: &ContainerId,
        resources: LinuxContainerResources,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_string(),
            linux: Some(resources),
            annotations,
            windows: None,
        };
        let mut client = self.runtime.clone();
        let reply = client.update_container_resources(request);
        let result = call("update_container", id.as_str(), self.timeout, reply).await.map(drop);
        // The state stays, what the runtime enforces does not; even a failed call may have changed something.
        self.details.forget(id);
        result
    }

    /// After its log file was renamed.
    pub async fn reopen_container_log(&self, id: &ContainerId) -> Result<()> {
        let request = ReopenContainerLogRequest { container_id: id.to_string() };
        let mut client = self.runtime.clone();
        call("reopen_container_log", id.as_str(), self.timeout, client.reopen_container_log(request)).await.map(drop)
    }

    /// Runs a command to its end. A `limit` of zero means none; past it the error `is_deadline()`.
    pub async fn exec_sync(&self, id: &ContainerId, command: &[String], limit: Duration) -> Result<ExecOutput> {
        let request =
            ExecSyncRequest { container_id: id.to_string(), cmd: command.to_vec(), timeout: whole_seconds(limit) };
        let deadline = (!limit.is_zero()).then(|| self.timeout.saturating_add(limit));
        let mut client = self.runtime.clone();
        let reply = call("exec_sync", id.as_str(), deadline, client.exec_sync(request)).await?;
        Ok(ExecOutput { stdout: reply.stdout, stderr: reply.stderr, exit_code: reply.exit_code })
    }
}

/// Rounded up: for the runtime zero means "at once" when stopping and "no limit" when executing.
fn whole_seconds(d: Duration) -> i64 {
    let secs = d.as_secs() + u64::from(d.subsec_nanos() > 0);
    i64::try_from(secs).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_second_is_not_sent_as_no_limit() {
        assert_eq!(whole_seconds(Duration::from_millis(500)), 1);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_secs(30)), 30);
    }
}
