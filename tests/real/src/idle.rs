//! What the agent costs when nothing happens, beside the upstream kubelet on the same machine in the same run.
//! Memory is absolute (a promise to small boards); CPU is a ratio.

use std::{fs, path::Path, thread::sleep, time::Duration};

use anyhow::{Context, Result};
use bed::Runtime;

use crate::world::{Group, World, expect};

const MAX_RSS_MIB: f64 = 20.0;
const WATCHED: Duration = Duration::from_secs(60);
/// Caches fill and first reports go out before the watch begins.
const SETTLE: Duration = Duration::from_secs(20);

pub fn group() -> Group {
    Group {
        name: "idle",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![("an_idle_agent_is_small_and_quiet", small_and_quiet)],
    }
}

#[derive(Debug)]
struct Cost {
    rss_mib: f64,
    /// CPU seconds over the watch.
    cpu: f64,
}

fn small_and_quiet(w: &mut World) -> Result<()> {
    let ours = watch(w, None)?;
    let upstream = w.cluster.cache().bin("kubelet");
    let theirs = watch(w, Some(&upstream))?;
    w.node().stop_kubelet();
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    eprint!("ferrolet {ours:.2?}, upstream {theirs:.2?} ... ");
    expect(ours.rss_mib <= MAX_RSS_MIB, format!("{:.1} MiB of memory, the bound is {MAX_RSS_MIB}", ours.rss_mib))?;
    expect(ours.cpu < theirs.cpu / 4.0, format!("{:.2} s of CPU a minute, upstream {:.2}", ours.cpu, theirs.cpu))
}

fn watch(w: &World, program: Option<&Path>) -> Result<Cost> {
    w.node().stop_kubelet();
    w.node().start_kubelet(program, Some(&w.cluster.dir))?;
    w.kubectl().until_node_ready(w.node_name())?;
    sleep(SETTLE);
    let pid = w.node().daemons.pid("kubelet").context("the kubelet is gone")?;
    let before = cpu_seconds(pid)?;
    sleep(WATCHED);
    Ok(Cost { rss_mib: rss_mib(pid)?, cpu: cpu_seconds(pid)? - before })
}

/// utime and stime of /proc/PID/stat, in ticks of a hundredth.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("stat")?.1;
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}
