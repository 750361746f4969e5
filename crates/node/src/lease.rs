//! Task: renews this node's lease, the sign of life that others watch.
//!
//! Reads: the Node (its UID owns the lease). Writes: Lease kube-node-lease/NODE. Wakes on: time, a quarter of the
//! lease's duration.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiError, ApiServer};
use host::Clock;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use pod::api::Node;
use tokio::sync::watch;

use crate::object::owner_reference;

const NAMESPACE: &str = "kube-node-lease";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(7);

pub(crate) struct Heart {
    pub api: ApiServer,
    pub clock: Clock,
    pub node_name: String,
    pub duration_seconds: i32,
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

impl Heart {
    pub async fn beat(mut self) {
        let renewal = Duration::from_secs(u64::from(self.duration_seconds.unsigned_abs())) / 4;
        let mut latest = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.renew(latest.take()).await {
                Ok(lease) => {
                    latest = Some(lease);
                    pause = FIRST_PAUSE;
                    self.clock.beat(renewal).await;
                }
                Err(error) => {
                    if error.is_unreachable() || error.is_conflict() {
                        tracing::debug!(%error, "node lease not renewed");
                    } else {
                        tracing::warn!(%error, "node lease not renewed");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// From the version that the last renewal returned, which saves a read; from the API's after a failure.
    async fn renew(&mut self, latest: Option<Lease>) -> Result<Lease, ApiError> {
        let base = match latest {
            Some(lease) => lease,
            None => match self.api.get_lease(&self.node_name).await {
                Ok(lease) => lease,
                Err(error) if error.is_not_found() => return self.create().await,
                Err(error) => return Err(error),
            },
        };
        let owner = self.node.borrow().as_deref().and_then(owner_reference);
        self.api.update_lease(&self.renewed(base, owner, self.clock.wall())).await
    }

    /// Waits for the Node: a lease without owner would outlive it.
    async fn create(&mut self) -> Result<Lease, ApiError> {
        let known = self.node.wait_for(|node| node.as_deref().and_then(owner_reference).is_some()).await;
        let known = known.map(|node| node.as_deref().and_then(owner_reference));
        // A watch whose sender is gone tells nothing more: wait to be ended.
        let Ok(owner) = known else { return std::future::pending().await };
        let metadata = ObjectMeta {
            name: Some(self.node_name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, ..Lease::default() };
        self.api.create_lease(&self.renewed(lease, owner, self.clock.wall())).await
    }

    fn renewed(&self, mut lease: Lease, owner: Option<OwnerReference>, now: Timestamp) -> Lease {
        if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
            lease.metadata.owner_references = owner.map(|owner| vec![owner]);
        }
        lease.metadata.managed_fields = None;
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.node_name.clone()),
            lease_duration_seconds: Some(self.duration_seconds),
            renew_time: Some(MicroTime(now)),
            ..before
        });
        lease
    }
}
