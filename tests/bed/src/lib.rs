//! The real stack as a library: what the tests under `tests/real` and the command `bed` share.
//!
//! Everything is built from Go modules and Debian packages into the user's cache folder; everything that runs
//! lives in a folder of its own under it, in network namespaces and cgroups of its own, and is recorded there so
//! that [`cleanup`] can end it even after a crash.

pub mod bad_line;
pub mod build;
pub mod cleanup;
pub mod cluster;
pub mod demo;
pub mod doctor;
pub mod e2e;
pub mod images;
pub mod kubectl;
pub mod node;
pub mod paths;
pub mod process;
pub mod vm;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use kubectl::Kubectl;
pub use node::{Node, NodeOptions, Runtime};
pub use paths::Cache;
pub use vm::{Provision, Vm, VmOptions};
