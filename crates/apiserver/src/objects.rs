//! Secrets and ConfigMaps of the pods on this node, each followed on its own for as long as a pod refers to it.
//!
//! The Node authorizer lets a node read only single objects that pods bound to it name: there is no list of a
//! namespace, and nothing is read ahead of a pod.

mod cache;
mod keep;
mod refs;

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use pod::{DesiredPod, PodUid};
use tokio::sync::broadcast;

use crate::{ApiError, ApiServer};
use cache::Cache;
pub use refs::refs_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Secret,
    ConfigMap,
}

impl ObjectKind {
    fn resource(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
        }
    }
}

/// The name of an object, never its contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: ObjectKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectRef {
    pub fn secret(namespace: &str, name: &str) -> Self {
        Self { kind: ObjectKind::Secret, namespace: namespace.into(), name: name.into() }
    }
    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self { kind: ObjectKind::ConfigMap, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ObjectKind::Secret => "secret",
            ObjectKind::ConfigMap => "configmap",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// configMapAndSecretChangeDetectionStrategy. (`Cache`, a time to live, is served by Watch: it is never staler.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeDetection {
    #[default]
    Watch,
    /// Read at each use, keep nothing.
    Get,
}

/// How many changes may be unread by a subscriber before it lags.
const CHANGES_KEPT: usize = 256;

/// Cheap to clone; what is followed ends with the last clone.
#[derive(Clone)]
pub struct Objects {
    api: ApiServer,
    detection: ChangeDetection,
    secrets: Cache<Secret>,
    config_maps: Cache<ConfigMap>,
    changes: broadcast::Sender<ObjectRef>,
}

impl ApiServer {
    pub fn objects(&self, detection: ChangeDetection) -> Objects {
        let changes = broadcast::Sender::new(CHANGES_KEPT);
        Objects {
            api: self.clone(),
            detection,
            secrets: Cache::new(self.clone(), changes.clone()),
            config_maps: Cache::new(self.clone(), changes.clone()),
            changes,
        }
    }
}

impl Objects {
    /// Says what the pod refers to now; replaces what was said before. Returns at once.
    pub fn hold(&self, pod: &PodUid, refs: impl IntoIterator<Item = ObjectRef>) {
        if self.detection == ChangeDetection::Get {
            return;
        }
        let (secrets, config_maps) = refs.into_iter().partition(|r: &ObjectRef| r.kind == ObjectKind::Secret);
        self.secrets.hold(pod, secrets);
        self.config_maps.hold(pod, config_maps);
    }

    /// `hold` with everything that the pod's spec names.
    pub fn hold_pod(&self, desired: &DesiredPod) {
        self.hold(&desired.uid, refs_of(&desired.pod));
    }

    /// The pod is gone; objects that no other pod refers to are forgotten.
    pub fn release(&self, pod: &PodUid) {
        self.secrets.hold(pod, Vec::new());
        self.config_maps.hold(pod, Vec::new());
    }

    /// From the cache when some pod holds it (waits for its first read), else by a read of the API server.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ApiError> {
        match self.secrets.get(&ObjectRef::secret(namespace, name)).await {
            Some(answer) => answer,
            None => self.api.get_secret(namespace, name).await.map(Arc::new),
        }
    }

    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ApiError> {
        match self.config_maps.get(&ObjectRef::config_map(namespace, name)).await {
            Some(answer) => answer,
            None => self.api.get_config_map(namespace, name).await.map(Arc::new),
        }
    }

    /// Objects that were created, changed or deleted after their first read. A receiver that lags must look at all.
    pub fn changed(&self) -> broadcast::Receiver<ObjectRef> {
        self.changes.subscribe()
    }
}
