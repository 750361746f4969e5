//! What pods keep on the node's disk: containers' own layers, logs, and the volumes that the kubelet itself fills.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cri::ContainerLayer;
use host::{
    RootDir,
    fs_stats::{DirUsage, FsStats, dir_usage, fs_stats},
};
use pod::{DesiredPod, Mono, PodUid};

use crate::{PodRow, dispatch::Context};

/// Inodes looked at in one tree.
const MOST_INODES: u64 = 2_000_000;
/// The plugins whose volumes are directories that the kubelet fills, and whether they count as the pod's own use of
/// the node's disk.
const PLUGINS: [(&str, bool); 5] = [
    ("kubernetes.io~empty-dir", true),
    ("kubernetes.io~configmap", true),
    ("kubernetes.io~secret", false),
    ("kubernetes.io~projected", false),
    ("kubernetes.io~downward-api", false),
];

#[derive(Debug, Default)]
pub struct Storage {
    /// By container id.
    pub layers: HashMap<String, ContainerLayer>,
    pub pods: HashMap<PodUid, PodStorage>,
}

#[derive(Debug, Default)]
pub struct PodStorage {
    /// By container name.
    pub logs: HashMap<String, DirUsage>,
    pub volumes: Vec<Volume>,
    /// Files of the pod rather than of a container: its hosts file and what lies beside its containers' logs.
    own: DirUsage,
}

#[derive(Clone, Debug)]
pub struct Volume {
    pub name: String,
    pub used: DirUsage,
    pub fs: FsStats,
    on_node: bool,
}

impl PodStorage {
    /// Logs, volumes on the node's disk and the pod's own files, without the layers.
    pub fn on_node(&self) -> DirUsage {
        let volumes = self.volumes.iter().filter(|volume| volume.on_node).map(|volume| volume.used);
        let all = volumes.chain(self.logs.values().copied());
        all.fold(self.own, |sum, part| DirUsage {
            bytes: sum.bytes + part.bytes,
            inodes: sum.inodes + part.inodes,
            ..sum
        })
    }
}

/// Volumes are walked at most once in the period (volumeStatsAggPeriod).
#[derive(Default)]
pub struct Volumes(Mutex<HashMap<PodUid, (Mono, Vec<Volume>)>>);

impl Volumes {
    fn of(&self, root: &RootDir, pod: &DesiredPod, period: Duration, now: Mono) -> Vec<Volume> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&pod.uid).cloned();
        if let Some((_, volumes)) = kept.filter(|(at, _)| now.since(*at) < period) {
            return volumes;
        }
        let volumes = volumes(root, pod);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid.clone(), (now, volumes.clone()));
        volumes
    }

    fn keep_only(&self, pods: &HashMap<PodUid, PodStorage>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| pods.contains_key(uid));
    }
}

/// Of all pods. Layers are missing where the runtime does not answer.
pub async fn read(context: &std::sync::Arc<Context>) -> Storage {
    let layers = context.deps.cri.container_layers().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the runtime does not tell what containers have written");
        HashMap::new()
    });
    let reader = context.clone();
    let pods = context.stats.storage.take(move || {
        let (config, now) = (&reader.config, reader.deps.clock.mono());
        let root = root(&reader);
        let measure = |pod: &DesiredPod| {
            let volumes = config.volume_stats_period.map(|period| reader.stats.volumes.of(&root, pod, period, now));
            PodStorage { volumes: volumes.unwrap_or_default(), ..files(&root, pod) }
        };
        let rows = reader.deps.pods.list();
        let pods = rows.iter().map(|row| (row.desired.uid.clone(), measure(&row.desired))).collect();
        reader.stats.volumes.keep_only(&pods);
        pods
    });
    Storage { layers, pods: pods.await.unwrap_or_default() }
}

/// The logs of one container.
pub struct LogUse {
    pub row: PodRow,
    pub container: String,
    pub bytes: u64,
}

