//! The services on the node's own sockets: podresources and pods.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec};

use crate::{counter, counters};

fn by_version(name: &str, help: &str) -> IntCounterVec {
    let help = format!("{help} Broken down by server api version.");
    counters(&format!("kubelet_pod_resources_endpoint_{name}"), &help, &["server_api_version"])
}

static RESOURCES: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_version("requests_total", "Cumulative number of requests to the PodResource endpoint."));
static RESOURCES_LIST: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_version("requests_list", "Number of requests to the PodResource List endpoint."));
static RESOURCES_GET: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_version("requests_get", "Number of requests to the PodResource Get endpoint."));
static RESOURCES_ALLOCATABLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of requests to the PodResource GetAllocatableResources endpoint.";
    by_version("requests_get_allocatable", help)
});
static RESOURCES_GET_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    by_version("errors_get", "Number of requests to the PodResource Get endpoint which returned error.")
});

/// A method of podresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resources {
    List,
    /// List of v1alpha1, which upstream counts in the sum only.
    FirstList,
    Get,
    Allocatable,
}

pub fn resources_asked(method: Resources, version: &str) {
    RESOURCES.with_label_values(&[version]).inc();
    match method {
        Resources::List => RESOURCES_LIST.with_label_values(&[version]).inc(),
        Resources::FirstList => {}
        Resources::Get => RESOURCES_GET.with_label_values(&[version]).inc(),
        Resources::Allocatable => RESOURCES_ALLOCATABLE.with_label_values(&[version]).inc(),
    }
}

/// Only Get can fail: the others find nothing missing.
pub fn resources_get_failed(version: &str) {
    RESOURCES_GET_ERRORS.with_label_values(&[version]).inc();
}

fn by_code(name: &str, help: &str) -> IntCounterVec {
    let help = format!("{help} Broken down by server api version and status code.");
    counters(&format!("kubelet_pod_requests_{name}"), &help, &["server_api_version", "status_code"])
}

static PODS: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_code("total", "Cumulative number of requests to the PodsAPI endpoint."));
static PODS_LIST: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_code("list_total", "Number of requests to the PodsAPI List endpoint."));
static PODS_GET: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_code("get_total", "Number of requests to the PodsAPI Get endpoint."));
static PODS_WATCH: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_code("watch_total", "Number of requests to the PodsAPI Watch endpoint."));
static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("kubelet_pod_watch_events_dropped_total", "Cumulative number of pod watch events dropped.")
});

/// A method of the pods API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    List,
    Get,
    Watch,
}

/// `code`: the name that Go gives to a gRPC status code.
pub fn pods_answered(method: Pods, code: &str) {
    let labels = ["v1alpha1", code];
    PODS.with_label_values(&labels).inc();
    let own = match method {
        Pods::List => &PODS_LIST,
        Pods::Get => &PODS_GET,
        Pods::Watch => &PODS_WATCH,
    };
    own.with_label_values(&labels).inc();
}

pub fn pod_event_dropped() {
    DROPPED.inc();
}

/// Shows the series that has no labels before anything was dropped, as upstream does.
pub fn show() {
    LazyLock::force(&DROPPED);
}
