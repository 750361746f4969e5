//! Requests to the API server.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec};

use crate::{counters, histograms};

const SIZES: [f64; 11] =
    [64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
const SECONDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
const LABELS: &[&str] = &["verb", "host"];

static TOTAL: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of HTTP requests, partitioned by status code, method, and host.";
    counters("rest_client_requests_total", help, &["code", "method", "host"])
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Request latency in seconds. Broken down by verb, and host.";
    histograms("rest_client_request_duration_seconds", help, &SECONDS, LABELS)
});
static REQUEST_SIZE: LazyLock<HistogramVec> = LazyLock::new(|| {
    histograms("rest_client_request_size_bytes", "Request size in bytes. Broken down by verb and host.", &SIZES, LABELS)
});
static RESPONSE_SIZE: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Response size in bytes. Broken down by verb and host.";
    histograms("rest_client_response_size_bytes", help, &SIZES, LABELS)
});
static WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Client side rate limiter latency in seconds. Broken down by verb, and host.";
    histograms("rest_client_rate_limiter_duration_seconds", help, &SECONDS, LABELS)
});

/// The head of an answer came; `code` is its status, or `<error>` where none came.
pub fn answered(method: &str, host: &str, code: &str, took: Duration, request_bytes: usize) {
    TOTAL.with_label_values(&[code, method, host]).inc();
    DURATION.with_label_values(&[method, host]).observe(took.as_secs_f64());
    REQUEST_SIZE.with_label_values(&[method, host]).observe(request_bytes as f64);
}

pub fn received(method: &str, host: &str, bytes: usize) {
    RESPONSE_SIZE.with_label_values(&[method, host]).observe(bytes as f64);
}

/// A request waited for our own limit.
pub fn held_back(method: &str, host: &str, waited: Duration) {
    WAIT.with_label_values(&[method, host]).observe(waited.as_secs_f64());
}
