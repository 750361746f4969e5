//! Pods of this node: the watch, and what the agent writes.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions},
};
use pod::{PodKey, PodUid};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    ApiError, ApiServer,
    budget::Budget,
    follow::{Change, Collection, follow},
    owned::Owned,
    request::{Call, path},
    rows::Row,
};

/// What the API server says of the pods bound to this node. `Synced` comes first and once.
#[derive(Clone, Debug)]
pub enum PodEvent {
    Synced(Vec<Arc<Pod>>),
    Applied(Arc<Pod>),
    Deleted { uid: PodUid, key: PodKey },
}

const BACKLOG: usize = 64;

impl ApiServer {
    /// Follows the pods bound to the node for as long as the receiver lives. Objects come without managedFields.
    pub fn watch_pods(&self, node_name: &str) -> mpsc::Receiver<PodEvent> {
        let (events, receiver) = mpsc::channel(BACKLOG);
        let (changes_in, mut changes) = mpsc::channel(1);
        let collection = Collection {
            path: path::core("pods"),
            field_selector: Some(format!("spec.nodeName={node_name}")),
            object: format!("pods of node {node_name}"),
        };
        let api = self.clone();
        tokio::spawn(async move {
            let _follower = Owned::spawn(follow::<Pod>(api, collection, changes_in));
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = events.closed() => return,
                };
                let Some(change) = change else { return };
                if events.send(pod_event(change)).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    pub async fn get_pod(&self, key: &PodKey) -> Result<Pod, ApiError> {
        let mut pod: Pod = self.ask(Call::get(of(key), object(key))).await?;
        pod.slim();
        Ok(pod)
    }

    /// Patches status by a strategic merge patch. `uid` is that of the API object (for a static pod: of its mirror)
    /// and is a precondition: the status must not land on a re-created pod of the same name.
    pub async fn patch_pod_status(&self, key: &PodKey, uid: &PodUid, patch: &Value) -> Result<Pod, ApiError> {
        let mut patch = patch.clone();
        patch["metadata"]["uid"] = json!(uid.as_str());
        let call = Call::strategic_patch(format!("{}/status", of(key)), object(key), &patch)?;
        let mut pod: Pod = self.ask(call.paid_by(Budget::Status)).await?;
        pod.slim();
        Ok(pod)
    }

    pub async fn create_pod(&self, pod: &Pod) -> Result<Pod, ApiError> {
        let key = PodKey::new(pod.namespace(), pod.name());
        let call = Call::create(path::namespaced(&key.namespace, "pods"), object(&key), pod)?;
        let mut pod: Pod = self.ask(call.paid_by(Budget::Status)).await?;
        pod.slim();
        Ok(pod)
    }

    /// Deletes the pod if it still is the one with this UID; grace 0 removes the object at once.
    pub async fn delete_pod(&self, key: &PodKey, uid: &PodUid, grace_seconds: Option<i64>) -> Result<(), ApiError> {
        let preconditions = Preconditions { uid: Some(uid.to_string()), ..Preconditions::default() };
        let options = DeleteOptions {
            grace_period_seconds: grace_seconds,
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        };
        self.tell(Call::delete(of(key), object(key), &options)?.paid_by(Budget::Status)).await
    }
}

fn pod_event(change: Change<Pod>) -> PodEvent {
    match change {
        Change::Synced(pods) => PodEvent::Synced(pods.into_iter().map(Arc::new).collect()),
        Change::Applied(pod) => PodEvent::Applied(Arc::from(pod)),
        Change::Deleted(gone) => {
            PodEvent::Deleted { uid: PodUid::new(gone.uid), key: PodKey::new(gone.namespace, gone.name) }
        }
    }
}

fn of(key: &PodKey) -> String {
    path::named(&key.namespace, "pods", &key.name)
}

fn object(key: &PodKey) -> String {
    format!("pod {key}")
}
