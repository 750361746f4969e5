//! containerd's own event service: CRI's stops as exits of tasks.

use api_types::containerd::{
    events::TaskExit,
    services::events::v1::{SubscribeRequest, events_server::Events},
    types::Envelope,
};
use api_types::{Any, runtime::v1::ContainerEventType};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, async_trait, codegen::BoxStream};

use super::{Fake, Flavor};

#[async_trait]
impl Events for Fake {
    async fn subscribe(&self, _: Request<SubscribeRequest>) -> Result<Response<BoxStream<Envelope>>, Status> {
        let mut state = self.enter("containerd_events", "").await?;
        if state.flavor == Flavor::Eventless {
            return Err(Status::unimplemented("unknown service containerd.services.events.v1.Events"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        state.streams.push(sender);
        let exits = UnboundedReceiverStream::new(receiver).filter_map(|event| {
            let stopped = event.container_event_type() == ContainerEventType::ContainerStoppedEvent;
            stopped.then(|| exit(event.container_id))
        });
        Ok(Response::new(Box::pin(exits)))
    }
}

fn exit(id: String) -> Result<Envelope, Status> {
    let value = TaskExit { container_id: id.clone(), id }.encode_to_vec();
    let event = Some(Any { type_url: "containerd.events.TaskExit".to_owned(), value });
    Ok(Envelope { timestamp: None, namespace: "k8s.io".to_owned(), topic: "/tasks/exit".to_owned(), event })
}
