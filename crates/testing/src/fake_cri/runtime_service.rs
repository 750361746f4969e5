//! The runtime service of the fake.

use std::{collections::BTreeMap, time::Duration};

use api_types::runtime::v1::{self as v1, ContainerState, runtime_service_server::RuntimeService};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, async_trait, codegen::BoxStream};

use super::{
    Fake, Flavor,
    state::{Container, Sandbox},
};

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

fn selected(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn listed_sandbox(s: &Sandbox) -> v1::PodSandbox {
    let s = s.status.clone();
    v1::PodSandbox {
        id: s.id,
        metadata: s.metadata,
        state: s.state,
        created_at: s.created_at,
        labels: s.labels,
        annotations: s.annotations,
        runtime_handler: s.runtime_handler,
    }
}

fn listed_container(c: &Container) -> v1::Container {
    let sandbox = c.sandbox.clone();
    let c = c.status.clone();
    v1::Container {
        id: c.id,
        pod_sandbox_id: sandbox,
        metadata: c.metadata,
        image: c.image,
        image_ref: c.image_ref,
        image_id: c.image_id,
        state: c.state,
        created_at: c.created_at,
        labels: c.labels,
        annotations: c.annotations,
    }
}

impl Fake {
    /// Waits out the grace of a container that ignores its stop signal.
    async fn outlast(&self, id: &str, grace: i64) -> i32 {
        let stubborn = {
            let state = self.state();
            let container = state.containers.get(id);
            let name = container.and_then(|c| c.status.labels.get("io.kubernetes.container.name"));
            name.is_some_and(|n| state.stubborn.contains(n))
        };
        if !stubborn {
            return 0;
        }
        tokio::time::sleep(Duration::from_secs(grace.unsigned_abs())).await;
        137
    }
}

#[async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        let flavor = self.enter("version", "").await?.flavor;
        let (name, version) = match flavor {
            Flavor::Containerd2 => ("containerd", "v2.4.2"),
            Flavor::Containerd1_6 => ("containerd", "1.6.39"),
            Flavor::Eventless => ("fake", "1"),
        };
        reply(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: name.to_owned(),
            runtime_version: version.to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        let network = self.enter("status", "").await?.network_ready;
        let condition = |kind: &str, status| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: if status { String::new() } else { format!("{kind}Not") },
            message: String::new(),
        };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network)];
        reply(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Reply<v1::RuntimeConfigResponse> {
        if self.enter("runtime_config", "").await?.flavor != Flavor::Containerd2 {
            return Err(Status::unimplemented("unknown method RuntimeConfig"));
        }
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 };
        reply(v1::RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Reply<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        // As a real runtime may, it goes on though the caller no longer waits.
        let fake = self.clone();
        let making = tokio::spawn(async move {
            let mut state = fake.enter("run_podsandbox", &name).await?;
            Ok::<_, Status>(state.run_sandbox(config, request.runtime_handler))
        });
        let pod_sandbox_id = making.await.map_err(|e| Status::internal(e.to_string()))??;
        reply(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Reply<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.enter("stop_podsandbox", &id).await?.stop_sandbox(&id);
        reply(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.enter("remove_podsandbox", &id).await?.remove_sandbox(&id);
        reply(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let state = self.enter("podsandbox_status", &id).await?;
        let sandbox = state.sandboxes.get(&id).ok_or_else(|| Status::not_found(format!("sandbox {id:?} not found")))?;
        reply(v1::PodSandboxStatusResponse { status: Some(sandbox.status.clone()), ..Default::default() })
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Reply<v1::ListPodSandboxResponse> {
        let state = self.enter("list_podsandbox", "").await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = |s: &&Sandbox| {
            selected(&filter.label_selector, &s.status.labels)
                && (filter.id.is_empty() || filter.id == s.status.id)
                && filter.state.is_none_or(|f| f.state == s.status.state)
        };
        reply(v1::ListPodSandboxResponse {
            items: state.sandboxes.values().filter(wanted).map(listed_sandbox).collect(),
        })
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let mut state = self.enter("create_container", &name).await?;
        reply(v1::CreateContainerResponse { container_id: state.create_container(&request.pod_sandbox_id, config)? })
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Reply<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let ending = self.enter("start_container", &id).await?.start_container(&id)?;
        if let Some((after, exit_code)) = ending {
            let fake = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                fake.state().exit(&id, exit_code, None);
            });
        }
        reply(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Reply<v1::StopContainerResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        drop(self.enter("stop_container", &format!("{id} {}", request.timeout)).await?);
        let exit_code = self.outlast(&id, request.timeout).await;
        self.state().exit(&id, exit_code, None);
        reply(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.enter("remove_container", &id).await?.remove_container(&id);
        reply(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Reply<v1::ListContainersResponse> {
        let state = self.enter("list_containers", "").await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = |c: &&Container| {
            selected(&filter.label_selector, &c.status.labels)
                && (filter.id.is_empty() || filter.id == c.status.id)
                && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == c.sandbox)
                && filter.state.is_none_or(|f| f.state == c.status.state)
        };
        let containers = state.containers.values().filter(wanted).map(listed_container).collect();
        reply(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let state = self.enter("container_status", &id).await?;
        let container =
            state.containers.get(&id).ok_or_else(|| Status::not_found(format!("container {id:?} not found")))?;
        reply(v1::ContainerStatusResponse { status: Some(container.status.clone()), ..Default::default() })
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let mut state = self.enter("update_container", &request.container_id).await?;
        let container = state.containers.get_mut(&request.container_id);
        let container = container.ok_or_else(|| Status::not_found("container not found"))?;
        container.status.resources = Some(v1::ContainerResources { linux: request.linux, windows: None });
        reply(v1::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        drop(self.enter("reopen_container_log", &request.into_inner().container_id).await?);
        reply(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Reply<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let state = self.enter("exec_sync", &request.container_id).await?;
        let container = state.containers.get(&request.container_id);
        let container = container.filter(|c| c.status.state == ContainerState::ContainerRunning as i32);
        let container = container.ok_or_else(|| Status::not_found("no running container"))?;
        let name = container.status.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
        reply((state.exec)(name, &request.cmd))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        let id = request.into_inner().container_id;
        let at = self.enter("exec", &id).await?.streaming.clone();
        reply(v1::ExecResponse { url: format!("{at}/exec/{id}") })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        let id = request.into_inner().container_id;
        let at = self.enter("attach", &id).await?.streaming.clone();
        reply(v1::AttachResponse { url: format!("{at}/attach/{id}") })
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Reply<v1::PortForwardResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let at = self.enter("port_forward", &id).await?.streaming.clone();
        reply(v1::PortForwardResponse { url: format!("{at}/portforward/{id}") })
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Reply<BoxStream<v1::ContainerEventResponse>> {
        let mut state = self.enter("get_container_events", "").await?;
        if state.flavor != Flavor::Containerd2 {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        state.streams.push(sender);
        reply(Box::pin(UnboundedReceiverStream::new(receiver).map(Ok)))
    }
}
