//! What a pod is and what to do next: pure rules, no tokio, no clock, no I/O.
//!
//! Every function here takes what it needs, `now` included, and returns comparable data.

pub mod admit;
pub mod backoff;
pub mod conditions;
pub mod defaults;
pub mod desired;
pub mod env;
pub mod fields;
pub mod hash;
pub mod ids;
pub mod memory_qos;
pub mod mounts;
pub mod names;
pub mod node_affinity;
pub mod observed;
pub mod phase;
pub mod plan;
pub mod preempt;
pub mod probes;
pub mod qos;
pub mod quantity;
pub mod reason;
pub mod remains;
pub mod report;
pub mod resize;
pub mod resources;
pub mod restart;
pub mod restart_all;
pub mod static_pod;
mod static_uid;
pub mod status;
pub mod step;
pub mod sysctl;
pub mod time;
pub mod validate;

pub use desired::{Containers, DesiredPod, Source};
pub use ids::{ContainerId, PodKey, PodUid, SandboxId};
pub use observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
pub use probes::{ContainerProbes, ProbeResults, Verdict};
pub use report::{Life, TerminationCause, Waiting, WorkerReport};
pub use time::{Mono, Now};

/// The Kubernetes API types of the core group, under one short name for all crates.
pub use k8s_openapi::api::core::v1 as api;
