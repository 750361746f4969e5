//! How long the certificates are still good for, worked out when the metrics are read.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicI64, Ordering},
};

use host::Clock;
use jiff::Timestamp;
use prometheus::{
    Gauge, Histogram, IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Seconds since the epoch that stand for "there is no certificate".
const NEVER: i64 = i64::MAX;

#[derive(Clone)]
struct Ttl {
    gauge: Gauge,
    expires: Arc<AtomicI64>,
    clock: Clock,
}

impl Ttl {
    fn new(name: &str, help: &str) -> Self {
        let gauge = Gauge::new(name, help).expect("names of metrics are literals");
        metrics::register(Self { gauge, expires: Arc::new(AtomicI64::new(NEVER)), clock: Clock::start() })
    }

    fn seconds(&self) -> f64 {
        match self.expires.load(Ordering::Relaxed) {
            NEVER => f64::INFINITY,
            at => (at - self.clock.wall().as_second()) as f64,
        }
    }
}

impl Collector for Ttl {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }
    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.seconds());
        self.gauge.collect()
    }
}

static SERVING: LazyLock<Ttl> = LazyLock::new(|| {
    Ttl::new(
        "kubelet_certificate_manager_server_ttl_seconds",
        "Seconds until the serving certificate expires, negative once it has, +Inf without one.",
    )
});
static CLIENT: LazyLock<Ttl> = LazyLock::new(|| {
    Ttl::new(
        "kubelet_certificate_manager_client_ttl_seconds",
        "Seconds until the client certificate expires, negative once it has, +Inf without one.",
    )
});
static CLIENT_CA: LazyLock<Ttl> = LazyLock::new(|| {
    Ttl::new(
        "ferrolet_client_ca_ttl_seconds",
        "Seconds until the first certificate of clientCAFile expires, negative once one has.",
    )
});
static CLUSTER_CA: LazyLock<Ttl> = LazyLock::new(|| {
    Ttl::new(
        "ferrolet_cluster_ca_ttl_seconds",
        "Seconds until the first CA certificate of the kubeconfig expires, negative once one has.",
    )
});
pub(crate) static SERVING_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter("kubelet_server_expiration_renew_errors", "Failed renewals of the serving certificate.")
});
pub(crate) static CLIENT_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "kubelet_certificate_manager_client_expiration_renew_errors",
        "Failed renewals of the client certificate.",
    )
});

/// From a minute to four years.
const LIVES: [f64; 10] =
    [60.0, 3600.0, 14400.0, 86400.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0, 124_416_000.0];
static LIVED: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "kubelet_certificate_manager_server_rotation_seconds",
        "Histogram of the number of seconds the previous certificate lived before being rotated.",
        &LIVES,
    )
});

/// Shows what rotation of the client certificate measures before there is any.
pub(crate) fn show_client() {
    LazyLock::force(&CLIENT);
    LazyLock::force(&CLIENT_ERRORS);
}

/// The same for the serving certificate.
pub(crate) fn show_serving() {
    LazyLock::force(&SERVING);
    LazyLock::force(&SERVING_ERRORS);
    LazyLock::force(&LIVED);
}

/// A serving certificate that was valid since then has got a successor.
pub(crate) fn serving_rotated(valid_since: Timestamp, now: Timestamp) {
    LIVED.observe(now.duration_since(valid_since).as_secs_f64());
}

pub(crate) fn serving_expires(at: Timestamp) {
    SERVING.expires.store(at.as_second(), Ordering::Relaxed);
}

pub(crate) fn client_expires(at: Timestamp) {
    CLIENT.expires.store(at.as_second(), Ordering::Relaxed);
}

pub(crate) fn client_ca_expires(at: Timestamp) {
    CLIENT_CA.expires.store(at.as_second(), Ordering::Relaxed);
}

pub(crate) fn cluster_ca_expires(at: Timestamp) {
    CLUSTER_CA.expires.store(at.as_second(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rotation_measures_has_upstreams_names_from_the_start() {
        show_client();
        show_serving();
        let since = Timestamp::from_second(1_000_000).unwrap();
        serving_rotated(since, Timestamp::from_second(1_000_100).unwrap());
        let text = metrics::gather();
        for line in [
            "kubelet_certificate_manager_client_ttl_seconds ",
            "kubelet_certificate_manager_client_expiration_renew_errors ",
            "kubelet_certificate_manager_server_ttl_seconds ",
            "kubelet_server_expiration_renew_errors ",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"60\"} 0",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"3600\"} 1",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"124416000\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
