//! One request: route, authenticate, authorize, stay within limits, hand over to its endpoint, count.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, request::Parts};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ServerConfig, ServerDeps,
    authn::User,
    authz::Verdict,
    debug, healthz, logs, node_logs, pods,
    reply::{self, Reply},
    routes::{self, Endpoint, Params, Reach, Route},
    spans, stats, stream, zpages,
};

/// Who is at the other end of a connection.
pub struct Peer {
    pub address: SocketAddr,
    pub certificates: Vec<CertificateDer<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Main,
    ReadOnly,
    Healthz,
}

/// What every endpoint may use.
pub struct Context {
    pub deps: ServerDeps,
    pub config: ServerConfig,
    pub stats: stats::Stats,
    pub started: pod::Mono,
    /// Ends upgraded connections and logs.
    pub stop: CancellationToken,
    /// Owns the tasks of upgraded connections.
    pub tasks: TaskTracker,
    pub streams: Arc<Semaphore>,
    pub checkpoints: Semaphore,
}

/// A request on its way to an endpoint.
pub struct Call {
    pub head: Parts,
    pub body: Incoming,
    pub params: Params,
    pub peer: SocketAddr,
    pub counted: Counted,
}

/// The request in the metrics: it lasts for as long as somebody holds this, be it the reply's body or what joins an
/// upgraded connection.
pub type Counted = Arc<dyn Send + Sync>;

impl Call {
    pub fn query(&self) -> crate::query::Query {
        crate::query::Query::parse(self.head.uri.query())
    }

    /// The pod that the path names.
    pub fn key(&self) -> pod::PodKey {
        pod::PodKey::new(self.params.get("namespace"), self.params.get("pod"))
    }
}

pub struct Dispatcher {
    context: Arc<Context>,
    node: Arc<str>,
    short: Semaphore,
}

impl Dispatcher {
    pub fn new(deps: ServerDeps, config: ServerConfig, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let limits = config.limits;
        let node = Arc::from(config.node_name.as_str());
        let streams = Arc::new(Semaphore::new(limits.streams));
        let stats = stats::Stats::default();
        // Checkpoints fill the disk: one at a time (CVE-2025-0426).
        let checkpoints = Semaphore::new(1);
        let started = deps.clock.mono();
        let context = Context { deps, config, stats, started, stop, tasks, streams, checkpoints };
        Self { context: Arc::new(context), node, short: Semaphore::new(limits.short_requests) }
    }

    pub async fn handle(&self, request: Request<Incoming>, peer: &Peer, port: Port) -> Reply {
        if port == Port::Healthz {
            return self.healthz_port(&request);
        }
        let path = routes::metric_path(request.uri().path());
        let long_running = matches!(path, "exec" | "attach" | "debug");
        let server = if port == Port::Main { "readwrite" } else { "readonly" };
        let clock = self.context.deps.clock;
        let begun = clock.mono();
        let took = move || clock.mono().since(begun);
        let method = method_label(request.method());
        let counted: Counted = Arc::new(metrics::http::Request::begun(method, path, server, long_running, took));
        let reply = self.serve(request, peer, port, &counted).await;
        reply.map(|body| reply::holding(body, counted))
    }

    /// How long its client may take nothing of that reply.
    pub fn patience(&self, reply: &Reply) -> Duration {
        let limits = self.context.config.limits;
        match reply.extensions().get::<reply::Streamed>() {
            Some(_) => limits.stalled_log_time,
            None => limits.short_request_time,
        }
    }

    /// 10248 says that the agent lives, by any method, and nothing else: who restarts an agent that is not well there
    /// must not do so whenever the runtime is away.
    fn healthz_port(&self, request: &Request<Incoming>) -> Reply {
        match request.uri().path() {
            "/healthz" | "/healthz/ping" => healthz::one(&self.context, "ping"),
            _ => reply::not_found(),
        }
    }

    async fn serve(&self, request: Request<Incoming>, peer: &Peer, port: Port, counted: &Counted) -> Reply {
        let found = routes::find(request.uri().path());
        if port == Port::Main {
            let route = found.as_ref().map(|(route, _)| *route);
            if let Err(refusal) = self.admit(&request, peer, route).await {
                return refusal;
            }
        }
        let Some((route, params)) = found else { return self.nothing_there(request.uri().path(), port) };
        if let Err(refusal) = self.offered(route, port) {
            return refusal;
        }
        if !route.methods.contains(&request.method().as_str()) {
            return reply::method_not_allowed(route.methods);
        }
        let (head, body) = request.into_parts();
        let call = Call { head, body, params, peer: peer.address, counted: counted.clone() };
        let span = spans::begin(route, &call);
        let reply = span.cover(self.hand_over(route.endpoint, call)).await;
        spans::end(&span, &reply);
        reply
    }

