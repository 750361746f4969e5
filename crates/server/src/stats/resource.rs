//! `/metrics/resource`: what metrics-server reads.

use cgroups::Usage;

use super::{
    exposition::{Point, Text},
    sample::{ContainerSample, PodSample, Sample},
};

const NODE: [&str; 0] = [];
const POD: [&str; 2] = ["namespace", "pod"];
const CONTAINER: [&str; 3] = ["container", "namespace", "pod"];

type Value = fn(&Usage) -> Option<f64>;

fn cpu(usage: &Usage) -> Option<f64> {
    usage.cpu_ns.map(|ns| ns as f64 / 1e9)
}
fn working_set(usage: &Usage) -> Option<f64> {
    usage.memory.as_ref().map(|memory| memory.working_set as f64)
}
fn swap(usage: &Usage) -> Option<f64> {
    usage.memory.as_ref().map(|memory| memory.swap as f64)
}
/// None without a limit. As upstream reports it: never below what is used.
fn swap_limit(usage: &Usage) -> Option<f64> {
    let memory = usage.memory.as_ref()?;
    Some(memory.swap_limit?.max(memory.swap) as f64)
}

pub fn render(sample: &Sample) -> String {
    let mut text = Text::default();
    let mut families = |name: &str, kind: &str, stability: &str, what: &str, value: Value| {
        let name_of = |object: &str| format!("{object}_{name}");
        let help = |object: &str| format!("[{stability}] {} {object}{}", before(what), after(what));
        text.family(&name_of("container"), kind, &help("container"), CONTAINER, containers(sample, value));
        text.family(&name_of("node"), kind, &help("node"), NODE, node(sample, value));
        text.family(&name_of("pod"), kind, &help("pod"), POD, pods(sample, value));
    };
    families(
        "cpu_usage_seconds_total",
        "counter",
        "STABLE",
        "Cumulative cpu time consumed by the % in core-seconds",
        cpu,
    );
    families("memory_working_set_bytes", "gauge", "STABLE", "Current working set of the % in bytes", working_set);
    families("swap_usage_bytes", "gauge", "ALPHA", "Current amount of the % swap usage in bytes", swap);
    let help = "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems";
    text.family("container_swap_limit_bytes", "gauge", help, CONTAINER, containers(sample, swap_limit));
    let started = each(sample).filter_map(|(pod, container)| {
        let started = container.started?;
        Some(point(pod, container, started.as_millisecond() as f64 / 1e3, None))
    });
    let help = "[STABLE] Start time of the container since unix epoch in seconds";
    text.family("container_start_time_seconds", "gauge", help, CONTAINER, started);
    let none = || [Point { labels: [], value: 0.0, at: None }];
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", "gauge", help, NODE, none());
    text.finish()
}

fn before(what: &str) -> &str {
    what.split_once(" %").map_or(what, |(before, _)| before)
}
fn after(what: &str) -> &str {
    what.split_once('%').map_or("", |(_, after)| after)
}

fn node(sample: &Sample, value: Value) -> Option<Point<'_, 0>> {
    Some(Point { labels: [], value: value(&sample.node)?, at: Some(sample.at.as_millisecond()) })
}

fn pods(sample: &Sample, value: Value) -> impl Iterator<Item = Point<'_, 2>> {
    let at = sample.at.as_millisecond();
    sample.pods.iter().filter_map(move |pod| {
        let labels = [&*pod.key.namespace, &*pod.key.name];
        Some(Point { labels, value: value(&pod.usage)?, at: Some(at) })
    })
}

fn containers(sample: &Sample, value: Value) -> impl Iterator<Item = Point<'_, 3>> {
    let at = sample.at.as_millisecond();
    each(sample).filter_map(move |(pod, container)| Some(point(pod, container, value(&container.usage)?, Some(at))))
}

fn each(sample: &Sample) -> impl Iterator<Item = (&PodSample, &ContainerSample)> {
    sample.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

fn point<'a>(pod: &'a PodSample, container: &'a ContainerSample, value: f64, at: Option<i64>) -> Point<'a, 3> {
    Point { labels: [&container.name, &pod.key.namespace, &pod.key.name], value, at }
}
