//! Persistent volume claims: from the claim to the volume behind it, and what this kubelet can do with that one.

use pod::{
    DesiredPod,
    api::{PersistentVolume, PersistentVolumeClaim, Volume},
};

use crate::error::Cause;

const PROTECTION: &str = "kubernetes.io/pvc-protection";
const GID_ANNOTATION: &str = "pv.beta.kubernetes.io/gid";

/// The claim that a volume of a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimRef {
    pub name: String,
    pub read_only: bool,
    /// A generic ephemeral volume: the claim must belong to the pod.
    pub owned_by_pod: bool,
}

impl ClaimRef {
    pub fn of(pod: &DesiredPod, volume: &Volume) -> Option<Self> {
        if let Some(source) = &volume.persistent_volume_claim {
            let read_only = source.read_only.unwrap_or(false);
            return Some(Self { name: source.claim_name.clone(), read_only, owned_by_pod: false });
        }
        let name = format!("{}-{}", pod.key.name, volume.name);
        volume.ephemeral.as_ref().map(|_| Self { name, read_only: false, owned_by_pod: true })
    }
}

/// The name of the volume that the claim is bound to.
pub(crate) fn bound_volume(
    pod: &DesiredPod,
    wanted: &ClaimRef,
    claim: &PersistentVolumeClaim,
) -> Result<String, Cause> {
    let problem = |text: &str| Err(Cause::Claim(text.to_owned()));
    let meta = &claim.metadata;
    let protected = meta.finalizers.iter().flatten().any(|f| f == PROTECTION);
    if meta.deletion_timestamp.is_some() && !protected {
        return problem("PVC is being deleted");
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Bound") {
        return problem("PVC is not bound");
    }
    let controlled =
        |uid: &str| meta.owner_references.iter().flatten().any(|o| o.uid == uid && o.controller == Some(true));
    if wanted.owned_by_pod && !controlled(pod.uid.as_str()) {
        let key = &pod.key;
        let text = format!("PVC {}/{} was not created for pod {key} (pod is not owner)", key.namespace, wanted.name);
        return problem(&text);
    }
    match claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) {
        None | Some("") => problem("PVC has empty pvc.Spec.VolumeName"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// A persistent volume that this kubelet can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    HostPath { path: String, kind: String },
    Local { path: String },
}

/// Checks that the volume is bound to this very claim and holds a file system. The error's second form names the kind
/// of a volume that is not supported.
pub(crate) fn backing(
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    pv: &PersistentVolume,
) -> Result<Backing, BackingError> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let problem = |text: String| Err(BackingError::Claim(Cause::Claim(text)));
    let spec = pv.spec.clone().unwrap_or_default();
    let Some(claim_ref) = &spec.claim_ref else {
        return problem(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let (found, wanted) =
        (claim_ref.uid.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    if found != wanted {
        return problem(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {found} does not point to claim.UID {wanted}"
        ));
    }
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    if mode != "Filesystem" {
        return problem(format!("volume {} has volumeMode {mode}, but is specified in volumeMounts", volume.name));
    }
    if let Some(source) = spec.host_path {
        return Ok(Backing::HostPath { path: source.path, kind: source.type_.unwrap_or_default() });
    }
    if let Some(source) = spec.local {
        return Ok(Backing::Local { path: source.path });
    }
    Err(BackingError::Unsupported(persistent_kind(&spec).to_owned()))
}

#[derive(Debug)]
pub(crate) enum BackingError {
    Claim(Cause),
    Unsupported(String),
}

/// A group that the pod's processes need to get at the volume.
pub(crate) fn extra_group(pv: &PersistentVolume) -> Option<i64> {
    pv.metadata.annotations.as_ref()?.get(GID_ANNOTATION)?.parse().ok()
}

fn persistent_kind(spec: &pod::api::PersistentVolumeSpec) -> &'static str {
    let kinds = [
        (spec.csi.is_some(), "csi"),
        (spec.nfs.is_some(), "nfs"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.fc.is_some(), "fc"),
        (spec.flex_volume.is_some(), "flexVolume"),
    ];
    kinds.iter().find(|(set, _)| *set).map_or("of a removed in-tree driver", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::fixture::pod;

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut base = json!({"metadata": {"uid": "c1"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        for (key, value) in extra.as_object().unwrap() {
            base[key] = value.clone();
        }
        from_value(base).unwrap()
    }

    fn bound(wanted: &ClaimRef, extra: Value) -> Result<String, String> {
        bound_volume(&pod(json!({"containers": []})), wanted, &claim(extra)).map_err(|e| e.to_string())
    }

    #[test]
    fn only_a_bound_claim_that_stays_will_do() {
        let wanted = ClaimRef { name: "data".into(), read_only: false, owned_by_pod: false };
        assert_eq!(bound(&wanted, json!({})), Ok("pv".into()));
        assert_eq!(bound(&wanted, json!({"status": {"phase": "Pending"}})), Err("PVC is not bound".into()));
        assert_eq!(bound(&wanted, json!({"spec": {}})), Err("PVC has empty pvc.Spec.VolumeName".into()));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(bound(&wanted, going), Err("PVC is being deleted".into()));
    }

    #[test]
    fn an_ephemeral_claim_must_belong_to_the_pod() {
        let volume = from_value(json!({"name": "v", "ephemeral": {}})).unwrap();
        let wanted = ClaimRef::of(&pod(json!({"containers": []})), &volume).unwrap();
        assert_eq!(wanted.name, "web-v");
        assert!(bound(&wanted, json!({})).unwrap_err().contains("was not created for pod ns/web (pod is not owner)"));
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-1", "controller": true}]);
        assert_eq!(bound(&wanted, json!({"metadata": {"ownerReferences": owner}})), Ok("pv".into()));
    }

    #[test]
    fn the_volume_must_point_back_and_be_of_a_known_kind() {
        let volume: Volume = from_value(json!({"name": "v"})).unwrap();
        let with = |spec: Value| {
            let pv = from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap();
            backing(&volume, &claim(json!({})), &pv)
        };
        let back = json!({"uid": "c1"});
        assert_eq!(
            with(json!({"claimRef": back, "local": {"path": "/mnt/x"}})).unwrap(),
            Backing::Local { path: "/mnt/x".into() }
        );
        assert!(matches!(with(json!({"claimRef": {"uid": "other"}})), Err(BackingError::Claim(_))));
        assert!(matches!(with(json!({})), Err(BackingError::Claim(_))));
        assert!(matches!(with(json!({"claimRef": back, "volumeMode": "Block"})), Err(BackingError::Claim(_))));
        let nfs = with(json!({"claimRef": back, "nfs": {"server": "s", "path": "/"}}));
        assert!(matches!(nfs, Err(BackingError::Unsupported(kind)) if kind == "nfs"));
    }
}
