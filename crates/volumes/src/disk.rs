//! Puts prepared volumes on disk and takes them away again. Everything here blocks and runs on a blocking thread.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use host::{Dir, HostError, RootDir, mounts};
use pod::{PodUid, time::Timestamp};
use rustix::fs::{FileType, Mode};

use crate::{
    atomic_writer,
    error::{Cause, VolumeError},
    kinds::host_path,
    mounted::{MountedSource, MountedVolume},
    prepare::{Files, Step, Work},
};

/// Plugins whose volumes hold nothing but the pod's own data: their contents go with the pod. Of any other, only the
/// empty mount point is removed.
const OWN_PLUGINS: [&str; 5] = [
    "kubernetes.io~empty-dir",
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~downward-api",
    "kubernetes.io~projected",
];

/// Upstream's record of a CSI volume, beside its mount point.
const CSI: &str = "kubernetes.io~csi";
const CSI_RECORD: &str = "vol_data.json";

/// Sets up every volume; one that fails does not keep the others from it.
pub(crate) fn set_up(
    root: &RootDir,
    uid: &PodUid,
    steps: Vec<Step>,
    wall: Timestamp,
) -> Result<Vec<Result<MountedVolume, VolumeError>>, HostError> {
    root.create_pod(uid)?;
    Ok(steps.into_iter().map(|step| set_up_one(&step, wall)).collect())
}

fn set_up_one(step: &Step, wall: Timestamp) -> Result<MountedVolume, VolumeError> {
    let source = match &step.work {
        Work::EmptyDir(dir) => dir.set_up().map(|()| dir.path.clone()).map_err(Cause::Host),
        Work::Files(files) => set_up_files(files, wall).map(|()| files.ground.path.clone()),
        Work::HostPath { path, kind } => host_path::check(path, kind).map(|()| PathBuf::from(path)),
        Work::Local(local) => local.set_up().map(|()| local.target.clone()),
        Work::Image => Ok(PathBuf::new()),
    };
    let path = source.map_err(|cause| VolumeError::set_up(&step.volume, cause))?;
    let source = if matches!(step.work, Work::Image) { MountedSource::Image } else { MountedSource::Host(path) };
    Ok(MountedVolume { name: step.volume.clone(), source, read_only: step.read_only, managed: step.managed })
}

fn set_up_files(files: &Files, wall: Timestamp) -> Result<(), Cause> {
    files.ground.set_up()?;
    let volume = Dir::open(&files.ground.path)?;
    for dir in &files.nested {
        volume.mkdir_all(dir, Mode::from_raw_mode(0o755)).map(drop).or_else(already_a_link)?;
    }
    let finish = |volume: &Dir| files.fs_group.map_or(Ok(()), |group| group.apply(volume));
    atomic_writer::write(&volume, &files.payload, wall, finish).map(drop)
}

/// A nested mount point whose name is also a file of the payload is that file.
fn already_a_link(error: HostError) -> Result<(), HostError> {
    let link = error.errno() == Some(rustix::io::Errno::LOOP.raw_os_error());
    if link || error.kind() == io::ErrorKind::NotADirectory { Ok(()) } else { Err(error) }
}

/// Takes down all volumes of a pod: mounts first, whatever is mounted there, then directories. Nothing is deleted
/// through a mount. Does not mind what is gone already.
pub(crate) fn tear_down(root: &RootDir, uid: &PodUid) -> Result<(), HostError> {
    let Some(pod) = open_pod(root, uid)? else { return Ok(()) };
    mounts::unmount_beneath(pod.path())?;
    // Its containers' subPath mount points: files and directories, all empty.
    pod.remove_all(Path::new("volume-subpaths"))?;
    remove_volumes(&pod)?;
    pod.remove_all(Path::new("plugins"))?;
    pod.remove_all(Path::new("volumeDevices"))
}

/// Takes down the volumes and removes all else that is kept of the pod.
pub(crate) fn remove_pod(root: &RootDir, uid: &PodUid) -> Result<(), HostError> {
    tear_down(root, uid)?;
    if open_pod(root, uid)?.is_none() {
        return Ok(());
    }
    Dir::open(&root.pods())?.remove_all(Path::new(uid.as_str()))
}

fn open_pod(root: &RootDir, uid: &PodUid) -> Result<Option<Dir>, HostError> {
    root.check_uid(uid)?;
    let path = root.pod(uid);
    // The kernel's table shows paths without links.
    match fs::canonicalize(&path) {
        Ok(real) => Dir::open(&real).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError { operation: "resolve", path, source }),
    }
}

fn remove_volumes(pod: &Dir) -> Result<(), HostError> {
    let volumes = match pod.open_dir(Path::new("volumes")) {
        Ok(dir) => dir,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e),
    };
    for plugin in volumes.entries()?.into_iter().filter(|e| e.file_type == FileType::Directory) {
        let own = OWN_PLUGINS.iter().any(|name| plugin.name == **name);
        if own {
            volumes.remove_all(Path::new(&plugin.name))?;
        } else {
            let of_plugin = volumes.open_dir(Path::new(&plugin.name))?;
            if plugin.name == *CSI {
                remove_csi_records(&of_plugin)?;
            }
            remove_mount_points(&of_plugin)?;
        }
    }
    // Fails when something is left, as it should.
    remove_dirs(&pod.path().join("volumes"))
}

/// An upstream kubelet that ran here before may have left CSI volumes: without this, their pods could never go. The
/// record goes after the mount point: where that holds something, an upstream kubelet may still need it.
fn remove_csi_records(plugin: &Dir) -> Result<(), HostError> {
    for volume in plugin.entries()?.into_iter().filter(|e| e.file_type == FileType::Directory) {
        let volume = plugin.open_dir(Path::new(&volume.name))?;
        let entries = volume.entries()?;
        let recorded = entries.iter().any(|e| e.name == *CSI_RECORD && e.file_type == FileType::RegularFile);
        if !recorded || mounts::is_mount_point(volume.path())? {
            continue;
        }
        for dir in entries.iter().filter(|e| e.file_type == FileType::Directory) {
            remove_dirs(&volume.path().join(&dir.name))?;
        }
        volume.unlink(Path::new(CSI_RECORD))?;
        let path = volume.path().display();
        tracing::warn!(volume = %path, "a CSI volume was taken down without its driver: its mount for the whole node stays");
    }
    Ok(())
}

/// The volumes of a plugin whose data is not ours: only empty directories go.
fn remove_mount_points(plugin: &Dir) -> Result<(), HostError> {
    for volume in plugin.entries()? {
        remove_dirs(&plugin.path().join(&volume.name))?;
    }
    Ok(())
}

/// Removes a directory, and directories in it, as long as there is nothing else.
fn remove_dirs(path: &Path) -> Result<(), HostError> {
    let failed = |source| HostError { operation: "remove directory", path: path.to_owned(), source };
    match fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(failed(e)),
        Err(_) => {}
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        remove_dirs(&entry.map_err(failed)?.path())?;
    }
    fs::remove_dir(path).map_err(failed)
}

/// Whether a pod has volumes on disk or mounts still in place.
pub(crate) fn has_volumes(root: &RootDir, uid: &PodUid) -> Result<bool, HostError> {
    let Some(pod) = open_pod(root, uid)? else { return Ok(false) };
    let volumes = match pod.open_dir(Path::new("volumes")) {
        Ok(dir) => !dir.entries()?.is_empty(),
        Err(e) if e.is_not_found() => false,
        Err(e) => return Err(e),
    };
    Ok(volumes || !mounts::beneath(pod.path())?.is_empty())
}
