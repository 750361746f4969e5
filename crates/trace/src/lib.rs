//! OpenTelemetry spans, as upstream's KubeletTracing makes them, sent to a collector in batches.
//!
//! While tracing is not configured, a span is nothing: no allocation, no id, no queue, no task. Otherwise each piece of
//! work has its span; one in a sampled trace is recorded and, when it ends, put into a bounded queue, from which the
//! exporter's task takes them. A full queue drops spans: nobody ever waits for a collector.

mod context;
mod exporter;
mod span;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::OnceLock};

use host::Clock;
use tokio::sync::mpsc;

pub use context::{Context, TRACEPARENT, carry, current};
pub use exporter::{Exporter, TraceError};
pub use span::{Kind, SharedSpan, Span, Value};

use span::Ended;

/// Spans that wait to be sent, and how many go at once; as the SDK that upstream uses has it.
const QUEUE: usize = 2048;
const BATCH: usize = 512;

#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT`, `dns:///HOST:PORT` or `unix:///PATH`; empty is localhost:4317.
    pub endpoint: String,
    /// Of the traces that begin here; one that came with a request is sampled as its parent is.
    pub sampling_rate_per_million: u32,
    pub host_name: String,
}

/// Makes spans of one configuration.
#[derive(Debug)]
struct Tracer {
    clock: Clock,
    per_million: u32,
    queue: mpsc::Sender<Ended>,
}

/// As with logging, there is one for the process.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// From here on spans are made. What is returned sends them: its task is the caller's to own. Must be called inside a
/// tokio runtime.
pub fn start(config: &Config, clock: Clock) -> Result<Exporter, TraceError> {
    let (queue, ended) = mpsc::channel(QUEUE);
    let exporter = Exporter::new(config, ended)?;
    // A second start, in tests, changes nothing: the first one's exporter goes on.
    let _ = TRACER.set(Tracer { clock, per_million: config.sampling_rate_per_million, queue });
    Ok(exporter)
}

/// Whether it is worth to work out a span's name.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// A span below the current one, or the first of a trace. `scope`: the upstream package that makes such spans.
pub fn span(scope: &'static str, name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
    match TRACER.get() {
        Some(tracer) => Span::begin(tracer, scope, name.into(), kind, current()),
        None => Span::none(),
    }
}

/// The first span of a trace, whatever there is around it.
pub fn root(scope: &'static str, name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
    match TRACER.get() {
        Some(tracer) => Span::begin(tracer, scope, name.into(), kind, None),
        None => Span::none(),
    }
}
