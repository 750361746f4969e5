//! What processes cost, as /proc tells.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use nix::{time::ClockId, unistd::Pid};

/// Of the agent, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: f64,
    pub anonymous: f64,
}

pub fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
    };
    Ok(Memory { rss: field("Rss:"), anonymous: field("Anonymous:") })
}

/// CPU seconds since its start, those of ended threads included; in steps of 10 ms.
pub fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

pub fn cpu_of_all(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// That of one, to the nanosecond, for spans in which next to nothing happens.
pub fn exact_cpu(pid: u32) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.try_into()?)).context("its CPU clock")?;
    Ok(Duration::from(clock.now().context("its CPU time")?).as_secs_f64())
}

/// How often a process' threads have gone to sleep, hence been woken. A thread that ends takes its count with it, so it
/// has to be looked at now and then.
pub struct Wakeups {
    pid: u32,
    before: HashMap<String, u64>,
    last: HashMap<String, u64>,
}

impl Wakeups {
    pub fn of(pid: u32) -> Self {
        let before = Self::counts(pid);
        Self { pid, last: before.clone(), before }
    }

    pub fn look(&mut self) {
        self.last.extend(Self::counts(self.pid));
    }

    /// Between the first look and the last.
    pub fn count(&self) -> f64 {
        let since = |(thread, last): (&String, &u64)| last - self.before.get(thread).copied().unwrap_or_default();
        self.last.iter().map(since).sum::<u64>() as f64
    }

    /// By thread.
    fn counts(pid: u32) -> HashMap<String, u64> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let count = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((task.file_name().to_string_lossy().into_owned(), line.trim().parse().ok()?))
        };
        tasks.filter_map(count).collect()
    }
}

/// The shims of the containerd that listens there.
pub fn shims(socket: &Path) -> Vec<u32> {
    let socket = socket.to_string_lossy().into_owned();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_shim = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split('\0').next().is_some_and(|program| program.contains("containerd-shim"))
            && command.contains(&socket)
    };
    pids.filter(|pid| is_shim(pid)).collect()
}

/// Processor and kernel, for the page.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split_once(": "));
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = release.trim().split('.').take(2).collect();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|k| k.parse::<f64>().ok()).unwrap_or_default();
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores ({model}), {:.0} GiB, Linux {}", kib / 1024.0 / 1024.0, kernel.join("."))
}
