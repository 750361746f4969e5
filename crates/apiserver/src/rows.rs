//! What the caches keep of an object: its identity, and as little of the rest as is read later.

use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;

/// An object that can be listed, watched and told apart.
pub(crate) trait Row: DeserializeOwned + Send + 'static {
    fn uid(&self) -> &str;
    fn namespace(&self) -> &str;
    fn name(&self) -> &str;
    fn version(&self) -> &str;
    /// Drops what nobody reads, and room that holds nothing.
    fn slim(&mut self) {}
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// `kubectl apply` keeps a copy of the whole object in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Pods keep their annotations: the downward API shows them.
pub(crate) fn slim_meta(meta: &mut ObjectMeta, drop_last_applied: bool) {
    meta.managed_fields = None;
    if drop_last_applied && let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

macro_rules! row {
    ($kind:ty, $drop_last_applied:literal $(, $shrink:path)?) => {
        impl Row for $kind {
            fn uid(&self) -> &str {
                text(&self.metadata.uid)
            }
            fn namespace(&self) -> &str {
                text(&self.metadata.namespace)
            }
            fn name(&self) -> &str {
                text(&self.metadata.name)
            }
            fn version(&self) -> &str {
                text(&self.metadata.resource_version)
            }
            fn slim(&mut self) {
                slim_meta(&mut self.metadata, $drop_last_applied);
                $($shrink(self);)?
            }
        }
    };
}

row!(Pod, false, crate::shrink::shrink);
row!(Node, false);
row!(Secret, true);
row!(ConfigMap, true);

/// Resource versions are compared as numbers (allowed since Kubernetes 1.35); an unreadable one counts as oldest.
pub(crate) fn version_number(version: &str) -> u128 {
    version.parse().unwrap_or_default()
}
