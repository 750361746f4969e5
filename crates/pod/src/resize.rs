//! In-place resize. A pod's resources have three versions: what its spec asks for (desired), what the node has granted
//! (allocated) and what was last handed to runtime and kernel (actuated). The pod that a worker sees carries the
//! allocated ones; these rules say how one version becomes the next.

mod asked;
mod plan;
mod record;
mod steps;
mod words;

pub use asked::{asked, priority_bucket};
pub use plan::{ContainerUpdate, Given, ResizeInput, ResizePlan, effective, in_progress, plan};
pub use record::{PodResources, RecordError, Records, decode, encode};
pub use steps::{MemoryUse, PodLimits, Shrinking, Step, shrinking, steps, too_small};
pub use words::{Accepted, Condition, ResizeReport, ResizeWord, Verb, summary};

use crate::{
    DesiredPod,
    qos::{QosClass, qos_class},
    resources::{container_limit, container_request, pod_requests},
};

pub const DEFERRED: &str = "Deferred";
pub const INFEASIBLE: &str = "Infeasible";
pub const ERROR: &str = "Error";

/// Why this node will never grant the resize; None when only room can be missing. `limited_swap`: pods may swap here.
pub fn infeasible(desired: &DesiredPod, allocated: &DesiredPod, limited_swap: bool) -> Option<&'static str> {
    let pairs = desired.spec().containers.iter().zip(&allocated.spec().containers);
    let init = desired.init_containers().iter().zip(allocated.init_containers());
    let swaps = |pod: &DesiredPod, c: &crate::api::Container| {
        limited_swap
            && !pod.is_critical()
            && qos_class(&pod.pod) == QosClass::Burstable
            && container_request(c, "memory") != container_limit(c, "memory")
    };
    let blocked = pairs.chain(init).any(|(new, old)| {
        container_request(new, "memory") != container_request(old, "memory")
            && !plan::needs_restart(old, "memory")
            && (swaps(desired, new) || swaps(allocated, old))
    });
    blocked.then_some("In-place resize of containers with swap is not supported.")
}

/// Whether more is asked for than was granted; what asks for no more always fits.
pub fn increases(desired: &DesiredPod, allocated: &DesiredPod) -> bool {
    let (new, old) = (pod_requests(desired.spec()), pod_requests(allocated.spec()));
    ["cpu", "memory"]
        .iter()
        .any(|name| new.get(*name).copied().unwrap_or_default() > old.get(*name).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests;
