//! Puts a payload into a volume so that a reader sees either all of the old files or all of the new ones.
//!
//! The layout is upstream's:
//! ```text
//! VOLUME/..2026_07_01_12_00_00.123456789/   the files
//! VOLUME/..data -> ..2026_07_01_12_00_00.123456789
//! VOLUME/key    -> ..data/key
//! VOLUME/dir    -> ..data/dir
//! ```
//! An update makes a new directory and moves `..data` over to it with one rename. Everything happens relative to the
//! volume's held directory, so no link that a pod could plant leads a write elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path, PathBuf},
};

use host::{Dir, HostError};
use pod::time::Timestamp;
use rustix::fs::{FileType, Mode};

use crate::{
    error::Cause,
    payload::{Payload, Projection},
};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
const DIR_MODE: u32 = 0o755;

/// What a write had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Unchanged,
    Replaced,
}

/// Files by cleaned path.
type Files<'a> = BTreeMap<PathBuf, &'a Projection>;

/// Brings the volume to the payload. `finish` sets owner and modes of the volume before a new version is published.
/// May be interrupted anywhere and simply run again. One writer per volume at a time.
pub(crate) fn write(
    volume: &Dir,
    payload: &Payload,
    wall: Timestamp,
    finish: impl FnOnce(&Dir) -> Result<(), HostError>,
) -> Result<Written, Cause> {
    let files = checked(payload)?;
    let current = current_version(volume)?;
    let old_paths = match &current {
        Some(version) => paths_beneath(volume, version)?,
        None => BTreeSet::new(),
    };
    let obsolete = obsolete(&old_paths, &files);
    let changed = match &current {
        Some(version) => !obsolete.is_empty() || !same_content(volume, version, &files)?,
        None => true,
    };
    if changed {
        publish(volume, &files, wall, finish)?;
    }
    link_visible(volume, &files)?;
    for path in obsolete.iter().filter(|p| p.components().count() == 1) {
        unlink_visible(volume, path)?;
    }
    if changed {
        remove_old_versions(volume)?;
    }
    Ok(if changed { Written::Replaced } else { Written::Unchanged })
}

/// Refuses paths that are absolute, contain `..`, begin with `..`, or are too long; cleans the others.
fn checked(payload: &Payload) -> Result<Files<'_>, Cause> {
    payload.iter().map(|(path, projection)| Ok((checked_path(path)?, projection))).collect()
}

fn checked_path(path: &str) -> Result<PathBuf, Cause> {
    let refuse = |why: String| Err(Cause::PayloadPath(why));
    if path.is_empty() {
        return refuse("must not be empty: \"\"".to_owned());
    }
    if path.starts_with('/') {
        return refuse(format!("must be relative path: {path}"));
    }
    if path.len() > MAX_PATH {
        return refuse(format!("must be less than or equal to {MAX_PATH} characters"));
    }
    if path.split('/').any(|name| name == "..") {
        return refuse(format!("must not contain '..': {path}"));
    }
    if path.split('/').any(|name| name.len() > MAX_NAME) {
        return refuse(format!("filenames must be less than or equal to {MAX_NAME} characters"));
    }
    let clean: PathBuf = Path::new(path).components().filter(|c| *c != Component::CurDir).collect();
    if clean.as_os_str().is_empty() {
        return refuse(format!("must name a file: {path}"));
    }
    if clean.as_os_str().as_encoded_bytes().starts_with(b"..") {
        return refuse(format!("must not start with '..': {path}"));
    }
    Ok(clean)
}

