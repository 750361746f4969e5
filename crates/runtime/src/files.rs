//! The files that a container needs outside its volumes: hosts file, termination log, log directory and links.

use std::{
    fs::{self, OpenOptions, Permissions},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use host::{HostError, RootDir, root_dir::make_dir};
use pod::{
    ContainerId, DesiredPod, ObservedContainer, PodKey, PodUid,
    api::Container,
    mounts::{ContainerMount, Propagation},
};

use crate::{hostname::Hostname, hosts, names};

const ETC_HOSTS: &str = "/etc/hosts";
const LOG_DIR_MODE: u32 = 0o755;

#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct FilesError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

pub(crate) trait During<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, FilesError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, FilesError> {
        self.map_err(|source| FilesError { operation, path: path.to_owned(), source })
    }
}

impl<T> During<T> for Result<T, HostError> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, FilesError> {
        self.map_err(|e| FilesError { operation, path: path.to_owned(), source: io::Error::other(e) })
    }
}

pub fn make_log_dir(dir: &Path) -> Result<(), FilesError> {
    make_dir(dir, LOG_DIR_MODE).during("create log directory", dir)
}

fn mount(name: &str, container_path: &str, host_path: PathBuf) -> ContainerMount {
    ContainerMount {
        name: name.to_owned(),
        container_path: container_path.to_owned(),
        host_path,
        readonly: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        selinux_relabel: true,
        image: None,
        image_sub_path: String::new(),
    }
}

/// Writes the pod's hosts file and mounts it, unless the container mounts one of its own or the pod has no address.
pub fn hosts_mount(
    root: &RootDir,
    pod: &DesiredPod,
    container: &Container,
    host: &Hostname,
    ips: &[String],
) -> Result<Option<ContainerMount>, FilesError> {
    let own = container.volume_mounts.iter().flatten().any(|m| m.mount_path == ETC_HOSTS);
    if own || (ips.is_empty() && !pod.host_network()) {
        return Ok(None);
    }
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    let content = if pod.host_network() {
        let node = Path::new(ETC_HOSTS);
        // Whatever its encoding: the parts that are not UTF-8 can only be comments.
        hosts::for_host_network(&String::from_utf8_lossy(&fs::read(node).during("read", node)?), aliases)
    } else {
        hosts::for_pod_network(ips, host, aliases)
    };
    let path = root.etc_hosts(&pod.uid);
    make_dir(&root.pod(&pod.uid), host::root_dir::DIR_MODE).during("create", &path)?;
    // In place: containers that already run see this very file.
    fs::write(&path, content).during("write", &path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).during("set the mode of", &path)?;
    Ok(Some(mount("k8s-managed-etc-hosts", ETC_HOSTS, path)))
}

/// A new, empty, world-writable file for this start of the container.
pub fn termination_log(
    root: &RootDir,
    pod: &DesiredPod,
    container: &Container,
) -> Result<Option<ContainerMount>, FilesError> {
    let Some(inside) = container.termination_message_path.as_deref().filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let dir = root.container(&pod.uid, &container.name);
    make_dir(&dir, host::root_dir::DIR_MODE).during("create", &dir)?;
    let inside = if inside.starts_with('/') { inside.to_owned() } else { format!("/{inside}") };
    loop {
        let path = dir.join(format!("{:08x}", random()));
        match OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path) {
            Ok(_) => {
                // The umask may have taken bits away.
                fs::set_permissions(&path, Permissions::from_mode(0o666)).during("set the mode of", &path)?;
                return Ok(Some(mount("termination-log", &inside, path)));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).during("create", &path),
        }
    }
}

/// Unpredictable enough for a name that need only be new.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// One more than the highest N of the files `N.log*`: used when no container is left to tell its restart count.
pub fn restarts_by_logs(dir: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let count = |name: &str| name.split_once(".log").and_then(|(n, _)| n.parse::<u32>().ok()).map(|n| n + 1);
    entries.filter_map(|e| count(&e.ok()?.file_name().to_string_lossy())).max().unwrap_or(0)
}

/// `/var/log/containers/...` for collectors that read there. Nothing depends on it, so a failure is only logged.
pub fn link_log(log: &Path, link: &Path) {
    if !log.exists() {
        return;
    }
    if let Err(e) = symlink(log, link).or_else(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => fs::remove_file(link).and_then(|()| symlink(log, link)),
        _ => Err(e),
    }) {
        tracing::warn!(link = %link.display(), error = %e, "can't link a container's log");
    }
}

/// The container's log with its rotated parts, and the link to it.
pub fn remove_logs(root: &RootDir, key: &PodKey, container: &ObservedContainer) -> Result<(), FilesError> {
    let link = names::log_symlink(root.container_logs(), key, &container.name, &container.id);
    remove(&link)?;
    let log = Path::new(&container.log_path);
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Ok(()) };
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), FilesError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).during("remove", path),
        _ => Ok(()),
    }
}

/// What fails stays for `sweep_logs`.
pub fn remove_pod_logs(root: &RootDir, key: &PodKey, uid: &PodUid) {
    let dir = root.pod_log(key, uid);
    if let Err(e) = fs::remove_dir_all(&dir)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), error = %e, "can't remove the logs of a pod that is gone");
    }
}

