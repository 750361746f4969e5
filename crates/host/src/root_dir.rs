//! The kubelet's root directory: every path below it in one place, as upstream lays it out, so that the two can be
//! swapped on a live node.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use pod::{PodKey, PodUid};

use crate::{
    error::{During, HostError},
    mounts,
};

/// Mode of the root directory and of most directories beneath it.
pub const DIR_MODE: u32 = 0o750;

/// Where upstream keeps pods' logs whatever the root directory is.
const POD_LOGS: &str = "/var/log/pods";
const CONTAINER_LOGS: &str = "/var/log/containers";

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct RootDir {
    root: Arc<Path>,
    pod_logs: Arc<Path>,
    container_logs: Arc<Path>,
}

impl RootDir {
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self {
            root: Arc::from(root.as_ref()),
            pod_logs: Arc::from(Path::new(POD_LOGS)),
            container_logs: Arc::from(Path::new(CONTAINER_LOGS)),
        }
    }

    /// `podLogsDir` of the configuration, and a place for the `/var/log/containers` links.
    pub fn with_logs(mut self, pod_logs: impl AsRef<Path>, container_logs: impl AsRef<Path>) -> Self {
        self.pod_logs = Arc::from(pod_logs.as_ref());
        self.container_logs = Arc::from(container_logs.as_ref());
        self
    }

    pub fn path(&self) -> &Path {
        &self.root
    }
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }
    pub fn plugins_registry(&self) -> PathBuf {
        self.root.join("plugins_registry")
    }
    pub fn device_plugins(&self) -> PathBuf {
        self.root.join("device-plugins")
    }
    pub fn pod_resources(&self) -> PathBuf {
        self.root.join("pod-resources")
    }
    pub fn pods_api(&self) -> PathBuf {
        self.root.join("pods-api")
    }
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }
    pub fn image_manager(&self) -> PathBuf {
        self.root.join("image_manager")
    }
    /// A state file directly in the root directory (`allocated_pods_state`, ...).
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }
    pub fn pod(&self, uid: &PodUid) -> PathBuf {
        self.pods().join(uid.as_str())
    }
    pub fn pod_volumes(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volumes")
    }
    /// `plugin` is the plugin's qualified name, such as `kubernetes.io/empty-dir`.
    pub fn pod_volume(&self, uid: &PodUid, plugin: &str, volume: &str) -> PathBuf {
        self.pod_volumes(uid).join(escape(plugin)).join(volume)
    }
    pub fn pod_plugins(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("plugins")
    }
    /// The plugin's notes about one volume of the pod, such as its ready marker.
    pub fn pod_plugin(&self, uid: &PodUid, plugin: &str, volume: &str) -> PathBuf {
        self.pod_plugins(uid).join(escape(plugin)).join(volume)
    }
    pub fn pod_volume_devices(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volumeDevices")
    }
    pub fn pod_sub_paths(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }
    /// The mount point of a container's `index`th volume mount when that one has a subPath.
    pub fn pod_sub_path(&self, uid: &PodUid, volume: &str, container: &str, index: usize) -> PathBuf {
        self.pod_sub_paths(uid).join(volume).join(container).join(index.to_string())
    }
    /// Holds a container's termination log files, one per start.
    pub fn container(&self, uid: &PodUid, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }
    pub fn etc_hosts(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }
    pub fn user_namespace(&self, uid: &PodUid) -> PathBuf {
        self.pod(uid).join("userns")
    }

    pub fn pod_logs(&self) -> &Path {
        &self.pod_logs
    }
    /// `/var/log/pods/NAMESPACE_NAME_UID`.
    pub fn pod_log(&self, key: &PodKey, uid: &PodUid) -> PathBuf {
        self.pod_logs.join(format!("{}_{}_{}", key.namespace, key.name, uid))
    }
    pub fn container_log(&self, key: &PodKey, uid: &PodUid, container: &str) -> PathBuf {
        self.pod_log(key, uid).join(container)
    }
    pub fn container_logs(&self) -> &Path {
        &self.container_logs
    }

    /// Makes the node-wide directories. Existing ones keep their mode.
    pub fn create(&self) -> Result<(), HostError> {
        make_dir(&self.root, DIR_MODE)?;
        for dir in [self.pods(), self.plugins(), self.plugins_registry(), self.device_plugins(), self.pod_resources()] {
            make_dir(&dir, DIR_MODE)?;
        }
        make_dir(&self.checkpoints(), 0o700)?;
        make_dir(&self.pod_logs, DIR_MODE)?;
        make_dir(&self.container_logs, 0o755)
    }

    /// Makes the root directory a shared mount, binding it to itself first when it is no mount point, so that mounts
    /// made beneath it reach containers that ask for it and mounts of `Bidirectional` containers reach the host.
    pub fn make_shared(&self) -> Result<(), HostError> {
        let root = fs::canonicalize(&self.root).during("resolve", &self.root)?;
        let shared = mounts::table()?.iter().rfind(|m| root.starts_with(&m.mount_point)).is_some_and(|m| m.shared);
        if shared {
            return Ok(());
        }
        if !mounts::is_mount_point(&root)? {
            mounts::bind_recursive(&root, &root)?;
        }
        mounts::make_recursively_shared(&root)
    }

    /// Makes a pod's own directories.
    pub fn create_pod(&self, uid: &PodUid) -> Result<(), HostError> {
        self.check_uid(uid)?;
        for dir in [self.pod(uid), self.pod_volumes(uid), self.pod_plugins(uid)] {
            make_dir(&dir, DIR_MODE)?;
        }
        Ok(())
    }

    /// Refuses a UID that would name another directory than one directly beneath `pods`.
    pub fn check_uid(&self, uid: &PodUid) -> Result<(), HostError> {
        let mut parts = Path::new(uid.as_str()).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(p)), None) if p == uid.as_str());
        if plain {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidInput)).during("use as a pod UID", uid.as_str())
        }
    }

    /// The UIDs of all pods that have a directory.
    pub fn pod_uids(&self) -> Result<Vec<PodUid>, HostError> {
        let dir = self.pods();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).during("list", &dir),
        };
        let names = entries.collect::<Result<Vec<_>, _>>().during("list", &dir)?;
        let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
        Ok(names.iter().filter(|e| is_dir(e)).map(|e| PodUid::new(e.file_name().to_string_lossy())).collect())
    }
}

