//! What a cgroup uses, read from its files. The numbers mean what cAdvisor makes of them, for the summary API.

use std::{collections::HashMap, fs, path::Path};

use crate::{
    Error, Result, Version,
    hierarchy::{Hierarchies, below},
};

/// Fields are `None` where the kernel shows no such number (no such controller, the v2 root).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time used since the cgroup was made, nanoseconds.
    pub cpu_ns: Option<u64>,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    /// None without a quota's counters.
    pub throttling: Option<Throttling>,
    pub memory: Option<MemoryUsage>,
    pub pids: Option<u64>,
    /// Version 2 with pressure stall information.
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// What the CPU quota did, in periods and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub burst_periods: u64,
    pub burst_ns: u64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage: u64,
    /// `usage` less the file pages that are easy to drop.
    pub working_set: u64,
    pub rss: u64,
    pub cache: u64,
    pub swap: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// None when unlimited.
    pub limit: Option<u64>,
    /// None when unlimited; zero where the kernel counts no swap.
    pub swap_limit: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Shares of time in percent, and the total in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// Reads the files of the cgroup at `path` (below each hierarchy's mount point).
pub fn read(hierarchies: &Hierarchies, path: &str) -> Result<Usage> {
    match hierarchies.version() {
        Version::V1 => read_v1(hierarchies, path),
        Version::V2 => read_v2(hierarchies, path),
    }
}

fn read_v1(hierarchies: &Hierarchies, path: &str) -> Result<Usage> {
    let dir = |controller| hierarchies.of(controller).map(|mount| below(mount, path));
    let (cpu, memory) = (dir("cpuacct")?, dir("memory")?);
    if !cpu.is_dir() && !memory.is_dir() {
        return Err(Error::Missing { name: path.to_owned() });
    }
    Ok(Usage {
        cpu_ns: number(&cpu.join("cpuacct.usage")),
        cpu_user_ns: number(&cpu.join("cpuacct.usage_user")),
        cpu_system_ns: number(&cpu.join("cpuacct.usage_sys")),
        throttling: dir("cpu").ok().and_then(|dir| throttling(&table(&dir.join("cpu.stat")))),
        memory: number(&memory.join("memory.usage_in_bytes")).map(|usage| {
            let limit = number(&memory.join("memory.limit_in_bytes"));
            let swap_limit = swap_limit(&memory.join("memory.memsw.limit_in_bytes"));
            MemoryUsage { swap_limit, ..memory_v1(usage, limit, &table(&memory.join("memory.stat"))) }
        }),
        pids: dir("pids").ok().and_then(|dir| number(&dir.join("pids.current"))),
        ..Usage::default()
    })
}

fn memory_v1(usage: u64, limit: Option<u64>, stat: &HashMap<String, u64>) -> MemoryUsage {
    let get = |key: &str| stat.get(key).copied().unwrap_or_default();
    MemoryUsage {
        usage,
        working_set: usage.saturating_sub(get("total_inactive_file")),
        rss: get("total_rss"),
        cache: get("total_cache"),
        swap: get("total_swap"),
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        // The kernel's "none" is the greatest page multiple of a signed 64-bit number.
        limit: limit.filter(|l| *l < 1 << 62),
        swap_limit: None,
    }
}

fn swap_limit(path: &Path) -> Option<u64> {
    if path.exists() { number(path).filter(|limit| *limit < 1 << 62) } else { Some(0) }
}

fn read_v2(hierarchies: &Hierarchies, path: &str) -> Result<Usage> {
    let dir = below(hierarchies.of("cpu")?, path);
    if !dir.is_dir() {
        return Err(Error::Missing { name: path.to_owned() });
    }
    let is_root = path.trim_matches('/').is_empty();
    let cpu = table(&dir.join("cpu.stat"));
    let ns = |key: &str| cpu.get(key).map(|usec| usec.saturating_mul(1000));
    Ok(Usage {
        cpu_ns: ns("usage_usec"),
        cpu_user_ns: ns("user_usec"),
        cpu_system_ns: ns("system_usec"),
        throttling: throttling(&cpu),
        memory: memory_of(&dir, is_root),
        pids: number(&dir.join("pids.current")),
        cpu_pressure: pressure(&dir.join("cpu.pressure")),
        memory_pressure: pressure(&dir.join("memory.pressure")),
        io_pressure: pressure(&dir.join("io.pressure")),
    })
}

/// Of cpu.stat: version 1 counts nanoseconds, version 2 microseconds.
fn throttling(stat: &HashMap<String, u64>) -> Option<Throttling> {
    let get = |key: &str| stat.get(key).copied();
    let ns = |v1: &str, v2: &str| get(v1).or_else(|| Some(get(v2)?.saturating_mul(1000))).unwrap_or_default();
    Some(Throttling {
        periods: get("nr_periods")?,
        throttled_periods: get("nr_throttled").unwrap_or_default(),
        throttled_ns: ns("throttled_time", "throttled_usec"),
        burst_periods: get("nr_bursts").unwrap_or_default(),
        burst_ns: ns("burst_time", "burst_usec"),
    })
}

fn memory_v2(usage: u64, swap: u64, limit: Option<u64>, stat: &HashMap<String, u64>) -> MemoryUsage {
    let get = |key: &str| stat.get(key).copied().unwrap_or_default();
    MemoryUsage {
        usage,
        working_set: usage.saturating_sub(get("inactive_file")),
        rss: get("anon"),
        cache: get("file"),
        swap,
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        limit,
        swap_limit: None,
    }
}

