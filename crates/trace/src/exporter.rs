//! Sends spans to the collector, many at once.
//!
//! Reads: the queue of ended spans. Wakes on: the first span after a pause; then once, when the batch is full or old.

use std::{collections::BTreeMap, time::Duration};

use api_types::otlp::{
    self, AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    any_value, trace_service_client::TraceServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    BATCH, Config, Kind, Value,
    span::{Ended, Told},
};

const DEFAULT_ENDPOINT: &str = "localhost:4317";
/// A batch waits so long for more.
const AGE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// Tries of one batch, and the pause between them; the queue fills meanwhile.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("tracing endpoint {endpoint:?} can't be used: {detail}")]
    Endpoint { endpoint: String, detail: String },
}

pub struct Exporter {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    ended: mpsc::Receiver<Ended>,
}

impl Exporter {
    pub(crate) fn new(config: &Config, ended: mpsc::Receiver<Ended>) -> Result<Self, TraceError> {
        let attributes = [("service.name", "kubelet"), ("host.name", config.host_name.as_str())];
        let attributes = attributes.map(|(key, value)| attribute(key, Value::from(value))).into();
        let client = TraceServiceClient::new(channel(&config.endpoint)?);
        Ok(Self { client, resource: Resource { attributes }, ended })
    }

    /// Ends only with the process: spans are made as long as that runs.
    pub async fn run(mut self) {
        let mut reachable = true;
        while let Some(first) = self.ended.recv().await {
            let mut batch = vec![first];
            let due = Instant::now() + AGE;
            while batch.len() < BATCH {
                match timeout_at(due, self.ended.recv()).await {
                    Ok(Some(span)) => batch.push(span),
                    Ok(None) | Err(_) => break,
                }
            }
            let spans = batch.len();
            match self.send(batch).await {
                Ok(()) => reachable = true,
                Err(error) if reachable => {
                    reachable = false;
                    tracing::warn!(spans, error, "traces can't be exported and are dropped until they can");
                }
                Err(_) => {}
            }
        }
    }

    async fn send(&mut self, batch: Vec<Ended>) -> Result<(), String> {
        let request = request(self.resource.clone(), batch);
        let mut tries = 1;
        loop {
            let error = match timeout(DEADLINE, self.client.export(request.clone())).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => format!("{}: {}", status.code(), status.message()),
                Err(_) => format!("no answer from the collector within {DEADLINE:?}"),
            };
            if tries == TRIES {
                return Err(error);
            }
            tries += 1;
            sleep(PAUSE).await;
        }
    }
}

fn request(resource: Resource, batch: Vec<Ended>) -> ExportTraceServiceRequest {
    let mut scopes: BTreeMap<&str, Vec<otlp::Span>> = BTreeMap::new();
    for ended in batch {
        scopes.entry(ended.scope).or_default().push(span(ended));
    }
    let scope =
        |(name, spans): (&str, _)| ScopeSpans { scope: Some(InstrumentationScope { name: name.to_owned() }), spans };
    let scope_spans = scopes.into_iter().map(scope).collect();
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
}

fn span(ended: Ended) -> otlp::Span {
    let Told { attributes, errors, failed } = ended.told;
    let error = |(at, message): (u64, String)| otlp::span::Event {
        time_unix_nano: at,
        name: "exception".to_owned(),
        attributes: vec![attribute("exception.message", Value::Text(message))],
    };
    let link = |link: crate::Context| otlp::span::Link {
        trace_id: link.trace.to_be_bytes().into(),
        span_id: link.span.to_be_bytes().into(),
        flags: link.flags(),
    };
    let kind = match ended.kind {
        Kind::Internal => otlp::SpanKind::Internal,
        Kind::Server => otlp::SpanKind::Server,
        Kind::Client => otlp::SpanKind::Client,
    };
    otlp::Span {
        trace_id: ended.context.trace.to_be_bytes().into(),
        span_id: ended.context.span.to_be_bytes().into(),
        parent_span_id: ended.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
        name: ended.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: ended.begun_nanos,
        end_time_unix_nano: ended.ended_nanos,
        attributes: attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        events: errors.into_iter().map(error).collect(),
        links: ended.link.into_iter().map(link).collect(),
        status: failed.map(|message| otlp::Status { message, code: otlp::StatusCode::Error.into() }),
        flags: ended.context.flags(),
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Int(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// Connects at the first batch, and again after each loss. Never over TLS, as upstream.
fn channel(endpoint: &str) -> Result<Channel, TraceError> {
    let wrong = |detail: String| TraceError::Endpoint { endpoint: endpoint.to_owned(), detail };
    let target = match endpoint {
        "" => DEFAULT_ENDPOINT,
        given => given,
    };
    if let Some(path) = target.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path).to_owned();
        if !path.starts_with('/') {
            return Err(wrong("the socket's path is not absolute".to_owned()));
        }
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        return Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector));
    }
    if target.starts_with("unix-abstract:") {
        return Err(wrong("abstract sockets are not supported".to_owned()));
    }
    // dns:[//SERVER/]NAME: the system's resolver is the only one here.
    let name = target.strip_prefix("dns:").map_or(target, |rest| rest.rsplit('/').next().unwrap_or(rest));
    let uri = format!("http://{name}");
    let endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(error.to_string()))?;
    Ok(endpoint.connect_timeout(DEADLINE).connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_a_host_or_a_socket() {
        for good in
            ["", "localhost:4317", "dns:///collector:4317", "dns:collector:4317", "unix:///run/otlp.sock", "[::1]:4317"]
        {
            assert!(channel(good).is_ok(), "{good}");
        }
        for bad in ["unix:run/otlp.sock", "unix-abstract:otlp", "a b:1"] {
            assert!(channel(bad).is_err(), "{bad}");
        }
    }
}
