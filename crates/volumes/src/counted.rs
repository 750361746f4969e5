//! The volumes of pods, for `volume_manager_total_volumes`, and what was done with them, for
//! `storage_operation_duration_seconds`. The volumes of a pod are worked on together, so each is said to have taken as
//! long as all.

use std::time::Duration;

use metrics::volumes::{Operation, World, changed, done, in_place};
use pod::{DesiredPod, api::Volume};

use crate::{error::VolumeError, prepare::volumes_in_use};

/// The pod's volumes came or went, all of them.
pub(crate) fn count(pod: &DesiredPod, world: World, by: i64) {
    volumes_in_use(pod).for_each(|volume| changed(world, plugin(volume), by));
}

/// For the first time, so long after they were wanted.
pub(crate) fn all_in_place(pod: &DesiredPod, took: Duration) {
    volumes_in_use(pod).for_each(|volume| in_place(plugin(volume), took));
}

pub(crate) fn mounted(pod: &DesiredPod, outcome: Result<(), &VolumeError>, took: Duration) {
    for volume in volumes_in_use(pod) {
        let failed = outcome.is_err_and(|error| concerns(error, &volume.name));
        done(Operation::Mount, plugin(volume), !failed, took);
    }
}

pub(crate) fn taken_down(pod: &DesiredPod, succeeded: bool, took: Duration) {
    for volume in volumes_in_use(pod) {
        done(Operation::Unmount, plugin(volume), succeeded, took);
    }
}

fn concerns(error: &VolumeError, name: &str) -> bool {
    match error {
        VolumeError::SetUp { volume, .. } | VolumeError::Unsupported { volume, .. } => volume == name,
        VolumeError::Several(each) => each.iter().any(|error| concerns(error, name)),
        _ => true,
    }
}

/// As upstream's plugins are named; a claim's volume goes by what it is to the pod.
fn plugin(volume: &Volume) -> &'static str {
    let known = [
        (volume.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (volume.host_path.is_some(), "kubernetes.io/host-path"),
        (volume.config_map.is_some(), "kubernetes.io/configmap"),
        (volume.secret.is_some(), "kubernetes.io/secret"),
        (volume.downward_api.is_some(), "kubernetes.io/downward-api"),
        (volume.projected.is_some(), "kubernetes.io/projected"),
        (volume.image.is_some(), "kubernetes.io/image"),
        (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(), "kubernetes.io/persistent-claim"),
    ];
    known.iter().find(|(is, _)| *is).map_or("unknown", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{error::Cause, fixture::pod};

    #[test]
    fn volumes_that_are_mounted_are_counted_one_by_one() {
        let pod = pod(json!({
            "volumes": [
                {"name": "good", "emptyDir": {}},
                {"name": "bad", "image": {"reference": "i"}},
                {"name": "idle", "hostPath": {"path": "/"}},
            ],
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "good", "mountPath": "/a"}, {"name": "bad", "mountPath": "/b"},
            ]}],
        }));
        let bad = VolumeError::set_up("bad", Cause::TakenDown);
        mounted(&pod, Err(&bad), Duration::from_secs(3));
        taken_down(&pod, true, Duration::from_secs(1));
        all_in_place(&pod, Duration::from_secs(9));
        let text = metrics::gather();
        let count = |operation: &str, status: &str, plugin: &str| {
            text.contains(&format!(
                "storage_operation_duration_seconds_count{{migrated=\"false\",operation_name=\"{operation}\",\
                 status=\"{status}\",volume_plugin=\"kubernetes.io/{plugin}\"}}"
            ))
        };
        assert!(count("volume_mount", "success", "empty-dir"), "{text}");
        assert!(count("volume_mount", "fail-unknown", "image"), "{text}");
        assert!(count("volume_unmount", "success", "empty-dir"), "{text}");
        assert!(!text.contains("host-path"), "{text}");
        let whole = "volume_operation_total_seconds_sum{operation_name=\"overall_volume_mount\",\
                     plugin_name=\"kubernetes.io/image\"} 9";
        assert!(text.contains(whole), "{text}");
    }
}
