//! What the runtime says about itself.

use api_types::runtime::v1::{
    self as v1, NetworkConfig, RuntimeConfigRequest, StatusRequest, UpdateRuntimeConfigRequest, VersionRequest,
};

use crate::{Cri, call::call, error::CriError, error::Result};

/// Name and versions, as in `containerRuntimeVersion`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Say `containerd`.
    pub runtime_name: String,
    pub runtime_version: String,
    /// Say `v1`.
    pub runtime_api_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    pub runtime: Condition,
    pub network: Condition,
    /// Those of a runtime class; the default one has an empty name.
    pub handlers: Vec<Handler>,
    pub features: Option<Features>,
}

impl RuntimeStatus {
    pub fn runtime_ready(&self) -> bool {
        self.runtime.ready
    }
    pub fn network_ready(&self) -> bool {
        self.network.ready
    }
}

/// Not ready, with nothing to say, where the runtime does not report the condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub ready: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    pub name: String,
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub supplemental_groups_policy: bool,
    pub user_namespaces_host_network: bool,
    pub mount_options: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    Systemd,
    Cgroupfs,
}

impl Cri {
    pub async fn version(&self) -> Result<Version> {
        let mut client = self.runtime.clone();
        // The version of the kubelet's side, unchanged since the beginning.
        let request = VersionRequest { version: "0.1.0".to_owned() };
        let reply = call("version", "runtime", self.timeout, client.version(request)).await?;
        Ok(Version {
            runtime_name: reply.runtime_name,
            runtime_version: reply.runtime_version,
            runtime_api_version: reply.runtime_api_version,
        })
    }

    pub async fn status(&self) -> Result<RuntimeStatus> {
        let mut client = self.runtime.clone();
        let reply = call("status", "runtime", self.timeout, client.status(StatusRequest { verbose: false })).await?;
        runtime_status(reply)
    }

    /// `is_unimplemented()` on runtimes that predate the call: then the configured driver holds.
    pub async fn runtime_config(&self) -> Result<CgroupDriver> {
        const OPERATION: &str = "runtime_config";
        let mut client = self.runtime.clone();
        let reply = call(OPERATION, "runtime", self.timeout, client.runtime_config(RuntimeConfigRequest {})).await?;
        let linux = reply.linux.ok_or_else(|| CriError::incomplete(OPERATION, "runtime", "linux configuration"))?;
        match v1::CgroupDriver::try_from(linux.cgroup_driver) {
            Ok(v1::CgroupDriver::Systemd) => Ok(CgroupDriver::Systemd),
            Ok(v1::CgroupDriver::Cgroupfs) => Ok(CgroupDriver::Cgroupfs),
            Err(_) => Err(CriError::incomplete(OPERATION, "runtime", "cgroup driver that is known")),
        }
    }

    /// Tells the runtime the node's pod CIDR.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let mut client = self.runtime.clone();
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
        let reply = client.update_runtime_config(request);
        call("update_runtime_config", pod_cidr, self.timeout, reply).await.map(drop)
    }
}

fn runtime_status(reply: v1::StatusResponse) -> Result<RuntimeStatus> {
    let status = reply.status.ok_or_else(|| CriError::incomplete("status", "runtime", "status"))?;
    let condition = |kind: &str| {
        let found = status.conditions.iter().find(|c| c.r#type == kind);
        found.map(|c| Condition { ready: c.status, reason: c.reason.clone(), message: c.message.clone() })
    };
    let handler = |h: v1::RuntimeHandler| {
        let features = h.features.unwrap_or_default();
        Handler {
            name: h.name,
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        }
    };
    Ok(RuntimeStatus {
        runtime: condition("RuntimeReady").unwrap_or_default(),
        network: condition("NetworkReady").unwrap_or_default(),
        handlers: reply.runtime_handlers.into_iter().map(handler).collect(),
        features: reply.features.map(|f| Features {
            supplemental_groups_policy: f.supplemental_groups_policy,
            user_namespaces_host_network: f.user_namespaces_host_network,
            mount_options: f.mount_options,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_not_reported_is_not_ready() {
        let condition = |kind: &str, status| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: "why".to_owned(),
            message: String::new(),
        };
        let reply = v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady", true)] }),
            ..Default::default()
        };
        let status = runtime_status(reply).unwrap();
        assert!(status.runtime_ready() && !status.network_ready());
        assert_eq!(status.runtime.reason, "why");
        assert_eq!(status.network, Condition::default());
    }

    #[test]
    fn a_reply_without_status_is_an_error() {
        assert!(runtime_status(v1::StatusResponse::default()).is_err());
    }
}
