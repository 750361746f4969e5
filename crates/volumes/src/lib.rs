//! A pod's volumes: everything between its spec and the mounts that its containers get.
//!
//! `prepare` asks the API server what the files shall be and touches no disk; `disk` puts the answer there on a
//! blocking thread, in steps that may stop anywhere and be run again; `container_mounts` says what the runtime mounts;
//! `refresh` is the one task that follows changed objects and aging tokens. What is mounted is read from the kernel,
//! never remembered.

mod atomic_writer;
mod container_mounts;
mod counted;
mod disk;
mod error;
#[cfg(test)]
mod fixture;
mod kinds;
mod mounted;
mod nested;
mod ownership;
mod payload;
mod prepare;
mod refresh;
mod registry;
mod security;
mod sources;
mod sub_path;
mod tokens;
mod volumes;

pub use container_mounts::MountsFor;
pub use error::{Cause, VolumeError};
pub use mounted::{MountedSource, MountedVolume, MountedVolumes};
pub use prepare::mounts_other_volumes;
pub use sources::Api;
pub use volumes::{Volumes, VolumesConfig};
