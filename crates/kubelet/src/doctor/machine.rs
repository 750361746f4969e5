//! The machine itself: user, kernel, cgroups, swap, disk, clock.

use std::{fs, path::Path};

use cgroups::Hierarchies;
use host::{Clock, facts::MachineFacts, fs_stats::fs_stats};
use pod::time::Timestamp;

use super::Finding;
use crate::options::Options;

/// openat2, which keeps volume paths inside volumes.
const OLDEST_KERNEL: (u32, u32) = (5, 6);
/// Without them no pod can be held to anything.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// No clock that is set shows less.
const EARLIEST: Timestamp = Timestamp::constant(1_750_000_000, 0);

pub(super) fn findings(options: &Options, clock: Clock) -> Vec<Finding> {
    let forwards =
        |file: &str| fs::read_to_string(Path::new("/proc/sys/net").join(file)).is_ok_and(|v| v.trim() == "1");
    let mut all = vec![user(), kernel(&MachineFacts::read().kernel_version), filesystems(&text("/proc/filesystems"))];
    all.push(match Hierarchies::detect() {
        Ok(found) => cgroups(&found, options),
        Err(error) => {
            Finding::fault("cgroups", error.to_string(), "mount cgroup2 at /sys/fs/cgroup, or boot with systemd")
        }
    });
    all.push(swap(options));
    all.push(network(forwards("ipv4/ip_forward") || forwards("ipv6/conf/all/forwarding")));
    all.push(disk(&options.flags.root_dir));
    all.push(time(clock.wall()));
    all
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::good("user", "root")
    } else {
        Finding::warning("user", "not root", "run this as the user that the agent runs as, most often root")
    }
}

fn kernel(version: &str) -> Finding {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST_KERNEL {
        return Finding::good("kernel", version);
    }
    let (major, minor) = OLDEST_KERNEL;
    Finding::fault("kernel", version, format!("Linux {major}.{minor} or newer is needed: volumes use openat2"))
}

fn filesystems(listed: &str) -> Finding {
    let known = |name: &str| listed.lines().any(|line| line.split_whitespace().last() == Some(name));
    match ["overlay", "tmpfs"].into_iter().find(|name| !known(name)) {
        None => Finding::good("filesystems", "overlay, tmpfs"),
        Some(missing) => {
            let advice =
                format!("`modprobe {missing}`, unless it is loaded on demand or the runtime uses another snapshotter");
            Finding::warning("filesystems", format!("{missing} is not loaded"), advice)
        }
    }
}

fn cgroups(found: &Hierarchies, options: &Options) -> Finding {
    let version = match found.version() {
        cgroups::Version::V1 => "v1",
        cgroups::Version::V2 => "v2",
    };
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|controller| !found.has(controller)).collect();
    if !missing.is_empty() {
        let advice = "enable them in the kernel's command line, or where this machine's cgroups are delegated from";
        return Finding::fault("cgroups", format!("{version} without {}", missing.join(", ")), advice);
    }
    if options.config.cgroup_driver == "systemd" && !Path::new("/run/systemd/system").exists() {
        let found = format!("{version}, but cgroupDriver is systemd and systemd does not run here");
        return Finding::fault("cgroups", found, "set cgroupDriver: cgroupfs here and in the runtime");
    }
    Finding::good("cgroups", format!("{version} with {}", CONTROLLERS.join(", ")))
}

fn swap(options: &Options) -> Finding {
    match (options.host.swap_on, options.config.fail_swap_on) {
        (false, _) => Finding::good("swap", "off"),
        (true, false) => Finding::good("swap", "on, as the configuration allows"),
        (true, true) => Finding::fault("swap", "on", "`swapoff -a`, or set failSwapOn: false"),
    }
}

fn network(forwards: bool) -> Finding {
    if forwards {
        return Finding::good("forwarding", "on");
    }
    Finding::warning(
        "forwarding",
        "off",
        "`sysctl -w net.ipv4.ip_forward=1`: without it pods reach nothing off the node",
    )
}

fn disk(root: &Path) -> Finding {
    let there = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let stats = match fs_stats(there) {
        Ok(stats) => stats,
        Err(error) => return Finding::fault("disk", error.to_string(), "--root-dir must be on a local filesystem"),
    };
    let free = |available: u64, all: u64| available.saturating_mul(100).checked_div(all).unwrap_or(100);
    let (bytes, inodes) = (free(stats.available, stats.capacity), free(stats.inodes_free, stats.inodes));
    let found = format!("{bytes} % of the space and {inodes} % of the inodes of {} are free", there.display());
    if bytes < 10 || inodes < 5 {
        return Finding::warning("disk", found, "make room: images, logs and volumes need it");
    }
    Finding::good("disk", found)
}

fn time(now: Timestamp) -> Finding {
    if now >= EARLIEST {
        return Finding::good("clock", now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    }
    Finding::fault("clock", format!("it says {now}"), "set the clock: no certificate is valid at that time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn old_kernels_are_refused() {
        for (version, verdict) in [
            ("6.1.0-28-amd64", Verdict::Good),
            ("5.6.0", Verdict::Good),
            ("5.4.0-generic", Verdict::Fault),
            ("4.19.1", Verdict::Fault),
            ("", Verdict::Fault),
        ] {
            assert_eq!(kernel(version).verdict, verdict, "{version}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(filesystems("nodev\ttmpfs\n\text4\nnodev\toverlay\n").verdict, Verdict::Good);
        assert!(filesystems("nodev\ttmpfs\n").found.contains("overlay"));
        assert_eq!(time(Timestamp::UNIX_EPOCH).verdict, Verdict::Fault);
        assert_eq!(network(false).verdict, Verdict::Warning);
    }
}
