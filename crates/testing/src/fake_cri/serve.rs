//! HTTP/2 on a unix socket, by hand: one service after the prefix of its name.

use std::{convert::Infallible, path::Path};

use api_types::{
    containerd::services::events::v1::events_server::EventsServer,
    runtime::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};
use tonic::body::Body;
use tower::ServiceExt;

use super::Fake;

/// Ends with all its connections when aborted.
pub(crate) fn serve(socket: &Path, fake: Fake) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket in a fresh directory");
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, fake.clone()));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn connection(stream: UnixStream, fake: Fake) {
    let runtime = RuntimeServiceServer::new(fake.clone());
    let images = ImageServiceServer::new(fake.clone());
    let events = EventsServer::new(fake.clone());
    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (runtime, images, events, fake) = (runtime.clone(), images.clone(), events.clone(), fake.clone());
        async move {
            let request = request.map(Body::new);
            let path = request.uri().path();
            if let Some(header) = request.headers().get("traceparent").and_then(|header| header.to_str().ok()) {
                fake.state().traceparents.push((path.to_owned(), header.to_owned()));
            }
            let reply = if path.starts_with("/runtime.v1.ImageService/") {
                images.oneshot(request).await
            } else if path.starts_with("/containerd.services.events.v1.Events/") {
                events.oneshot(request).await
            } else {
                runtime.oneshot(request).await
            };
            reply as Result<http::Response<Body>, Infallible>
        }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // An error only says that the client has gone.
    _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
}
