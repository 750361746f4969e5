//! Rules on volumes, and what a pod without an API server may not refer to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, PodSpec, Volume, VolumeProjection};

use super::{Findings, Volumes, What};
use crate::names;

/// The sources set in a volume, by the API's names.
pub fn volume_sources(v: &Volume) -> Vec<&'static str> {
    let all = [
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("cinder", v.cinder.is_some()),
        ("configMap", v.config_map.is_some()),
        ("csi", v.csi.is_some()),
        ("downwardAPI", v.downward_api.is_some()),
        ("emptyDir", v.empty_dir.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("flocker", v.flocker.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("image", v.image.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("nfs", v.nfs.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("projected", v.projected.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("rbd", v.rbd.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("secret", v.secret.is_some()),
        ("storageos", v.storageos.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
    ];
    all.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

pub(super) fn volumes<'a>(spec: &'a PodSpec, f: &mut Findings) -> Volumes<'a> {
    let mut known = Volumes::new();
    let mut seen = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = format!("spec.volumes[{i}]");
        f.name(&format!("{at}.name"), &volume.name, names::dns_label);
        f.unique(&format!("{at}.name"), &volume.name, &mut seen);
        match volume_sources(volume).as_slice() {
            [] => f.add(&at, What::Required("must specify a volume type".into())),
            [_] => {}
            [_, more @ ..] => {
                for source in more {
                    f.forbidden(format!("{at}.{source}"), "may not specify more than 1 volume type");
                }
            }
        }
        source(&at, volume, f);
        known.insert(&volume.name, volume);
    }
    known
}

fn source(at: &str, volume: &Volume, f: &mut Findings) {
    if let Some(host_path) = &volume.host_path {
        let at = format!("{at}.hostPath");
        if host_path.path.is_empty() {
            f.required(format!("{at}.path"));
        } else if host_path.path.split('/').any(|part| part == "..") {
            f.invalid(format!("{at}.path"), &host_path.path, "must not contain '..'");
        }
        let types =
            ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
        f.one_of(&format!("{at}.type"), host_path.type_.as_deref(), &types);
    }
    if let Some(nfs) = &volume.nfs {
        for (name, value) in [("server", &nfs.server), ("path", &nfs.path)] {
            if value.is_empty() {
                f.required(format!("{at}.nfs.{name}"));
            }
        }
    }
    if let Some(dir) = &volume.empty_dir {
        let medium = dir.medium.as_deref().unwrap_or_default();
        if !medium.is_empty() && medium != "Memory" && !medium.starts_with("HugePages") {
            f.one_of(&format!("{at}.emptyDir.medium"), Some(medium), &["", "Memory", "HugePages"]);
        }
    }
    let modes = [
        ("downwardAPI", volume.downward_api.as_ref().and_then(|v| v.default_mode)),
        ("projected", volume.projected.as_ref().and_then(|v| v.default_mode)),
    ];
    for (name, mode) in modes {
        if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
            let why = "must be a number between 0 and 0777 (octal), both inclusive";
            f.invalid(format!("{at}.{name}.defaultMode"), mode, why);
        }
    }
}

/// The first kind of API object that the pod refers to; a static pod may refer to none.
pub fn api_reference(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_deref().is_some_and(|n| !n.is_empty()) {
        return Some("serviceaccounts");
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let env = |wanted: fn(&EnvVar) -> bool| containers().flat_map(|c| c.env.iter().flatten()).any(wanted);
    let from = |wanted: fn(&EnvFromSource) -> bool| containers().flat_map(|c| c.env_from.iter().flatten()).any(wanted);
    let pull_secrets = spec.image_pull_secrets.as_deref().is_some_and(|s| !s.is_empty());
    let volume_secret = spec.volumes.iter().flatten().any(|v| !secret_names(v).is_empty());
    let secret_var = |e: &EnvVar| e.value_from.as_ref().is_some_and(|v| v.secret_key_ref.is_some());
    if pull_secrets || volume_secret || env(secret_var) || from(|e| e.secret_ref.is_some()) {
        return Some("secrets");
    }
    let map_var = |e: &EnvVar| e.value_from.as_ref().is_some_and(|v| v.config_map_key_ref.is_some());
    let volume_map = spec
        .volumes
        .iter()
        .flatten()
        .any(|v| v.config_map.is_some() || projections(v).iter().any(|p| p.config_map.is_some()));
    if volume_map || env(map_var) || from(|e| e.config_map_ref.is_some()) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_deref().is_some_and(|c| !c.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(by_volume)
}

fn projections(v: &Volume) -> &[VolumeProjection] {
    v.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default()
}

fn secret_names(v: &Volume) -> Vec<&'static str> {
    let named = [
        ("secret", v.secret.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("cephfs", v.cephfs.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("cinder", v.cinder.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("flexVolume", v.flex_volume.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("rbd", v.rbd.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("scaleIO", v.scale_io.is_some()),
        ("iscsi", v.iscsi.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("storageos", v.storageos.as_ref().is_some_and(|s| s.secret_ref.is_some())),
        ("csi", v.csi.as_ref().is_some_and(|s| s.node_publish_secret_ref.is_some())),
        ("projected", projections(v).iter().any(|p| p.secret.is_some())),
    ];
    named.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

fn by_volume(v: &Volume) -> Option<&'static str> {
    if v.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if v.glusterfs.is_some() {
        return Some("endpoints (via glusterFS volumes)");
    }
    if v.persistent_volume_claim.is_some() {
        return Some("persistentvolumeclaims");
    }
    if v.ephemeral.is_some() {
        return Some("persistentvolumeclaims (via ephemeral volumes)");
    }
    projections(v).iter().find_map(|p| {
        if p.service_account_token.is_some() {
            Some("serviceaccounts (via projected volumes)")
        } else if p.cluster_trust_bundle.is_some() {
            Some("clustertrustbundles")
        } else if p.pod_certificate.is_some() {
            Some("podcertificates")
        } else {
            None
        }
    })
}
