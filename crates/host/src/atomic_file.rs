//! Files that are either the old or the new version after a crash, never a part.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::{During, HostError};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes a temporary file beside `path`, syncs it, renames it into place and syncs the directory.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), HostError> {
    let temp = temporary_beside(path);
    let written = write_synced(&temp, content, mode).and_then(|()| fs::rename(&temp, path).during("replace", path));
    if written.is_err() {
        // Best effort: the error that led here says more than that of the removal.
        let _ = fs::remove_file(&temp);
    }
    written?;
    sync_parent(path)
}

/// A file to come: where, what, and its mode.
pub type NewFile = (PathBuf, Vec<u8>, u32);

/// Several files that belong together: none is replaced before all have been written beside their places.
pub fn write_together(files: &[NewFile]) -> Result<(), HostError> {
    let mut written: Vec<(PathBuf, &Path)> = Vec::new();
    let mut all = || -> Result<(), HostError> {
        for (path, content, mode) in files {
            if path.is_dir() {
                Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)).during("replace", path)?;
            }
            let temp = temporary_beside(path);
            written.push((temp.clone(), path));
            write_synced(&temp, content, *mode)?;
        }
        for (temp, path) in &written {
            fs::rename(temp, path).during("replace", path)?;
        }
        Ok(())
    };
    if let Err(error) = all() {
        for (temp, _) in &written {
            let _ = fs::remove_file(temp);
        }
        return Err(error);
    }
    files.iter().try_for_each(|(path, ..)| sync_parent(path))
}

fn write_synced(temp: &Path, content: &[u8], mode: u32) -> Result<(), HostError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temp).during("create", temp)?;
    // The umask may have taken bits away.
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode)).during("set the mode of", temp)?;
    file.write_all(content).during("write", temp)?;
    file.sync_all().during("sync", temp)
}

fn sync_parent(path: &Path) -> Result<(), HostError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).during("sync", parent)
}

fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{serial}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"one, and longer", 0o600).unwrap();
        write(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_files_that_belong_together_either_all_are_there_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| (dir.path().join(name), name.as_bytes().to_vec(), 0o600);
        write_together(&[file("a"), file("b")]).unwrap();
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"b");
        fs::create_dir(dir.path().join("taken")).unwrap();
        let error = write_together(&[file("c"), file("taken")]).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        write_together(&[file("d"), file("no/such")]).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
