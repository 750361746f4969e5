//! The runtime's event stream, as hints on what to look at again.

use std::pin::Pin;

use api_types::runtime::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt};
use pod::{ContainerId, PodUid, time::Timestamp};

use crate::{Cri, error::CriError, error::Result};

/// Something happened to a container or a sandbox. Only a hint: neither order nor content is to be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// A container's id, or a sandbox's.
    pub id: ContainerId,
    /// Where the runtime says it.
    pub pod: Option<PodUid>,
    pub kind: EventKind,
    /// By the runtime's clock, where it says so.
    pub made: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Started,
    /// It has ended, though the runtime's lists may still say otherwise for a moment.
    Stopped,
    Deleted,
    /// Paused, out of memory, ...
    Changed,
}

/// Ends with an error, or when the runtime closes it.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<RuntimeEvent>> + Send>>;

impl Cri {
    /// CRI's own events; yields one `is_unimplemented()` error on runtimes without them. A runtime may answer with its
    /// first event only, so nothing shows that the stream stands but the absence of an error.
    pub fn container_events(&self) -> EventStream {
        const OPERATION: &str = "get_container_events";
        let failed = |s| CriError::from_status(OPERATION, "runtime", &s);
        let mut client = self.runtime.clone();
        let opening = async move { client.get_container_events(GetEventsRequest {}).await };
        opening
            .map_ok(move |reply| reply.into_inner().map_err(failed))
            .map_err(failed)
            .into_stream()
            .try_flatten()
            .map(|event| event.map(runtime_event))
            .boxed()
    }
}

fn runtime_event(e: ContainerEventResponse) -> RuntimeEvent {
    let kind = match e.container_event_type() {
        ContainerEventType::ContainerCreatedEvent => EventKind::Created,
        ContainerEventType::ContainerStartedEvent => EventKind::Started,
        ContainerEventType::ContainerStoppedEvent => EventKind::Stopped,
        ContainerEventType::ContainerDeletedEvent => EventKind::Deleted,
    };
    let pod = e.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid).filter(|u| !u.is_empty()).map(PodUid::new);
    let made = Timestamp::from_nanosecond(e.created_at.into()).ok().filter(|made| *made > Timestamp::UNIX_EPOCH);
    RuntimeEvent { id: ContainerId::new(e.container_id), pod, kind, made }
}

#[cfg(test)]
mod tests {
    use api_types::runtime::v1::{PodSandboxMetadata, PodSandboxStatus};

    use super::*;

    #[test]
    fn an_event_names_the_pod_where_the_runtime_tells_it() {
        let metadata = Some(PodSandboxMetadata { uid: "u1".into(), ..Default::default() });
        let mut event = ContainerEventResponse {
            container_id: "c1".into(),
            container_event_type: ContainerEventType::ContainerStoppedEvent as i32,
            created_at: 5_000_000_000,
            pod_sandbox_status: Some(PodSandboxStatus { metadata, ..Default::default() }),
            ..Default::default()
        };
        let made = Timestamp::from_second(5).ok();
        let expected = RuntimeEvent { id: "c1".into(), pod: Some("u1".into()), kind: EventKind::Stopped, made };
        assert_eq!(runtime_event(event.clone()), expected);
        (event.pod_sandbox_status, event.created_at) = (None, 0);
        let bare = runtime_event(event);
        assert_eq!((bare.pod, bare.made), (None, None));
    }
}
