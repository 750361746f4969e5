//! The handle of the API server: deadlines, budgets, retries of what the server asks to retry, and reload.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use host::Clock;
use http::Request;
use kube::client::Body;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    ApiError, Reachability,
    body::{self, Lines},
    budget::{Budget, Budgets},
    connection::{Connections, Credentials, Identity, Origin, WatchClient},
    reachability::ReachabilityCell,
    request::Call,
};

/// After this many answers "too many requests" the caller gets to see one.
const RETRIES_ON_REQUEST: u32 = 4;

#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// kubeAPIQPS and kubeAPIBurst: of each budget (pod status, tokens, reads). Zero or less: unlimited.
    pub qps: f64,
    pub burst: u32,
    /// eventRecordQPS and eventBurst.
    pub event_qps: f64,
    pub event_burst: u32,
    /// Of every request that isn't a watch.
    pub request_timeout: Duration,
    /// Of leases and node status.
    pub heartbeat_timeout: Duration,
    pub user_agent: String,
    /// rotateCertificates: goes before the kubeconfig's user.
    pub identity: Option<Identity>,
    /// The node has no identity yet: calls wait until `identity` names a file.
    pub awaits_identity: bool,
}

impl ClientOptions {
    /// `identified`: whether there has been an identity before.
    fn credentials(&self, identified: bool) -> Credentials {
        match self.identity.as_ref().and_then(Identity::file) {
            Some(pair) => Credentials::Pair(pair),
            None if self.awaits_identity && !identified => Credentials::ToCome,
            None => Credentials::OfKubeconfig,
        }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            qps: 50.0,
            burst: 100,
            event_qps: 50.0,
            event_burst: 100,
            request_timeout: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(10),
            user_agent: "kubelet/v1.37.2 (linux/amd64) ferrolet/0.1.0".to_owned(),
            identity: None,
            awaits_identity: false,
        }
    }
}

/// Cheap to clone; all clones share connections, budgets and what is known of the server's health.
#[derive(Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

struct Shared {
    kubeconfig: Option<PathBuf>,
    options: ClientOptions,
    connections: ArcSwap<Connections>,
    /// Counts reloads: watches reopen on it, so that no connection outlives its credentials for long.
    generation: watch::Sender<u64>,
    /// False until the first identity has come, where that is awaited.
    identified: watch::Sender<bool>,
    budgets: Budgets,
    reachability: ReachabilityCell,
    clock: Clock,
    files: tokio::sync::Mutex<Fingerprint>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("kubeconfig", &self.shared.kubeconfig).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Reads the kubeconfig and the files it names. Doesn't connect: the server may be started by this very agent.
    pub async fn from_kubeconfig(path: impl AsRef<Path>, options: ClientOptions) -> Result<Self, ApiError> {
        let path = path.as_ref();
        let credentials = options.credentials(false);
        let files = Fingerprint::of(path, &credentials).await;
        let origin = Origin::from_kubeconfig(path, &options.user_agent, &credentials).await?;
        let identified = !matches!(credentials, Credentials::ToCome);
        Self::new(Some(path.to_owned()), origin, files, options, identified)
    }

