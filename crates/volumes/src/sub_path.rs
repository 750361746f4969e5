//! subPath: binds one file or directory out of a volume to a place that the pod cannot reach, so that the runtime
//! mounts exactly what was checked.
//!
//! The pod may change the volume at any moment. The path is therefore resolved once, by the kernel, to a descriptor
//! that lies beneath the volume, and the descriptor is mounted; no path inside the volume is used after that.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use host::{Dir, HostError, mounts, root_dir::make_dir};
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, Stat, fstat, lstat},
};

/// One subPath of one container.
#[derive(Clone, Debug)]
pub(crate) struct SubPath {
    pub volume_path: PathBuf,
    /// Relative, without `..`.
    pub path: PathBuf,
    /// The mount point.
    pub target: PathBuf,
}

/// Which of the two steps failed: the waiting message names it.
#[derive(Debug)]
pub(crate) enum SubPathError {
    Directory(HostError),
    Prepare(HostError),
}

impl SubPath {
    /// Makes the path in the volume if it is missing, and mounts it. A mount that is there already and still is the
    /// same file stays.
    pub fn set_up(&self) -> Result<(), SubPathError> {
        let volume = self.open_volume().map_err(SubPathError::Prepare)?;
        let file = match volume.open_following(&self.path) {
            Err(e) if e.is_not_found() => self.make(&volume).map_err(SubPathError::Directory)?,
            other => other.map_err(SubPathError::Prepare)?,
        };
        self.mount(&file).map_err(SubPathError::Prepare)
    }

    /// The volume itself may be reached through links: whoever wrote the pod's spec chose its path.
    fn open_volume(&self) -> Result<Dir, HostError> {
        let real = fs::canonicalize(&self.volume_path).map_err(|e| self.failed("resolve", e))?;
        Dir::open(&real)
    }

    /// Like the volume's root, set-group-id and sticky bit included, so that an fsGroup can write there.
    fn make(&self, volume: &Dir) -> Result<OwnedFd, HostError> {
        let mode = volume.stat()?.st_mode & 0o7777;
        volume.make_following(&self.path, Mode::from_raw_mode(mode))
    }

    fn mount(&self, file: &OwnedFd) -> Result<(), HostError> {
        let wanted = fstat(file).map_err(|e| self.failed("stat", e.into()))?;
        // A mount on top of a stale one hides the next: a few passes reach the ground.
        while mounts::is_mount_point(&self.target)? {
            let mounted = lstat(&self.target);
            if mounted.is_ok_and(|found| same_file(&found, &wanted)) {
                return Ok(());
            }
            if !mounts::unmount_lazily(&self.target)? {
                break;
            }
        }
        self.make_target(FileType::from_raw_mode(wanted.st_mode))?;
        mounts::bind_fd(file, &self.target)
    }

    /// An empty directory or file to mount onto.
    fn make_target(&self, file_type: FileType) -> Result<(), HostError> {
        let directory = file_type == FileType::Directory;
        match fs::symlink_metadata(&self.target) {
            Ok(meta) if meta.is_dir() == directory => return Ok(()),
            Ok(meta) if meta.is_dir() => fs::remove_dir(&self.target).map_err(|e| self.failed("replace", e))?,
            Ok(_) => fs::remove_file(&self.target).map_err(|e| self.failed("replace", e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(self.failed("stat", e)),
        }
        if directory {
            return make_dir(&self.target, 0o750);
        }
        make_dir(self.target.parent().unwrap_or(Path::new("/")), 0o750)?;
        host::atomic_file::write(&self.target, b"", 0o640)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> HostError {
        HostError { operation, path: self.target.clone(), source }
    }
}

fn same_file(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}
