//! Probe results, which the server shows apart from the rest on /metrics/probes. A container's series go with it.

use std::sync::LazyLock;

use prometheus::IntCounterVec;

use crate::counters;

const LABELS: [&str; 6] = ["probe_type", "result", "container", "pod", "namespace", "pod_uid"];
const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

static TOTAL: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of a liveness, readiness or startup probe for a container by result.";
    counters("prober_probe_total", help, &LABELS)
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
}

/// `result` is `successful`, `failed` or `unknown`.
pub fn count(labels: &Labels, result: &str) {
    TOTAL.with_label_values(&labels.with(result)).inc();
}

pub fn forget(labels: &Labels) {
    for result in RESULTS {
        // Series that never were cannot be removed, and need not.
        let _ = TOTAL.remove_label_values(&labels.with(result));
    }
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
        assert!(gather().contains("prober_probe_total{"));
        forget(&labels);
        assert!(!gather().contains("prober_probe_total{"));
    }
}
