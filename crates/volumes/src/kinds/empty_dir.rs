//! emptyDir: a directory, a tmpfs or huge pages. Also the ground that configMap, secret, downwardAPI and projected
//! volumes stand on.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use host::{Dir, HostError, mounts, root_dir::make_dir};
use pod::{
    DesiredPod,
    api::EmptyDirVolumeSource,
    quantity::{ApiList, Quantity},
    resources::{huge_page_size, pod_cgroup},
};

use crate::{error::Cause, ownership::FsGroup};

pub(crate) const PLUGIN: &str = "kubernetes.io/empty-dir";
/// Volumes are for any user of the pod.
const MODE: u32 = 0o777;
/// A file in the plugin's directory of the volume tells that the volume was set up to the end.
const READY: &str = "ready";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Disk,
    /// Size in bytes; the kernel's default without.
    Memory {
        size: Option<u64>,
    },
    HugePages {
        page_size: u64,
    },
}

/// One directory to set up.
#[derive(Clone, Debug)]
pub(crate) struct EmptyDir {
    pub path: PathBuf,
    /// Holds the ready marker.
    pub notes: PathBuf,
    pub medium: Medium,
    pub fs_group: Option<FsGroup>,
    /// Where `noswap` may be tried out.
    pub scratch: PathBuf,
}

impl EmptyDir {
    /// Does nothing to a directory that was finished once; goes on where an interrupted run stopped.
    pub fn set_up(&self) -> Result<(), HostError> {
        let mounted = mounts::is_mount_point(&self.path)?;
        let in_place = match self.medium {
            Medium::Disk => self.path.is_dir(),
            Medium::Memory { .. } | Medium::HugePages { .. } => mounted,
        };
        if in_place && self.notes.join(READY).is_file() {
            return Ok(());
        }
        make_volume_dir(&self.path, mounted)?;
        match self.medium {
            Medium::Memory { size } if !mounted => {
                let noswap = mounts::noswap_supported(&self.scratch);
                mounts::tmpfs(&self.path, mounts::TmpfsOptions { size, noswap })?;
            }
            Medium::HugePages { page_size } if !mounted => mounts::hugetlbfs(&self.path, page_size)?,
            _ => {}
        }
        if let Some(group) = self.fs_group {
            group.apply(&Dir::open(&self.path)?)?;
        }
        self.mark_ready()
    }

    fn mark_ready(&self) -> Result<(), HostError> {
        make_dir(&self.notes, 0o750)?;
        // Not synced: where a crash loses it, the volume is set up once more.
        let path = self.notes.join(READY);
        let made = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&path);
        made.map(drop).map_err(|source| HostError { operation: "create", path, source })
    }
}

