//! A pod read from a manifest made into one that can run: identity, defaults, validation.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};

use crate::{
    DesiredPod, Source, defaults, static_uid,
    validate::{InvalidPod, api_reference, validate},
};

pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// Where a manifest came from: part of the pod's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifest<'a> {
    File(&'a str),
    Url(&'a str),
}

/// Why a manifest gives no pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    NoName,
    Invalid(InvalidPod),
    Refers(&'static str),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::NoName => f.write_str("invalid pod: name is needed for the pod"),
            ManifestError::Invalid(problems) => write!(f, "invalid pod: {problems}"),
            ManifestError::Refers(kind) => write!(f, "static pods may not reference {kind}"),
        }
    }
}

impl std::error::Error for ManifestError {}

/// `node_name` becomes part of the pod's name, so that mirror pods of several nodes do not collide.
pub fn from_manifest(mut pod: Pod, manifest: Manifest<'_>, node_name: &str) -> Result<DesiredPod, ManifestError> {
    let Some(name) = pod.metadata.name.clone().filter(|n| !n.is_empty()) else { return Err(ManifestError::NoName) };
    defaults::apply(&mut pod);
    if pod.metadata.uid.as_deref().is_none_or(str::is_empty) {
        pod.metadata.uid = Some(static_uid::uid(&pod, manifest, node_name));
    }
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    if meta.namespace.as_deref().is_none_or(str::is_empty) {
        meta.namespace = Some("default".to_owned());
    }
    let source = match manifest {
        Manifest::File(_) => Source::File,
        Manifest::Url(_) => Source::Http,
    };
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.to_owned(), meta.uid.clone().unwrap_or_default());
    annotations.insert(CONFIG_SOURCE.to_owned(), source.as_str().to_owned());
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node_name.to_owned());
        if source == Source::File {
            tolerate_everything(spec.tolerations.get_or_insert_default());
        }
    }
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    validate(&pod).map_err(ManifestError::Invalid)?;
    if let Some(kind) = pod.spec.as_ref().and_then(api_reference) {
        return Err(ManifestError::Refers(kind));
    }
    DesiredPod::new(source, Arc::new(pod)).ok_or(ManifestError::NoName)
}

/// Manifests are not evicted by taints: the node itself wants them.
fn tolerate_everything(tolerations: &mut Vec<Toleration>) {
    let wanted = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    if !tolerations.contains(&wanted) {
        tolerations.push(wanted);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, manifest: Manifest<'_>) -> Result<DesiredPod, ManifestError> {
        let pod = json!({"metadata": {"name": "etcd"}, "spec": spec});
        from_manifest(serde_json::from_value(pod).unwrap(), manifest, "Node-1")
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let pod = read(spec.clone(), Manifest::File("/etc/kubernetes/manifests/etcd.yaml")).unwrap();
        assert_eq!((pod.key.to_string(), pod.source), ("default/etcd-node-1".to_owned(), Source::File));
        assert_eq!(pod.uid.as_str().len(), 32);
        assert_eq!(pod.annotation(CONFIG_HASH), Some(pod.uid.as_str()));
        assert_eq!(pod.annotation(CONFIG_SOURCE), Some("file"));
        assert_eq!(pod.spec().node_name.as_deref(), Some("Node-1"));
        assert_eq!(pod.spec().tolerations.as_ref().map(Vec::len), Some(1));
        let other_place = read(spec.clone(), Manifest::File("/elsewhere.yaml")).unwrap();
        let by_url = read(spec.clone(), Manifest::Url("http://x")).unwrap();
        assert!(other_place.uid != pod.uid && by_url.uid != pod.uid);
        assert!(by_url.spec().tolerations.is_none());
        assert_eq!(read(spec, Manifest::File("/elsewhere.yaml")).unwrap().uid, other_place.uid);
    }

    #[test]
    fn a_changed_manifest_is_another_pod() {
        let of =
            |image: &str| read(json!({"containers": [{"name": "c", "image": image}]}), Manifest::Url("u")).unwrap().uid;
        assert_ne!(of("a:1"), of("a:2"));
    }

    #[test]
    fn bad_manifests_say_why() {
        let bad = read(json!({"containers": []}), Manifest::Url("u")).unwrap_err();
        assert_eq!(bad.to_string(), "invalid pod: spec.containers: Required value");
        let refers =
            read(json!({"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "x"}), Manifest::Url("u"));
        assert_eq!(refers.unwrap_err().to_string(), "static pods may not reference serviceaccounts");
    }
}
