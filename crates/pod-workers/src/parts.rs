//! What a worker needs of the managers: exactly this, handed to it once.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{PodsView, records::ResourceRecords};

/// Cheap to clone: every field is a handle.
#[derive(Clone)]
pub struct Parts {
    pub clock: host::Clock,
    pub events: apiserver::Events,
    pub pleg: pleg::Pleg,
    pub runtime: runtime::Runtime,
    pub images: images::Images,
    pub volumes: volumes::Volumes,
    pub cgroups: Arc<cgroups::Cgroups>,
    pub prober: prober::Prober,
    pub status: status_manager::StatusManager,
    pub node: watch::Receiver<Arc<node::NodeFacts>>,
    pub view: PodsView,
    /// What pods were granted.
    pub allocated: ResourceRecords,
    /// What runtime and kernel were told.
    pub actuated: ResourceRecords,
}
