//! The pods API: the node's pods with their statuses, listed, one by one, or followed.

use std::sync::Arc;

use api_types::kubelet::v1alpha1::{
    GetPodRequest, GetPodResponse, ListPodsRequest, ListPodsResponse, WatchPodsEvent, WatchPodsRequest,
    pods_server::Pods as PodsApi,
};
use metrics::node_api::{self, Pods as Method};
use pod::PodUid;
use tonic::{Code, Request, Response, Status, async_trait, codegen::BoxStream};

use crate::{EncodeError, PodRow, Pods, encode, follow::Follow, limit::Limit};

#[derive(Clone, Debug)]
pub struct PodsService {
    pub pods: Pods,
    /// For the calls with one answer; whoever follows asks only once.
    pub limit: Arc<Limit>,
}

#[async_trait]
impl PodsApi for PodsService {
    async fn list_pods(&self, _: Request<ListPodsRequest>) -> Result<Response<ListPodsResponse>, Status> {
        self.limit.admit()?;
        let all = self.known().and_then(|()| self.pods.by_uid().iter().map(bytes).collect());
        counted(Method::List, all.map(|pods| Response::new(ListPodsResponse { pods })))
    }

    async fn get_pod(&self, request: Request<GetPodRequest>) -> Result<Response<GetPodResponse>, Status> {
        self.limit.admit()?;
        let uid = request.into_inner().pod_uid;
        let found = self.known().and_then(|()| {
            let row = self.pods.get(&PodUid::new(&uid));
            bytes(&row.ok_or_else(|| Status::not_found(format!("pod with UID {uid} not found")))?)
        });
        counted(Method::Get, found.map(|pod| Response::new(GetPodResponse { pod })))
    }

    async fn watch_pods(&self, _: Request<WatchPodsRequest>) -> Result<Response<BoxStream<WatchPodsEvent>>, Status> {
        match self.known() {
            Ok(()) => Ok(Response::new(Follow::new(self.pods.clone()).stream())),
            Err(status) => counted(Method::Watch, Err(status)),
        }
    }
}

impl PodsService {
    /// An answer before all sources were heard would lack pods that run.
    #[allow(clippy::result_large_err)] // what tonic's handlers return
    fn known(&self) -> Result<(), Status> {
        match self.pods.is_complete() {
            true => Ok(()),
            false => Err(Status::failed_precondition("Kubelet is initializing")),
        }
    }
}

#[allow(clippy::result_large_err)] // what tonic's handlers return
fn bytes(row: &PodRow) -> Result<Vec<u8>, Status> {
    encode::pod(&row.desired, &row.status).map_err(|e| refused(&e))
}

pub fn refused(error: &EncodeError) -> Status {
    Status::internal(format!("failed to marshal pod: {error}"))
}

#[allow(clippy::result_large_err)] // what tonic's handlers return
fn counted<T>(method: Method, result: Result<T, Status>) -> Result<T, Status> {
    node_api::pods_answered(method, name_of(result.as_ref().map_or_else(Status::code, |_| Code::Ok)));
    result
}

/// Go's name of those codes that are answered here.
pub fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::NotFound => "NotFound",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Internal => "Internal",
        _ => "Unknown",
    }
}
