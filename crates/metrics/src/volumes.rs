//! What is done with volumes.

use std::{sync::LazyLock, time::Duration};

use prometheus::HistogramVec;

use crate::histograms;

const BUCKETS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

static OPERATIONS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let labels = ["volume_plugin", "operation_name", "status", "migrated"];
    histograms("storage_operation_duration_seconds", "Storage operation duration", &BUCKETS, &labels)
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Mount,
    Unmount,
}

/// Of one volume.
pub fn done(operation: Operation, plugin: &str, succeeded: bool, took: Duration) {
    let name = match operation {
        Operation::Mount => "volume_mount",
        Operation::Unmount => "volume_unmount",
    };
    let status = if succeeded { "success" } else { "fail-unknown" };
    OPERATIONS.with_label_values(&[plugin, name, status, "false"]).observe(took.as_secs_f64());
}