    /// Talks to a service in this process. Needs a tokio runtime around it.
    pub fn from_service<S, B>(service: S, options: ClientOptions) -> Self
    where
        S: tower::Service<Request<Body>, Response = http::Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<tower::BoxError>,
        B: http_body_util::BodyExt<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let origin = Origin::Fixed(kube::Client::new(service, "default"));
        let files = Fingerprint::default();
        let identified = !options.awaits_identity;
        Self::new(None, origin, files, options, identified).expect("a service that is there needs no credentials")
    }

    fn new(
        kubeconfig: Option<PathBuf>,
        origin: Origin,
        files: Fingerprint,
        options: ClientOptions,
        identified: bool,
    ) -> Result<Self, ApiError> {
        let budgets = Budgets::new(options.qps, options.burst, options.event_qps, options.event_burst);
        let connections = ArcSwap::from_pointee(Connections::new(origin)?);
        let generation = watch::Sender::new(0);
        let clock = Clock::start();
        let reachability = ReachabilityCell::new(clock);
        let files = tokio::sync::Mutex::new(files);
        let identified = watch::Sender::new(identified);
        let shared =
            Shared { kubeconfig, options, connections, generation, identified, budgets, reachability, clock, files };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads kubeconfig, certificates and keys again and goes on over new connections. On an error the old ones stay.
    pub async fn reload(&self) -> Result<(), ApiError> {
        let Some(path) = &self.shared.kubeconfig else { return Ok(()) };
        let mut files = self.shared.files.lock().await;
        let credentials = self.credentials();
        let found = Fingerprint::of(path, &credentials).await;
        self.reconnect(path, &credentials).await?;
        *files = found;
        Ok(())
    }

    /// Reloads when one of the files has other contents than at the last load; says whether it did.
    pub async fn reload_if_changed(&self) -> Result<bool, ApiError> {
        let Some(path) = &self.shared.kubeconfig else { return Ok(false) };
        let mut files = self.shared.files.lock().await;
        let credentials = self.credentials();
        let found = Fingerprint::of(path, &credentials).await;
        if found == *files {
            return Ok(false);
        }
        // What could not be loaded is tried again.
        self.reconnect(path, &credentials).await?;
        *files = found;
        Ok(true)
    }

    fn credentials(&self) -> Credentials {
        self.shared.options.credentials(*self.shared.identified.borrow())
    }

    async fn reconnect(&self, path: &Path, credentials: &Credentials) -> Result<(), ApiError> {
        let origin = Origin::from_kubeconfig(path, &self.shared.options.user_agent, credentials).await?;
        self.shared.connections.store(Arc::new(Connections::new(origin)?));
        if !matches!(credentials, Credentials::ToCome) {
            self.identity_came();
        }
        self.shared.generation.send_modify(|n| *n += 1);
        tracing::info!(path = %path.display(), "API client reloaded");
        Ok(())
    }

    /// The server's address with its port, as the kubeconfig has it.
    pub fn address(&self) -> String {
        self.shared.connections.load().host.clone()
    }

    /// Whether the node's first identity is still to come; every call but a review waits for it then.
    pub fn awaits_identity(&self) -> bool {
        !*self.shared.identified.borrow()
    }

    /// Until there is one. For what makes a call's content, so that it is of the time of the call.
    pub async fn identified(&self) {
        if self.awaits_identity() {
            let _ = self.shared.identified.subscribe().wait_for(|there| *there).await;
        }
    }

    pub(crate) fn identity_came(&self) {
        self.shared.identified.send_if_modified(|there| !std::mem::replace(there, true));
    }

    /// What the last request found out about the server.
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        self.shared.reachability.subscribe()
    }

    pub(crate) fn reloads(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        self.shared.options.heartbeat_timeout
    }

    /// Sends a call and decodes its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, ApiError> {
        let body = self.ask_raw(&call).await?;
        serde_json::from_slice(&body).map_err(|e| ApiError::decode(call.operation, &call.object, &e))
    }

    /// Sends a call whose answer matters only by being one.
    pub(crate) async fn tell(&self, call: Call) -> Result<(), ApiError> {
        self.ask_raw(&call).await.map(drop)
    }

    /// The deadline covers the waits that the server asks for, but not those for our own identity and budget.
    pub(crate) async fn ask_raw(&self, call: &Call) -> Result<Vec<u8>, ApiError> {
        self.identified().await;
        let asked = self.shared.clock.mono();
        self.shared.budgets.take(call.budget).await;
        let waited = self.shared.clock.mono().since(asked);
        metrics::rest_client::held_back(call.method(), &self.shared.connections.load().host, waited);
        let limit = call.deadline.unwrap_or(self.shared.options.request_timeout);
        let answer = tokio::time::timeout(limit, self.ask_patiently(call)).await;
        let late = || ApiError::Deadline { operation: call.operation, object: call.object.clone(), limit };
        let result = answer.unwrap_or_else(|_| Err(late()));
        self.note(&result);
        if matches!(&result, Err(e) if e.is_unauthorized()) && matches!(self.reload_if_changed().await, Ok(true)) {
            return tokio::time::timeout(limit, self.ask_once(call)).await.unwrap_or_else(|_| Err(late()));
        }
        result
    }

    /// Repeats a call that the server put off: it has not begun to serve it then.
    async fn ask_patiently(&self, call: &Call) -> Result<Vec<u8>, ApiError> {
        let mut tries = 0;
        loop {
            let result = self.ask_once(call).await;
            let wait = result.as_ref().err().and_then(|e| e.refusal()).and_then(|r| r.retry_after);
            match wait {
                Some(wait) if tries < RETRIES_ON_REQUEST => tokio::time::sleep(wait).await,
                _ => return result,
            }
            tries += 1;
        }
    }

    async fn ask_once(&self, call: &Call) -> Result<Vec<u8>, ApiError> {
        let connections = self.shared.connections.load_full();
        let heartbeat = call.budget == Budget::Heartbeat;
        let client = if heartbeat { &connections.heartbeats } else { &connections.requests };
        let body = self.send(client, &connections.host, call).await?;
        let whole = body::whole(call, body).await?;
        metrics::rest_client::received(call.method(), &connections.host, whole.len());
        Ok(whole)
    }

    /// Opens a watch; its deadline is for the answer's head only.
    pub(crate) async fn open_watch(&self, call: Call) -> Result<WatchStream, ApiError> {
        self.identified().await;
        let connections = self.shared.connections.load_full();
        let place = connections.for_watch()?;
        let limit = self.shared.options.request_timeout;
        let late = || ApiError::Deadline { operation: call.operation, object: call.object.clone(), limit };
        let opened = tokio::time::timeout(limit, self.send(&place.client, &connections.host, &call))
            .await
            .unwrap_or_else(|_| Err(late()));
        self.note(&opened);
        if matches!(&opened, Err(e) if e.is_unauthorized())
            && let Err(error) = self.reload_if_changed().await
        {
            tracing::warn!(%error, "credentials were refused and can't be reloaded");
        }
        Ok(WatchStream { lines: Lines::new(opened?), call, _place: place })
    }

    async fn send(&self, client: &kube::Client, host: &str, call: &Call) -> Result<Body, ApiError> {
        let begun = self.shared.clock.mono();
        let answer = send(client, call).await;
        let took = self.shared.clock.mono().since(begun);
        let code = match &answer {
            Ok((status, _)) => status.as_u16().to_string(),
            Err(_) => "<error>".to_owned(),
        };
        metrics::rest_client::answered(call.method(), host, &code, took, call.size());
        body::accepted(call, answer?.1).await
    }

    fn note<T>(&self, result: &Result<T, ApiError>) {
        match result {
            Err(error) if error.is_unreachable() => self.shared.reachability.failed(error),
            _ => self.shared.reachability.answered(),
        }
    }
}

