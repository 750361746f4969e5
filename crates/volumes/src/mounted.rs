//! A pod's volumes once they are in place.

use std::{collections::BTreeMap, path::PathBuf};

/// All volumes of a pod that some container mounts, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountedVolumes {
    pub(crate) volumes: BTreeMap<String, MountedVolume>,
    /// Groups that persistent volumes ask for (`pv.beta.kubernetes.io/gid`), for the containers' supplemental groups.
    pub extra_groups: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    pub name: String,
    pub source: MountedSource,
    /// Containers can't write to it whatever they ask for.
    pub read_only: bool,
    /// The pod's own data, to be relabelled where SELinux is on.
    pub managed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountedSource {
    Host(PathBuf),
    /// The runtime mounts the image that the caller has pulled.
    Image,
}

impl MountedVolumes {
    pub fn get(&self, name: &str) -> Option<&MountedVolume> {
        self.volumes.get(name)
    }
    pub fn iter(&self) -> impl Iterator<Item = &MountedVolume> {
        self.volumes.values()
    }
}
