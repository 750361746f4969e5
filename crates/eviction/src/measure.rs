//! What a pod takes of the node's disk. Everything here blocks.

use std::path::Path;

use cri::WritableLayer;
use host::{
    RootDir,
    fs_stats::{dir_usage, fs_stats},
};
use pod::DesiredPod;

use crate::limits::{Usage, on_disk};

/// `layers`: of its containers, as the runtime tells.
pub fn usage(root: &RootDir, pod: &DesiredPod, layers: Vec<WritableLayer>) -> Usage {
    let mut usage = Usage::default();
    for (_, container) in pod.all_containers() {
        let logs = size(&root.container_log(&pod.key, &pod.uid, &container.name));
        usage.containers.insert(container.name, logs);
        usage.pod += logs;
    }
    for layer in layers {
        usage.pod += layer.used_bytes;
        if on_main_filesystem(root, &layer.mountpoint) {
            *usage.containers.entry(layer.container).or_default() += layer.used_bytes;
        }
    }
    for (name, _) in on_disk(pod) {
        let used = size(&root.pod_volume(&pod.uid, "kubernetes.io~empty-dir", name));
        usage.empty_dirs.insert(name.to_owned(), used);
        usage.pod += used;
    }
    for volume in pod.spec().volumes.iter().flatten().filter(|v| v.config_map.is_some()) {
        usage.pod += size(&root.pod_volume(&pod.uid, "kubernetes.io~configmap", &volume.name));
    }
    usage.pod += size(&root.etc_hosts(&pod.uid));
    usage
}

/// More than any limit: no pod escapes its limits by a tree that can't be walked to the end.
const BEYOND: u64 = 1 << 50;

/// Nothing, where there is nothing (yet).
fn size(path: &Path) -> u64 {
    dir_usage(path, u64::MAX).map_or(0, |usage| if usage.partial { BEYOND } else { usage.bytes })
}

fn on_main_filesystem(root: &RootDir, mountpoint: &str) -> bool {
    let device = |path: &Path| fs_stats(path).map(|stats| stats.device).ok();
    device(root.path()) == device(Path::new(mountpoint))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use pod::Source;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_that_cannot_be_walked_is_beyond_any_limit() {
        let dir = tempfile::tempdir().unwrap();
        let top = host::Dir::open(dir.path()).unwrap();
        let mut at = top.mkdir(Path::new("d"), 0o700.into()).unwrap();
        for _ in 0..600 {
            at = at.mkdir(Path::new("d"), 0o700.into()).unwrap();
        }
        assert_eq!(size(dir.path()), BEYOND);
        top.remove_all(Path::new("d")).unwrap();
    }

    #[test]
    fn logs_layers_and_volumes_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let root =
            RootDir::new(dir.path().join("kubelet")).with_logs(dir.path().join("logs"), dir.path().join("links"));
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "app"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let pod = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let write = |folder: std::path::PathBuf, bytes: usize| {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), vec![1u8; bytes]).unwrap();
        };
        write(root.container_log(&pod.key, &pod.uid, "app"), 100_000);
        write(root.pod_volume(&pod.uid, "kubernetes.io~empty-dir", "v"), 200_000);
        let layer = |mountpoint: &str| WritableLayer {
            container: "app".to_owned(),
            mountpoint: mountpoint.to_owned(),
            used_bytes: 1 << 20,
        };
        let here = usage(&root, &pod, vec![layer(&dir.path().display().to_string())]);
        assert!(here.containers["app"] >= (1 << 20) + 100_000 && here.empty_dirs["v"] >= 200_000);
        assert!(here.pod >= (1 << 20) + 300_000);
        let elsewhere = usage(&root, &pod, vec![layer("/proc")]);
        assert!(elsewhere.containers["app"] < 1 << 20, "the layer is on a filesystem of its own");
        assert_eq!(elsewhere.pod, here.pod);
    }
}
