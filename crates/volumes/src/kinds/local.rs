//! local: a directory of the node that a persistent volume names, bound into the pod's volume directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use host::{Dir, HostError, mounts, root_dir::make_dir};

use crate::{error::Cause, ownership::FsGroup};

pub(crate) const PLUGIN: &str = "kubernetes.io/local-volume";

#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    pub fs_group: Option<FsGroup>,
    /// Other pods' bind mounts of the same volume lie beneath it.
    pub pods: PathBuf,
}

impl Local {
    pub fn set_up(&self) -> Result<(), Cause> {
        if self.source.components().any(|c| c == std::path::Component::ParentDir) {
            return Err(Cause::HostPath(format!("invalid path: {} must not contain '..'", self.source.display())));
        }
        if mounts::is_mount_point(&self.target)? {
            return Ok(());
        }
        self.check_source()?;
        let in_use = self.mounted_by_others()?;
        make_dir(&self.target, 0o750)?;
        // Before the bind mount, which tells the next run that all is done. A volume that another pod uses keeps its
        // owner.
        if let Some(group) = self.fs_group.filter(|_| !self.read_only && !in_use) {
            group.apply(&Dir::open(
                &fs::canonicalize(&self.source).map_err(|e| host_error("resolve", &self.source, e))?,
            )?)?;
        }
        mounts::bind(&self.source, &self.target)?;
        if self.read_only
            && let Err(e) = mounts::remount_bind_read_only(&self.target)
        {
            mounts::unmount(&self.target)?;
            return Err(e.into());
        }
        Ok(())
    }

    fn check_source(&self) -> Result<(), Cause> {
        let meta = fs::metadata(&self.source)
            .map_err(|_| Cause::HostPath(format!("path \"{}\" does not exist", self.source.display())))?;
        // Upstream formats and mounts a block device here.
        if meta.is_dir() { Ok(()) } else { Err(Cause::Unsupported("a local volume that is no directory")) }
    }

    fn mounted_by_others(&self) -> Result<bool, HostError> {
        let table = mounts::table()?;
        let source = fs::canonicalize(&self.source).map_err(|e| host_error("resolve", &self.source, e))?;
        // What a bind mount of the source looks like: same file system, and the source's path within it.
        let Some(home) = table
            .iter()
            .filter(|m| source.starts_with(&m.mount_point))
            .max_by_key(|m| m.mount_point.components().count())
        else {
            return Ok(false);
        };
        let inner = home.root.join(source.strip_prefix(&home.mount_point).unwrap_or(Path::new("")));
        Ok(table.iter().any(|m| m.device == home.device && m.root == inner && m.mount_point.starts_with(&self.pods)))
    }
}

fn host_error(operation: &'static str, path: &Path, source: std::io::Error) -> HostError {
    HostError { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::fixture::in_own_mounts;

    #[test]
    fn the_first_pod_sets_the_owner_and_a_reader_cannot_write() {
        if !in_own_mounts("kinds::local::tests::the_first_pod_sets_the_owner_and_a_reader_cannot_write") {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(temp.path()).unwrap();
        let source = base.join("disk");
        fs::create_dir(&source).unwrap();
        let local = |pod: &str, gid: u32, read_only: bool| Local {
            source: source.clone(),
            target: base.join("pods").join(pod),
            read_only,
            fs_group: Some(FsGroup { gid, read_only: false, only_on_root_mismatch: false }),
            pods: base.join("pods"),
        };
        let (first, second) = (local("a", 11, false), local("b", 22, false));
        first.set_up().unwrap();
        first.set_up().unwrap();
        assert_eq!(mounts::beneath(&first.target).unwrap().len(), 1);
        second.set_up().unwrap();
        assert_eq!(fs::metadata(&source).unwrap().gid(), 11);
        fs::write(first.target.join("f"), "x").unwrap();
        let reader = local("c", 33, true);
        reader.set_up().unwrap();
        assert_eq!(fs::read(reader.target.join("f")).unwrap(), b"x");
        assert!(fs::write(reader.target.join("f"), "y").is_err());
        mounts::unmount_beneath(&base).unwrap();
    }

    #[test]
    fn a_missing_path_is_named() {
        let local = Local {
            source: "/no/such".into(),
            target: "/no/target".into(),
            read_only: false,
            fs_group: None,
            pods: "/no/pods".into(),
        };
        assert_eq!(local.set_up().unwrap_err().to_string(), "path \"/no/such\" does not exist");
    }
}
