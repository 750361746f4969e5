//! What containers use, as the runtime measures it. Of cgroups we read ourselves; here is what only the runtime knows.

use std::collections::{BTreeMap, HashMap};

use api_types::runtime::v1::{ContainerStats, ContainerStatsFilter, ListContainerStatsRequest};
use pod::PodUid;

use crate::{Cri, call::call, error::Result, labels};

/// What a container has written beside its volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WritableLayer {
    pub container: String,
    /// A path on its filesystem.
    pub mountpoint: String,
    pub used_bytes: u64,
}

/// The size of a container's writable layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerLayer {
    /// A path on its filesystem.
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

impl Cri {
    /// By container id, of every container that was measured already.
    pub async fn container_layers(&self) -> Result<HashMap<String, ContainerLayer>> {
        let mut client = self.runtime.clone();
        let request = ListContainerStatsRequest { filter: None };
        let reply = call("list_container_stats", "", self.timeout, client.list_container_stats(request)).await?;
        Ok(reply.stats.into_iter().filter_map(container_layer).collect())
    }

    /// Of one pod's containers, those that have ended included; none that was not measured yet.
    pub async fn writable_layers(&self, pod: &PodUid) -> Result<Vec<WritableLayer>> {
        let label_selector = BTreeMap::from([(labels::POD_UID.to_owned(), pod.to_string())]);
        let filter = ContainerStatsFilter { label_selector, ..Default::default() };
        let mut client = self.runtime.clone();
        let request = ListContainerStatsRequest { filter: Some(filter) };
        let reply =
            call("list_container_stats", pod.as_str(), self.timeout, client.list_container_stats(request)).await?;
        Ok(reply.stats.into_iter().filter_map(layer).collect())
    }
}

fn container_layer(stats: ContainerStats) -> Option<(String, ContainerLayer)> {
    let layer = stats.writable_layer?;
    let measured = ContainerLayer {
        mountpoint: layer.fs_id.unwrap_or_default().mountpoint,
        used_bytes: layer.used_bytes?.value,
        inodes_used: layer.inodes_used.map_or(0, |inodes| inodes.value),
    };
    Some((stats.attributes?.id, measured))
}

fn layer(stats: ContainerStats) -> Option<WritableLayer> {
    let layer = stats.writable_layer?;
    Some(WritableLayer {
        container: stats.attributes?.metadata?.name,
        mountpoint: layer.fs_id.unwrap_or_default().mountpoint,
        used_bytes: layer.used_bytes?.value,
    })
}
