//! The span of a request, as upstream's filter for its REST routes has it. The port is open to many: a caller's trace is
//! linked, but does not decide what is sampled here.

use trace::{Context, Kind, Span, TRACEPARENT};

use crate::{
    dispatch::Call,
    reply::Reply,
    routes::{Endpoint, Route},
};

const SCOPE: &str = "go.opentelemetry.io/contrib/instrumentation/github.com/emicklei/go-restful/otelrestful";

pub fn begin(route: &Route, call: &Call) -> Span {
    // Upstream serves these beside its REST routes, and so without the filter.
    let plain = matches!(
        route.endpoint,
        Endpoint::Healthz
            | Endpoint::HealthzCheck
            | Endpoint::Metrics
            | Endpoint::MetricsCadvisor
            | Endpoint::MetricsResource
            | Endpoint::MetricsProbes
            | Endpoint::MetricsSlis
            | Endpoint::Configz
            | Endpoint::Statusz
            | Endpoint::Flagz
    );
    if plain || !trace::is_on() {
        return Span::default();
    }
    let mut span = trace::root(SCOPE, route.pattern, Kind::Server);
    if span.is_recording() {
        let header = call.head.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        span.link(header.and_then(Context::from_traceparent));
        span.attribute("server.address", "kubelet");
        span.attribute("http.request.method", call.head.method.as_str());
        span.attribute("http.route", route.pattern);
        span.attribute("url.path", call.head.uri.path());
        span.attribute("network.peer.address", call.peer.ip().to_string());
        span.attribute("network.peer.port", i64::from(call.peer.port()));
    }
    span
}

pub fn end(span: &Span, reply: &Reply) {
    if span.is_recording() {
        span.attribute("http.response.status_code", i64::from(reply.status().as_u16()));
        if reply.status().is_server_error() {
            span.fail("");
        }
    }
}
