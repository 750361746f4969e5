//! Where the runtime serves exec, attach and port-forward: it answers with a URL to be proxied to.

use api_types::runtime::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use pod::{ContainerId, SandboxId};

use crate::{Cri, call::call, error::Result};

/// Which ends of a process are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Cri {
    pub async fn exec_url(&self, id: &ContainerId, command: &[String], streams: Streams) -> Result<String> {
        let request = ExecRequest {
            container_id: id.to_string(),
            cmd: command.to_vec(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let mut client = self.runtime.clone();
        Ok(call("exec", id.as_str(), self.timeout, client.exec(request)).await?.url)
    }

    pub async fn attach_url(&self, id: &ContainerId, streams: Streams) -> Result<String> {
        let request = AttachRequest {
            container_id: id.to_string(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let mut client = self.runtime.clone();
        Ok(call("attach", id.as_str(), self.timeout, client.attach(request)).await?.url)
    }

    pub async fn port_forward_url(&self, id: &SandboxId, ports: &[i32]) -> Result<String> {
        let request = PortForwardRequest { pod_sandbox_id: id.to_string(), port: ports.to_vec() };
        let mut client = self.runtime.clone();
        Ok(call("port_forward", id.as_str(), self.timeout, client.port_forward(request)).await?.url)
    }
}
