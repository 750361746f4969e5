//! gRPC for programs on the node itself, on unix sockets below the root directory: `podresources` says what each
//! container has of the node, `pods` hands out the pods with their statuses.
//!
//! Answers are made when somebody asks, from the pods that [`Pods`] shows; nothing runs while nobody does.

mod encode;
mod follow;
mod limit;
mod listen;
mod pods;
mod resources;
mod serve;

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::PodStatus;
use pod::{DesiredPod, PodUid};
use tokio::sync::watch;

pub use encode::EncodeError;
pub use listen::{SocketError, bind};
pub use serve::{pod_resources, pods_api};

/// One pod of the node.
#[derive(Clone, Debug)]
pub struct PodRow {
    pub desired: DesiredPod,
    pub status: Arc<PodStatus>,
    /// It still may use something of the node: neither finished nor refused, or not wholly stopped yet.
    pub active: bool,
    /// Nothing of it is left on the node.
    pub gone: bool,
}

/// What the services may see of the agent. Cheap to clone.
#[derive(Clone)]
pub struct Pods {
    list: Arc<dyn Fn() -> Vec<PodRow> + Send + Sync>,
    changes: watch::Receiver<()>,
    complete: watch::Receiver<bool>,
}

impl Pods {
    /// `changes` wakes after each change of what `list` tells; `complete` holds true once all sources of pods were heard.
    pub fn new(
        list: impl Fn() -> Vec<PodRow> + Send + Sync + 'static,
        changes: watch::Receiver<()>,
        complete: watch::Receiver<bool>,
    ) -> Self {
        Self { list: Arc::new(list), changes, complete }
    }

    fn list(&self) -> Vec<PodRow> {
        (self.list)()
    }

    fn by_uid(&self) -> Vec<PodRow> {
        let mut rows = self.list();
        rows.sort_by(|a, b| a.desired.uid.cmp(&b.desired.uid));
        rows
    }

    fn get(&self, uid: &PodUid) -> Option<PodRow> {
        self.list().into_iter().find(|row| row.desired.uid == *uid)
    }

    fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
