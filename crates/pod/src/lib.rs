//! What a pod is and what to do next: pure rules, no tokio, no clock, no I/O.
//!
//! Every function here takes what it needs, `now` included, and returns comparable data.

pub mod desired;
pub mod ids;
pub mod mounts;
pub mod observed;
pub mod probes;
pub mod reason;
pub mod report;
pub mod time;

pub use desired::{Containers, DesiredPod, Source};
pub use ids::{ContainerId, PodKey, PodUid, SandboxId};
pub use observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
pub use probes::{ContainerProbes, ProbeResults, Verdict};
pub use report::{Life, TerminationCause, Waiting, WorkerReport};
pub use time::{Mono, Now};

/// The Kubernetes API types of the core group, under one short name for all crates.
pub use k8s_openapi::api::core::v1 as api;
