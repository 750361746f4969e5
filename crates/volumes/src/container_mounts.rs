//! A container's volume mounts as the runtime gets them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use host::RootDir;
use pod::{
    DesiredPod,
    api::{Container, VolumeMount},
    mounts::{ContainerMount, Propagation},
};

use crate::{
    error::VolumeError,
    mounted::{MountedSource, MountedVolume, MountedVolumes},
    sub_path::SubPath,
};

/// Whose mounts, and what else decides about them.
pub struct MountsFor<'a> {
    pub pod: &'a DesiredPod,
    pub container: &'a Container,
    pub volumes: &'a MountedVolumes,
    /// The references that image volumes were pulled as, by volume name.
    pub images: &'a BTreeMap<String, String>,
    /// The runtime handler can mount recursively read-only.
    pub recursive_read_only: bool,
    /// Expands `$(VAR)` in a subPathExpr; the error names the variables that have no value.
    pub expand: &'a dyn Fn(&str) -> Result<String, String>,
}

/// A mount, and the subPath that must be bound before it can be used.
#[derive(Debug)]
pub(crate) struct Planned {
    pub mount: ContainerMount,
    pub sub_path: Option<SubPath>,
}

/// In the order of the container's volumeMounts.
pub(crate) fn plan(of: &MountsFor<'_>, root: &RootDir, selinux: bool) -> Result<Vec<Planned>, VolumeError> {
    let mounts = of.container.volume_mounts.iter().flatten();
    mounts.enumerate().map(|(index, mount)| plan_one(of, root, selinux, index, mount)).collect()
}

fn plan_one(
    of: &MountsFor<'_>,
    root: &RootDir,
    selinux: bool,
    index: usize,
    mount: &VolumeMount,
) -> Result<Planned, VolumeError> {
    let container = &of.container.name;
    let unknown = || VolumeError::NoSuchVolume { volume: mount.name.clone(), container: container.clone() };
    let volume = of.volumes.get(&mount.name).ok_or_else(unknown)?;
    let sub_path = sub_path(of, mount)?;
    let place = place(of, root, volume, index, &sub_path)?;
    let mount = ContainerMount {
        name: mount.name.clone(),
        container_path: absolute(&mount.mount_path),
        host_path: place.host_path,
        readonly: mount.read_only.unwrap_or(false) || volume.read_only,
        recursive_read_only: recursive_read_only(mount, of.recursive_read_only)?,
        propagation: propagation(of.container, mount)?,
        selinux_relabel: selinux && volume.managed,
        image: place.image,
        image_sub_path: place.image_sub_path,
    };
    Ok(Planned { mount, sub_path: place.sub_path })
}

struct Place {
    host_path: PathBuf,
    image: Option<String>,
    image_sub_path: String,
    sub_path: Option<SubPath>,
}

fn place(
    of: &MountsFor<'_>,
    root: &RootDir,
    volume: &MountedVolume,
    index: usize,
    path: &str,
) -> Result<Place, VolumeError> {
    let host = |host_path, sub_path| Place { host_path, image: None, image_sub_path: String::new(), sub_path };
    match &volume.source {
        MountedSource::Image => {
            let (name, container) = (&volume.name, &of.container.name);
            let missing = || VolumeError::NoImage { volume: name.clone(), container: container.clone() };
            let image = Some(of.images.get(name).cloned().ok_or_else(missing)?);
            Ok(Place { host_path: PathBuf::new(), image, image_sub_path: path.to_owned(), sub_path: None })
        }
        MountedSource::Host(at) if path.is_empty() => Ok(host(at.clone(), None)),
        MountedSource::Host(at) => {
            let target = root.pod_sub_path(&of.pod.uid, &volume.name, &of.container.name, index);
            let bound = SubPath { volume_path: at.clone(), path: PathBuf::from(path), target: target.clone() };
            Ok(host(target, Some(bound)))
        }
    }
}

/// Empty without one.
fn sub_path(of: &MountsFor<'_>, mount: &VolumeMount) -> Result<String, VolumeError> {
    let path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => (of.expand)(expression).map_err(|problem| VolumeError::SubPathExpr { problem })?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if path.starts_with('/') {
        return Err(VolumeError::SubPathAbsolute { sub_path: path });
    }
    if path.split('/').any(|name| name == "..") {
        return Err(VolumeError::SubPathBacksteps { sub_path: path });
    }
    Ok(path)
}

fn absolute(path: &str) -> String {
    if Path::new(path).is_absolute() { path.to_owned() } else { format!("/{path}") }
}

fn propagation(container: &Container, mount: &VolumeMount) -> Result<Propagation, VolumeError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => {
            let context = container.security_context.as_ref();
            if context.and_then(|s| s.privileged) == Some(true) {
                return Ok(Propagation::Bidirectional);
            }
            let (mount, container) = (mount.name.clone(), container.name.clone());
            Err(VolumeError::BidirectionalUnprivileged { mount, container })
        }
        Some(mode) => Err(VolumeError::Propagation { mode: mode.to_owned() }),
    }
}

fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, VolumeError> {
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    let name = &mount.name;
    let refuse = |problem: String| Err(VolumeError::RecursiveReadOnly { problem });
    if mount.read_only != Some(true) {
        return refuse(format!("volume \"{name}\" requested recursive read-only mode, but it is not read-only"));
    }
    if let Some(other) = mount.mount_propagation.as_deref().filter(|p| *p != "None") {
        return refuse(format!(
            "volume \"{name}\" requested recursive read-only mode, but it is not compatible with propagation \"{other}\""
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => refuse(format!(
            "volume \"{name}\" requested recursive read-only mode, but it is not supported by the runtime"
        )),
        _ => refuse(format!("unknown recursive read-only mode \"{mode}\"")),
    }
}

#[cfg(test)]
#[path = "container_mounts_tests.rs"]
mod tests;