fn make_volume_dir(path: &Path, mounted: bool) -> Result<(), HostError> {
    make_dir(path, MODE)?;
    let mode = |path: &Path| fs::metadata(path).map(|m| m.permissions().mode() & 0o777).ok();
    if !mounted && mode(path) != Some(MODE) {
        let operation = "set the mode of";
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(|source| HostError {
            operation,
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// What the source asks for.
pub(crate) fn medium(pod: &DesiredPod, source: &EmptyDirVolumeSource, allocatable: &ApiList) -> Result<Medium, Cause> {
    let medium = source.medium.as_deref().unwrap_or_default();
    match medium {
        "" => Ok(Medium::Disk),
        "Memory" => {
            Ok(Medium::Memory { size: memory_size(pod, source.size_limit.as_ref().map(Quantity::of), allocatable) })
        }
        "HugePages" => only_page_size(pod, medium).map(|page_size| Medium::HugePages { page_size }),
        _ => match medium.strip_prefix("HugePages-").map(str::parse::<Quantity>) {
            Some(Ok(size)) => requested_page_size(pod, medium, size).map(|page_size| Medium::HugePages { page_size }),
            Some(Err(e)) => Err(Cause::HugePages(e.to_string())),
            None => Err(Cause::Medium(medium.to_owned())),
        },
    }
}

/// The least of what the node can give, the pod may use, and the volume asks for.
pub(crate) fn memory_size(pod: &DesiredPod, limit: Option<Quantity>, allocatable: &ApiList) -> Option<u64> {
    let node = allocatable.get("memory").map(|q| Quantity::of(q).value());
    let pod = pod_cgroup(pod, false, 100_000).memory_limit;
    let least = [node, pod, limit.map(|q| q.value())].into_iter().flatten().filter(|bytes| *bytes > 0).min();
    least.map(i64::unsigned_abs)
}

/// The page sizes of all huge page requests of the pod.
fn requested_page_sizes(pod: &DesiredPod) -> Vec<i64> {
    let spec = pod.spec();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = containers.map(|c| c.resources.as_ref()).chain([spec.resources.as_ref()]);
    let requests = resources.flatten().filter_map(|r| r.requests.as_ref());
    requests.flat_map(|list| list.keys()).filter_map(|name| huge_page_size(name)).collect()
}

fn only_page_size(pod: &DesiredPod, medium: &str) -> Result<u64, Cause> {
    let sizes = requested_page_sizes(pod);
    match sizes.first() {
        None => Err(no_request(medium)),
        Some(first) if sizes.iter().all(|size| size == first) => Ok(first.unsigned_abs()),
        Some(_) => Err(Cause::HugePages(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        ))),
    }
}

fn requested_page_size(pod: &DesiredPod, medium: &str, size: Quantity) -> Result<u64, Cause> {
    let asked = requested_page_sizes(pod).contains(&size.value());
    if asked { Ok(size.value().unsigned_abs()) } else { Err(no_request(medium)) }
}

fn no_request(medium: &str) -> Cause {
    Cause::HugePages(format!(
        "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::fixture::pod;

    fn medium_of(source: serde_json::Value, resources: serde_json::Value) -> Result<Medium, String> {
        let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
        let allocatable = from_value(json!({"memory": "1Gi"})).unwrap();
        medium(&pod, &from_value(source).unwrap(), &allocatable).map_err(|e| e.to_string())
    }

    #[test]
    fn memory_is_bounded_by_node_pod_and_volume() {
        let memory = |size| Ok(Medium::Memory { size: Some(size) });
        let limit = json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}});
        assert_eq!(medium_of(json!({"medium": "Memory"}), json!({})), memory(1 << 30));
        assert_eq!(medium_of(json!({"medium": "Memory"}), limit.clone()), memory(64 << 20));
        assert_eq!(medium_of(json!({"medium": "Memory", "sizeLimit": "1Mi"}), limit.clone()), memory(1 << 20));
        assert_eq!(medium_of(json!({"medium": "Memory", "sizeLimit": "1Ti"}), limit), memory(64 << 20));
    }

    #[test]
    fn huge_pages_need_a_request_of_their_size() {
        let two = json!({"requests": {"hugepages-2Mi": "4Mi"}});
        assert_eq!(
            medium_of(json!({"medium": "HugePages"}), two.clone()),
            Ok(Medium::HugePages { page_size: 2 << 20 })
        );
        assert_eq!(
            medium_of(json!({"medium": "HugePages-2Mi"}), two.clone()),
            Ok(Medium::HugePages { page_size: 2 << 20 })
        );
        assert!(medium_of(json!({"medium": "HugePages-1Gi"}), two).unwrap_err().contains("no resource request"));
        let both = json!({"requests": {"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}});
        assert!(medium_of(json!({"medium": "HugePages"}), both).unwrap_err().contains("multiple huge page sizes"));
        assert_eq!(medium_of(json!({"medium": "Paper"}), json!({})).unwrap_err(), "unknown storage medium \"Paper\"");
    }

    #[test]
    fn a_directory_is_open_to_all_and_marked_when_ready() {
        let temp = tempfile::tempdir().unwrap();
        let volume = EmptyDir {
            path: temp.path().join("a/v"),
            notes: temp.path().join("notes"),
            medium: Medium::Disk,
            fs_group: None,
            scratch: temp.path().to_owned(),
        };
        volume.set_up().unwrap();
        volume.set_up().unwrap();
        assert_eq!(fs::metadata(&volume.path).unwrap().permissions().mode() & 0o7777, 0o777);
        assert!(temp.path().join("notes/ready").is_file());
        fs::write(volume.path.join("keep"), "x").unwrap();
        fs::remove_dir_all(temp.path().join("notes")).unwrap();
        volume.set_up().unwrap();
        assert!(volume.path.join("keep").exists());
    }
}
