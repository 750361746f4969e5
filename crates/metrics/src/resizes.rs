//! Pods that are resized in place: what is asked for, what waits, and how long it takes.

use std::{sync::LazyLock, time::Duration};

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use crate::{counters, histograms, int_gauge, int_gauges};

static REQUESTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.";
    counters("kubelet_container_requested_resizes_total", help, &["resource", "requirement", "operation"])
});

static PENDING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Number of pending resizes for pods. Label 'priority_bucket' classifies the pod priority (system-critical: >=2000000000, high: 100000..1999999999, medium: 1..99999, normal: 0/default, low: -999..-1, very-low: <=-1000, unknown: nil pod). Label 'reason' describes the state (deferred, infeasible).";
    int_gauges("kubelet_pod_pending_resizes", help, &["reason", "priority_bucket"])
});

static INFEASIBLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("kubelet_pod_infeasible_resizes_total", "Number of infeasible resizes for pods.", &["reason_detail"])
});

static IN_PROGRESS: LazyLock<IntGauge> =
    LazyLock::new(|| int_gauge("kubelet_pod_in_progress_resizes", "Number of in-progress resizes for pods."));

pub(crate) fn show() {
    LazyLock::force(&IN_PROGRESS);
}

static DEFERRED_ACCEPTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of resizes that were accepted after being deferred.";
    counters("kubelet_pod_deferred_accepted_resizes_total", help, &["retry_trigger"])
});

static DEFERRED_FOR: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets =
        [5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
    let help = "Duration in seconds that a pod resize remains deferred before completion. Label 'priority_bucket' classifies the pod priority (system-critical: >=2000000000, high: 100000..1999999999, medium: 1..99999, normal: 0/default, low: -999..-1, very-low: <=-1000, unknown: nil pod). Label 'resolution' describes how the deferred resize was resolved (accepted, reverted, terminated).";
    histograms("kubelet_pod_deferred_resize_duration_seconds", help, &buckets, &["resolution", "priority_bucket"])
});

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = [10.0, 50.0, 100.0, 500.0, 1e3, 2e3, 5e3, 10e3, 20e3, 30e3, 60e3, 120e3, 300e3, 600e3];
    let help = "Duration in milliseconds to actuate a pod resize";
    histograms("kubelet_pod_resize_duration_milliseconds", help, &buckets, &["success"])
});

/// A container is to have another amount of one resource.
pub fn requested(resource: &str, requirement: &str, operation: &str) {
    REQUESTED.with_label_values(&[resource, requirement, operation]).inc();
}

/// All resizes that wait: reason and bucket of priority of each.
pub fn pending<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) {
    PENDING.reset();
    for (reason, priority) in all {
        PENDING.with_label_values(&[reason, priority]).inc();
    }
}

pub fn infeasible(detail: &str) {
    INFEASIBLE.with_label_values(&[detail]).inc();
}

pub fn accepted_after_deferral(trigger: &str) {
    DEFERRED_ACCEPTED.with_label_values(&[trigger]).inc();
}

/// A deferred resize waits no more: it was `accepted`, `reverted`, or its pod `terminated`.
pub fn deferred_for(time: Duration, resolution: &str, priority: &str) {
    DEFERRED_FOR.with_label_values(&[resolution, priority]).observe(time.as_secs_f64());
}

pub fn actuated(time: Duration, success: bool) {
    DURATION.with_label_values(&[if success { "true" } else { "false" }]).observe(time.as_secs_f64() * 1000.0);
}

/// One resize under way, counted for as long as this lives.
#[derive(Debug)]
pub struct InProgress(());

impl InProgress {
    pub fn begun() -> Self {
        IN_PROGRESS.inc();
        Self(())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        IN_PROGRESS.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather;

    #[test]
    fn what_waits_is_counted_anew_each_time() {
        pending([("deferred", "normal"), ("deferred", "normal"), ("infeasible", "high")].into_iter());
        assert!(gather().contains("kubelet_pod_pending_resizes{priority_bucket=\"normal\",reason=\"deferred\"} 2"));
        pending([("infeasible", "high")].into_iter());
        assert!(!gather().contains("reason=\"deferred\""));
    }

    #[test]
    fn a_resize_is_in_progress_while_somebody_holds_it() {
        let resize = InProgress::begun();
        assert!(gather().contains("kubelet_pod_in_progress_resizes 1"));
        drop(resize);
        assert!(gather().contains("kubelet_pod_in_progress_resizes 0"));
    }
}
