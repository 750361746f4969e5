//! The series of cAdvisor beyond plain usage: limits, the finer counters of memory, processes, disks, the machine.

use cgroups::details::{CpuLimits, Details, DiskCounts, MemoryDetails, MemoryLimits};
use host::MachineFacts;

use super::{
    cadvisor::{Group, LABELS},
    disks::{Counts, Disk},
    exposition::{Point, Text},
};

const DISK_LABELS: [&str; 7] = ["container", "device", "id", "image", "name", "namespace", "pod"];
const BLOCK_LABELS: [&str; 10] =
    ["container", "device", "id", "image", "major", "minor", "name", "namespace", "operation", "pod"];
const FAILURE_LABELS: [&str; 8] = ["container", "failure_type", "id", "image", "name", "namespace", "pod", "scope"];
const ULIMIT_LABELS: [&str; 7] = ["container", "id", "image", "name", "namespace", "pod", "ulimit"];
const VERSION_LABELS: [&str; 5] =
    ["cadvisorRevision", "cadvisorVersion", "dockerVersion", "kernelVersion", "osVersion"];

/// What is read for these series alone.
#[derive(Debug, Default)]
pub struct Extra {
    /// In the order of the groups.
    pub details: Vec<Details>,
    pub disks: Vec<Disk>,
    /// Of all block devices, by their numbers.
    pub device_names: std::collections::HashMap<String, String>,
}

type Pairs<'a> = [(&'a Group<'a>, &'a Details)];
type Of<T> = fn(&T) -> Option<u64>;

pub fn render(text: &mut Text, groups: &[Group<'_>], extra: &Extra, at: i64) {
    let pairs: Vec<_> = groups.iter().zip(&extra.details).collect();
    limits(text, &pairs);
    memory(text, &pairs, at);
    processes(text, &pairs, at);
    block_devices(text, &pairs, extra, at);
    disks_of_groups(text, &pairs, extra, at);
    if let Some(node) = groups.first() {
        disks_of_node(text, node, &extra.disks, at);
    }
}

/// Without a time, as upstream: they are what is set, not what was seen.
fn limits(text: &mut Text, pairs: &Pairs<'_>) {
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Details) -> Option<f64>| {
        let points = pairs
            .iter()
            .filter_map(|(group, details)| Some(Point { labels: group.labels, value: value(details)?, at: None }));
        text.family(name, "gauge", help, LABELS, points);
    };
    family("container_creation_time_seconds", "Container creation time since unix epoch in seconds.", &|details| {
        Some(details.created?.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs() as f64)
    });
    for (name, help, of) in CPU_LIMITS {
        family(name, help, &|details| details.cpu.as_ref().and_then(of).map(|value| value as f64));
    }
    for (name, help, of) in MEMORY_LIMITS {
        family(name, help, &|details| details.limits.as_ref().and_then(of).map(|value| value as f64));
    }
}

const CPU_LIMITS: [(&str, &str, Of<CpuLimits>); 3] = [
    ("container_spec_cpu_period", "CPU period of the container.", |cpu| Some(cpu.period)),
    ("container_spec_cpu_quota", "CPU quota of the container.", |cpu| cpu.quota),
    ("container_spec_cpu_shares", "CPU share of the container.", |cpu| Some(cpu.shares)),
];

const MEMORY_LIMITS: [(&str, &str, Of<MemoryLimits>); 2] = [
    ("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", |limits| {
        Some(limits.reservation)
    }),
    ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |limits| Some(limits.swap)),
];

