//! HTTP/2 on a unix socket, and which service answers which path.

use std::{convert::Infallible, sync::Arc, time::Duration};

use api_types::kubelet::{
    v1::pod_resources_lister_server as resources_v1,
    v1alpha1::{pod_resources_lister_server as resources_v1alpha1, pods_server},
};
use futures::{FutureExt, future::BoxFuture};
use host::Clock;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use crate::{Pods, limit::Limit, pods::PodsService, resources::Lister};

/// After a connection could not be accepted, which is for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// The podresources services; ends only with the future.
pub async fn pod_resources(listener: UnixListener, pods: Pods, clock: Clock, active_only: bool) {
    let lister = Lister { pods, limit: Arc::new(Limit::new(clock)), active_only };
    let v1 = resources_v1::PodResourcesListerServer::new(lister.clone());
    let v1alpha1 = resources_v1alpha1::PodResourcesListerServer::new(lister);
    serve(listener, move |request| match service_of(&request) {
        Some(resources_v1::SERVICE_NAME) => answer(&v1, request),
        Some(resources_v1alpha1::SERVICE_NAME) => answer(&v1alpha1, request),
        other => unknown(other),
    })
    .await;
}

/// The pods service; ends only with the future.
pub async fn pods_api(listener: UnixListener, pods: Pods, clock: Clock) {
    metrics::node_api::show();
    let service = pods_server::PodsServer::new(PodsService { pods, limit: Arc::new(Limit::new(clock)) });
    serve(listener, move |request| match service_of(&request) {
        Some(pods_server::SERVICE_NAME) => answer(&service, request),
        other => unknown(other),
    })
    .await;
}

/// `/v1.PodResourcesLister/List` is asked of `v1.PodResourcesLister`.
fn service_of<B>(request: &Request<B>) -> Option<&str> {
    request.uri().path().strip_prefix('/')?.rsplit_once('/').map(|(service, _)| service)
}

fn answer<S>(service: &S, request: Request<Incoming>) -> Answer
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService + Clone,
    S::Future: Send + 'static,
{
    // Always ready: calls wait for nothing but their own data.
    service.clone().call(request).boxed()
}

fn unknown(service: Option<&str>) -> Answer {
    let status = Status::unimplemented(format!("unknown service {}", service.unwrap_or_default()));
    std::future::ready(Ok(status.into_http())).boxed()
}

async fn serve(listener: UnixListener, answer: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, answer.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a connection to a socket of the node was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, answer: Arc<impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static>) {
    let service = service_fn(move |request| answer(request));
    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to a socket of the node broke");
    }
}
