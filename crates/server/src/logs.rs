//! `/containerLogs/{namespace}/{pod}/{container}`: what a container wrote, from the file that the runtime writes.

mod choice;
mod line;
mod options;
mod reader;
mod tail;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::StreamExt as _;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pod::{ContainerId, ContainerState, ObservedPod};
use tokio::sync::{mpsc, watch};

use crate::{
    PodRow,
    dispatch::{Call, Context},
    reply::{self, Reply},
};
use options::{LogOptions, Refusal};
use reader::{Running, Source};

pub async fn handle(context: &Arc<Context>, call: Call) -> Reply {
    let options = match LogOptions::parse(&call.query(), context.config.split_log_streams, context.deps.clock.wall()) {
        Ok(options) => options,
        Err(Refusal { status, message }) => return reply::text(status, message),
    };
    let (pod, container) = (call.params.get("pod"), call.params.get("container"));
    let Some(row) = context.deps.pods.by_name(&call.key()) else {
        return reply::text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist"));
    };
    if row.desired.container(container).is_none() {
        let message = format!("container \"{container}\" not found in pod \"{pod}\"");
        return reply::text(StatusCode::NOT_FOUND, message);
    }
    match source(context, &row, container, options.previous) {
        Ok(source) => respond(context, source, options).await,
        Err(message) => reply::text(StatusCode::BAD_REQUEST, message),
    }
}

/// Which file, and how to learn that its container has ended.
fn source(context: &Context, row: &PodRow, container: &str, previous: bool) -> Result<Source, String> {
    let own_status = row.desired.pod.status.as_ref();
    let status = row.status.as_deref().or(own_status);
    let (shown, id) = choice::container_id(&row.desired.key.name, status, container, previous)?;
    let lost = || format!("unable to retrieve container logs for {shown}");
    let observed = context.deps.observed.follow(&row.desired.uid).ok_or_else(lost)?;
    let restart = observed.borrow().container(&id).map(|container| container.restart_count).ok_or_else(lost)?;
    Ok(Source {
        root: context.config.pod_logs_dir.clone(),
        directory: log_directory(row, container),
        file: format!("{restart}.log"),
        running: Running::new(running(observed, id)),
    })
}

/// `<namespace>_<name>_<uid>/<container>`.
fn log_directory(row: &PodRow, container: &str) -> PathBuf {
    let key = &row.desired.key;
    PathBuf::from(format!("{}_{}_{}", key.namespace, key.name, row.desired.uid)).join(container)
}

/// Resolves when the runtime no longer shows the container running.
async fn running(mut observed: watch::Receiver<Arc<ObservedPod>>, id: ContainerId) {
    let over = |pod: &Arc<ObservedPod>| {
        let state = pod.container(&id).map(|container| container.state);
        // Unknown: the runtime is away; it says nothing about the container.
        !matches!(state, Some(ContainerState::Running | ContainerState::Unknown))
    };
    // An error means that nobody observes the pod any more: it is gone.
    let _ = observed.wait_for(over).await;
}

async fn respond(context: &Arc<Context>, source: Source, options: LogOptions) -> Reply {
    // One that is not followed takes as long as its client reads.
    let Ok(slot) = context.streams.clone().try_acquire_owned() else { return reply::too_many_requests() };
    let log = match source.open(options).await {
        Ok(log) => log,
        Err(error) => return reply::text(StatusCode::BAD_REQUEST, error.chain()),
    };
    let (chunks, received) = mpsc::channel::<Bytes>(1);
    let stop = context.stop.clone();
    context.tasks.spawn(async move {
        let _slot = slot;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            () = chunks.closed() => return,
            ended = log.copy(&chunks) => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(error = error.chain(), "reading a container's log failed");
            // The head is sent: the text is all that can still tell it.
            let _ = chunks.send(error.chain().into()).await;
        }
    });
    stream(received)
}

/// Each chunk is written before the next is asked for, as upstream flushes after each line: the API server's websocket
/// loses a chunk that reaches it together with the end of the body.
fn stream(received: mpsc::Receiver<Bytes>) -> Reply {
    let chunks = futures::stream::unfold(received, async |mut received| {
        tokio::task::yield_now().await; // the connection writes what it has whenever the body has nothing ready
        Some((received.recv().await?, received))
    });
    reply::log(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_last_chunk_is_written_before_the_body_ends() {
        let (chunks, received) = mpsc::channel(4);
        chunks.try_send(Bytes::from_static(b"container is alive\n")).unwrap();
        drop(chunks);
        let mut body = stream(received).into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "container is alive\n");
        assert!(body.frame().now_or_never().is_none(), "the end waits for a flush");
        assert!(body.frame().await.is_none());
    }
}
