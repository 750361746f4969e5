//! Against the fake API server of `testing`: lists, watches, and what goes wrong with them.

mod calls;
mod events;
mod objects;
mod pods;

use std::time::Duration;

use serde_json::{Value, json};
use testing::FakeApiserver;

use crate::{ApiServer, ClientOptions};

pub(crate) fn client(fake: &FakeApiserver) -> ApiServer {
    ApiServer::from_service(
        fake.clone(),
        ClientOptions { request_timeout: Duration::from_secs(5), ..Default::default() },
    )
}

pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "nginx"}]}
    })
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": value}})
}

pub(crate) fn secret(name: &str, value: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": value}})
}

/// Lets all tasks run until nothing happens but the passing of time; the paused clock then moves on.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(900)).await;
}
