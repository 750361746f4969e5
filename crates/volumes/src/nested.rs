//! Mount points inside a volume: where one container mounts another volume below this one, the directory for it must
//! be there before the volume, which the container cannot write to, is mounted.

use std::path::{Path, PathBuf};

use pod::DesiredPod;

use crate::error::Cause;

/// Directories to make in the volume, relative to it.
pub(crate) fn mount_points(pod: &DesiredPod, volume: &str) -> Result<Vec<PathBuf>, Cause> {
    let mut found = Vec::new();
    for (_, container) in pod.all_containers() {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let mut all: Vec<PathBuf> = mounts.iter().map(|m| clean(&m.mount_path)).collect();
        all.sort();
        for own in mounts.iter().filter(|m| m.name == volume).map(|m| clean(&m.mount_path)) {
            if own.starts_with("..") {
                return Err(Cause::NestedMountPoint(own.display().to_string()));
            }
            let mut outermost: Vec<&Path> = Vec::new();
            for inner in all.iter().filter(|p| p.starts_with(&own) && **p != own) {
                // One that lies in another nested volume is made there, not here.
                if !outermost.iter().any(|outer| inner.starts_with(outer)) {
                    outermost.push(inner);
                    found.extend(inner.strip_prefix(&own).map(Path::to_owned));
                }
            }
        }
    }
    Ok(found)
}

/// Without `.` and `..` as far as that goes without looking at the disk.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if clean.parent().is_some() && !clean.ends_with("..") => {
                clean.pop();
            }
            std::path::Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::pod;

    fn points(mounts: &[(&str, &str)]) -> Vec<String> {
        let mounts: Vec<_> = mounts.iter().map(|(n, p)| json!({"name": n, "mountPath": p})).collect();
        let pod = pod(json!({"containers": [{"name": "c", "volumeMounts": mounts}]}));
        mount_points(&pod, "v").unwrap().iter().map(|p| p.display().to_string()).collect()
    }

    #[test]
    fn only_the_outermost_nested_mounts_count() {
        let mounts = [("v", "/dir"), ("a", "/dir/nested"), ("b", "/dir/nested/double"), ("c", "/dir/nested-too")];
        assert_eq!(points(&mounts), ["nested", "nested-too"]);
        assert_eq!(points(&[("v", "/dir"), ("a", "/dir2"), ("b", "/other/./x")]), Vec::<String>::new());
        assert_eq!(points(&[("v", "/dir/"), ("a", "/x/../dir//a/./b")]), ["a/b"]);
    }
}