/// The directory that `..data` points to, when it is one of ours.
fn current_version(volume: &Dir) -> Result<Option<PathBuf>, HostError> {
    let target = match volume.read_link(Path::new(DATA)) {
        Ok(target) => target,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    let ours = target.components().count() == 1 && target.as_os_str().as_encoded_bytes().starts_with(b"..");
    let is_dir = || volume.lstat(&target).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
    Ok((ours && is_dir()).then_some(target))
}

/// Every file and directory below one version, relative to it.
fn paths_beneath(volume: &Dir, version: &Path) -> Result<BTreeSet<PathBuf>, HostError> {
    let mut paths = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in volume.open_dir(&version.join(&dir))?.entries()? {
            let path = dir.join(&entry.name);
            if entry.file_type == FileType::Directory {
                pending.push(path.clone());
            }
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// What is on disk and neither a file of the new payload nor a directory of one.
fn obsolete(old: &BTreeSet<PathBuf>, files: &Files<'_>) -> BTreeSet<PathBuf> {
    let wanted: BTreeSet<&Path> = files.keys().flat_map(|path| path.ancestors()).collect();
    old.iter().filter(|path| !wanted.contains(path.as_path())).cloned().collect()
}

fn same_content(volume: &Dir, version: &Path, files: &Files<'_>) -> Result<bool, HostError> {
    for (path, projection) in files {
        let wanted = projection.content.as_bytes();
        match volume.read(&version.join(path), wanted.len() as u64) {
            Ok(found) if found == wanted => {}
            Ok(_) => return Ok(false),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => return Ok(false),
            // A directory where a file shall be, or the other way round.
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn publish(
    volume: &Dir,
    files: &Files<'_>,
    wall: Timestamp,
    finish: impl FnOnce(&Dir) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let (name, version) = new_version(volume, wall)?;
    let written = write_files(&version, files)
        .and_then(|()| finish(volume))
        // Left behind by a run that was killed.
        .and_then(|()| volume.unlink(Path::new(NEW_DATA)))
        .and_then(|()| volume.symlink(&name, Path::new(NEW_DATA)))
        .and_then(|()| volume.rename(Path::new(NEW_DATA), Path::new(DATA)));
    if written.is_err()
        && let Err(e) = volume.remove_all(&name)
    {
        tracing::warn!(error = %e, "unpublished version of a volume stays");
    }
    written
}

fn new_version(volume: &Dir, wall: Timestamp) -> Result<(PathBuf, Dir), HostError> {
    let second = wall.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut serial = wall.subsec_nanosecond().unsigned_abs();
    loop {
        let name = PathBuf::from(format!("{second}.{serial:09}"));
        match volume.mkdir(&name, Mode::from_raw_mode(DIR_MODE)) {
            Ok(dir) => return Ok((name, dir)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => serial = serial.wrapping_add(1),
            Err(e) => return Err(e),
        }
    }
}

fn write_files(version: &Dir, files: &Files<'_>) -> Result<(), HostError> {
    for (path, projection) in files {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            version.mkdir_all(parent, Mode::from_raw_mode(DIR_MODE))?;
        }
        version.create(path, projection.content.as_bytes(), Mode::from_raw_mode(projection.mode))?;
        if projection.owner.is_some() {
            version.chown(path, projection.owner, None)?;
        }
    }
    Ok(())
}

/// One link per first name of a path. Whatever has that name already stays: it may be the mount point of another volume.
fn link_visible(volume: &Dir, files: &Files<'_>) -> Result<(), HostError> {
    for (path, projection) in files {
        let Some(first) = path.iter().next().map(Path::new) else { continue };
        match volume.lstat(first) {
            Err(e) if e.is_not_found() => {
                volume.symlink(&Path::new(DATA).join(first), first)?;
                if projection.owner.is_some() {
                    volume.chown(first, projection.owner, None)?;
                }
            }
            other => drop(other?),
        }
    }
    Ok(())
}

fn unlink_visible(volume: &Dir, name: &Path) -> Result<(), HostError> {
    match volume.unlink(name) {
        // A mount point that was made inside the volume.
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(()),
        other => other,
    }
}

/// Also removes versions that an interrupted run left.
fn remove_old_versions(volume: &Dir) -> Result<(), HostError> {
    let current = current_version(volume)?;
    for entry in volume.entries()? {
        let name = Path::new(&entry.name);
        let is_version = entry.file_type == FileType::Directory && entry.name.as_encoded_bytes().starts_with(b"..");
        if is_version && current.as_deref() != Some(name) {
            volume.remove_all(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "atomic_writer_tests.rs"]
mod tests;
