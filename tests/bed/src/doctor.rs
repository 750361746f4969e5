//! Says what the machine lacks before anything is started.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

/// Everything missing in one message.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !is_root() {
        missing.push("root: namespaces, mounts and cgroups are made (run it as root)".to_owned());
    }
    for (program, why) in [("go", "builds the stack; Go 1.26 or later"), ("cargo", "builds ferrolet; Rust 1.95 or later"), ("apt-get", "installs what the images are made of; a Debian or its kin")] {
        if !answers(program) {
            missing.push(format!("{program}: {why}"));
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay") && !answers_ok("modprobe", "overlay") {
        missing.push("kernel: overlay file system".to_owned());
    }
    for (path, what) in [("/sys/fs/cgroup", "cgroups mounted at /sys/fs/cgroup"), ("/proc/self/ns/net", "network namespaces")] {
        if !Path::new(path).exists() {
            missing.push(format!("kernel: {what}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks:\n  {}", missing.join("\n  "))
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

fn answers(program: &str) -> bool {
    let asked = if program == "go" { "version" } else { "--version" };
    Command::new(program).arg(asked).output().is_ok()
}

fn answers_ok(program: &str, arg: &str) -> bool {
    Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success())
}