/// Of all containers that have logs.
pub async fn logs(context: &std::sync::Arc<Context>) -> Vec<LogUse> {
    let reader = context.clone();
    let found = context.stats.storage.take(move || {
        let root = root(&reader);
        let mut found = Vec::new();
        for row in reader.deps.pods.list() {
            for (container, used) in log_usage(&root, &row.desired).into_iter().filter(|(_, used)| used.inodes > 0) {
                found.push(LogUse { row: row.clone(), container, bytes: used.bytes });
            }
        }
        found
    });
    found.await.unwrap_or_default()
}

fn root(context: &Context) -> RootDir {
    let config = &context.config;
    RootDir::new(&config.root_dir).with_logs(&config.pod_logs_dir, &config.pod_logs_dir)
}

/// Of each container, by name.
fn log_usage(root: &RootDir, pod: &DesiredPod) -> Vec<(String, DirUsage)> {
    let names = pod.all_containers().into_iter().map(|(_, container)| container.name.to_string());
    names.map(|name| (name.clone(), flat(&root.container_log(&pod.key, &pod.uid, &name)))).collect()
}

/// Logs and the pod's own files.
fn files(root: &RootDir, pod: &DesiredPod) -> PodStorage {
    let mut own = flat(&root.pod_log(&pod.key, &pod.uid));
    if let Ok(hosts) = dir_usage(&root.etc_hosts(&pod.uid), 1) {
        own = DirUsage { bytes: own.bytes + hosts.bytes, inodes: own.inodes + hosts.inodes, ..own };
    }
    PodStorage { logs: log_usage(root, pod).into_iter().collect(), volumes: Vec::new(), own }
}

/// The files of one directory, without what lies deeper.
fn flat(dir: &Path) -> DirUsage {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.filter_map(|file| dir_usage(&file.path(), 1).ok()).fold(DirUsage::default(), |sum, file| DirUsage {
        bytes: sum.bytes + file.bytes,
        inodes: sum.inodes + file.inodes,
        ..sum
    })
}

fn volumes(root: &RootDir, pod: &DesiredPod) -> Vec<Volume> {
    let node = fs_stats(root.path()).map(|stats| stats.device).ok();
    let measured = pod.spec().volumes.iter().flatten().filter_map(|volume| {
        let of_plugin =
            PLUGINS.iter().map(|(plugin, counts)| (root.pod_volume(&pod.uid, plugin, &volume.name), counts));
        let (path, counts) = of_plugin.into_iter().find(|(path, _)| path.is_dir())?;
        let (used, fs) = (dir_usage(&path, MOST_INODES).ok()?, fs_stats(&path).ok()?);
        // One in memory takes nothing of the disk.
        Some(Volume { name: volume.name.clone(), used, fs, on_node: *counts && node == Some(fs.device) })
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pod::Source;
    use serde_json::json;

    use super::*;

    #[test]
    fn logs_volumes_and_own_files_add_up_and_secrets_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::new(dir.path().join("kubelet")).with_logs(dir.path().join("logs"), dir.path());
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "app"}],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x"}}]}});
        let pod = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let write = |folder: std::path::PathBuf| {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), vec![1u8; 100_000]).unwrap();
        };
        write(root.container_log(&pod.key, &pod.uid, "app"));
        write(root.pod_volume(&pod.uid, "kubernetes.io~empty-dir", "e"));
        write(root.pod_volume(&pod.uid, "kubernetes.io~secret", "s"));
        let kept = Volumes::default();
        let period = Duration::from_secs(60);
        let volumes = kept.of(&root, &pod, period, Mono(Duration::ZERO));
        assert_eq!(volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["e", "s"]);
        let storage = PodStorage { volumes, ..files(&root, &pod) };
        assert!((200_000..300_000).contains(&storage.on_node().bytes), "{storage:?}");
        assert!(storage.logs["app"].bytes >= 100_000);
        fs::remove_dir_all(root.pod_volumes(&pod.uid)).unwrap();
        assert_eq!(kept.of(&root, &pod, period, Mono(Duration::from_secs(59))).len(), 2, "not walked again yet");
        assert_eq!(kept.of(&root, &pod, period, Mono(period)).len(), 0);
    }
}
