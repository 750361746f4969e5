//! Series that say how things are: made when asked, from what others know, so that nobody keeps them up to date.

use std::{collections::BTreeMap, fs};

use pod::{ContainerState, Life};

use super::{
    exposition::{Point, Text},
    storage::LogUse,
};
use crate::{PodRow, dispatch::Context};

pub fn render(context: &Context, logs: &[LogUse]) -> String {
    let mut text = Text::default();
    node(&mut text, context);
    let rows = context.deps.pods.list();
    pods(&mut text, &rows);
    running(&mut text, context, &rows);
    log_use(&mut text, logs);
    process(&mut text);
    text.finish()
}

/// Alone on `/metrics/probes`.
pub fn start_time() -> String {
    let mut text = Text::default();
    gauge(&mut text, START_TIME.0, START_TIME.1, start_seconds());
    text.finish()
}

const START_TIME: (&str, &str) =
    ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");

fn gauge(text: &mut Text, name: &str, help: &str, value: f64) {
    text.family(name, "gauge", help, [], [Point { labels: [], value, at: None }]);
}

fn point<const N: usize>(labels: [&str; N], value: usize) -> Point<'_, N> {
    Point { labels, value: value as f64, at: None }
}

fn node(text: &mut Text, context: &Context) {
    let name = context.config.node_name.as_str();
    text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.", ["node"], [point([name], 1)]);
    let version = match context.deps.cgroups.version() {
        cgroups::Version::V1 => 1.0,
        cgroups::Version::V2 => 2.0,
    };
    gauge(text, "kubelet_cgroup_version", "cgroup version on the hosts.", version);
    let features = (context.deps.features)();
    let points = features.iter().map(|(name, stage, on)| point([name, stage], usize::from(*on)));
    let help = "This metric records the data about the stage and enablement of a k8s feature.";
    text.family("kubernetes_feature_enabled", "gauge", help, ["name", "stage"], points);
    build_info(text, &context.config.version);
}

/// Of the Kubernetes that this agent stands in for; there is no Go and no build date in it.
fn build_info(text: &mut Text, version: &str) {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let labels = [
        "build_date",
        "compiler",
        "git_commit",
        "git_tree_state",
        "git_version",
        "go_version",
        "major",
        "minor",
        "platform",
    ];
    let values = ["", "rustc", "", "", version, "", major, minor, platform.as_str()];
    let help = "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    text.family("kubernetes_build_info", "gauge", help, labels, [point(values, 1)]);
}

/// Of an API pod the label `static` is empty, as upstream has it.
fn flag(is: bool) -> &'static str {
    if is { "true" } else { "" }
}

fn pods(text: &mut Text, rows: &[PodRow]) {
    let count = |is: &dyn Fn(&PodRow) -> bool| rows.iter().filter(|row| is(row)).count();
    let by_source = |is: &dyn Fn(&PodRow) -> bool| {
        [false, true].map(|fixed| point([flag(fixed)], count(&|row| row.desired.is_static() == fixed && is(row))))
    };
    let help = "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
    text.family("kubelet_desired_pods", "gauge", help, ["static"], by_source(&|_| true));
    let help = "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.";
    text.family("kubelet_active_pods", "gauge", help, ["static"], by_source(&is_active));
    let help = "The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    let mirrors = count(&|row| row.desired.is_static() && is_active(row));
    gauge(text, "kubelet_mirror_pods", help, mirrors as f64);

    let mut working: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for lifecycle in ["sync", "terminating", "terminated"] {
        for fixed in [false, true] {
            let same = |row: &PodRow| lifecycle_of(&row.life) == lifecycle && row.desired.is_static() == fixed;
            working.insert((lifecycle, flag(fixed)), count(&same));
        }
    }
    let desired = working.iter().map(|((lifecycle, fixed), pods)| point(["desired", *lifecycle, *fixed], *pods));
    let help = "Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.";
    text.family("kubelet_working_pods", "gauge", help, ["config", "lifecycle", "static"], desired);

    let ephemeral = |row: &PodRow| row.desired.spec().ephemeral_containers.as_ref().map_or(0, Vec::len);
    let help = "Current number of ephemeral containers in pods managed by this kubelet.";
    gauge(text, "kubelet_managed_ephemeral_containers", help, rows.iter().map(ephemeral).sum::<usize>() as f64);
}

fn is_active(row: &PodRow) -> bool {
    let phase = row.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(row.life, Life::Terminated | Life::Gone | Life::Rejected { .. });
    !over && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn lifecycle_of(life: &Life) -> &'static str {
    match life {
        Life::Pending | Life::Syncing => "sync",
        Life::Terminating { .. } => "terminating",
        Life::Terminated | Life::Gone | Life::Rejected { .. } => "terminated",
    }
}

