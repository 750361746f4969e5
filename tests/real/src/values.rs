//! The values behind the names of series.rs: what two agents must say alike of one node with the same pods.

use std::collections::{BTreeMap, BTreeSet};

/// Name with sorted labels -> value.
pub type Samples = BTreeMap<String, f64>;

/// The same to the last digit; what is not there counts as 0.
const EXACT: &[&str] = &[
    "kubelet_active_pods",
    "kubelet_containers_per_pod_count_count",
    "kubelet_containers_per_pod_count_sum",
    "kubelet_desired_pods",
    "kubelet_managed_ephemeral_containers",
    "kubelet_mirror_pods",
    "kubelet_node_name",
    "kubelet_restarted_pods_total",
    "kubelet_running_containers",
    "kubelet_running_pods",
    "kubelet_working_pods",
    "machine_cpu_cores",
    "machine_cpu_physical_cores",
    "machine_cpu_sockets",
    "machine_memory_bytes",
    "machine_swap_bytes",
    "resource_scrape_error",
    "scrape_error",
    "volume_manager_total_volumes",
];
/// Of `/metrics/resource`, within a factor of 2: the pods are the same, the moment is not. Under NOISE no two moments
/// are alike: the kernel charges memory in batches per core, and each probe is a process more.
const ALIKE: &[&str] =
    &["container_memory_working_set_bytes", "node_memory_working_set_bytes", "pod_memory_working_set_bytes"];
const NOISE: f64 = (4 << 20) as f64;

pub fn differences(endpoint: &str, theirs: &Samples, ours: &Samples) -> Vec<String> {
    let all: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let mut found = Vec::new();
    for series in all {
        let name = series.split('{').next().unwrap_or_default();
        let [theirs, ours] = [theirs, ours].map(|side| side.get(series).copied().unwrap_or_default());
        let same = theirs.to_bits() == ours.to_bits();
        let alike = (ours <= theirs * 2.0 && theirs <= ours * 2.0) || ours.max(theirs) < NOISE;
        let measured = ALIKE.contains(&name) && endpoint == "metrics/resource";
        // What ended before the test is removed at some time: by the one agent, and not there for the other.
        let ended = series.contains("container_state=\"exited\"");
        if EXACT.contains(&name) && !ended && !same || measured && !alike {
            found.push(format!("{endpoint} says {ours} of {series}, upstream {theirs}"));
        }
    }
    found
}

pub fn samples(text: &str) -> Samples {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// `NAME{LABELS} VALUE [TIME]`.
fn sample(line: &str) -> Option<(String, f64)> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => rest.rsplit_once('}').map(|(labels, rest)| (name, labels, rest))?,
        None => line.split_once(' ').map(|(name, rest)| (name, "", rest))?,
    };
    let mut labels: Vec<&str> = labels.split_inclusive("\",").map(|label| label.trim_end_matches(',')).collect();
    labels.sort_unstable();
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((format!("{name}{{{}}}", labels.join(",")), value))
}
