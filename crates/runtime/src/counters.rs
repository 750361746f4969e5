//! This crate's metrics.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounter, IntCounterVec};

pub(crate) static STARTED_PODS: LazyLock<IntCounter> =
    LazyLock::new(|| metrics::counter("kubelet_started_pods_total", "Cumulative number of pods started"));
pub(crate) static STARTED_PODS_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods")
});
pub(crate) static STARTED_CONTAINERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of containers started";
    metrics::counters("kubelet_started_containers_total", help, &["container_type"])
});
pub(crate) static STARTED_CONTAINERS_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of errors when starting containers";
    metrics::counters("kubelet_started_containers_errors_total", help, &["container_type", "code"])
});
pub(crate) static RUN_SANDBOX_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.";
    let name = "kubelet_run_podsandbox_duration_seconds";
    metrics::histograms(name, help, &metrics::DEFAULT_BUCKETS, &["runtime_handler"])
});
pub(crate) static RUN_SANDBOX_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.";
    metrics::counters("kubelet_run_podsandbox_errors_total", help, &["runtime_handler"])
});
pub(crate) static HTTP_FALLBACKS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "The number of times lifecycle handlers successfully fell back to http from https.";
    metrics::counter("kubelet_lifecycle_handler_http_fallbacks_total", help)
});

/// So that these are shown before there is anything to count.
pub(crate) fn show() {
    LazyLock::force(&STARTED_PODS);
    LazyLock::force(&STARTED_PODS_ERRORS);
    LazyLock::force(&HTTP_FALLBACKS);
}
