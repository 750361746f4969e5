//! podresources: what each container has of the node. No manager gives out CPUs, memory or devices here, so all
//! these lists are empty, as upstream answers with the policy `none`.

use std::sync::Arc;

use api_types::kubelet::{
    v1::{
        AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerResources, GetPodResourcesRequest,
        GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
        pod_resources_lister_server::PodResourcesLister,
    },
    v1alpha1,
};
use k8s_openapi::api::core::v1::Container;
use metrics::node_api::{self, Resources};
use pod::DesiredPod;
use tonic::{Request, Response, Status, async_trait};

use crate::{PodRow, Pods, limit::Limit};

const V1: &str = "v1";

/// Both versions. They share the limit.
#[derive(Clone, Debug)]
pub struct Lister {
    pub pods: Pods,
    pub limit: Arc<Limit>,
    /// Gate KubeletPodResourcesListUseActivePods.
    pub active_only: bool,
}

#[async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.limit.admit()?;
        node_api::resources_asked(Resources::List, V1);
        let rows = self.pods.list();
        let listed = rows.iter().filter(|row| row.active || !self.active_only);
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: listed.map(|row| resources(&row.desired)).collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.limit.admit()?;
        node_api::resources_asked(Resources::Allocatable, V1);
        Ok(Response::new(AllocatableResourcesResponse::default()))
    }

    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.limit.admit()?;
        node_api::resources_asked(Resources::Get, V1);
        let asked = request.into_inner();
        let rows = self.pods.list();
        let Some(row) = rows.iter().find(|row| is_asked_for(row, &asked)) else {
            node_api::resources_get_failed(V1);
            // Upstream's text and, since it says nothing about a code, Unknown.
            let text = format!("pod {} in namespace {} not found", asked.pod_name, asked.pod_namespace);
            return Err(Status::unknown(text));
        };
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(resources(&row.desired)) }))
    }
}

/// A pod that has ended is not found, and does not hide another of its name.
fn is_asked_for(row: &PodRow, asked: &GetPodResourcesRequest) -> bool {
    let key = &row.desired.key;
    row.active && *key.name == *asked.pod_name && *key.namespace == *asked.pod_namespace
}

fn resources(desired: &DesiredPod) -> PodResources {
    let spec = desired.spec();
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let of = |c: &Container| ContainerResources { name: c.name.clone(), ..ContainerResources::default() };
    PodResources {
        name: desired.key.name.to_string(),
        namespace: desired.key.namespace.to_string(),
        containers: sidecars.chain(&spec.containers).map(of).collect(),
        ..PodResources::default()
    }
}

#[async_trait]
impl v1alpha1::pod_resources_lister_server::PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<v1alpha1::ListPodResourcesRequest>,
    ) -> Result<Response<v1alpha1::ListPodResourcesResponse>, Status> {
        self.limit.admit()?;
        node_api::resources_asked(Resources::FirstList, "v1alpha1");
        let pod_resources = self.pods.list().iter().map(|row| first_resources(&row.desired)).collect();
        Ok(Response::new(v1alpha1::ListPodResourcesResponse { pod_resources }))
    }
}

/// This version knows neither which pods have ended nor init containers that go on running.
fn first_resources(desired: &DesiredPod) -> v1alpha1::PodResources {
    let of = |c: &Container| v1alpha1::ContainerResources { name: c.name.clone(), devices: Vec::new() };
    v1alpha1::PodResources {
        name: desired.key.name.to_string(),
        namespace: desired.key.namespace.to_string(),
        containers: desired.spec().containers.iter().map(of).collect(),
    }
}
