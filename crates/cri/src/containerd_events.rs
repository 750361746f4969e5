//! containerd's own events, for versions whose CRI has none (1.6). They come from the same socket.

use api_types::containerd::{
    events::{ContainerEvent, TaskEvent, TaskExit},
    services::events::v1::{SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, future};
use pod::{ContainerId, time::Timestamp};
use prost::Message;

use crate::{Cri, error::CriError, events::EventKind, events::EventStream, events::RuntimeEvent};

/// Each line is a filter; an event passes if it fits one. Events of exec, which probes cause, are left out.
const FILTERS: [&str; 2] = [
    r#"namespace==k8s.io,topic~="^/tasks/(exit|start|delete|oom|paused|resumed)$""#,
    r#"namespace==k8s.io,topic~="^/containers/(create|delete)$""#,
];

impl Cri {
    /// Only containerd has these; others answer `is_unimplemented()`. Events name no pod. A `Stopped` one comes before
    /// CRI's lists show it.
    pub fn containerd_events(&self) -> EventStream {
        let failed = |s| CriError::from_status("containerd_events", "containerd", &s);
        let mut client = EventsClient::new(self.channel.clone());
        let filters = FILTERS.map(str::to_owned).to_vec();
        let opening = async move { client.subscribe(SubscribeRequest { filters }).await };
        opening
            .map_ok(move |reply| reply.into_inner().map_err(failed))
            .map_err(failed)
            .into_stream()
            .try_flatten()
            .try_filter_map(|envelope| {
                let made = envelope.timestamp.as_ref().and_then(|t| Timestamp::new(t.seconds, t.nanos).ok());
                future::ok(runtime_event(&envelope).map(|event| RuntimeEvent { made, ..event }))
            })
            .boxed()
    }
}

/// None for what concerns no container's state.
fn runtime_event(envelope: &Envelope) -> Option<RuntimeEvent> {
    let payload = envelope.event.as_ref()?.value.as_slice();
    let kind = match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::decode(payload).ok()?;
            // Another id is that of an exec in the container.
            if !exit.id.is_empty() && exit.id != exit.container_id {
                return None;
            }
            return Some(event(exit.container_id, EventKind::Stopped));
        }
        "/tasks/delete" => EventKind::Stopped,
        "/tasks/start" => EventKind::Started,
        "/containers/create" => return named(payload, EventKind::Created),
        "/containers/delete" => return named(payload, EventKind::Deleted),
        _ => EventKind::Changed,
    };
    Some(event(TaskEvent::decode(payload).ok()?.container_id, kind))
}

fn named(payload: &[u8], kind: EventKind) -> Option<RuntimeEvent> {
    Some(event(ContainerEvent::decode(payload).ok()?.id, kind))
}

fn event(id: String, kind: EventKind) -> RuntimeEvent {
    RuntimeEvent { id: ContainerId::new(id), pod: None, kind, made: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(container: &str, id: &str) -> Envelope {
        let exit = TaskExit { container_id: container.into(), id: id.into() };
        envelope("/tasks/exit", exit.encode_to_vec())
    }
    fn envelope(topic: &str, value: Vec<u8>) -> Envelope {
        let event = Some(prost_any(value));
        Envelope { topic: topic.into(), namespace: "k8s.io".into(), event, timestamp: None }
    }
    fn prost_any(value: Vec<u8>) -> api_types::Any {
        api_types::Any { type_url: String::new(), value }
    }

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_its_container() {
        assert_eq!(runtime_event(&exit("c1", "probe-7")), None);
        assert_eq!(runtime_event(&exit("c1", "c1")), Some(event("c1".into(), EventKind::Stopped)));
    }

    #[test]
    fn a_task_event_names_its_container_in_the_first_field() {
        let oom = envelope("/tasks/oom", TaskEvent { container_id: "c2".into() }.encode_to_vec());
        assert_eq!(runtime_event(&oom), Some(event("c2".into(), EventKind::Changed)));
    }

    #[test]
    fn garbage_is_no_event() {
        assert_eq!(runtime_event(&envelope("/tasks/exit", vec![0xff, 0xff])), None);
        assert_eq!(runtime_event(&Envelope::default()), None);
    }
}
