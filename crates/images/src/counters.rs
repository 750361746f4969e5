//! This crate's metrics.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

static ENSURE_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of ensure-image requests processed by the kubelet.";
    let labels = ["pull_policy", "present_locally", "pull_required"];
    metrics::counters("kubelet_image_manager_ensure_image_requests_total", help, &labels)
});
static PULL_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = [
        1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
        2700.0, 3600.0,
    ];
    let help = "Duration in seconds to pull an image.";
    metrics::histograms("kubelet_image_pull_duration_seconds", help, &buckets, &["image_size_in_bytes"])
});
pub(crate) static COLLECTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    metrics::counters("kubelet_image_garbage_collected_total", help, &["reason"])
});

pub(crate) static INTENTS: LazyLock<IntGauge> = LazyLock::new(|| {
    metrics::int_gauge("kubelet_imagemanager_ondisk_pullintents", "Number of ImagePullIntents stored on disk.")
});
pub(crate) static RECORDS: LazyLock<IntGauge> = LazyLock::new(|| {
    metrics::int_gauge("kubelet_imagemanager_ondisk_pulledrecords", "Number of ImagePulledRecords stored on disk.")
});
static MUST_PULL_CHECKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help =
        "Counter for how many times kubelet checked whether credentials need to be re-verified to access an image";
    metrics::counters("kubelet_imagemanager_image_mustpull_checks_total", help, &["result"])
});

/// Why a pod may use a present image, or may not without a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    AllowedByPolicy,
    RecordFound,
    MustAuthenticate,
    Error,
}

pub(crate) fn checked(result: Checked) {
    let label = match result {
        Checked::AllowedByPolicy => "credentialPolicyAllowed",
        Checked::RecordFound => "credentialRecordFound",
        Checked::MustAuthenticate => "mustAuthenticate",
        Checked::Error => "error",
    };
    MUST_PULL_CHECKS.with_label_values(&[label]).inc();
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Largest first: a size is in the first bucket whose bound it exceeds.
const SIZES: [(u64, &str); 12] = [
    (100 * GIB, "GT100GB"),
    (60 * GIB, "60GB-100GB"),
    (40 * GIB, "40GB-60GB"),
    (30 * GIB, "30GB-40GB"),
    (20 * GIB, "20GB-30GB"),
    (10 * GIB, "10GB-20GB"),
    (5 * GIB, "5GB-10GB"),
    (GIB, "1GB-5GB"),
    (500 * MIB, "500MB-1GB"),
    (100 * MIB, "100MB-500MB"),
    (10 * MIB, "10MB-100MB"),
    (0, "0-10MB"),
];

pub(crate) fn pulled(size: u64, took: Duration) {
    let bucket = SIZES.iter().find(|(bound, _)| size > *bound).map_or("N/A", |(_, label)| *label);
    PULL_DURATION.with_label_values(&[bucket]).observe(took.as_secs_f64());
}

/// Counted when the request ends, however it does.
pub(crate) struct EnsureRequest {
    policy: String,
    pub present: Option<bool>,
    pub pull_required: Option<bool>,
}

impl EnsureRequest {
    pub fn new(policy: &str) -> Self {
        Self { policy: policy.to_lowercase(), present: None, pull_required: None }
    }
}

impl Drop for EnsureRequest {
    fn drop(&mut self) {
        let text = |known: Option<bool>| match known {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        ENSURE_REQUESTS.with_label_values(&[&self.policy, text(self.present), text(self.pull_required)]).inc();
    }
}
