//! What becomes of pods between source and runtime.

use std::{
    sync::{LazyLock, Once},
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::{counter, counters, gauge, histogram, int_gauge};

const STARTUP: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];

static START: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    histogram("kubelet_pod_start_duration_seconds", help, &STARTUP)
});
static START_TOTAL: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    histogram("kubelet_pod_start_total_duration_seconds", help, &STARTUP)
});
static START_SLI: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    histogram("kubelet_pod_start_sli_duration_seconds", help, &STARTUP)
});
static FIRST_WITH_NETWORK: LazyLock<Gauge> = LazyLock::new(|| {
    let help = "Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    gauge("kubelet_first_network_pod_start_sli_duration_seconds", help)
});
static CONTAINERS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "The number of containers per pod.";
    histogram("kubelet_containers_per_pod_count", help, &[1.0, 2.0, 4.0, 8.0, 16.0])
});
static ORPHANED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    counter("kubelet_orphaned_runtime_pods_total", help)
});
static ORPHANS_CLEANED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.";
    int_gauge("kubelet_orphan_pod_cleaned_volumes", help)
});
static ORPHANS_LEFT: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep.";
    int_gauge("kubelet_orphan_pod_cleaned_volumes_errors", help)
});
static RESTARTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)";
    counters("kubelet_restarted_pods_total", help, &["static"])
});

pub(crate) fn show() {
    LazyLock::force(&START);
    LazyLock::force(&FIRST_WITH_NETWORK);
    LazyLock::force(&CONTAINERS);
    LazyLock::force(&ORPHANED);
    swept(0, 0);
    for fixed in ["true", ""] {
        let _ = RESTARTED.with_label_values(&[fixed]);
    }
}

/// A pod that was not known came with so many containers.
pub fn admitted(containers: usize) {
    CONTAINERS.observe(containers as f64);
}

pub fn running(after: Duration) {
    START.observe(after.as_secs_f64());
}

/// The API says that all of the pod runs, so long after its object was made. `own`: less what the node is not answerable
/// for; None for a pod that keeps state, of which nothing is promised.
pub fn seen_running(total: Duration, own: Option<Duration>, has_network: bool) {
    static FIRST: Once = Once::new();
    START_TOTAL.observe(total.as_secs_f64());
    let Some(own) = own else { return };
    START_SLI.observe(own.as_secs_f64());
    if has_network {
        FIRST.call_once(|| FIRST_WITH_NETWORK.set(own.as_secs_f64()));
    }
}

pub fn orphaned() {
    ORPHANED.inc();
}

/// The directories of so many pods that nobody knows were found; so many of them could not be removed.
pub fn swept(found: usize, failed: usize) {
    ORPHANS_CLEANED.set(found as i64);
    ORPHANS_LEFT.set(failed as i64);
}

/// Of the same UID as one that had to end first.
pub fn restarted(is_static: bool) {
    RESTARTED.with_label_values(&[if is_static { "true" } else { "" }]).inc();
}
