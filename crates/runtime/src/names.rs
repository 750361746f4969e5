//! Names that other programs and error texts know; labels and annotations are in `cri::labels`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pod::{ContainerId, DesiredPod, PodKey, PodUid};

/// `NAME_NAMESPACE(UID)`: how error texts name a pod.
pub fn pod_text(key: &PodKey, uid: &PodUid) -> String {
    format!("{}_{}({uid})", key.name, key.namespace)
}

/// The pod's grace period, as asked for at its deletion or else in its spec; two seconds where neither says.
pub fn grace(pod: &DesiredPod) -> Duration {
    let asked = pod.pod.metadata.deletion_grace_period_seconds;
    let secs = asked.or(pod.spec().termination_grace_period_seconds).unwrap_or(2);
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

/// `CONTAINER/RESTARTS.log`, relative to the pod's log directory.
pub fn container_log(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, cut to what ext4 can store.
pub fn log_symlink(root: &Path, key: &PodKey, container: &str, id: &ContainerId) -> PathBuf {
    const SUFFIX: &str = ".log";
    let mut name = format!("{}_{}_{container}-{id}", key.name, key.namespace);
    name.truncate(255 - SUFFIX.len());
    root.join(name + SUFFIX)
}

/// Whose log it is. None: too long a name has cut the id off.
pub fn container_of_link(link: &Path) -> Option<ContainerId> {
    let (_, id) = link.file_name()?.to_str()?.strip_suffix(".log")?.rsplit_once('-')?;
    Some(ContainerId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_that_log_collectors_look_for() {
        let key = PodKey::new("ns", "web");
        let link = log_symlink(Path::new("/var/log/containers"), &key, "app", &ContainerId::new("0123"));
        assert_eq!(link, Path::new("/var/log/containers/web_ns_app-0123.log"));
        let long = PodKey::new("ns", "w".repeat(300));
        let link = log_symlink(Path::new("/l"), &long, "app", &ContainerId::new("0123"));
        assert_eq!(link.file_name().unwrap().len(), 255);
    }
}