/// Log directories of pods that `is_known` does not know, then links of dead containers that lead nowhere.
pub fn sweep_logs(root: &RootDir, is_known: impl Fn(&PodUid) -> bool, is_alive: impl Fn(&ContainerId) -> bool) {
    for dir in entries(root.pod_logs()) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let uid = name.rsplit_once('_').map(|(_, uid)| PodUid::new(uid));
        if uid.is_some_and(|uid| !is_known(&uid))
            && let Err(e) = fs::remove_dir_all(&dir)
        {
            tracing::warn!(dir = %dir.display(), error = %e, "can't remove the logs of a pod that is gone");
        }
    }
    for link in entries(root.container_logs()) {
        let dangles = fs::symlink_metadata(&link).is_ok_and(|m| m.is_symlink()) && !link.exists();
        // In the middle of a rotation the log of a living container isn't there for a moment.
        let alive = || names::container_of_link(&link).is_some_and(|id| is_alive(&id));
        if dangles
            && !alive()
            && let Err(e) = remove(&link)
        {
            tracing::warn!(error = %e, "can't remove a dangling log link");
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;
    use pod::{ContainerState, SandboxId, api::VolumeMount};

    fn root() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::new(dir.path()).with_logs(dir.path().join("pod-logs"), dir.path().join("container-logs"));
        (dir, root)
    }

    fn host() -> Hostname {
        Hostname { name: "web".into(), domain: String::new() }
    }

    #[test]
    fn the_hosts_file_is_mounted_once_the_pod_has_an_address() {
        let (_dir, root) = root();
        let pod = pod("web", |_| {});
        let app = &pod.spec().containers[0];
        assert_eq!(hosts_mount(&root, &pod, app, &host(), &[]).unwrap(), None);
        let mount = hosts_mount(&root, &pod, app, &host(), &["10.0.0.5".into()]).unwrap().unwrap();
        assert_eq!((mount.container_path.as_str(), &mount.host_path), ("/etc/hosts", &root.etc_hosts(&pod.uid)));
        assert!(fs::read_to_string(&mount.host_path).unwrap().ends_with("10.0.0.5\tweb\n"));
        let own = Container {
            volume_mounts: Some(vec![VolumeMount { mount_path: "/etc/hosts".into(), ..VolumeMount::default() }]),
            ..app.clone()
        };
        assert_eq!(hosts_mount(&root, &pod, &own, &host(), &["10.0.0.5".into()]).unwrap(), None);
    }

    #[test]
    fn each_start_has_a_termination_log_of_its_own() {
        let (_dir, root) = root();
        let pod = pod("web", |_| {});
        let app = &pod.spec().containers[0];
        let paths = [(); 2].map(|()| termination_log(&root, &pod, app).unwrap().unwrap().host_path);
        assert_ne!(paths[0], paths[1]);
        assert_eq!(fs::metadata(&paths[0]).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(paths[0].file_name().unwrap().len(), 8);
        let none = Container { termination_message_path: None, ..app.clone() };
        assert_eq!(termination_log(&root, &pod, &none).unwrap(), None);
    }

    #[test]
    fn log_files_tell_how_often_a_container_was_started() {
        let (dir, _) = root();
        assert_eq!(restarts_by_logs(&dir.path().join("missing")), 0);
        for name in ["0.log", "3.log.20260101-000000.gz", "2.log", "x.log", "9.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(restarts_by_logs(dir.path()), 4);
    }

    #[test]
    fn removing_a_containers_logs_takes_rotated_files_and_the_link() {
        let (_dir, root) = root();
        let key = PodKey::new("ns", "web");
        let logs = root.container_log(&key, &PodUid::new("u"), "app");
        fs::create_dir_all(&logs).unwrap();
        fs::create_dir_all(root.container_logs()).unwrap();
        for name in ["0.log", "0.log.20260101-000000", "1.log"] {
            fs::write(logs.join(name), "").unwrap();
        }
        let container = ObservedContainer {
            id: ContainerId::new("c0"),
            sandbox_id: SandboxId::new("s"),
            name: "app".into(),
            restart_count: 0,
            state: ContainerState::Exited,
            image: String::new(),
            image_id: String::new(),
            created_at: pod::time::Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            annotations: Default::default(),
            mounts: Vec::new(),
            user: None,
            resources: None,
            log_path: logs.join("0.log").to_string_lossy().into_owned(),
        };
        let link = names::log_symlink(root.container_logs(), &key, "app", &container.id);
        link_log(&logs.join("0.log"), &link);
        assert!(link.exists());
        remove_logs(&root, &key, &container).unwrap();
        assert_eq!(entries(&logs), [logs.join("1.log")]);
        assert!(fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn a_sweep_keeps_known_pods_and_links_that_lead_somewhere_or_will() {
        let (_dir, root) = root();
        let key = PodKey::new("ns", "web");
        let link = |id: &str| names::log_symlink(root.container_logs(), &key, "app", &ContainerId::new(id));
        fs::create_dir_all(root.container_logs()).unwrap();
        for uid in ["known", "gone"] {
            let dir = root.container_log(&key, &PodUid::new(uid), "app");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("0.log"), "").unwrap();
            link_log(&dir.join("0.log"), &link(uid));
        }
        symlink("/being/rotated.log", link("alive")).unwrap();
        sweep_logs(&root, |uid| uid.as_str() == "known", |id| id.as_str() == "alive");
        let mut left = entries(root.container_logs());
        left.sort();
        assert_eq!(left, [link("alive"), link("known")]);
        assert_eq!(entries(root.pod_logs()).len(), 1);
    }
}
