//! Pods that were refused, and pods that had to leave for critical ones.

use std::sync::LazyLock;

use prometheus::IntCounterVec;

use crate::counters;

/// Reasons that the label shows as they are; all others would make too many series.
const REASONS: [&str; 21] = [
    "AppArmor",
    "Evicted",
    "InitContainerRestartPolicyForbidden",
    "InvalidNodeInfo",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodFeatureUnsupported",
    "PodLevelResourcesNotSupported",
    "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
    "UnexpectedPredicateFailureType",
    "UnknownReason",
    "VolumeAttachmentLimitExceeded",
    "node(s) had taints that the pod didn't tolerate",
];

static REJECTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number pod admission rejections by the Kubelet.";
    counters("kubelet_admission_rejections_total", help, &["reason"])
});

static PREEMPTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of pod preemptions by preemption resource";
    counters("kubelet_preemptions", help, &["preemption_signal"])
});

pub fn rejected(reason: &str) {
    REJECTIONS.with_label_values(&[label(reason)]).inc();
}

/// A pod that left for the sake of `resource`.
pub fn preempted(resource: &str) {
    PREEMPTIONS.with_label_values(&[resource]).inc();
}

fn label(reason: &str) -> &str {
    match reason {
        known if REASONS.contains(&known) => known,
        resource if resource.starts_with("OutOf") => "OutOfExtendedResources",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_few() {
        let labels = ["OutOfcpu", "OutOfexample.com/gpu", "NodeAffinity"].map(label);
        assert_eq!(labels, ["OutOfcpu", "OutOfExtendedResources", "Other"]);
    }
}
