//! Which container or sandbox a request means, and where the runtime will serve it.

use cri::{Code, CriError, Streams};
use http::{HeaderValue, StatusCode, header};
use pod::{ContainerId, ContainerState};

use super::parameters::StreamParameters;
use crate::{
    PodRow,
    dispatch::{Call, Context},
    reply::{self, Reply},
};

/// The pod of the path; a UID in the path must be its own or its mirror's.
fn pod(context: &Context, call: &Call) -> Result<PodRow, Reply> {
    let found = context.deps.pods.by_name(&call.key());
    let row = found.ok_or_else(|| reply::text(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let uid = call.params.get("uid");
    if uid.is_empty() || row.answers_to(uid) {
        return Ok(row);
    }
    Err(reply::text(StatusCode::NOT_FOUND, "pod not found"))
}

pub fn running_container(context: &Context, call: &Call) -> Result<ContainerId, Reply> {
    container_of(context, &pod(context, call)?, call)
}

fn container_of(context: &Context, row: &PodRow, call: &Call) -> Result<ContainerId, Reply> {
    let name = call.params.get("container");
    let observed = context.deps.observed.now(&row.desired.uid);
    let mut containers = observed.iter().flat_map(|pod| &pod.containers);
    let running = containers.find(|c| c.name == name && c.state == ContainerState::Running);
    let missing = || reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({name:?})"));
    running.map(|container| container.id.clone()).ok_or_else(missing)
}

pub async fn exec(
    context: &Context,
    call: &Call,
    command: &[String],
    wanted: StreamParameters,
) -> Result<String, Reply> {
    let container = running_container(context, call)?;
    context.deps.cri.exec_url(&container, command, streams(wanted)).await.map_err(refused)
}

/// Whether there is a terminal is the container's to say: it cannot change after its start.
pub async fn attach(context: &Context, call: &Call, wanted: StreamParameters) -> Result<String, Reply> {
    let row = pod(context, call)?;
    let container = container_of(context, &row, call)?;
    let spec = row.desired.container(call.params.get("container"));
    let tty = spec.is_some_and(|(_, container)| container.tty == Some(true));
    let wanted = StreamParameters { tty, stderr: wanted.stderr && !tty, ..wanted };
    context.deps.cri.attach_url(&container, streams(wanted)).await.map_err(refused)
}

pub async fn port_forward(context: &Context, call: &Call, ports: &[i32]) -> Result<String, Reply> {
    let row = pod(context, call)?;
    let observed = context.deps.observed.now(&row.desired.uid);
    let Some(sandbox) = observed.as_ref().and_then(|pod| pod.ready_sandbox()) else {
        let key = &row.desired.key;
        let message = format!("pod not found (\"{}_{}\")", key.name, key.namespace);
        return Err(reply::text(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    context.deps.cri.port_forward_url(&sandbox.id, ports).await.map_err(refused)
}

fn streams(wanted: StreamParameters) -> Streams {
    Streams { tty: wanted.tty, stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr }
}

fn refused(error: CriError) -> Reply {
    let status = match error.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut reply = reply::text(status, error.spelled_out());
    if status == StatusCode::TOO_MANY_REQUESTS {
        // How long an unused URL blocks a place in the runtime.
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    reply
}
