//! A collector of traces in this process, on a unix socket: keeps every span that it is sent.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use api_types::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Span, any_value,
    trace_service_server::{TraceService, TraceServiceServer},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixListener,
    task::{JoinHandle, JoinSet},
};
use tonic::{Request, Response, Status, body::Body};
use tower::ServiceExt;

/// Closes with all its connections when dropped.
pub struct FakeCollector {
    collected: Collected,
    dir: tempfile::TempDir,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    requests: Vec<ExportTraceServiceRequest>,
    refusals: usize,
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeCollector {
    /// Must be called inside a tokio runtime.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("otlp.sock")).expect("a socket in a fresh directory");
        let collected = Collected::default();
        let kept = collected.clone();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let collected = kept.clone();
                connections.spawn(async move {
                    let service = TraceServiceServer::new(collected);
                    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let service = service.clone();
                        async move {
                            let reply = service.oneshot(request.map(Body::new)).await;
                            reply as Result<http::Response<Body>, Infallible>
                        }
                    });
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
                });
            }
        });
        Self { collected, dir, server }
    }

    /// For `tracing.endpoint`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.path().join("otlp.sock").display())
    }

    /// Answers so many requests with Unavailable first.
    pub fn refuse(&self, requests: usize) {
        self.collected.state(|state| state.refusals = requests);
    }

    /// Every span with the name of its scope.
    pub fn spans(&self) -> Vec<(String, Span)> {
        let scopes = |state: &mut State| {
            let resources = state.requests.iter().flat_map(|request| &request.resource_spans);
            resources.flat_map(|resource| resource.scope_spans.clone()).collect::<Vec<_>>()
        };
        let named = |scope: api_types::otlp::ScopeSpans| {
            let name = scope.scope.map(|scope| scope.name).unwrap_or_default();
            scope.spans.into_iter().map(move |span| (name.clone(), span))
        };
        self.collected.state(scopes).into_iter().flat_map(named).collect()
    }

    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.collected.state(|state| state.requests.clone())
    }
}

/// The text of an attribute.
pub fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Collected {
    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl TraceService for Collected {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.state(|state| {
            if state.refusals > 0 {
                state.refusals -= 1;
                return Err(Status::unavailable("not yet"));
            }
            state.requests.push(request.into_inner());
            Ok(Response::new(ExportTraceServiceResponse::default()))
        })
    }
}
