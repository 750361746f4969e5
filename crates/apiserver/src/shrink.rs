//! A pod is kept for as long as it runs, so its lists are cut to what they hold: a list that was read grows by four,
//! and a volume takes nearly a kilobyte.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus, Volume, VolumeProjection};

pub(crate) fn shrink(pod: &mut Pod) {
    pod.spec.as_mut().map(shrink_spec);
    pod.status.as_mut().map(shrink_status);
}

fn cut<T>(list: &mut Option<Vec<T>>) -> impl Iterator<Item = &mut T> {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
    list.iter_mut().flatten()
}

fn shrink_spec(spec: &mut PodSpec) {
    spec.containers.shrink_to_fit();
    spec.containers.iter_mut().chain(cut(&mut spec.init_containers)).for_each(shrink_container);
    cut(&mut spec.ephemeral_containers).for_each(shrink_ephemeral);
    cut(&mut spec.volumes).for_each(shrink_volume);
    cut(&mut spec.tolerations).for_each(drop);
    cut(&mut spec.image_pull_secrets).for_each(drop);
}

fn shrink_container(container: &mut Container) {
    cut(&mut container.command).for_each(drop);
    cut(&mut container.args).for_each(drop);
    cut(&mut container.env).for_each(drop);
    cut(&mut container.env_from).for_each(drop);
    cut(&mut container.ports).for_each(drop);
    cut(&mut container.volume_mounts).for_each(drop);
}

fn shrink_ephemeral(container: &mut EphemeralContainer) {
    cut(&mut container.env).for_each(drop);
    cut(&mut container.volume_mounts).for_each(drop);
}

fn shrink_volume(volume: &mut Volume) {
    if let Some(projected) = &mut volume.projected {
        cut(&mut projected.sources).for_each(shrink_source);
    }
}

fn shrink_source(source: &mut VolumeProjection) {
    if let Some(files) = &mut source.config_map {
        cut(&mut files.items).for_each(drop);
    }
    if let Some(files) = &mut source.secret {
        cut(&mut files.items).for_each(drop);
    }
    if let Some(files) = &mut source.downward_api {
        cut(&mut files.items).for_each(drop);
    }
}

fn shrink_status(status: &mut PodStatus) {
    cut(&mut status.conditions).for_each(drop);
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flat_map(cut) {
        cut(&mut container.volume_mounts).for_each(drop);
    }
    cut(&mut status.pod_ips).for_each(drop);
    cut(&mut status.host_ips).for_each(drop);
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "a", "env": [{"name": "E", "value": "v"}], "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "tolerations": [{"key": "k"}],
            "volumes": [{"name": "t", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "n"}]}}]}}]
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.0.0.1"}]}
    }"#;

    #[test]
    fn lists_that_are_kept_hold_no_room_and_say_the_same() {
        let read: Pod = serde_json::from_str(POD).unwrap();
        let mut kept = read.clone();
        kept.spec.as_mut().unwrap().volumes.as_mut().unwrap().reserve(9);
        kept.status.as_mut().unwrap().conditions.as_mut().unwrap().reserve(9);
        shrink(&mut kept);
        assert_eq!(kept, read);
        assert_eq!(kept.spec.unwrap().volumes.unwrap().capacity(), 1);
        assert_eq!(kept.status.unwrap().conditions.unwrap().capacity(), 1);
    }
}
