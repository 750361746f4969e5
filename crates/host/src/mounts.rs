//! Mounting, unmounting, and the kernel's table of mounts. All of it blocks as long as the file systems do.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
        mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree, unmount as umount,
    },
};

use crate::error::{During, HostError};

pub fn bind(source: &Path, target: &Path) -> Result<(), HostError> {
    mount_bind(source, target).during("bind-mount onto", target)
}

pub fn bind_recursive(source: &Path, target: &Path) -> Result<(), HostError> {
    mount_bind_recursive(source, target).during("bind-mount onto", target)
}

/// Binds what an open descriptor refers to, so that no path is resolved again. `source` may be an `O_PATH` descriptor.
pub fn bind_fd(source: impl AsFd, target: &Path) -> Result<(), HostError> {
    let source = source.as_fd();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(source, "", flags) {
        Ok(tree) => move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .during("bind-mount onto", target),
        // Kernels before 5.2, and sandboxes that do not know the call. The link in /proc leads to the descriptor's own
        // file, whatever its path is now.
        Err(Errno::NOSYS | Errno::PERM) => {
            mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), target).during("bind-mount onto", target)
        }
        Err(e) => Err(e).during("bind-mount onto", target),
    }
}

/// Makes an existing bind mount read-only; the file system itself stays as it is.
pub fn remount_bind_read_only(target: &Path) -> Result<(), HostError> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(target, flags, "").during("make read-only", target)
}

pub fn make_recursively_shared(target: &Path) -> Result<(), HostError> {
    let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change(target, flags).during("make shared", target)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// In bytes; half of the machine's memory without it.
    pub size: Option<u64>,
    /// Keep its pages out of swap. Ask `noswap_supported` first.
    pub noswap: bool,
}

impl TmpfsOptions {
    fn data(self) -> String {
        let size = self.size.map(|bytes| format!("size={bytes}"));
        let noswap = self.noswap.then(|| "noswap".to_owned());
        [size, noswap].into_iter().flatten().collect::<Vec<_>>().join(",")
    }
}

pub fn tmpfs(target: &Path, options: TmpfsOptions) -> Result<(), HostError> {
    mount_with_data("tmpfs", target, "tmpfs", &options.data())
}

/// A file system on huge pages of `page_size` bytes.
pub fn hugetlbfs(target: &Path, page_size: u64) -> Result<(), HostError> {
    mount_with_data("nodev", target, "hugetlbfs", &format!("pagesize={page_size}"))
}

fn mount_with_data(source: &str, target: &Path, kind: &str, data: &str) -> Result<(), HostError> {
    let data = CString::new(data).map_err(io::Error::other).during("mount", target)?;
    mount(source, target, kind, MountFlags::empty(), data.as_c_str()).during("mount", target)
}

/// Whether tmpfs knows `noswap` here (since Linux 6.4, and never inside a user namespace): tried once, by mounting one
/// in a new directory beneath `scratch`.
pub fn noswap_supported(scratch: &Path) -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        let probe = scratch.join(format!(".tmpfs-noswap-{}", std::process::id()));
        if fs::create_dir(&probe).is_err() {
            return false;
        }
        let mounted = tmpfs(&probe, TmpfsOptions { size: Some(4096), noswap: true }).is_ok();
        if mounted && let Err(e) = unmount(&probe) {
            tracing::warn!(error = %e, "probe mount stays");
        }
        let _ = fs::remove_dir(&probe);
        mounted
    })
}

/// Takes one mount off `target`; lazily when it is busy, so that a hung file system cannot hold up a pod's end.
/// False when nothing is mounted there. Never follows a symbolic link at the end of the path.
pub fn unmount(target: &Path) -> Result<bool, HostError> {
    match umount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => unmount_lazily(target),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(e) => Err(e).during("unmount", target),
    }
}

/// Detaches the mount at once; the kernel cleans up when its last user is gone.
pub fn unmount_lazily(target: &Path) -> Result<bool, HostError> {
    match umount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(e) => Err(e).during("unmount", target),
    }
}

