//! From a pod's spec to what is to be done on disk: asks the API server for all that is needed, touches no file.

use std::{collections::HashSet, path::PathBuf};

use futures::future::join_all;
use host::RootDir;
use pod::{DesiredPod, Mono, api::Volume};

use crate::{
    error::{Cause, VolumeError},
    kinds::{
        claim::{self, Backing, BackingError, ClaimRef},
        empty_dir::{self, EmptyDir, Medium},
        local::{self, Local},
        projected::{self, Collected},
    },
    nested,
    ownership::FsGroup,
    payload::{self, Defaults, Payload},
    sources::Sources,
};

/// One volume, ready to be put on disk.
#[derive(Debug)]
pub(crate) struct Step {
    pub volume: String,
    pub work: Work,
    pub read_only: bool,
    /// The pod's own: subject to SELinux relabelling.
    pub managed: bool,
    pub extra_group: Option<i64>,
    /// When its files are to be collected again because a token ages.
    pub renew_at: Option<Mono>,
}

#[derive(Debug)]
pub(crate) enum Work {
    EmptyDir(EmptyDir),
    Files(Files),
    HostPath {
        path: String,
        kind: String,
    },
    Local(Local),
    /// The runtime mounts it.
    Image,
}

/// A directory with a payload in it.
#[derive(Debug)]
pub(crate) struct Files {
    pub ground: EmptyDir,
    pub nested: Vec<PathBuf>,
    pub payload: Payload,
    pub fs_group: Option<FsGroup>,
}

/// Which volumes to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those whose files may change while the pod runs.
    Changing,
}

/// All volumes that some container mounts; each succeeds or fails on its own.
pub(crate) async fn prepare(root: &RootDir, from: &Sources<'_>, which: Which) -> Vec<Result<Step, VolumeError>> {
    let used = used_volumes(from.pod);
    let volumes = from.pod.spec().volumes.iter().flatten();
    let wanted = volumes.filter(|v| used.mounted.contains(&v.name) || used.devices.contains(&v.name));
    let wanted = wanted.filter(|v| which == Which::All || is_changing(v));
    join_all(wanted.map(|volume| step(root, from, volume, used.devices.contains(&volume.name)))).await
}

/// Whether containers mount volumes now that none mounted before.
pub fn mounts_other_volumes(before: &DesiredPod, now: &DesiredPod) -> bool {
    used_volumes(before) != used_volumes(now)
}

/// The pod's volumes that some container has.
pub(crate) fn volumes_in_use(pod: &DesiredPod) -> impl Iterator<Item = &Volume> {
    let used = used_volumes(pod);
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter(move |v| used.mounted.contains(&v.name) || used.devices.contains(&v.name))
}

#[derive(Debug, Default, PartialEq)]
struct Used {
    mounted: HashSet<String>,
    devices: HashSet<String>,
}

fn used_volumes(pod: &DesiredPod) -> Used {
    let mut used = Used::default();
    for (_, container) in pod.all_containers() {
        used.mounted.extend(container.volume_mounts.into_iter().flatten().map(|m| m.name));
        used.devices.extend(container.volume_devices.into_iter().flatten().map(|d| d.name));
    }
    used
}

fn is_changing(v: &Volume) -> bool {
    v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
}

async fn step(root: &RootDir, from: &Sources<'_>, volume: &Volume, device: bool) -> Result<Step, VolumeError> {
    if device {
        let (volume, kind) = (volume.name.clone(), "block".to_owned());
        return Err(VolumeError::Unsupported { volume, kind, reason: "volumeDevices are not implemented" });
    }
    if let Some(wanted) = ClaimRef::of(from.pod, volume) {
        return claimed(root, from, volume, &wanted).await;
    }
    let in_set_up = |cause: Cause| VolumeError::set_up(&volume.name, cause);
    if is_changing(volume) {
        return files(root, from, volume).await.map_err(in_set_up);
    }
    let step = |work, read_only, managed| Step { read_only, managed, ..Step::of(volume, work) };
    if let Some(source) = &volume.empty_dir {
        let medium = empty_dir::medium(from.pod, source, &from.allocatable).map_err(in_set_up)?;
        return Ok(step(Work::EmptyDir(directory(root, from, empty_dir::PLUGIN, &volume.name, medium)), false, true));
    }
    if let Some(source) = &volume.host_path {
        let (path, kind) = (source.path.clone(), source.type_.clone().unwrap_or_default());
        return Ok(step(Work::HostPath { path, kind }, false, false));
    }
    if volume.image.is_some() {
        return Ok(step(Work::Image, true, true));
    }
    let (kind, reason) = refused_kind(volume);
    Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind.to_owned(), reason })
}

impl Step {
    fn of(volume: &Volume, work: Work) -> Self {
        let volume = volume.name.clone();
        Self { volume, work, read_only: false, managed: true, extra_group: None, renew_at: None }
    }
}

/// An emptyDir of the pod, or the one that another kind of volume stands on.
fn directory(root: &RootDir, from: &Sources<'_>, plugin: &str, volume: &str, medium: Medium) -> EmptyDir {
    let uid = &from.pod.uid;
    let noted_as = if plugin == empty_dir::PLUGIN { volume.to_owned() } else { format!("wrapped_{volume}") };
    EmptyDir {
        path: root.pod_volume(uid, plugin, volume),
        notes: root.pod_plugin(uid, empty_dir::PLUGIN, &noted_as),
        medium,
        // Upstream passes no change policy here: the directory is new.
        fs_group: from.fs_group.map(|g| FsGroup { only_on_root_mismatch: false, ..g }),
        scratch: root.pod_plugins(uid),
    }
}

