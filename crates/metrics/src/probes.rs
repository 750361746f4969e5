//! Probe results, which the server shows apart from the rest on /metrics/probes. A container's series go with it.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec};

use crate::{counters, histograms};

const LABELS: [&str; 6] = ["probe_type", "result", "container", "pod", "namespace", "pod_uid"];
const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

static TOTAL: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of a liveness, readiness or startup probe for a container by result.";
    counters("prober_probe_total", help, &LABELS)
});

const DURATION_LABELS: [&str; 4] = ["probe_type", "container", "pod", "namespace"];

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds for a probe response.";
    histograms("prober_probe_duration_seconds", help, prometheus::DEFAULT_BUCKETS, &DURATION_LABELS)
});

/// One probe of one container.
#[derive(Clone, Debug)]
pub struct Labels {
    pub probe_type: &'static str,
    pub container: String,
    pub pod: String,
    pub namespace: String,
    pub pod_uid: String,
}

impl Labels {
    fn with<'a>(&'a self, result: &'a str) -> [&'a str; 6] {
        [self.probe_type, result, &self.container, &self.pod, &self.namespace, &self.pod_uid]
    }

    fn of_duration(&self) -> [&str; 4] {
        [self.probe_type, &self.container, &self.pod, &self.namespace]
    }
}

/// `result` is `successful`, `failed` or `unknown`.
pub fn count(labels: &Labels, result: &str) {
    TOTAL.with_label_values(&labels.with(result)).inc();
}

/// How long an attempt took that did not fail.
pub fn observe(labels: &Labels, took: Duration) {
    DURATION.with_label_values(&labels.of_duration()).observe(took.as_secs_f64());
}

pub fn forget(labels: &Labels) {
    for result in RESULTS {
        // Series that never were cannot be removed, and need not.
        let _ = TOTAL.remove_label_values(&labels.with(result));
    }
    let _ = DURATION.remove_label_values(&labels.of_duration());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather;

    #[test]
    fn a_containers_series_go_with_it() {
        let labels = Labels {
            probe_type: "Liveness",
            container: "c".into(),
            pod: "p".into(),
            namespace: "n".into(),
            pod_uid: "u".into(),
        };
        count(&labels, "successful");
        observe(&labels, Duration::from_millis(3));
        assert!(gather().contains("prober_probe_total{"));
        assert!(gather().contains("prober_probe_duration_seconds_count{"));
        forget(&labels);
        assert!(!gather().contains("prober_probe_total{"));
        assert!(!gather().contains("prober_probe_duration_seconds_count{"));
    }
}
