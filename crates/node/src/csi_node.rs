//! Makes the CSINode object: controllers attach no volume to a node without one, so the node is not ready before.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiError, ApiServer, Reachability};
use k8s_openapi::{
    api::storage::v1::{CSINode, CSINodeSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use pod::api::Node;
use tokio::sync::watch;

use crate::object::owner_reference;

pub(crate) const NOT_YET: &str = "CSINode is not yet initialized";
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// In-tree plugins whose volumes only their CSI drivers serve.
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,\
    kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";
const FIRST_PAUSE: Duration = Duration::from_millis(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(7);

/// Keeps trying; `trouble` says why storage isn't ready, None once it is.
pub(crate) async fn initialize(
    api: &ApiServer,
    mut node: watch::Receiver<Option<Arc<Node>>>,
    trouble: &watch::Sender<Option<String>>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let owner = match node.wait_for(|node| node.as_deref().and_then(owner_reference).is_some()).await {
            Ok(node) => node.as_deref().and_then(owner_reference),
            Err(_) => None,
        };
        let Some(owner) = owner else { return };
        match ensure(api, owner).await {
            Ok(()) => {
                trouble.send_replace(None);
                return;
            }
            Err(error) => {
                let text = format!("failed to initialize CSINode: {error}");
                trouble.send_if_modified(|said| {
                    let news = said.as_deref() != Some(text.as_str());
                    if news {
                        tracing::warn!(%error, "CSINode can't be initialized");
                        *said = Some(text);
                    }
                    news
                });
            }
        }
        // A server that is back is asked at once: the node is not ready until it has answered.
        let mut server = api.reachability();
        let was_away = !server.borrow_and_update().is_reachable();
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            Ok(_) = server.wait_for(Reachability::is_reachable), if was_away => pause = FIRST_PAUSE,
        }
    }
}

async fn ensure(api: &ApiServer, owner: OwnerReference) -> Result<(), ApiError> {
    match api.get_csi_node(&owner.name).await {
        Ok(existing) => match corrected(existing, owner) {
            Some(corrected) => api.update_csi_node(&corrected).await.map(drop),
            None => Ok(()),
        },
        Err(error) if error.is_not_found() => api.create_csi_node(&fresh(owner)).await.map(drop),
        Err(error) => Err(error),
    }
}

fn fresh(owner: OwnerReference) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(owner.name.clone()),
            annotations: Some([(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
        status: None,
    }
}

/// None when nothing is to be changed. What an earlier Node of this name has left starts anew.
fn corrected(mut existing: CSINode, owner: OwnerReference) -> Option<CSINode> {
    let owners = existing.metadata.owner_references.as_deref().unwrap_or_default();
    let is_ours = owners.iter().any(|o| o.kind == "Node" && o.name == owner.name && o.uid == owner.uid);
    let annotations = existing.metadata.annotations.get_or_insert_default();
    let is_marked = annotations.get(MIGRATED).is_some_and(|plugins| plugins == MIGRATED_PLUGINS);
    if is_ours && is_marked {
        return None;
    }
    annotations.insert(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned());
    if !is_ours {
        existing.metadata.owner_references = Some(vec![owner]);
        existing.spec.drivers.clear();
    }
    Some(existing)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::CSINodeDriver;

    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference { kind: "Node".into(), name: "n".into(), uid: uid.into(), ..OwnerReference::default() }
    }

    #[test]
    fn our_own_csi_node_is_left_alone() {
        assert_eq!(corrected(fresh(owner("1")), owner("1")), None);
    }

    #[test]
    fn drivers_of_an_earlier_node_are_forgotten() {
        let mut stale = fresh(owner("1"));
        stale.spec.drivers.push(CSINodeDriver { name: "d".into(), ..CSINodeDriver::default() });
        assert_eq!(corrected(stale, owner("2")), Some(fresh(owner("2"))));
    }

    #[test]
    fn a_missing_annotation_is_added_and_the_drivers_stay() {
        let mut bare = fresh(owner("1"));
        bare.metadata.annotations = None;
        bare.spec.drivers.push(CSINodeDriver { name: "d".into(), ..CSINodeDriver::default() });
        let corrected = corrected(bare, owner("1")).unwrap();
        assert_eq!((corrected.spec.drivers.len(), corrected.metadata.annotations.unwrap().len()), (1, 1));
    }
}
