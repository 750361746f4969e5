//! What only `/metrics/cadvisor` asks of a cgroup: limits, the finer counters of memory, disk, and what its processes hold.
//! The numbers mean what cAdvisor makes of them. Reading it costs more than [`crate::Usage`]: a look at every process.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    Version,
    hierarchy::{Hierarchies, below},
    limits::weight_to_shares,
    usage::{number, table},
};

/// Zero stands for what the kernel does not show, as with cAdvisor, but where it says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub created: Option<SystemTime>,
    pub cpu: Option<CpuLimits>,
    pub limits: Option<MemoryLimits>,
    pub memory: Option<MemoryDetails>,
    /// Threads, of descendants too, and the most there may be; zero for no limit.
    pub threads: u64,
    pub most_threads: u64,
    pub held: Held,
    /// By the device's numbers, as `254:0`.
    pub disks: BTreeMap<String, DiskCounts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuLimits {
    pub shares: u64,
    /// Microseconds.
    pub period: u64,
    /// Microseconds; None without a quota.
    pub quota: Option<u64>,
}

/// Bytes; zero for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    pub limit: u64,
    pub swap: u64,
    pub reservation: u64,
}

/// Bytes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    pub most_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    pub kernel: u64,
    pub mapped_file: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub dirty_file: u64,
    pub writeback_file: u64,
    pub pages_scanned: u64,
    pub pages_stolen: u64,
    pub refaults_file: u64,
    pub refaults_anon: u64,
    pub high_events: u64,
    pub max_events: u64,
    pub oom_kills: u64,
}

/// What the processes right in the cgroup hold, not those of its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub processes: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// Of the first process: how many files it may open. None without a process, -1 for no limit.
    pub most_open_files: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Reads the files of the cgroup at `path` (below each hierarchy's mount point).
pub(crate) fn read(hierarchies: &Hierarchies, path: &str) -> Details {
    let dir = |controller: &'static str| hierarchies.of(controller).ok().map(|mount| below(mount, path));
    let (cpu, memory, pids, io) = match hierarchies.version() {
        Version::V1 => (dir("cpu"), dir("memory"), dir("pids"), dir("blkio")),
        Version::V2 => (dir("cpu"), dir("memory"), dir("pids"), dir("io")),
    };
    let v2 = hierarchies.version() == Version::V2;
    let pids_at = |file: &str| pids.as_ref().and_then(|dir| number(&dir.join(file))).unwrap_or_default();
    Details {
        created: cpu.as_deref().and_then(|dir| created(dir, v2)),
        cpu: cpu.as_deref().filter(|dir| dir.is_dir()).map(if v2 { cpu_v2 } else { cpu_v1 }),
        limits: memory.as_deref().and_then(if v2 { limits_v2 } else { limits_v1 }),
        memory: memory.as_deref().filter(|dir| dir.is_dir()).map(if v2 { memory_v2 } else { memory_v1 }),
        threads: pids_at("pids.current"),
        most_threads: pids_at("pids.max"),
        held: memory.as_deref().map(held).unwrap_or_default(),
        disks: io.as_deref().map(if v2 { disks_v2 } else { disks_v1 }).unwrap_or_default(),
    }
}

pub(crate) fn created_at(hierarchies: &Hierarchies, path: &str) -> Option<SystemTime> {
    created(&below(hierarchies.of("cpu").ok()?, path), hierarchies.version() == Version::V2)
}

/// How many [`Held`] would name.
pub(crate) fn processes(hierarchies: &Hierarchies, path: &str) -> u64 {
    let list = hierarchies.of("memory").ok().map(|mount| below(mount, path).join("cgroup.procs"));
    list.and_then(|list| fs::read_to_string(list).ok()).map_or(0, |list| list.lines().count() as u64)
}

/// The directory's own time changes with its children; that of this file does not.
fn created(dir: &Path, v2: bool) -> Option<SystemTime> {
    let steady = dir.join(if v2 { "cgroup.events" } else { "cgroup.clone_children" });
    let times = [dir.to_owned(), steady].into_iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
    times.min()
}

fn or_zero(path: PathBuf) -> u64 {
    number(&path).unwrap_or_default()
}

fn cpu_v1(dir: &Path) -> CpuLimits {
    CpuLimits {
        shares: or_zero(dir.join("cpu.shares")),
        period: or_zero(dir.join("cpu.cfs_period_us")),
        // -1 for none is no number here.
        quota: number(&dir.join("cpu.cfs_quota_us")),
    }
}

fn cpu_v2(dir: &Path) -> CpuLimits {
    let max = fs::read_to_string(dir.join("cpu.max")).unwrap_or_default();
    let (quota, period) = max.trim().split_once(' ').unwrap_or_default();
    CpuLimits {
        shares: number(&dir.join("cpu.weight")).map(weight_to_shares).unwrap_or_default(),
        period: period.parse().unwrap_or_default(),
        quota: quota.parse().ok(),
    }
}

/// The kernel's "none" is the greatest page multiple of a signed 64-bit number.
fn limit(path: PathBuf) -> u64 {
    number(&path).filter(|bytes| *bytes < 1 << 62).unwrap_or_default()
}

fn limits_v1(dir: &Path) -> Option<MemoryLimits> {
    dir.is_dir().then(|| MemoryLimits {
        limit: limit(dir.join("memory.limit_in_bytes")),
        swap: limit(dir.join("memory.memsw.limit_in_bytes")),
        reservation: limit(dir.join("memory.soft_limit_in_bytes")),
    })
}

/// None for the root, which has no limits.
fn limits_v2(dir: &Path) -> Option<MemoryLimits> {
    dir.join("memory.max").exists().then(|| MemoryLimits {
        limit: limit(dir.join("memory.max")),
        swap: limit(dir.join("memory.swap.max")),
        reservation: limit(dir.join("memory.min")),
    })
}

fn memory_v1(dir: &Path) -> MemoryDetails {
    let stat = table(&dir.join("memory.stat"));
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    MemoryDetails {
        most_usage: or_zero(dir.join("memory.max_usage_in_bytes")),
        failures: or_zero(dir.join("memory.failcnt")),
        kernel: or_zero(dir.join("memory.kmem.usage_in_bytes")),
        mapped_file: of("total_mapped_file"),
        active_file: of("total_active_file"),
        inactive_file: of("total_inactive_file"),
        oom_kills: table(&dir.join("memory.oom_control")).get("oom_kill").copied().unwrap_or_default(),
        ..MemoryDetails::default()
    }
}

fn memory_v2(dir: &Path) -> MemoryDetails {
    let (stat, events) = (table(&dir.join("memory.stat")), table(&dir.join("memory.events")));
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    let event = |key: &str| events.get(key).copied().unwrap_or_default();
    MemoryDetails {
        most_usage: or_zero(dir.join("memory.peak")),
        failures: event("max"),
        kernel: of("kernel"),
        mapped_file: of("file_mapped"),
        active_file: of("active_file"),
        inactive_file: of("inactive_file"),
        dirty_file: of("file_dirty"),
        writeback_file: of("file_writeback"),
        pages_scanned: of("pgscan"),
        pages_stolen: of("pgsteal"),
        refaults_file: of("workingset_refault_file"),
        refaults_anon: of("workingset_refault_anon"),
        high_events: event("high"),
        max_events: event("max"),
        oom_kills: event("oom_kill"),
    }
}

fn held(dir: &Path) -> Held {
    let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut held = Held::default();
    for process in processes.lines() {
        held.processes += 1;
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            held.descriptors += 1;
            let is_socket = fs::read_link(descriptor.path())
                .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket"));
            held.sockets += u64::from(is_socket);
        }
    }
    let first = processes.lines().next();
    held.most_open_files =
        first.and_then(|pid| most_open_files(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?));
    held
}

