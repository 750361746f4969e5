//! One planned action becomes runtime calls: sandboxes, containers, hooks. What the runtime is told is computed by
//! pure functions of the pod, the configuration and a few facts.

pub mod config;
pub mod container_config;
mod counters;
pub mod dns;
pub mod env;
pub mod env_file;
pub mod error;
pub mod files;
#[cfg(test)]
mod fixture;
mod gate;
pub mod hooks;
pub mod hostname;
pub mod hosts;
mod log_rotation;
pub mod machine;
pub mod names;
mod resize;
pub mod resources;
mod runtime;
pub mod sandbox_config;
pub mod security;
mod start;
mod stop;
mod uncut;
pub mod user_ids;
pub mod userns;

pub use config::RuntimeConfig;
pub use container_config::ContainerDevice;
pub use env::Environment;
pub use error::RuntimeError;
pub use log_rotation::{LogRotation, Pictures, RotationPolicy};
pub use resize::SandboxSize;
pub use runtime::{Runtime, RuntimeParts, SandboxRequest};
pub use start::StartRequest;
pub use stop::{StopRequest, restored, until};