/// configMap (on disk), secret, downwardAPI and projected (in memory).
async fn files(root: &RootDir, from: &Sources<'_>, volume: &Volume) -> Result<Step, Cause> {
    let memory = Medium::Memory { size: empty_dir::memory_size(from.pod, None, &from.allocatable) };
    let plain = |payload| Collected { payload, renew_at: None };
    let (plugin, medium, collected) = if let Some(source) = &volume.config_map {
        let optional = source.optional.unwrap_or(false);
        let map = from.config_map(&source.name, optional).await?;
        let items = source.items.as_deref().unwrap_or_default();
        let payload = payload::of_config_map(items, &map, Defaults::new(source.default_mode)?, optional)?;
        ("kubernetes.io/configmap", Medium::Disk, plain(payload))
    } else if let Some(source) = &volume.secret {
        let optional = source.optional.unwrap_or(false);
        let secret = from.secret(source.secret_name.as_deref().unwrap_or_default(), optional).await?;
        let items = source.items.as_deref().unwrap_or_default();
        let payload = payload::of_secret(items, &secret, Defaults::new(source.default_mode)?, optional)?;
        ("kubernetes.io/secret", memory, plain(payload))
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        let payload = from.downward_api(items, Defaults::new(source.default_mode)?)?;
        ("kubernetes.io/downward-api", memory, plain(payload))
    } else {
        let source = volume.projected.clone().unwrap_or_default();
        ("kubernetes.io/projected", memory, projected::collect(from, &source).await?)
    };
    let work = Work::Files(Files {
        ground: directory(root, from, plugin, &volume.name, medium),
        nested: nested::mount_points(from.pod, &volume.name)?,
        payload: collected.payload,
        fs_group: from.fs_group.map(|g| FsGroup { read_only: true, only_on_root_mismatch: false, ..g }),
    });
    Ok(Step { read_only: true, renew_at: collected.renew_at, ..Step::of(volume, work) })
}

async fn claimed(root: &RootDir, from: &Sources<'_>, volume: &Volume, wanted: &ClaimRef) -> Result<Step, VolumeError> {
    let failed = |cause| {
        let claim = format!("{}/{}", from.pod.key.namespace, wanted.name);
        VolumeError::Claim { claim, cause }
    };
    let claim = from.claim(&wanted.name).await.map_err(failed)?;
    let pv_name = claim::bound_volume(from.pod, wanted, &claim).map_err(failed)?;
    let pv = from.persistent_volume(&pv_name).await.map_err(failed)?;
    let work = match claim::backing(volume, &claim, &pv) {
        Ok(Backing::HostPath { path, kind }) => Work::HostPath { path, kind },
        Ok(Backing::Local { path }) => Work::Local(Local {
            source: PathBuf::from(path),
            target: root.pod_volume(&from.pod.uid, local::PLUGIN, &pv_name),
            read_only: wanted.read_only,
            fs_group: from.fs_group,
            pods: root.pods(),
        }),
        Err(BackingError::Claim(cause)) => return Err(failed(cause)),
        Err(BackingError::Unsupported(kind)) => {
            let (volume, reason) = (volume.name.clone(), "its driver is not implemented");
            return Err(VolumeError::Unsupported { volume, kind, reason });
        }
    };
    let managed = matches!(work, Work::Local(_)) && !wanted.read_only;
    let extra_group = claim::extra_group(&pv);
    Ok(Step { read_only: wanted.read_only, managed, extra_group, ..Step::of(volume, work) })
}

/// The name of the kind, and why it is refused.
fn refused_kind(v: &Volume) -> (&'static str, &'static str) {
    const NOT_HERE: &str = "its driver is not implemented";
    const REMOVED: &str = "Kubernetes has removed its in-tree driver";
    let kinds = [
        (v.nfs.is_some(), "nfs", NOT_HERE),
        (v.iscsi.is_some(), "iscsi", NOT_HERE),
        (v.fc.is_some(), "fc", NOT_HERE),
        (v.csi.is_some(), "csi", NOT_HERE),
        (v.flex_volume.is_some(), "flexVolume", NOT_HERE),
        (v.git_repo.is_some(), "gitRepo", "it lets the pod's author run commands on the node"),
        (v.aws_elastic_block_store.is_some(), "awsElasticBlockStore", REMOVED),
        (v.azure_disk.is_some(), "azureDisk", REMOVED),
        (v.azure_file.is_some(), "azureFile", REMOVED),
        (v.cephfs.is_some(), "cephfs", REMOVED),
        (v.cinder.is_some(), "cinder", REMOVED),
        (v.flocker.is_some(), "flocker", REMOVED),
        (v.gce_persistent_disk.is_some(), "gcePersistentDisk", REMOVED),
        (v.glusterfs.is_some(), "glusterfs", REMOVED),
        (v.photon_persistent_disk.is_some(), "photonPersistentDisk", REMOVED),
        (v.portworx_volume.is_some(), "portworxVolume", REMOVED),
        (v.quobyte.is_some(), "quobyte", REMOVED),
        (v.rbd.is_some(), "rbd", REMOVED),
        (v.scale_io.is_some(), "scaleIO", REMOVED),
        (v.storageos.is_some(), "storageos", REMOVED),
        (v.vsphere_volume.is_some(), "vsphereVolume", REMOVED),
    ];
    let known = kinds.into_iter().find(|(set, ..)| *set).map(|(_, kind, reason)| (kind, reason));
    known.unwrap_or(("unknown", "no source of a known kind is set"))
}
