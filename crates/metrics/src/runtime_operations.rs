//! Calls to the container runtime.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec, exponential_buckets};

use crate::{counters, histograms};

const LABELS: [&str; 1] = ["operation_type"];

static TOTAL: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", &LABELS)
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "kubelet_runtime_operations_errors_total",
        "Cumulative number of runtime operation errors by operation type.",
        &LABELS,
    )
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    histograms(
        "kubelet_runtime_operations_duration_seconds",
        "Duration in seconds of runtime operations. Broken down by operation type.",
        &exponential_buckets(0.005, 2.5, 14).expect("positive start and factor"),
        &LABELS,
    )
});

/// Records one finished call.
pub fn observe(operation: &str, took: Duration, succeeded: bool) {
    let labels = [operation];
    TOTAL.with_label_values(&labels).inc();
    DURATION.with_label_values(&labels).observe(took.as_secs_f64());
    if !succeeded {
        ERRORS.with_label_values(&labels).inc();
    }
}