async fn send(client: &kube::Client, call: &Call) -> Result<(http::StatusCode, http::Response<Body>), ApiError> {
    let mut request = call.request()?.map(Body::from);
    let span = traced(&mut request);
    let response = client.send(request).await.map_err(|source| ApiError::Unreachable {
        operation: call.operation,
        object: call.object.clone(),
        source: Arc::new(source),
    });
    match &response {
        Ok(response) if span.is_recording() => {
            let status = response.status();
            span.attribute("http.response.status_code", i64::from(status.as_u16()));
            if status.is_client_error() || status.is_server_error() {
                span.fail("");
            }
        }
        Ok(_) => {}
        Err(error) => span.fail(&error.to_string()),
    }
    response.map(|response| (response.status(), response))
}

/// The span of a request, as otelhttp has it; the server is told of it.
fn traced(request: &mut Request<Body>) -> trace::Span {
    const SCOPE: &str = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp";
    if !trace::is_on() {
        return trace::Span::default();
    }
    let span = trace::span(SCOPE, format!("HTTP {}", request.method()), trace::Kind::Client);
    if let Some(context) = span.context()
        && let Ok(value) = http::HeaderValue::from_str(&context.traceparent())
    {
        request.headers_mut().insert(trace::TRACEPARENT, value);
    }
    if span.is_recording() {
        span.attribute("http.request.method", request.method().as_str());
        span.attribute("url.path", request.uri().path());
    }
    span
}

/// An open watch: lines of JSON.
pub(crate) struct WatchStream {
    lines: Lines,
    call: Call,
    _place: WatchClient,
}

impl WatchStream {
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        self.lines.next(&self.call).await
    }
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }
}

/// A hash of the kubeconfig, of the files it names and of the pair that goes before them.
#[derive(Default, PartialEq, Eq)]
struct Fingerprint(u64);

impl Fingerprint {
    async fn of(kubeconfig: &Path, credentials: &Credentials) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        let pair = credentials.file().map(Path::to_owned);
        for path in std::iter::once(kubeconfig.to_owned()).chain(named_files(kubeconfig)).chain(pair) {
            tokio::fs::read(&path).await.ok().hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

fn named_files(kubeconfig: &Path) -> Vec<PathBuf> {
    let Ok(parsed) = kube::config::Kubeconfig::read_from(kubeconfig) else { return Vec::new() };
    let users = parsed.auth_infos.into_iter().filter_map(|u| u.auth_info);
    let of_users = users.flat_map(|u| [u.client_certificate, u.client_key]);
    let of_clusters = parsed.clusters.into_iter().filter_map(|c| c.cluster).map(|c| c.certificate_authority);
    of_users.chain(of_clusters).flatten().map(PathBuf::from).collect()
}
