//! Files reached through a directory that is held open, never through a path that somebody else may change meanwhile.
//!
//! Pods can write to most of what lies in a volume. Whoever walks there by absolute path can be led astray by a
//! symbolic link that is put in place between check and use. `Dir` holds the directory and lets the kernel resolve
//! everything beneath it, without links. `..` and absolute paths are refused by the kernel as well.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat, openat,
        openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use crate::error::{During, HostError};

/// How often a lookup that raced with a rename somewhere on the path is tried again.
const RACE_RETRIES: usize = 128;
/// Directories that `remove_all` holds open at once; what lies deeper is moved up first.
const REMOVE_DEPTH: usize = 64;
/// Names that it holds of each of them.
const REMOVE_BATCH: usize = 1024;

const STRICT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory that is held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Where it was when it was opened: for messages, and for `open_following`.
    path: PathBuf,
}

/// The directory in which a name lies.
enum Parent<'d> {
    This(BorrowedFd<'d>),
    Beneath(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::This(fd) => *fd,
            Self::Beneath(fd) => fd.as_fd(),
        }
    }
}

/// One name in a directory and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub file_type: FileType,
}

/// What `Dir::names` reads from.
#[derive(Debug)]
pub struct Names {
    read: rustix::fs::Dir,
    path: PathBuf,
}

