//! fsGroup: gives a volume's files to a group and lets that group in.

use std::{os::fd::AsRawFd, path::Path};

use host::{Dir, HostError};
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{AtFlags, FileType, Gid, Mode, chmod, chownat, fstat},
    io::Errno,
};

/// Of the kernel, for one call; beneath a descriptor a tree can be deeper.
const PATH_MAX: usize = 4096;
const GROUP_RW: u32 = 0o660;
const GROUP_RO: u32 = 0o440;
const GROUP_ENTER: u32 = 0o110;
const SETGID: u32 = 0o2000;

/// Who gets a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FsGroup {
    pub gid: u32,
    /// The volume's content is not for the pod to change.
    pub read_only: bool,
    /// `fsGroupChangePolicy: OnRootMismatch`.
    pub only_on_root_mismatch: bool,
}

impl FsGroup {
    /// The bits that a file must have at least; a directory's also hand the group on to what is made in it.
    fn mask(self, file_type: FileType) -> u32 {
        let access = if self.read_only { GROUP_RO } else { GROUP_RW };
        if file_type == FileType::Directory { access | GROUP_ENTER | SETGID } else { access }
    }

    fn fits(self, stat: &rustix::fs::Stat) -> bool {
        let mask = self.mask(FileType::Directory);
        stat.st_gid == self.gid && stat.st_mode & mask == mask
    }

    /// Works through the whole volume, its root last, so that an interrupted run is seen by the next one. A file that
    /// can't be changed is passed over, as upstream does.
    pub fn apply(self, volume: &Dir) -> Result<(), HostError> {
        if self.only_on_root_mismatch && self.fits(&volume.stat()?) {
            return Ok(());
        }
        let mut open = vec![(volume.open_dir(Path::new("."))?, volume.names()?)];
        while let Some((dir, names)) = open.last_mut() {
            let Some(entry) = names.next().transpose()? else {
                self.change(dir.as_fd());
                open.pop();
                continue;
            };
            let name = Path::new(&entry.name);
            if entry.file_type == FileType::Directory {
                match dir.open_dir(name).and_then(|child| Ok((within_a_path(&child, volume)?.names()?, child))) {
                    Ok((names, child)) => open.push((child, names)),
                    Err(e) => skip_vanished(e)?,
                }
                continue;
            }
            match dir.open_path(name) {
                Ok(fd) => self.change(fd.as_fd()),
                Err(e) => skip_vanished(e)?,
            }
        }
        Ok(())
    }

    fn change(self, file: BorrowedFd<'_>) {
        if let Err(error) = self.try_change(file) {
            tracing::warn!(%error, gid = self.gid, "a file of a volume keeps its group");
        }
    }

    fn try_change(self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let before = fstat(file)?;
        chownat(file, "", None, Some(Gid::from_raw(self.gid)), AtFlags::EMPTY_PATH)?;
        let file_type = FileType::from_raw_mode(before.st_mode);
        if file_type == FileType::Symlink {
            return Ok(());
        }
        // Descriptors that only name a file refuse fchmod; their link in /proc does not. The mode is that from before
        // the change of owner, which takes set-id bits away.
        let mode = Mode::from_raw_mode((before.st_mode & 0o7777) | self.mask(file_type));
        chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)
    }
}

/// A tree that is deeper than a path can tell would cost a descriptor and a longer path for each level, without end.
fn within_a_path<'d>(dir: &'d Dir, volume: &Dir) -> Result<&'d Dir, HostError> {
    if dir.path().as_os_str().len() < PATH_MAX {
        return Ok(dir);
    }
    let (operation, path) = ("give to the fsGroup a tree as deep as there is in", volume.path().to_owned());
    Err(HostError { operation, path, source: Errno::NAMETOOLONG.into() })
}

fn skip_vanished(error: HostError) -> Result<(), HostError> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    const GROUP: FsGroup = FsGroup { gid: 4321, read_only: false, only_on_root_mismatch: false };

    fn volume() -> Option<(tempfile::TempDir, Dir)> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("v")).unwrap();
        fs::create_dir(temp.path().join("v/d")).unwrap();
        fs::write(temp.path().join("v/d/f"), "x").unwrap();
        let dir = Dir::open(&temp.path().join("v")).unwrap();
        for (path, mode) in [("d", 0o700), ("d/f", 0o4600), ("", 0o755)] {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        Some((temp, dir))
    }

    fn seen(volume: &Dir, path: &str) -> (u32, u32) {
        let meta = fs::symlink_metadata(volume.path().join(path)).unwrap();
        (meta.gid(), meta.mode() & 0o7777)
    }

    #[test]
    fn the_group_may_write_and_is_inherited() {
        let Some((_temp, volume)) = volume() else { return };
        GROUP.apply(&volume).unwrap();
        assert_eq!(seen(&volume, ""), (4321, 0o2775));
        assert_eq!(seen(&volume, "d"), (4321, 0o2770));
        assert_eq!(seen(&volume, "d/f"), (4321, 0o4660));
    }

    #[test]
    fn a_read_only_volume_is_readable_for_the_group() {
        let Some((_temp, volume)) = volume() else { return };
        FsGroup { read_only: true, ..GROUP }.apply(&volume).unwrap();
        assert_eq!(seen(&volume, "d"), (4321, 0o2750));
        assert_eq!(seen(&volume, "d/f"), (4321, 0o4640));
    }

    #[test]
    fn a_link_changes_its_own_group_and_nothing_it_points_to() {
        let Some((temp, volume)) = volume() else { return };
        let outside = temp.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, volume.path().join("link")).unwrap();
        GROUP.apply(&volume).unwrap();
        assert_eq!(seen(&volume, "link").0, 4321);
        assert_eq!(seen(&volume, "../outside"), (fs::metadata(temp.path()).unwrap().gid(), 0o600));
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_an_error_that_names_the_volume() {
        let Some((_temp, volume)) = volume() else { return };
        let mut at = volume.open_dir(Path::new("d")).unwrap();
        let name = "x".repeat(250);
        for _ in 0..20 {
            at = at.mkdir(Path::new(&name), 0o700.into()).unwrap();
        }
        let error = GROUP.apply(&volume).unwrap_err().to_string();
        assert!(error.contains(&*volume.path().to_string_lossy()) && error.len() < 4096, "{error}");
        volume.remove_all(Path::new("d")).unwrap();
    }

    #[test]
    fn on_root_mismatch_looks_at_the_root_only() {
        let Some((_temp, volume)) = volume() else { return };
        let careful = FsGroup { only_on_root_mismatch: true, ..GROUP };
        careful.apply(&volume).unwrap();
        assert_eq!(seen(&volume, "d/f").0, 4321);
        rustix::fs::chown(volume.path().join("d/f"), None, Some(Gid::from_raw(0))).unwrap();
        careful.apply(&volume).unwrap();
        assert_eq!(seen(&volume, "d/f").0, 0);
        GROUP.apply(&volume).unwrap();
        assert_eq!(seen(&volume, "d/f").0, 4321);
    }
}
