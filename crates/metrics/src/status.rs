//! What pod statuses tell, and how long changes take to reach the API server.

use std::sync::LazyLock;

use prometheus::{Histogram, IntCounterVec};

use crate::{counters, histogram};

pub static SYNC_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = [0.010, 0.050, 0.100, 0.500, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
    let help = "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.";
    histogram("kubelet_pod_status_sync_duration_seconds", help, &buckets)
});

pub static TERMINATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = ["container_type", "exit_code", "reason"];
    counters("kubelet_terminated_containers_total", "Cumulative number of container terminations.", &labels)
});
