//! What is done to cgroups, and how long it took. The clock is the library's: nothing is decided by
//! these times.

use std::sync::LazyLock;

use prometheus::{HistogramTimer, HistogramVec};

use crate::{DEFAULT_BUCKETS, histograms};

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds for cgroup manager operations. Broken down by method.";
    histograms("kubelet_cgroup_manager_duration_seconds", help, &DEFAULT_BUCKETS, &["operation_type"])
});

/// `create`, `update` or `destroy`; the time is taken when the answer is dropped.
pub fn operation(operation: &'static str) -> HistogramTimer {
    DURATION.with_label_values(&[operation]).start_timer()
}