    async fn hand_over(&self, endpoint: Endpoint, call: Call) -> Reply {
        match endpoint {
            Endpoint::Exec | Endpoint::Attach | Endpoint::PortForward => {
                stream::handle(&self.context, endpoint, call).await
            }
            Endpoint::Run => stream::run(&self.context, call).await,
            Endpoint::Checkpoint => stream::checkpoint(&self.context, call).await,
            endpoint => self.short(endpoint, call).await,
        }
    }

    /// Authentication and authorization, by the path alone.
    async fn admit(&self, request: &Request<Incoming>, peer: &Peer, route: Option<&Route>) -> Result<(), Reply> {
        let deps = &self.context.deps;
        let Some(user) = deps.authenticator.who(&peer.certificates, request.headers()).await else {
            return Err(reply::text(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        let verb = routes::verb(route, request.method().as_str(), self.context.config.exec_by_get_asks_get);
        let subresources = routes::subresources(request.uri().path());
        match deps.authorizer.decide(&user, verb, &self.node, subresources).await {
            Verdict::Allowed => Ok(()),
            Verdict::Denied => Err(forbidden(&user, verb, subresources)),
            Verdict::Unknown { subresource, error } => {
                tracing::error!(error = error.chain(), verb, subresource, "authorization failed");
                let name = &user.name;
                let message = format!(
                    "Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource})"
                );
                Err(reply::text(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
        }
    }

    fn nothing_there(&self, path: &str, port: Port) -> Reply {
        let debugging = port == Port::Main && self.context.config.enable_debugging_handlers;
        if routes::is_debugging(path) && !debugging { debugging_disabled() } else { reply::not_found() }
    }

    /// Whether this port and configuration have the route at all.
    fn offered(&self, route: &Route, port: Port) -> Result<(), Reply> {
        if self.context.config.gated_off.contains(&route.endpoint) {
            return Err(reply::not_found());
        }
        let debugging = self.context.config.enable_debugging_handlers;
        match route.reach {
            Reach::Everywhere => Ok(()),
            Reach::Optional if port == Port::Main && debugging => Ok(()),
            Reach::Optional => Err(reply::not_found()),
            Reach::Debugging if port == Port::Main && debugging => Ok(()),
            Reach::Debugging => Err(debugging_disabled()),
        }
    }

    /// Endpoints that answer at once: bounded in number and time.
    async fn short(&self, endpoint: Endpoint, call: Call) -> Reply {
        let Ok(_slot) = self.short.try_acquire() else { return reply::too_many_requests() };
        let limit = self.context.config.limits.short_request_time;
        match tokio::time::timeout(limit, self.answer(endpoint, call)).await {
            Ok(reply) => reply,
            Err(_) => reply::text(StatusCode::GATEWAY_TIMEOUT, "the request took too long"),
        }
    }

    async fn answer(&self, endpoint: Endpoint, call: Call) -> Reply {
        let context = &self.context;
        match endpoint {
            Endpoint::Healthz => healthz::all(context, Some(&call.query())),
            Endpoint::HealthzCheck => healthz::one(context, call.params.get("check")),
            Endpoint::Pods => pods::desired(context),
            Endpoint::RunningPods => pods::running(context).await,
            Endpoint::ContainerLogs => logs::handle(context, call).await,
            Endpoint::Configz => reply::json(&serde_json::json!({ "kubeletconfig": (context.deps.configz)() })),
            Endpoint::Logs => node_logs::handle(context, call).await,
            Endpoint::Pprof => debug::pprof(context),
            Endpoint::DebugFlags => debug::verbosity(context, call).await,
            Endpoint::Statusz => zpages::statusz(context, &call.head),
            Endpoint::Flagz => zpages::flagz(context, &call.head),
            Endpoint::StatsSummary => stats::summary(context, call).await,
            Endpoint::MetricsCadvisor => stats::cadvisor(context, &call.head).await,
            Endpoint::MetricsResource => stats::resource(context, &call.head).await,
            Endpoint::Metrics => stats::own(context, &call.head, stats::Registry::Kubelet).await,
            Endpoint::MetricsProbes => stats::own(context, &call.head, stats::Registry::Probes).await,
            Endpoint::MetricsSlis => stats::own(context, &call.head, stats::Registry::Slis).await,
            Endpoint::Run | Endpoint::Exec | Endpoint::Attach | Endpoint::PortForward | Endpoint::Checkpoint => {
                reply::not_found()
            }
        }
    }
}

fn debugging_disabled() -> Reply {
    reply::text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n")
}

fn forbidden(user: &User, verb: &str, subresources: &[&str]) -> Reply {
    let message = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        subresources.join(" ")
    );
    tracing::info!(user = user.name, verb, ?subresources, "forbidden");
    reply::text(StatusCode::FORBIDDEN, message)
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "OPTIONS" => "OPTIONS",
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_names_user_verb_and_what_was_asked() {
        use http_body_util::BodyExt;
        let reply = forbidden(&User::anonymous(), "get", &["pods", "proxy"]);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let text = "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
        assert_eq!(body, text);
    }
}
