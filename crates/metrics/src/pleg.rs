//! The pod lifecycle event generator: relists and the runtime's event stream.

use std::sync::LazyLock;

use prometheus::{Gauge, Histogram, IntCounter};

use crate::{DEFAULT_BUCKETS, counter, gauge, histogram};

pub static RELIST_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "kubelet_pleg_relist_duration_seconds",
        "Duration in seconds for relisting pods in PLEG.",
        &DEFAULT_BUCKETS,
    )
});
pub static RELIST_INTERVAL: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "kubelet_pleg_relist_interval_seconds",
        "Interval in seconds between relisting in PLEG.",
        &DEFAULT_BUCKETS,
    )
});
pub static POD_RELIST_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "kubelet_pleg_pod_relist_duration_seconds",
        "Duration in seconds for relisting a single pod in PLEG.",
        &DEFAULT_BUCKETS,
    )
});
pub static LAST_SEEN: LazyLock<Gauge> =
    LazyLock::new(|| gauge("kubelet_pleg_last_seen_seconds", "Timestamp in seconds when PLEG was last seen active."));
pub static DISCARD_EVENTS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("kubelet_pleg_discard_events", "The number of discard events in PLEG."));
pub static EVENT_LATENCY: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "The latency of streaming connection with the CRI runtime, measured in seconds.";
    histogram("kubelet_evented_pleg_connection_latency_seconds", help, &DEFAULT_BUCKETS)
});
pub static STREAM_OPENED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "kubelet_evented_pleg_connection_success_count",
        "The number of times a streaming client was obtained to receive CRI Events.",
    )
});
pub static STREAM_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "kubelet_evented_pleg_connection_error_count",
        "The number of errors encountered during the establishment of streaming connection with the CRI runtime.",
    )
});

pub(crate) fn show() {
    for duration in [&RELIST_DURATION, &RELIST_INTERVAL, &POD_RELIST_DURATION, &EVENT_LATENCY] {
        LazyLock::force(duration);
    }
    for count in [&DISCARD_EVENTS, &STREAM_OPENED, &STREAM_ERRORS] {
        LazyLock::force(count);
    }
    LazyLock::force(&LAST_SEEN);
}
