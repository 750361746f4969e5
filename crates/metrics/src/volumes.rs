//! What is done with volumes.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntGaugeVec};

use crate::{histograms, int_gauges};

const BUCKETS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

static OPERATIONS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let labels = ["volume_plugin", "operation_name", "status", "migrated"];
    histograms("storage_operation_duration_seconds", "Storage operation duration", &BUCKETS, &labels)
});

static WHOLE: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Storage operation end to end duration in seconds";
    histograms("volume_operation_total_seconds", help, &BUCKETS, &["plugin_name", "operation_name"])
});

static VOLUMES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    int_gauges("volume_manager_total_volumes", "Number of volumes in Volume Manager", &["plugin_name", "state"])
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Volumes of pods that are to run here.
    Desired,
    /// Volumes that are in place.
    Actual,
}

/// So many volumes of the plugin came, or (less than zero) went.
pub fn changed(world: World, plugin: &str, by: i64) {
    let state = match world {
        World::Desired => "desired_state_of_world",
        World::Actual => "actual_state_of_world",
    };
    VOLUMES.with_label_values(&[plugin, state]).add(by);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Mount,
    Unmount,
}

/// From the first wish for the volume to its being in place, with all tries.
pub fn in_place(plugin: &str, took: Duration) {
    WHOLE.with_label_values(&[plugin, "overall_volume_mount"]).observe(took.as_secs_f64());
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
