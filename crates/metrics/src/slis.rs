//! Health checks as service level indicators (`/metrics/slis`).

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::{counters, int_gauges};

static HEALTHCHECK: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "[STABLE] This metric records the result of a single healthcheck.";
    int_gauges("kubernetes_healthcheck", help, &["name", "type"])
});
static HEALTHCHECKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[STABLE] This metric records the results of all healthcheck.";
    counters("kubernetes_healthchecks_total", help, &["name", "status", "type"])
});

/// The outcome of one check of `/healthz`.
pub fn health_checked(name: &str, passed: bool) {
    HEALTHCHECK.with_label_values(&[name, "healthz"]).set(i64::from(passed));
    HEALTHCHECKS.with_label_values(&[name, if passed { "success" } else { "error" }, "healthz"]).inc();
}
