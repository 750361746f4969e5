//! What can go wrong with a cgroup: the operation and the path or unit it was about.

use std::{io, path::PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make cgroup {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {path}: {source}")]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("cannot remove cgroup {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("no cgroup file system is mounted")]
    NotMounted,
    #[error("cgroup controller {controller} is not available")]
    NoController { controller: &'static str },
    #[error("{name:?} is no cgroup name: {reason}")]
    Name { name: String, reason: &'static str },
    #[error("cgroup {name} does not exist")]
    Missing { name: String },
    #[error("cannot {operation} systemd unit {unit}: {source}")]
    Systemd { operation: &'static str, unit: String, source: zbus::Error },
    #[error("systemd ended {operation} of unit {unit} with {result:?}")]
    SystemdJob { operation: &'static str, unit: String, result: String },
    #[error("systemd did not finish {operation} of unit {unit} in 30 s")]
    SystemdTimeout { operation: &'static str, unit: String },
    #[error("processes of cgroup {name} outlived SIGKILL: {pids:?}")]
    StillRunning { name: String, pids: Vec<i32> },
    #[error("the thread that worked on cgroups ended early")]
    Cancelled,
}
