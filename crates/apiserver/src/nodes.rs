//! This node's own Node object.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{
    ApiError, ApiServer,
    budget::Budget,
    follow::{Change, Collection, follow},
    owned::Owned,
    request::{Call, path},
    rows::Row,
};

impl ApiServer {
    /// Follows the Node while a receiver lives; None before the first answer and while there is no such Node.
    pub fn watch_node(&self, name: &str) -> watch::Receiver<Option<Arc<Node>>> {
        let (state, receiver) = watch::channel(None);
        let (changes_in, mut changes) = mpsc::channel(1);
        let collection = Collection {
            path: path::core("nodes"),
            field_selector: Some(format!("metadata.name={name}")),
            object: format!("node {name}"),
        };
        let api = self.clone();
        tokio::spawn(async move {
            let _follower = Owned::spawn(follow::<Node>(api, collection, changes_in));
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = state.closed() => return,
                };
                match change {
                    None => return,
                    Some(Change::Synced(nodes)) => drop(state.send_replace(nodes.into_iter().next().map(Arc::new))),
                    Some(Change::Applied(node)) => drop(state.send_replace(Some(Arc::from(node)))),
                    Some(Change::Deleted(_)) => drop(state.send_replace(None)),
                }
            }
        });
        receiver
    }

    pub async fn get_node(&self, name: &str) -> Result<Node, ApiError> {
        self.node_call(Call::get(path::core_named("nodes", name), object(name))).await
    }

    pub async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        self.node_call(Call::create(path::core("nodes"), object(node.name()), node)?).await
    }

    /// Strategic merge patch of metadata and spec.
    pub async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        self.node_call(Call::strategic_patch(path::core_named("nodes", name), object(name), patch)?).await
    }

    /// Strategic merge patch of status (and of labels and annotations, which this subresource takes too).
    pub async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let path = format!("{}/status", path::core_named("nodes", name));
        self.node_call(Call::strategic_patch(path, object(name), patch)?).await
    }

    async fn node_call(&self, call: Call) -> Result<Node, ApiError> {
        let mut node: Node = self.ask(call.paid_by(Budget::Heartbeat).within(self.heartbeat_timeout())).await?;
        node.slim();
        Ok(node)
    }
}

fn object(name: &str) -> String {
    format!("node {name}")
}
