//! Ends what a run left: processes it recorded, containers, mounts under its folder, its namespaces, its cgroups.
//! Works from what is recorded in the run's folder, so also after a crash of whoever started it.

use std::{fs, path::Path, process::Command, thread::sleep, time::Duration};

use anyhow::Result;

use crate::process::{self, Daemons};

/// Idempotent. The folder is gone afterwards.
pub fn end_run(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let folders = folders_with_daemons(dir);
    for name in ["kubelet", "kube-scheduler", "kube-controller-manager"] {
        folders.iter().for_each(|f| f.kill(name));
    }
    end_shims(dir);
    for daemons in &folders {
        for name in daemons.names() {
            daemons.kill(&name);
        }
    }
    unmount_below(dir);
    let namespaces = fs::read_to_string(dir.join("netns")).unwrap_or_default();
    for netns in namespaces.lines() {
        let _ = process::run(Command::new("ip").args(["netns", "del", netns]));
        remove_cgroups(netns);
    }
    fs::remove_dir_all(dir)?;
    Ok(())
}

fn folders_with_daemons(dir: &Path) -> Vec<Daemons> {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let folders = std::iter::once(dir.to_owned()).chain(below).filter(|d| d.join("pids").is_dir());
    folders.filter_map(|d| Daemons::new(&d).ok()).collect()
}

/// The shims of this run's containerd name its socket on their command line; killing one kills its containers.
fn end_shims(dir: &Path) {
    let socket = format!("{}/", dir.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(line) = fs::read_to_string(format!("/proc/{pid}/cmdline")) else { continue };
        if line.contains("containerd-shim") && line.contains(&socket) {
            for child in children(pid) {
                let _ = Command::new("kill").args(["-KILL", &child.to_string()]).status();
            }
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn unmount_below(dir: &Path) {
    let prefix = format!("{}/", dir.display());
    for _ in 0..5 {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below: Vec<&str> =
            mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.starts_with(&prefix)).collect();
        if below.is_empty() {
            return;
        }
        for mount in below.iter().rev() {
            let _ = process::run(Command::new("umount").args(["-l", mount]));
        }
    }
}

/// The run's group in every hierarchy, processes in it killed first: nothing but its pods was ever put there.
fn remove_cgroups(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let root = hierarchy.path().join(name);
        for _ in 0..20 {
            if !root.is_dir() || remove_tree(&root) {
                break;
            }
            sleep(Duration::from_millis(100));
        }
    }
}

fn remove_tree(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        let _ = Command::new("kill").args(["-KILL", pid]).status();
    }
    fs::remove_dir(group).is_ok()
}
