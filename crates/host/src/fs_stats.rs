//! How full file systems and directories are.

use std::{collections::HashSet, path::Path};

use rustix::{
    fd::AsFd,
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, lstat, openat, statat},
    io::Errno,
    path::Arg,
};

use crate::error::{During, HostError};

/// One file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    pub capacity: u64,
    /// What a user without privileges may still take.
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub inodes_used: u64,
    /// Tells whether two paths share a file system.
    pub device: u64,
}

/// The file system that holds `path`. Blocks while the file system does.
pub fn fs_stats(path: &Path) -> Result<FsStats, HostError> {
    let vfs = rustix::fs::statvfs(path).during("read file system statistics of", path)?;
    let stat = rustix::fs::stat(path).during("stat", path)?;
    Ok(FsStats {
        capacity: vfs.f_blocks * vfs.f_frsize,
        available: vfs.f_bavail * vfs.f_frsize,
        used: vfs.f_blocks.saturating_sub(vfs.f_bfree) * vfs.f_frsize,
        inodes: vfs.f_files,
        inodes_free: vfs.f_ffree,
        inodes_used: vfs.f_files.saturating_sub(vfs.f_ffree),
        device: stat.st_dev,
    })
}

/// What a directory tree takes, as `du` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirUsage {
    pub bytes: u64,
    pub inodes: u64,
    /// There is more than was counted: the limit of inodes was reached, or the tree is deeper than anyone has a use
    /// for.
    pub partial: bool,
}

/// Directories held open at a time, one a level.
const DEPTH: usize = 512;
/// Inodes with several links that are remembered, 8 bytes each and some.
const LINKED: usize = 1 << 18;

/// Counts the tree below `root`, hard links once, other file systems not at all, at most `limit` inodes. What vanishes
/// meanwhile is skipped. Memory has a bound, whatever a pod puts there: a descriptor for each level, and no names.
pub fn dir_usage(root: &Path, limit: u64) -> Result<DirUsage, HostError> {
    let top = lstat(root).during("stat", root)?;
    let mut walk = Walk { device: top.st_dev, ..Walk::default() };
    walk.count(&top);
    if !is_dir(&top) {
        return Ok(walk.usage);
    }
    let mut open = vec![open_directory(CWD, root).during("open directory", root)?];
    while !open.is_empty() {
        let depth = open.len();
        let dir = &mut open[depth - 1];
        // A directory that can't be read any further counts as far as it could.
        let Some(Ok(entry)) = dir.read() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = dir.fd().and_then(|fd| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)) else { continue };
        if walk.is_elsewhere_or_counted(&stat) {
            continue;
        }
        if walk.usage.inodes >= limit {
            walk.usage.partial = true;
            break;
        }
        walk.count(&stat);
        if !is_dir(&stat) {
            continue;
        }
        if depth == DEPTH {
            walk.usage.partial = true;
        } else if let Ok(child) = dir.fd().and_then(|fd| open_directory(fd, name)) {
            open.push(child);
        }
    }
    Ok(walk.usage)
}

#[derive(Default)]
struct Walk {
    usage: DirUsage,
    device: u64,
    linked: HashSet<u64>,
}

impl Walk {
    fn is_elsewhere_or_counted(&mut self, stat: &Stat) -> bool {
        let several = stat.st_nlink > 1 && !is_dir(stat);
        if stat.st_dev != self.device {
            return true;
        }
        several
            && (self.linked.contains(&stat.st_ino) || (self.linked.len() < LINKED && !self.linked.insert(stat.st_ino)))
    }

    fn count(&mut self, stat: &Stat) {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        #[allow(clippy::useless_conversion)] // 32 bits on some machines
        let links = u64::from(stat.st_nlink).max(1);
        // One link too many to remember counts for its share.
        let share = if is_dir(stat) || self.linked.contains(&stat.st_ino) { 1 } else { links };
        self.usage.bytes += bytes / share;
        self.usage.inodes += 1;
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open_directory(at: impl AsFd, name: impl Arg) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn hard_links_count_once_and_the_limit_bounds_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1u8; 8192]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let usage = dir_usage(dir.path(), 100).unwrap();
        assert_eq!((usage.inodes, usage.partial), (3, false));
        assert!(usage.bytes >= 8192);
        assert!(dir_usage(dir.path(), 2).unwrap().partial);
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_counted_in_part_with_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = openat(CWD, dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2 * DEPTH {
            mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let usage = dir_usage(dir.path(), u64::MAX).unwrap();
        assert_eq!((usage.inodes, usage.partial), (DEPTH as u64 + 1, true));
        crate::Dir::open(dir.path()).unwrap().remove_all(Path::new("d")).unwrap();
    }

    #[test]
    fn a_link_too_many_to_remember_counts_for_its_share() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1u8; 8192]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let stat = lstat(dir.path().join("a")).unwrap();
        let mut walk = Walk { device: stat.st_dev, linked: (1..=LINKED as u64).collect(), ..Walk::default() };
        walk.linked.remove(&stat.st_ino);
        walk.linked.insert(u64::MAX);
        for _ in 0..2 {
            assert!(!walk.is_elsewhere_or_counted(&stat));
            walk.count(&stat);
        }
        assert_eq!(walk.usage.bytes, u64::try_from(stat.st_blocks).unwrap() * 512);
    }

    #[test]
    fn a_file_system_has_room_and_a_device() {
        let stats = fs_stats(Path::new("/")).unwrap();
        assert!(stats.capacity >= stats.available && stats.device != 0);
    }
}