fn memory(text: &mut Text, pairs: &Pairs<'_>, at: i64) {
    for (name, kind, help, of) in MEMORY {
        let points = pairs.iter().filter_map(|(group, details)| {
            let value = of(details.memory.as_ref()?) as f64;
            Some(Point { labels: group.labels, value, at: Some(at) })
        });
        text.family(name, kind, help, LABELS, points);
    }
    let points =
        pairs.iter().filter_map(|(group, _)| Some((group, group.usage.memory.as_ref()?))).flat_map(|(group, usage)| {
            let [container, id, image, name, namespace, pod] = group.labels;
            let faults = [("pgfault", usage.page_faults), ("pgmajfault", usage.major_page_faults)];
            faults.into_iter().flat_map(move |(kind, count)| {
                ["container", "hierarchy"].map(|scope| {
                    let labels = [container, kind, id, image, name, namespace, pod, scope];
                    Point { labels, value: count as f64, at: Some(at) }
                })
            })
        });
    let help = "Cumulative count of memory allocation failures.";
    text.family("container_memory_failures_total", "counter", help, FAILURE_LABELS, points);
}

type OfMemory = fn(&MemoryDetails) -> u64;

const MEMORY: [(&str, &str, &str, OfMemory); 15] = [
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |m| m.most_usage),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |m| m.failures),
    ("container_memory_kernel_usage", "gauge", "Size of kernel memory allocated in bytes.", |m| m.kernel),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |m| m.mapped_file),
    ("container_memory_total_active_file_bytes", "gauge", "Current total active file in bytes.", |m| m.active_file),
    ("container_memory_total_inactive_file_bytes", "gauge", "Current total inactive file in bytes.", |m| {
        m.inactive_file
    }),
    (
        "container_memory_file_dirty_bytes",
        "gauge",
        "Number of bytes of file cache that has been modified but not yet written back to disk.",
        |m| m.dirty_file,
    ),
    (
        "container_memory_file_writeback_bytes",
        "gauge",
        "Number of bytes of file cache that is currently being written back to disk.",
        |m| m.writeback_file,
    ),
    (
        "container_memory_pgscan_total",
        "counter",
        "Cumulative number of pages scanned by the page reclaim algorithm.",
        |m| m.pages_scanned,
    ),
    (
        "container_memory_pgsteal_total",
        "counter",
        "Cumulative number of pages reclaimed by the page reclaim algorithm.",
        |m| m.pages_stolen,
    ),
    (
        "container_memory_workingset_refault_file_total",
        "counter",
        "Cumulative number of refaults of previously evicted file pages.",
        |m| m.refaults_file,
    ),
    (
        "container_memory_workingset_refault_anon_total",
        "counter",
        "Cumulative number of refaults of previously evicted anonymous pages.",
        |m| m.refaults_anon,
    ),
    (
        "container_memory_events_high_total",
        "counter",
        "Cumulative count of memory.high throttle events for the container",
        |m| m.high_events,
    ),
    (
        "container_memory_events_max_total",
        "counter",
        "Cumulative count of memory.max limit hit events for the container",
        |m| m.max_events,
    ),
    ("container_oom_events_total", "counter", "Count of out of memory events observed for the container", |m| {
        m.oom_kills
    }),
];

fn processes(text: &mut Text, pairs: &Pairs<'_>, at: i64) {
    for (name, help, of) in PROCESSES {
        let points =
            pairs.iter().map(|(group, details)| Point { labels: group.labels, value: of(details), at: Some(at) });
        text.family(name, "gauge", help, LABELS, points);
    }
    let points = pairs.iter().filter_map(|(group, details)| {
        let [container, id, image, name, namespace, pod] = group.labels;
        let labels = [container, id, image, name, namespace, pod, "max_open_files"];
        Some(Point { labels, value: details.held.most_open_files? as f64, at: Some(at) })
    });
    let help = "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice";
    text.family("container_ulimits_soft", "gauge", help, ULIMIT_LABELS, points);
}

type OfDetails = fn(&Details) -> f64;

const PROCESSES: [(&str, &str, OfDetails); 6] = [
    ("container_processes", "Number of processes running inside the container.", |d| d.held.processes as f64),
    ("container_file_descriptors", "Number of open file descriptors for the container.", |d| d.held.descriptors as f64),
    ("container_sockets", "Number of open sockets for the container.", |d| d.held.sockets as f64),
    ("container_threads", "Number of threads running inside the container", |d| d.threads as f64),
    (
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |d| d.most_threads as f64,
    ),
    // Docker's health check; -1 says that there is none.
    ("container_health_state", "The result of the container's health check", |_| -1.0),
];

