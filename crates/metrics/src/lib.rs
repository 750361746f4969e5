//! Every metric of the agent, under the names that dashboards know from the upstream kubelet.
//!
//! One file per area. In it each series is a `LazyLock` static that registers itself at its first use:
//! `pub static STARTED: LazyLock<IntCounter> = LazyLock::new(|| counter("kubelet_started_pods_total", "..."));`

use std::sync::LazyLock;

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

pub mod admission;
pub mod cgroups;
pub mod http;
pub mod node_api;
pub mod node_startup;
pub mod pleg;
pub mod pods;
pub mod probes;
pub mod resizes;
pub mod rest_client;
pub mod runtime_operations;
pub mod slis;
pub mod status;
pub mod volumes;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Registers what has no labels, so that it is shown before there is anything to count.
pub fn show() {
    node_startup::show();
    pleg::show();
    pods::show();
    resizes::show();
    LazyLock::force(&status::SYNC_DURATION);
}

/// All series in the Prometheus text format.
pub fn gather() -> String {
    let mut text = String::new();
    // Fails only for a series without name or value type, which no constructor below can make.
    if TextEncoder::new().encode_utf8(&REGISTRY.gather(), &mut text).is_err() {
        text.clear();
    }
    text
}

/// For a collector that makes its series when scraped.
pub fn register<C: Collector + Clone + 'static>(collector: C) -> C {
    REGISTRY.register(Box::new(collector.clone())).expect("a metric's name is registered once");
    collector
}

/// Prometheus' default buckets, as client libraries of all languages have them.
pub const DEFAULT_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const VALID: &str = "names and labels of metrics are literals";

pub fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help).expect(VALID))
}
pub fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels).expect(VALID))
}
pub fn gauge(name: &str, help: &str) -> Gauge {
    register(Gauge::new(name, help).expect(VALID))
}
pub fn int_gauge(name: &str, help: &str) -> IntGauge {
    register(IntGauge::new(name, help).expect(VALID))
}
pub fn int_gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID))
}
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())).expect(VALID))
}
pub fn histograms(name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels).expect(VALID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_appears_once_it_was_used() {
        runtime_operations::observe("version", std::time::Duration::from_millis(3), true);
        let text = gather();
        assert!(text.contains("kubelet_runtime_operations_total{operation_type=\"version\"} 1"), "{text}");
        assert!(
            text.contains(
                "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"version\",le=\"0.005\"} 1"
            )
        );
        assert!(!text.contains("kubelet_runtime_operations_errors_total{"));
    }
}