fn running(text: &mut Text, context: &Context, rows: &[PodRow]) {
    let observed: Vec<_> = rows.iter().filter_map(|row| context.deps.observed.now(&row.desired.uid)).collect();
    let pods = observed.iter().filter(|pod| pod.sandboxes.iter().any(|sandbox| sandbox.ready)).count();
    gauge(text, "kubelet_running_pods", "Number of pods that have a running pod sandbox", pods as f64);
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for container in observed.iter().flat_map(|pod| &pod.containers) {
        *states.entry(state_of(container.state)).or_default() += 1;
    }
    let points = states.iter().map(|(state, containers)| point([*state], *containers));
    let help = "Number of containers currently running";
    text.family("kubelet_running_containers", "gauge", help, ["container_state"], points);
}

fn log_use(text: &mut Text, logs: &[LogUse]) {
    let points = logs.iter().map(|log| {
        let (uid, key) = (log.row.mirror_uid.as_ref().unwrap_or(&log.row.desired.uid), &log.row.desired.key);
        let labels = [&*log.container, &*key.namespace, &*key.name, uid.as_str()];
        Point { labels, value: log.bytes as f64, at: None }
    });
    let help = "Bytes used by the container's logs on the filesystem.";
    let labels = ["container", "namespace", "pod", "uid"];
    text.family("kubelet_container_log_filesystem_used_bytes", "gauge", help, labels, points);
}

fn state_of(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "unknown",
    }
}

/// As client libraries for Prometheus have it.
fn process(text: &mut Text) {
    let Some(own) = Own::read() else { return };
    let counter = |text: &mut Text, name: &str, help: &str, value: f64| {
        text.family(name, "counter", help, [], [Point { labels: [], value, at: None }]);
    };
    counter(text, "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", own.cpu_seconds);
    gauge(text, "process_open_fds", "Number of open file descriptors.", own.open_files);
    gauge(text, "process_max_fds", "Maximum number of open file descriptors.", own.most_open_files);
    gauge(text, "process_resident_memory_bytes", "Resident memory size in bytes.", own.resident);
    gauge(text, "process_virtual_memory_bytes", "Virtual memory size in bytes.", own.virtual_memory);
    let help = "Maximum amount of virtual memory available in bytes.";
    gauge(text, "process_virtual_memory_max_bytes", help, own.most_virtual_memory);
    let help = "Number of bytes received by the process over the network.";
    counter(text, "process_network_receive_bytes_total", help, own.received);
    let help = "Number of bytes sent by the process over the network.";
    counter(text, "process_network_transmit_bytes_total", help, own.sent);
    gauge(text, START_TIME.0, START_TIME.1, start_seconds());
}

struct Own {
    cpu_seconds: f64,
    open_files: f64,
    most_open_files: f64,
    resident: f64,
    virtual_memory: f64,
    most_virtual_memory: f64,
    received: f64,
    sent: f64,
}

impl Own {
    fn read() -> Option<Self> {
        let stat = fields(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let (ticks, page) = (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64);
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        // Of the network namespace, as the Go library has it.
        let network = fs::read_to_string("/proc/self/net/netstat").ok().unwrap_or_default();
        Some(Self {
            cpu_seconds: (stat.get(11)? + stat.get(12)?) / ticks,
            open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            most_open_files: soft_limit(&limits, "Max open files"),
            resident: stat.get(21)? * page,
            virtual_memory: *stat.get(20)?,
            most_virtual_memory: soft_limit(&limits, "Max address space"),
            received: octets(&network, "InOctets"),
            sent: octets(&network, "OutOctets"),
        })
    }
}

/// Of `/proc/self/stat` what follows the name; words that are no numbers count as 0.
fn fields(stat: &str) -> Option<Vec<f64>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect())
}

/// Without limit it is the largest number there is, as in the Go library.
fn soft_limit(limits: &str, name: &str) -> f64 {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let word = line.split_whitespace().next().unwrap_or_default();
    word.parse().unwrap_or(u64::MAX as f64)
}

fn octets(netstat: &str, name: &str) -> f64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0.0 };
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
}

pub fn start_seconds() -> f64 {
    let since_boot = || {
        let stat = fields(&fs::read_to_string("/proc/self/stat").ok()?)?;
        Some(stat.get(19)? / rustix::param::clock_ticks_per_second() as f64)
    };
    let boot = || {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()
    };
    boot().zip(since_boot()).map_or(0.0, |(boot, since)| boot + since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_this_process_is_found() {
        let own = Own::read().unwrap();
        assert!(own.resident > 100_000.0 && own.virtual_memory > own.resident, "{}", own.resident);
        assert!(own.open_files >= 3.0 && own.most_open_files >= own.open_files);
        assert!(start_seconds() > 1.7e9);
    }

    #[test]
    fn octets_stand_below_their_name() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 17 23\n";
        assert_eq!((octets(text, "InOctets"), octets(text, "OutOctets"), octets("", "InOctets")), (17.0, 23.0, 0.0));
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        let text = "Max address space         unlimited            unlimited            bytes\nMax open files  1024 4096 files\n";
        assert_eq!(soft_limit(text, "Max open files"), 1024.0);
        assert_eq!(soft_limit(text, "Max address space"), 1.844_674_407_370_955_2e19);
    }
}