fn with_device<'a>(group: &Group<'a>, device: &'a str) -> [&'a str; 7] {
    let [container, id, image, name, namespace, pod] = group.labels;
    [container, device, id, image, name, namespace, pod]
}

type OfDisk = fn(&DiskCounts) -> u64;

/// The bytes of container_fs_reads_bytes_total and its like once more, and those of devices without a name too.
fn block_devices(text: &mut Text, pairs: &Pairs<'_>, extra: &Extra, at: i64) {
    let points = pairs.iter().flat_map(|(group, details)| {
        let [container, id, image, name, namespace, pod] = group.labels;
        details.disks.iter().flat_map(move |(numbers, counts)| {
            let device = extra.device_names.get(numbers).map_or("", String::as_str);
            let (major, minor) = numbers.split_once(':').unwrap_or_default();
            [("Read", counts.read_bytes), ("Write", counts.written_bytes)].map(|(operation, bytes)| Point {
                labels: [container, device, id, image, major, minor, name, namespace, operation, pod],
                value: bytes as f64,
                at: Some(at),
            })
        })
    });
    text.family("container_blkio_device_usage_total", "counter", "Blkio Device bytes usage", BLOCK_LABELS, points);
}

fn disks_of_groups(text: &mut Text, pairs: &Pairs<'_>, extra: &Extra, at: i64) {
    const BYTES: [(&str, &str, OfDisk); 2] = [
        ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |disk| disk.read_bytes),
        ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |disk| disk.written_bytes),
    ];
    const OPERATIONS: [(&str, &str, OfDisk, OfCounts); 2] = [
        ("container_fs_reads_total", "Cumulative count of reads completed", |disk| disk.reads, |of| of.reads as f64),
        (
            "container_fs_writes_total",
            "Cumulative count of writes completed",
            |disk| disk.writes,
            |of| of.writes as f64,
        ),
    ];
    let of_groups = |of: OfDisk| {
        pairs.iter().flat_map(move |(group, details)| {
            details.disks.iter().filter_map(move |(numbers, counts)| {
                let device = extra.device_names.get(numbers)?;
                Some(Point { labels: with_device(group, device), value: of(counts) as f64, at: Some(at) })
            })
        })
    };
    for (name, help, of) in BYTES {
        text.family(name, "counter", help, DISK_LABELS, of_groups(of));
    }
    for (name, help, of, of_node) in OPERATIONS {
        // The node's own are the kernel's counts of the disk.
        let counted = of_groups(of).filter(|point| point.labels[2] != "/");
        let node = pairs.first().into_iter().flat_map(|(node, _)| {
            extra.disks.iter().map(|disk| Point {
                labels: with_device(node, &disk.device),
                value: of_node(&disk.counts),
                at: Some(at),
            })
        });
        text.family(name, "counter", help, DISK_LABELS, node.chain(counted));
    }
}

type OfCounts = fn(&Counts) -> f64;

fn disks_of_node(text: &mut Text, node: &Group<'_>, disks: &[Disk], at: i64) {
    let mut family = |name: &str, kind: &str, help: &str, of: &dyn Fn(&Disk) -> f64| {
        let points =
            disks.iter().map(|disk| Point { labels: with_device(node, &disk.device), value: of(disk), at: Some(at) });
        text.family(name, kind, help, DISK_LABELS, points);
    };
    family("container_fs_inodes_free", "gauge", "Number of available Inodes", &|disk| disk.stats.inodes_free as f64);
    family("container_fs_inodes_total", "gauge", "Number of Inodes", &|disk| disk.stats.inodes as f64);
    let help = "Number of bytes that can be consumed by the container on this filesystem.";
    family("container_fs_limit_bytes", "gauge", help, &|disk| disk.stats.capacity as f64);
    let help = "Number of bytes that are consumed by the container on this filesystem.";
    family("container_fs_usage_bytes", "gauge", help, &|disk| disk.stats.used as f64);
    for (name, kind, help, of) in DISK {
        family(name, kind, help, &|disk| of(&disk.counts));
    }
}

