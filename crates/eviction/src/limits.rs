//! Which limits of local storage a pod has, and which of them it exceeds. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource};
use pod::{
    DesiredPod,
    quantity::{Format, Quantity},
    resources,
};

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// What a pod was found to take, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By volume.
    pub empty_dirs: BTreeMap<String, u64>,
    /// By container: its logs, and its own layer where that is on the node's main filesystem.
    pub containers: BTreeMap<String, u64>,
    /// All of its local storage.
    pub pod: u64,
}

/// A limit that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Upstream's words.
    pub message: String,
    /// Value of the label `eviction_signal`.
    pub signal: &'static str,
}

/// Whether there is anything to measure.
pub fn has_limit(pod: &DesiredPod) -> bool {
    empty_dir_limits(pod).next().is_some() || limits_containers(pod)
}

/// Whether what containers write beside volumes counts.
pub fn limits_containers(pod: &DesiredPod) -> bool {
    resources::pod_limits(pod.spec()).contains_key(EPHEMERAL_STORAGE)
}

/// The first limit exceeded, in upstream's order.
pub fn excess(pod: &DesiredPod, usage: &Usage) -> Option<Excess> {
    let beyond = |used: u64, limit: &Quantity| bytes(used) > *limit;
    for (volume, limit) in empty_dir_limits(pod) {
        if usage.empty_dirs.get(volume).is_some_and(|used| beyond(*used, &limit)) {
            let message = format!("Usage of EmptyDir volume {volume:?} exceeds the limit \"{limit}\". ");
            return Some(Excess { message, signal: "emptydirfs.limit" });
        }
    }
    if let Some(limit) = resources::pod_limits(pod.spec()).get(EPHEMERAL_STORAGE).filter(|l| beyond(usage.pod, l)) {
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(Excess { message, signal: "ephemeralpodfs.limit" });
    }
    let (name, limit) = limited_containers(pod).find(|(name, limit)| {
        let used = usage.containers.get(*name);
        !limit.is_zero() && used.is_some_and(|used| beyond(*used, limit))
    })?;
    let message = format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
    Some(Excess { message, signal: "ephemeralcontainerfs.limit" })
}

/// Those on disk: the kernel holds memory to its size.
fn empty_dir_limits(pod: &DesiredPod) -> impl Iterator<Item = (&str, Quantity)> {
    on_disk(pod).filter_map(|(name, source)| {
        let limit = Quantity::of(source.size_limit.as_ref()?);
        (limit > Quantity::default()).then_some((name, limit))
    })
}

/// The emptyDir volumes of the default medium.
pub fn on_disk(pod: &DesiredPod) -> impl Iterator<Item = (&str, &EmptyDirVolumeSource)> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        source.medium.as_deref().unwrap_or_default().is_empty().then_some((volume.name.as_str(), source))
    })
}

/// Regular containers and sidecars; other init containers may take what they like.
fn limited_containers(pod: &DesiredPod) -> impl Iterator<Item = (&str, Quantity)> {
    let sidecars = pod.init_containers().iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let limit = |c: &Container| c.resources.as_ref()?.limits.as_ref()?.get(EPHEMERAL_STORAGE).map(Quantity::of);
    pod.regular_containers().iter().chain(sidecars).filter_map(move |c| Some((c.name.as_str(), limit(c)?)))
}

fn bytes(count: u64) -> Quantity {
    Quantity::from_value(i64::try_from(count).unwrap_or(i64::MAX), Format::BinarySi)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pod::Source;
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> DesiredPod {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn limited(limit: &str) -> Value {
        json!({"name": "app", "resources": {"limits": {"ephemeral-storage": limit}}})
    }
    fn told(pod: &DesiredPod, usage: &Usage) -> (String, &'static str) {
        excess(pod, usage).map(|e| (e.message, e.signal)).unwrap_or_default()
    }

    #[test]
    fn an_empty_dir_on_disk_is_held_to_its_size() {
        let pod = pod(json!({"containers": [{"name": "app"}], "volumes": [
            {"name": "free", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}}]}));
        assert!(has_limit(&pod) && !limits_containers(&pod));
        let used = |bytes: u64| Usage {
            empty_dirs: [("free".into(), 1 << 40), ("memory".into(), 1 << 40), ("cache".into(), bytes)].into(),
            ..Usage::default()
        };
        assert_eq!(excess(&pod, &used(1 << 20)), None);
        let words = "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". ".to_owned();
        assert_eq!(told(&pod, &used((1 << 20) + 1)), (words, "emptydirfs.limit"));
    }

    #[test]
    fn a_pod_and_then_a_container_are_held_to_their_limits() {
        let pod = pod(json!({"containers": [limited("1Mi"), {"name": "other", "resources":
            {"limits": {"ephemeral-storage": "2Mi"}}}]}));
        assert!(has_limit(&pod) && limits_containers(&pod));
        let used =
            |app: u64, all: u64| Usage { containers: [("app".to_owned(), app)].into(), pod: all, ..Usage::default() };
        assert_eq!(excess(&pod, &used(1 << 20, 3 << 20)), None);
        let words = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ".to_owned();
        assert_eq!(told(&pod, &used(9 << 20, 9 << 20)), (words, "ephemeralpodfs.limit"));
        let words = "Container app exceeded its local ephemeral storage limit \"1Mi\". ".to_owned();
        assert_eq!(told(&pod, &used(2 << 20, 2 << 20)), (words, "ephemeralcontainerfs.limit"));
    }

    #[test]
    fn most_pods_are_not_measured() {
        assert!(!has_limit(&pod(json!({"containers": [{"name": "app"}], "volumes": [{"name": "v", "emptyDir": {}}]}))));
        let zero = json!({"containers": [{"name": "app"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0"}}]});
        assert!(!has_limit(&pod(zero)));
    }
}
