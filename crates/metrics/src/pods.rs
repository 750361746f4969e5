//! What becomes of pods between source and runtime.

use std::{sync::LazyLock, time::Duration};

use prometheus::{Histogram, IntCounter, IntCounterVec};

use crate::{counter, counters, histogram};

const STARTUP: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];

static START: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    histogram("kubelet_pod_start_duration_seconds", help, &STARTUP)
});
static CONTAINERS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "The number of containers per pod.";
    histogram("kubelet_containers_per_pod_count", help, &[1.0, 2.0, 4.0, 8.0, 16.0])
});
static ORPHANED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    counter("kubelet_orphaned_runtime_pods_total", help)
});
static RESTARTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)";
    counters("kubelet_restarted_pods_total", help, &["static"])
});

pub(crate) fn show() {
    LazyLock::force(&START);
    LazyLock::force(&CONTAINERS);
    LazyLock::force(&ORPHANED);
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

pub fn orphaned() {
    ORPHANED.inc();
}

/// Of the same UID as one that had to end first.
pub fn restarted(is_static: bool) {
    RESTARTED.with_label_values(&[if is_static { "true" } else { "" }]).inc();
}
