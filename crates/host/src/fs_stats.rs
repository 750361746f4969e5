//! How full file systems and directories are.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
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
    /// The limit was reached: there is more than was counted.
    pub partial: bool,
}

/// Counts the tree below `root`, hard links once, other file systems not at all, at most `limit` inodes. What vanishes
/// meanwhile is skipped.
pub fn dir_usage(root: &Path, limit: u64) -> Result<DirUsage, HostError> {
    let top = fs::symlink_metadata(root).during("stat", root)?;
    let mut usage = DirUsage { bytes: top.blocks() * 512, inodes: 1, partial: false };
    let mut linked = HashSet::new();
    let mut pending: Vec<PathBuf> = if top.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let counted_already = meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino());
            if meta.dev() != top.dev() || counted_already {
                continue;
            }
            if usage.inodes >= limit {
                return Ok(DirUsage { partial: true, ..usage });
            }
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
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
    fn a_file_system_has_room_and_a_device() {
        let stats = fs_stats(Path::new("/")).unwrap();
        assert!(stats.capacity >= stats.available && stats.device != 0);
    }
}
