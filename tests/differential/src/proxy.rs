//! A proxy in front of containerd's socket that passes every call on as it is and records those that say what the
//! kubelet wants: sandboxes, containers, pulls and stops.
//!
//! gRPC is HTTP/2, so calls are forwarded without knowing them, streams and trailers included. Only recorded
//! messages are decoded, by the descriptors of `proto/`, into JSON whose unset fields are absent.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http2 as client, server::conn::http2 as server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};

type Body = BoxBody<Bytes, hyper::Error>;

/// Calls that are recorded, with the name of their request message.
const RECORDED: [(&str, &str); 5] = [
    ("/runtime.v1.RuntimeService/RunPodSandbox", "RunPodSandboxRequest"),
    ("/runtime.v1.RuntimeService/CreateContainer", "CreateContainerRequest"),
    ("/runtime.v1.RuntimeService/StopContainer", "StopContainerRequest"),
    ("/runtime.v1.RuntimeService/UpdateContainerResources", "UpdateContainerResourcesRequest"),
    ("/runtime.v1.ImageService/PullImage", "PullImageRequest"),
];

/// One recorded request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The call's name without its service.
    pub method: &'static str,
    pub request: Value,
}

/// What was recorded, by pod UID.
#[derive(Debug, Default)]
struct Log {
    by_pod: HashMap<String, Vec<Call>>,
    /// Container ID -> pod UID and container name: stops name only the ID.
    containers: HashMap<String, (String, String)>,
}

#[derive(Clone, Debug)]
pub struct Proxy {
    log: Arc<Mutex<Log>>,
    pool: DescriptorPool,
    upstream: PathBuf,
}

impl Proxy {
    /// Serves `socket` in the background for as long as the program runs.
    pub fn start(runtime: &tokio::runtime::Handle, socket: &Path, upstream: &Path) -> Result<Self> {
        let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
        let files = protox::compile(["runtime/v1/api.proto"], [proto]).context("proto/runtime/v1/api.proto")?;
        let pool = DescriptorPool::from_file_descriptor_set(files)?;
        let proxy = Self { log: Arc::default(), pool, upstream: upstream.to_owned() };
        let _entered = runtime.enter();
        let listener = UnixListener::bind(socket).with_context(|| format!("{}", socket.display()))?;
        let serving = proxy.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let proxy = serving.clone();
                tokio::spawn(async move {
                    // A kubelet that hangs up is no news here.
                    let _ = proxy.serve(stream).await;
                });
            }
        });
        Ok(proxy)
    }

    /// What the kubelet asked for a pod, in order.
    pub fn calls(&self, uid: &str) -> Vec<Call> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.by_pod.get(uid).cloned().unwrap_or_default()
    }

    async fn serve(self, stream: UnixStream) -> Result<()> {
        let onward = TokioIo::new(UnixStream::connect(&self.upstream).await?);
        let (sender, connection) = client::Builder::new(TokioExecutor::new()).handshake::<_, Body>(onward).await?;
        tokio::spawn(connection);
        let service = hyper::service::service_fn(move |request| {
            let (proxy, sender) = (self.clone(), sender.clone());
            async move { Ok::<_, Infallible>(proxy.forward(request, sender).await) }
        });
        let builder = server::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), service).await?;
        Ok(())
    }

    async fn forward(&self, request: Request<Incoming>, sender: client::SendRequest<Body>) -> Response<Body> {
        match self.pass_on(request, sender).await {
            Ok(response) => response,
            // Status 14 is Unavailable, as a runtime that has gone away answers.
            Err(error) => {
                let mut response = Response::new(Full::new(Bytes::new()).map_err(|e| match e {}).boxed());
                let headers = response.headers_mut();
                headers.insert("content-type", hyper::header::HeaderValue::from_static("application/grpc"));
                headers.insert("grpc-status", hyper::header::HeaderValue::from_static("14"));
                if let Ok(text) = format!("{error:#}").parse() {
                    headers.insert("grpc-message", text);
                }
                response
            }
        }
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        mut sender: client::SendRequest<Body>,
    ) -> Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        // A client's authority may be the socket's path.
        parts.uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path.as_str()).build()?;
        let Some(&(call, message)) = RECORDED.iter().find(|(call, _)| *call == path) else {
            let response = sender.send_request(Request::from_parts(parts, body.boxed())).await?;
            return Ok(response.map(BodyExt::boxed));
        };
        let body = body.collect().await?.to_bytes();
        let request = self.decode(message, &body)?;
        let method = call.rsplit('/').next().unwrap_or(call);
        let whole = Full::new(body).map_err(|e| match e {}).boxed();
        if method != "CreateContainer" {
            self.record(method, request);
            let response = sender.send_request(Request::from_parts(parts, whole)).await?;
            return Ok(response.map(BodyExt::boxed));
        }
        let response = sender.send_request(Request::from_parts(parts, whole)).await?;
        let (head, body) = response.into_parts();
        let answer = body.collect().await?;
        let trailers = answer.trailers().cloned().map(Ok);
        let answer = answer.to_bytes();
        // A refusal has no message.
        let made = self.decode("CreateContainerResponse", &answer).unwrap_or_default();
        self.record_container(&request, text(&made, "/containerId"));
        self.record(method, request);
        let answer = Full::new(answer);
        // A refusal is headers alone, and must end with them.
        let body = match trailers {
            Some(trailers) => answer.with_trailers(std::future::ready(Some(trailers))).map_err(|e| match e {}).boxed(),
            None => answer.map_err(|e| match e {}).boxed(),
        };
        Ok(Response::from_parts(head, body))
    }

    /// The only message of a unary call's body, behind its five bytes of length.
    fn decode(&self, message: &str, body: &Bytes) -> Result<Value> {
        let bytes = body.get(5..).context("no message")?;
        let descriptor = self.pool.get_message_by_name(&format!("runtime.v1.{message}")).context("no descriptor")?;
        Ok(serde_json::to_value(DynamicMessage::decode(descriptor, bytes)?)?)
    }

    fn record_container(&self, request: &Value, id: &str) {
        let uid = text(request, "/sandboxConfig/metadata/uid").to_owned();
        let name = text(request, "/config/metadata/name").to_owned();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A refused container has none, and nor has any other request.
        if !id.is_empty() {
            log.containers.insert(id.to_owned(), (uid, name));
        }
    }

    fn record(&self, method: &'static str, mut request: Value) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = ["/config/metadata/uid", "/sandboxConfig/metadata/uid"].map(|path| text(&request, path));
        let mut uid = uid.into_iter().find(|u| !u.is_empty()).unwrap_or_default().to_owned();
        if let Some((owner, name)) = log.containers.get(text(&request, "/containerId")) {
            uid = owner.clone();
            request["containerId"] = name.clone().into();
        }
        log.by_pod.entry(uid).or_default().push(Call { method, request });
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