/// Upstream divides the kernel's milliseconds by 10^9; these are the seconds that the names promise.
const DISK: [(&str, &str, &str, OfCounts); 9] = [
    ("container_fs_reads_merged_total", "counter", "Cumulative count of reads merged", |of| of.reads_merged as f64),
    ("container_fs_sector_reads_total", "counter", "Cumulative count of sector reads completed", |of| {
        of.sectors_read as f64
    }),
    ("container_fs_read_seconds_total", "counter", "Cumulative count of seconds spent reading", |of| {
        of.read_time as f64 / 1e3
    }),
    ("container_fs_writes_merged_total", "counter", "Cumulative count of writes merged", |of| of.writes_merged as f64),
    ("container_fs_sector_writes_total", "counter", "Cumulative count of sector writes completed", |of| {
        of.sectors_written as f64
    }),
    ("container_fs_write_seconds_total", "counter", "Cumulative count of seconds spent writing", |of| {
        of.write_time as f64 / 1e3
    }),
    ("container_fs_io_current", "gauge", "Number of I/Os currently in progress", |of| of.in_progress as f64),
    ("container_fs_io_time_seconds_total", "counter", "Cumulative count of seconds spent doing I/Os", |of| {
        of.io_time as f64 / 1e3
    }),
    ("container_fs_io_time_weighted_seconds_total", "counter", "Cumulative weighted I/O time in seconds", |of| {
        of.weighted_io_time as f64 / 1e3
    }),
];

/// The kernel and the distribution; the agent has no cAdvisor and no Docker that had versions.
pub fn version(text: &mut Text, facts: &MachineFacts) {
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    let labels = ["", "", "", &*facts.kernel_version, &*facts.os_image];
    text.family("cadvisor_version_info", "gauge", help, VERSION_LABELS, [Point { labels, value: 1.0, at: None }]);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    #[test]
    fn a_block_device_without_a_name_is_counted_too() {
        let usage = cgroups::Usage::default();
        let group = Group { labels: ["c", "/p", "i", "n", "ns", "pod"], usage: &usage, started: None, network: &[] };
        let counts = DiskCounts { read_bytes: 5, written_bytes: 6, ..DiskCounts::default() };
        let disks = BTreeMap::from([("254:0".to_owned(), counts), ("7:1".to_owned(), counts)]);
        let device_names = HashMap::from([("254:0".to_owned(), "/dev/vda".to_owned())]);
        let extra = Extra { device_names, ..Extra::default() };
        let mut text = Text::default();
        block_devices(&mut text, &[(&group, &Details { disks, ..Details::default() })], &extra, 7);
        let text = text.finish();
        let sample = |device: &str, numbers: &str, rest: &str| {
            let labels = format!("container=\"c\",device=\"{device}\",id=\"/p\",image=\"i\",{numbers},name=\"n\"");
            format!("container_blkio_device_usage_total{{{labels},namespace=\"ns\",{rest} 7")
        };
        let expected = [
            sample("/dev/vda", "major=\"254\",minor=\"0\"", "operation=\"Read\",pod=\"pod\"} 5"),
            sample("/dev/vda", "major=\"254\",minor=\"0\"", "operation=\"Write\",pod=\"pod\"} 6"),
            sample("", "major=\"7\",minor=\"1\"", "operation=\"Read\",pod=\"pod\"} 5"),
            sample("", "major=\"7\",minor=\"1\"", "operation=\"Write\",pod=\"pod\"} 6"),
        ];
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), expected);
    }
}
