//! How long the certificates are still good for, worked out when the metrics are read.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicI64, Ordering},
};

use host::Clock;
use jiff::Timestamp;
use prometheus::{
    Gauge, IntCounter,
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
pub(crate) static SERVING_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter("kubelet_server_expiration_renew_errors", "Failed renewals of the serving certificate.")
});
pub(crate) static CLIENT_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "kubelet_certificate_manager_client_expiration_renew_errors",
        "Failed renewals of the client certificate.",
    )
});

pub(crate) fn serving_expires(at: Timestamp) {
    SERVING.expires.store(at.as_second(), Ordering::Relaxed);
}

pub(crate) fn client_expires(at: Timestamp) {
    CLIENT.expires.store(at.as_second(), Ordering::Relaxed);
}