/// `kubernetes.io/empty-dir` becomes `kubernetes.io~empty-dir`.
fn escape(qualified_name: &str) -> String {
    qualified_name.replace('/', "~")
}

/// Makes a directory and its parents. A directory that is made here gets exactly `mode`, whatever the umask is.
pub fn make_dir(dir: &Path, mode: u32) -> Result<(), HostError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(parent).during("make directory", parent)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode)).during("set the mode of", dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e).during("make directory", dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn paths_are_those_of_the_upstream_kubelet() {
        let root = RootDir::new("/var/lib/kubelet");
        let uid = PodUid::new("1-2");
        let path = |p: PathBuf| p.to_str().unwrap().to_owned();
        assert_eq!(
            path(root.pod_volume(&uid, "kubernetes.io/empty-dir", "tmp")),
            "/var/lib/kubelet/pods/1-2/volumes/kubernetes.io~empty-dir/tmp"
        );
        assert_eq!(
            path(root.pod_plugin(&uid, "kubernetes.io/empty-dir", "wrapped_tmp")),
            "/var/lib/kubelet/pods/1-2/plugins/kubernetes.io~empty-dir/wrapped_tmp"
        );
        assert_eq!(path(root.pod_sub_path(&uid, "v", "c", 3)), "/var/lib/kubelet/pods/1-2/volume-subpaths/v/c/3");
        assert_eq!(path(root.pod_log(&PodKey::new("ns", "web"), &uid)), "/var/log/pods/ns_web_1-2");
    }

    #[test]
    fn directories_get_their_modes() {
        let temp = tempfile::tempdir().unwrap();
        let root = RootDir::new(temp.path().join("kubelet"))
            .with_logs(temp.path().join("logs/pods"), temp.path().join("logs/containers"));
        root.create().unwrap();
        root.create().unwrap();
        assert_eq!(mode(&root.pods()), 0o750);
        assert_eq!(mode(&root.checkpoints()), 0o700);
        assert_eq!(mode(root.container_logs()), 0o755);
        let uid = PodUid::new("a");
        root.create_pod(&uid).unwrap();
        assert_eq!(mode(&root.pod_volumes(&uid)), 0o750);
        assert_eq!(root.pod_uids().unwrap(), vec![uid]);
    }

    #[test]
    fn a_uid_that_is_a_path_is_refused() {
        let root = RootDir::new("/nowhere");
        for bad in ["", ".", "..", "a/b", "/etc", "a/", "./a"] {
            assert!(root.check_uid(&PodUid::new(bad)).is_err(), "{bad:?}");
        }
        assert!(root.check_uid(&PodUid::new("0c7f")).is_ok());
    }
}
