//! `/pods`: the desired pods with their statuses. `/runningpods/`: what the runtime runs.

use http::StatusCode;
use k8s_openapi::{
    List,
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use pod::{ContainerState, ObservedPod};

use crate::{
    PodRow,
    dispatch::Context,
    reply::{self, Reply},
};

pub fn desired(context: &Context) -> Reply {
    list(context.deps.pods.list().iter().map(with_status).collect())
}

fn with_status(row: &PodRow) -> Pod {
    let mut pod = Pod::clone(&row.desired.pod);
    if let Some(status) = &row.status {
        pod.status = Some((**status).clone());
    }
    pod
}

pub async fn running(context: &Context) -> Reply {
    match context.deps.cri.observe_all().await {
        Ok(all) => list(all.pods.iter().filter(|pod| pod.is_running()).map(as_running).collect()),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// As much of a pod as the runtime knows: its names and the containers that run.
fn as_running(observed: &ObservedPod) -> Pod {
    let running = observed.containers.iter().filter(|c| c.state == ContainerState::Running);
    let containers =
        running.map(|c| Container { name: c.name.clone(), image: Some(c.image.clone()), ..Container::default() });
    Pod {
        metadata: ObjectMeta {
            name: Some(observed.key.name.to_string()),
            namespace: Some(observed.key.namespace.to_string()),
            uid: Some(observed.uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers: containers.collect(), ..PodSpec::default() }),
        status: None,
    }
}

fn list(items: Vec<Pod>) -> Reply {
    reply::json(&List { items, ..List::default() })
}