/// Takes off every mount at or beneath `prefix`, the innermost first.
pub fn unmount_beneath(prefix: &Path) -> Result<(), HostError> {
    // A mount that propagates in while we work needs another look; a mount that stays is an error.
    for _ in 0..8 {
        let found = beneath(prefix)?;
        if found.is_empty() {
            return Ok(());
        }
        // The table lists a mount after the one it is mounted on.
        for entry in found.iter().rev() {
            unmount(&entry.mount_point)?;
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy)).during("unmount everything beneath", prefix)
}

/// Asks the kernel about the path itself (a symbolic link is none); falls back to the table where statx cannot tell.
pub fn is_mount_point(path: &Path) -> Result<bool, HostError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat) if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // A stale or otherwise broken mount still is in the table.
        Ok(_) | Err(_) => Ok(table()?.iter().any(|entry| entry.mount_point == path)),
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub id: u64,
    pub parent: u64,
    /// `major:minor`.
    pub device: String,
    /// What part of the file system is mounted.
    pub root: PathBuf,
    pub mount_point: PathBuf,
    /// Options of this mount, such as `ro,noexec`.
    pub options: String,
    /// Member of a peer group.
    pub shared: bool,
    pub fs_type: String,
    pub source: String,
    /// Options of the file system, such as `size=1024k`.
    pub super_options: String,
}

/// All mounts that this process sees, in the order they were made.
pub fn table() -> Result<Vec<MountEntry>, HostError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).during("read", path)?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_entry).collect())
}

/// The mounts at or beneath `prefix`.
pub fn beneath(prefix: &Path) -> Result<Vec<MountEntry>, HostError> {
    let mut entries = table()?;
    entries.retain(|entry| entry.mount_point.starts_with(prefix));
    Ok(entries)
}

/// The mount on top at `path`, when one is there.
pub fn at(path: &Path) -> Result<Option<MountEntry>, HostError> {
    Ok(table()?.into_iter().rfind(|entry| entry.mount_point == path))
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = || fields.next();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let (id, parent, device, root, mount_point, options) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let mut shared = false;
    loop {
        match next()? {
            b"-" => break,
            tag => shared |= tag.starts_with(b"shared:"),
        }
    }
    Some(MountEntry {
        id: text(id).parse().ok()?,
        parent: text(parent).parse().ok()?,
        device: text(device),
        root: unescape(root),
        mount_point: unescape(mount_point),
        options: text(options),
        shared,
        fs_type: text(next()?),
        source: unescape(next()?).to_string_lossy().into_owned(),
        super_options: text(next().unwrap_or_default()),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(d) => {
                bytes.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = br"36 35 98:0 /a\040b /mnt/x\134y rw,noatime shared:7 master:1 - tmpfs none rw,size=4k";
        let entry = parse_entry(line).unwrap();
        assert_eq!((entry.id, entry.parent, entry.device.as_str()), (36, 35, "98:0"));
        assert_eq!(entry.root, Path::new("/a b"));
        assert_eq!(entry.mount_point, Path::new(r"/mnt/x\y"));
        assert_eq!((entry.fs_type.as_str(), entry.super_options.as_str()), ("tmpfs", "rw,size=4k"));
        assert!(entry.shared);
        assert_eq!(parse_entry(b""), None);
        assert_eq!(parse_entry(b"36 35 98:0 / /mnt rw,noatime"), None);
    }

    #[test]
    fn tmpfs_options_are_written_as_the_kernel_reads_them() {
        assert_eq!(TmpfsOptions::default().data(), "");
        assert_eq!(TmpfsOptions { size: Some(4096), noswap: true }.data(), "size=4096,noswap");
    }

    #[test]
    fn proc_is_a_mount_point_and_a_file_in_it_is_not() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/version")).unwrap());
        assert!(!is_mount_point(Path::new("/no/such/path")).unwrap());
        assert!(beneath(Path::new("/proc")).unwrap().iter().any(|m| m.fs_type == "proc"));
    }

    #[test]
    fn any_line_is_a_mount_or_passed_over() {
        fuzz::each("mountinfo", |bytes| bytes.split(|byte| *byte == b'\n').for_each(|line| drop(parse_entry(line))));
    }
}
