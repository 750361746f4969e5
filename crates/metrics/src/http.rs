//! The kubelet's HTTP servers.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::{DEFAULT_BUCKETS, counters, histograms, int_gauges};

const LABELS: &[&str] = &["method", "path", "server_type", "long_running"];

pub static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("kubelet_http_requests_total", "Number of the http requests received since the server started", LABELS)
});
pub static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds to serve http requests";
    histograms("kubelet_http_requests_duration_seconds", help, &DEFAULT_BUCKETS, LABELS)
});
pub static INFLIGHT: LazyLock<IntGaugeVec> =
    LazyLock::new(|| int_gauges("kubelet_http_inflight_requests", "Number of the inflight http requests", LABELS));
/// Exec, attach and port-forward that came as websockets and were translated here.
pub static WEBSOCKET_STREAMING: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number of WebSocket streaming requests (exec/attach/portforward) received by the kubelet.";
    counters("kubelet_websocket_streaming_requests_total", help, &["subresource"])
});

/// A request being served. It ends when this is dropped: also when the client has gone away.
pub struct Request<T: Fn() -> Duration> {
    labels: [&'static str; 4],
    took: T,
}

impl<T: Fn() -> Duration> Request<T> {
    /// `took` is asked at the end.
    pub fn begun(
        method: &'static str,
        path: &'static str,
        server_type: &'static str,
        long_running: bool,
        took: T,
    ) -> Self {
        let labels = [method, path, server_type, if long_running { "true" } else { "false" }];
        REQUESTS.with_label_values(&labels).inc();
        INFLIGHT.with_label_values(&labels).inc();
        Self { labels, took }
    }
}

impl<T: Fn() -> Duration> Drop for Request<T> {
    fn drop(&mut self) {
        DURATION.with_label_values(&self.labels).observe((self.took)().as_secs_f64());
        INFLIGHT.with_label_values(&self.labels).dec();
    }
}