fn most_open_files(limits: &str) -> Option<i64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(-1),
        soft => soft.parse().ok(),
    }
}

fn disks_v1(dir: &Path) -> BTreeMap<String, DiskCounts> {
    let mut disks = BTreeMap::new();
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    add_v1(&mut disks, &text("blkio.throttle.io_service_bytes_recursive"), |disk| {
        (&mut disk.read_bytes, &mut disk.written_bytes)
    });
    add_v1(&mut disks, &text("blkio.throttle.io_serviced_recursive"), |disk| (&mut disk.reads, &mut disk.writes));
    disks
}

/// Lines as `254:0 Read 12`.
fn add_v1(disks: &mut BTreeMap<String, DiskCounts>, text: &str, of: fn(&mut DiskCounts) -> (&mut u64, &mut u64)) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(operation), Some(Ok(count))) =
            (words.next(), words.next(), words.next().map(str::parse))
        else {
            continue;
        };
        let (read, written) = of(disks.entry(device.to_owned()).or_default());
        match operation {
            "Read" => *read = count,
            "Write" => *written = count,
            _ => {}
        }
    }
}

fn disks_v2(dir: &Path) -> BTreeMap<String, DiskCounts> {
    parse_io_stat(&fs::read_to_string(dir.join("io.stat")).unwrap_or_default())
}

/// Lines as `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse_io_stat(text: &str) -> BTreeMap<String, DiskCounts> {
    let line = |line: &str| {
        let (device, counts) = line.split_once(' ')?;
        let of = |key: &str| {
            let found = counts.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            found.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        let counts =
            DiskCounts { read_bytes: of("rbytes"), written_bytes: of("wbytes"), reads: of("rios"), writes: of("wios") };
        Some((device.to_owned(), counts))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same_of_a_disk() {
        let expected = BTreeMap::from([(
            "254:0".to_owned(),
            DiskCounts { read_bytes: 10, written_bytes: 20, reads: 1, writes: 2 },
        )]);
        assert_eq!(parse_io_stat("254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n"), expected);
        let mut v1 = BTreeMap::new();
        add_v1(&mut v1, "254:0 Read 10\n254:0 Write 20\n254:0 Total 30\nTotal 30\n", |disk| {
            (&mut disk.read_bytes, &mut disk.written_bytes)
        });
        add_v1(&mut v1, "254:0 Read 1\n254:0 Write 2\n", |disk| (&mut disk.reads, &mut disk.writes));
        assert_eq!(v1, expected);
    }

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(most_open_files(limits), Some(1024));
        assert_eq!(most_open_files("Max open files  unlimited  unlimited  files\n"), Some(-1));
        assert_eq!(most_open_files(""), None);
    }

    #[test]
    fn limits_of_version_2_are_read_from_their_files() {
        let root = tempfile::tempdir().unwrap();
        let files =
            [("cpu.weight", "39\n"), ("cpu.max", "20000 100000\n"), ("memory.max", "max\n"), ("memory.min", "5\n")];
        for (file, text) in files {
            fs::write(root.path().join(file), text).unwrap();
        }
        let cpu = cpu_v2(root.path());
        assert_eq!((cpu.period, cpu.quota), (100_000, Some(20_000)));
        assert_eq!(limits_v2(root.path()), Some(MemoryLimits { limit: 0, swap: 0, reservation: 5 }));
        fs::write(root.path().join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(cpu_v2(root.path()).quota, None);
    }
}