impl Iterator for Names {
    type Item = Result<Entry, HostError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = match self.read.read()? {
                Ok(item) => item,
                Err(e) => return Some(Err(e).during("list", &self.path)),
            };
            let name = OsStr::from_bytes(item.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = || self.read.fd().and_then(|fd| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW));
            let file_type = match item.file_type() {
                FileType::Unknown => match stat() {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Some(Err(e).during("stat", self.path.join(name))),
                },
                known => known,
            };
            return Some(Ok(Entry { name: name.to_owned(), file_type }));
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens a directory by absolute path; its last component must not be a symbolic link.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).during("open directory", path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn stat(&self) -> Result<Stat, HostError> {
        fstat(&self.fd).during("stat", &self.path)
    }

    /// Opens a directory beneath this one.
    pub fn open_dir(&self, rel: &Path) -> Result<Dir, HostError> {
        let fd = self
            .lookup(rel, OFlags::RDONLY | OFlags::DIRECTORY, STRICT)
            .during("open directory", self.path.join(rel))?;
        Ok(Dir { fd, path: self.path.join(rel) })
    }

    /// A descriptor that names a file of any kind without opening it (no FIFO blocks, no device notices).
    pub fn open_path(&self, rel: &Path) -> Result<OwnedFd, HostError> {
        self.lookup(rel, OFlags::PATH | OFlags::NOFOLLOW, STRICT).during("open", self.path.join(rel))
    }

    /// Like `open_path`, but follows symbolic links as long as they end beneath this directory. A link that is
    /// absolute or leaves and comes back is evaluated first, and the result is opened without following any.
    pub fn open_following(&self, rel: &Path) -> Result<OwnedFd, HostError> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match self.lookup(rel, OFlags::PATH, beneath) {
            Err(Errno::XDEV) => {}
            other => return other.during("open", self.path.join(rel)),
        }
        let full = self.path.join(rel);
        let root = std::fs::canonicalize(&self.path).during("resolve", &self.path)?;
        let real = std::fs::canonicalize(&full).during("resolve", &full)?;
        let inside = real.strip_prefix(&root).map_err(|_| Errno::XDEV).during("stay beneath the volume at", &full)?;
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        self.open_path(inside)
    }

    /// Makes the missing directories of `rel`, following links that stay beneath, and returns the last one. Those made
    /// here get `mode` exactly; existing ones are left alone.
    pub fn make_following(&self, rel: &Path, mode: Mode) -> Result<OwnedFd, HostError> {
        let full = self.path.join(rel);
        let names = plain_components(rel).during("make directory", &full)?;
        let (mut at, missing) = self.existing_prefix(&names)?;
        for name in missing {
            match mkdirat(&at, *name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                // Somebody else was faster (or put a link there: then the next open fails).
                Err(Errno::EXIST) => {
                    at = open_real_dir(&at, name).during("open directory", &full)?;
                    continue;
                }
                Err(e) => return Err(e).during("make directory", &full),
            }
            at = open_real_dir(&at, name).during("open directory", &full)?;
            fchmod(&at, mode).during("set the mode of", &full)?;
        }
        let found = fstat(&at).during("stat", &full)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR).during("make directory", &full);
        }
        Ok(at)
    }

    /// The longest existing prefix of a path, and the names that are missing after it.
    fn existing_prefix<'n>(&self, names: &'n [&'n OsStr]) -> Result<(OwnedFd, &'n [&'n OsStr]), HostError> {
        for known in (1..=names.len()).rev() {
            let prefix: PathBuf = names[..known].iter().collect();
            match self.open_following(&prefix) {
                Ok(fd) => return Ok((fd, &names[known..])),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok((self.open_path(Path::new("."))?, names))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, rel: &Path, limit: u64) -> Result<Vec<u8>, HostError> {
        let full = self.path.join(rel);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(self.lookup(rel, flags, STRICT).during("open", &full)?);
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).during("read", &full)?;
        if content.len() as u64 > limit {
            return Err(Errno::FBIG).during("read", &full);
        }
        Ok(content)
    }

    /// Makes a new file with exactly this mode; an existing one is an error.
    pub fn create(&self, rel: &Path, content: &[u8], mode: Mode) -> Result<File, HostError> {
        let full = self.path.join(rel);
        let (parent, name) = self.parent_of(rel)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o600)).during("create", &full)?);
        file.write_all(content).during("write", &full)?;
        fchmod(&file, mode).during("set the mode of", &full)?;
        Ok(file)
    }

    /// Makes one directory with exactly this mode and opens it.
    pub fn mkdir(&self, rel: &Path, mode: Mode) -> Result<Dir, HostError> {
        let full = self.path.join(rel);
        let (parent, name) = self.parent_of(rel)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o700)).during("make directory", &full)?;
        let fd = open_real_dir(&parent, name).during("open directory", &full)?;
        fchmod(&fd, mode).during("set the mode of", &full)?;
        Ok(Dir { fd, path: full })
    }

    /// Makes every missing directory of `rel`, and opens the last one.
    pub fn mkdir_all(&self, rel: &Path, mode: Mode) -> Result<Dir, HostError> {
        let mut at = self.open_dir(Path::new("."))?;
        for name in plain_components(rel).during("make directory", self.path.join(rel))? {
            let name = Path::new(name);
            at = match at.mkdir(name, mode) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => at.open_dir(name)?,
                other => other?,
            };
        }
        Ok(at)
    }

    /// Makes a symbolic link in this directory. `target` is only text.
    pub fn symlink(&self, target: &Path, name: &Path) -> Result<(), HostError> {
        let (parent, name) = self.parent_of(name)?;
        symlinkat(target, &parent, name).during("link", self.path.join(name))
    }

    pub fn read_link(&self, name: &Path) -> Result<PathBuf, HostError> {
        let (parent, last) = self.parent_of(name)?;
        let target = readlinkat(&parent, last, Vec::new()).during("read link", self.path.join(name))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// About the name itself: a symbolic link is not followed.
    pub fn lstat(&self, rel: &Path) -> Result<Stat, HostError> {
        let (parent, name) = self.parent_of(rel)?;
        statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).during("stat", self.path.join(rel))
    }

    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent_of(from)?, self.parent_of(to)?);
        renameat(&from_dir, from_name, &to_dir, to_name).during("rename", self.path.join(from))
    }

    /// Removes anything but a directory. What is gone already is no error.
    pub fn unlink(&self, rel: &Path) -> Result<(), HostError> {
        let (parent, name) = self.parent_of(rel)?;
        forgive_missing(unlinkat(&parent, name, AtFlags::empty())).during("remove", self.path.join(rel))
    }

    /// Changes owner or group of the name itself, never of what a link leads to.
    pub fn chown(&self, rel: &Path, owner: Option<u32>, group: Option<u32>) -> Result<(), HostError> {
        let (parent, name) = self.parent_of(rel)?;
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        chownat(&parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)
            .during("change the owner of", self.path.join(rel))
    }

    pub fn set_mode(&self, mode: Mode) -> Result<(), HostError> {
        fchmod(&self.fd, mode).during("set the mode of", &self.path)
    }

    /// The names in this directory, without `.` and `..`. For directories that we fill ourselves; one that others may
    /// fill without end is read by `names`.
    pub fn entries(&self) -> Result<Vec<Entry>, HostError> {
        self.names()?.collect()
    }

    /// Like `entries`, one at a time, by a descriptor of its own.
    pub fn names(&self) -> Result<Names, HostError> {
        let read = rustix::fs::Dir::read_from(&self.fd).during("list", &self.path)?;
        Ok(Names { read, path: self.path.clone() })
    }

    /// Removes a name and all beneath it. Stops with an error at a mount point: what is mounted is not ours to delete.
    pub fn remove_all(&self, rel: &Path) -> Result<(), HostError> {
        let full = self.path.join(rel);
        let (parent, name) = self.parent_of(rel)?;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e).during("remove", &full),
        }
        let top = match open_same_mount(&parent, name) {
            Ok(fd) => Dir { fd, path: full.clone() },
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).during("remove the contents of", &full),
        };
        top.clear(&top, 0, &mut 0)?;
        forgive_missing(unlinkat(&parent, name, AtFlags::REMOVEDIR)).during("remove directory", &full)
    }

    /// Removes everything in this directory: a batch of names at a time, until there are none. A pass may move deep
    /// directories up into `top`; a later one removes them.
    fn clear(&self, top: &Dir, depth: usize, moved_up: &mut u64) -> Result<(), HostError> {
        loop {
            let batch: Vec<Entry> = self.names()?.take(REMOVE_BATCH).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            for entry in batch {
                self.clear_one(&entry, top, depth, moved_up)?;
            }
        }
    }

    fn clear_one(&self, entry: &Entry, top: &Dir, depth: usize, moved_up: &mut u64) -> Result<(), HostError> {
        let full = || self.path.join(&entry.name);
        if entry.file_type != FileType::Directory {
            return forgive_missing(unlinkat(&self.fd, &*entry.name, AtFlags::empty())).during("remove", full());
        }
        if depth == REMOVE_DEPTH {
            return self.move_up(&entry.name, top, moved_up).during("move up", full());
        }
        let child = match open_same_mount(&self.fd, &entry.name) {
            Ok(fd) => Dir { fd, path: full() },
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).during("remove the contents of", full()),
        };
        child.clear(top, depth + 1, moved_up)?;
        forgive_missing(unlinkat(&self.fd, &*entry.name, AtFlags::REMOVEDIR)).during("remove directory", full())
    }

    fn move_up(&self, name: &OsStr, top: &Dir, moved_up: &mut u64) -> Result<(), Errno> {
        loop {
            *moved_up += 1;
            let refuge = format!(".removing-{}-{moved_up}", std::process::id());
            match renameat(&self.fd, name, &top.fd, refuge) {
                // Of a removal that was cut off.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                other => return other,
            }
        }
    }

    /// The directory that holds `rel`'s last name, and that name.
    fn parent_of<'r>(&self, rel: &'r Path) -> Result<(Parent<'_>, &'r OsStr), HostError> {
        let full = || self.path.join(rel);
        let names = plain_components(rel).during("use", full())?;
        let (last, parents) = names.split_last().ok_or(Errno::INVAL).during("use", full())?;
        if parents.is_empty() {
            return Ok((Parent::This(self.as_fd()), last));
        }
        let parent: PathBuf = parents.iter().collect();
        let fd = self.lookup(&parent, OFlags::PATH | OFlags::DIRECTORY, STRICT).during("open the parent of", full())?;
        Ok((Parent::Beneath(fd), last))
    }

    fn lookup(&self, rel: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..RACE_RETRIES {
            match openat2(&self.fd, rel, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// A directory beneath `parent` by a single name, on the same mount.
fn open_same_mount(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(parent, name, flags, Mode::empty(), STRICT | ResolveFlags::NO_XDEV) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

/// A real directory, not a link to one, by a single name.
fn open_real_dir(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), STRICT)
}

/// The names of a relative path without `..`.
fn plain_components(rel: &Path) -> Result<Vec<&OsStr>, Errno> {
    let names = rel.components().filter(|c| *c != Component::CurDir).map(|c| match c {
        Component::Normal(name) => Ok(name),
        _ => Err(Errno::XDEV),
    });
    names.collect()
}

fn forgive_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[path = "beneath_tests.rs"]
mod tests;