/// The root has neither memory.current nor memory.swap.current, but where it is that of a cgroup namespace.
fn memory_of(dir: &Path, is_root: bool) -> Option<MemoryUsage> {
    let stat = table(&dir.join("memory.stat"));
    let (usage, swap) = match number(&dir.join("memory.current")) {
        Some(usage) => (usage, number(&dir.join("memory.swap.current")).unwrap_or_default()),
        None if is_root => root_memory(&stat, &fs::read_to_string("/proc/meminfo").ok()?)?,
        None => return None,
    };
    let swap_limit = swap_limit(&dir.join("memory.swap.max"));
    Some(MemoryUsage { swap_limit, ..memory_v2(usage, swap, number(&dir.join("memory.max")), &stat) })
}

/// What version 1 counts as its root's usage, as upstream, and the swap that is taken: what the kernel holds for itself is
/// not in it.
fn root_memory(stat: &HashMap<String, u64>, meminfo_text: &str) -> Option<(u64, u64)> {
    let usage = stat.get("anon")? + stat.get("file")?;
    let swap = meminfo(meminfo_text, "SwapTotal")?.saturating_sub(meminfo(meminfo_text, "SwapFree")?);
    Some((usage, swap))
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(rest.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// None for `max` as well as for a file that is not there.
pub(crate) fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Lines of a key and a number.
pub(crate) fn table(path: &Path) -> HashMap<String, u64> {
    parse_table(&fs::read_to_string(path).unwrap_or_default())
}

fn parse_table(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
        .collect()
}

fn pressure(path: &Path) -> Option<Pressure> {
    parse_pressure(&fs::read_to_string(path).ok()?)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut stall = Stall::default();
        for (key, value) in rest.split(' ').filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = value.parse().ok()?,
                _ => {}
            }
        }
        match kind {
            "some" => pressure.some = stall,
            "full" => pressure.full = stall,
            _ => {}
        }
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn v1_memory_counts_the_whole_subtree() {
        let stat = parse_table(
            "cache 1\nrss 2\ntotal_cache 30\ntotal_rss 20\ntotal_inactive_file 10\npgfault 7\npgmajfault 3\ntotal_swap 4\n",
        );
        let memory = memory_v1(100, Some(9_223_372_036_854_771_712), &stat);
        let expected = MemoryUsage {
            usage: 100,
            working_set: 90,
            rss: 20,
            cache: 30,
            swap: 4,
            page_faults: 7,
            major_page_faults: 3,
            limit: None,
            swap_limit: None,
        };
        assert_eq!(memory, expected);
    }

    #[test]
    fn the_working_set_never_falls_below_nothing() {
        let stat = parse_table("inactive_file 500\nanon 5\nfile 600\n");
        let memory = memory_v2(100, 0, Some(200), &stat);
        assert_eq!((memory.working_set, memory.rss, memory.cache, memory.limit), (0, 5, 600, Some(200)));
    }

    #[test]
    fn the_root_of_version_2_uses_anonymous_memory_and_files_and_the_machines_swap() {
        let meminfo = "MemTotal: 900 kB\nMemFree: 100 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let stat = parse_table("anon 500\nfile 600\n");
        assert_eq!(root_memory(&stat, meminfo), Some((1100, 6 << 10)));
        assert_eq!(root_memory(&HashMap::new(), meminfo), None);

        let root = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies::V2 { root: root.path().to_owned(), controllers: Default::default() };
        fs::write(root.path().join("memory.stat"), "anon 500\nfile 600\ninactive_file 100\n").unwrap();
        let memory = read(&hierarchies, "/").unwrap().memory.unwrap();
        assert_eq!((memory.usage, memory.working_set), (1100, 1000));
    }

    #[test]
    fn throttling_is_in_nanoseconds_by_either_version() {
        let v1 = parse_table("nr_periods 5\nnr_throttled 2\nthrottled_time 3000\nnr_bursts 1\nburst_time 4000\n");
        let v2 =
            parse_table("usage_usec 9\nnr_periods 5\nnr_throttled 2\nthrottled_usec 3\nnr_bursts 1\nburst_usec 4\n");
        let expected =
            Throttling { periods: 5, throttled_periods: 2, throttled_ns: 3000, burst_periods: 1, burst_ns: 4000 };
        assert_eq!((throttling(&v1), throttling(&v2)), (Some(expected), Some(expected)));
        assert_eq!(throttling(&parse_table("usage_usec 9\n")), None);
    }

    #[test]
    fn pressure_lines_are_read() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n";
        let pressure = parse_pressure(text).unwrap();
        assert_eq!(pressure.some, Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 1234 });
        assert_eq!(pressure.full.total, 99);
    }

    #[test]
    fn a_v1_cgroup_is_read_from_its_three_hierarchies() {
        let root = tempfile::tempdir().unwrap();
        let mounts: BTreeMap<String, _> =
            ["cpuacct", "memory", "pids"].map(|c| (c.to_owned(), root.path().join(c))).into();
        let files = [
            ("cpuacct/a/cpuacct.usage", "12345\n"),
            ("memory/a/memory.usage_in_bytes", "100\n"),
            ("memory/a/memory.limit_in_bytes", "1000\n"),
            ("memory/a/memory.stat", "total_rss 50\n"),
            ("pids/a/pids.current", "3\n"),
        ];
        for (file, text) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let hierarchies = Hierarchies::V1(mounts);
        let usage = read(&hierarchies, "/a").unwrap();
        assert_eq!((usage.cpu_ns, usage.pids), (Some(12345), Some(3)));
        let memory = usage.memory.unwrap();
        assert_eq!((memory.limit, memory.swap_limit), (Some(1000), Some(0)));
        assert!(matches!(read(&hierarchies, "/b"), Err(Error::Missing { .. })));
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(meminfo("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemFree"), Some(1024));
    }
}
