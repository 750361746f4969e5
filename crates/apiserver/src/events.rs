//! Events: what `kubectl describe` shows at its end.
//!
//! A recorder never waits: what doesn't fit the queue is dropped and counted. One task correlates (`correlate`)
//! and sends (`sink`).

mod correlate;
mod sink;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use host::Clock;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use pod::{Containers, DesiredPod, mounts::EventType, time::Timestamp};
use tokio::sync::mpsc;

use crate::ApiServer;

const COMPONENT: &str = "kubelet";
/// As many as client-go's broadcaster keeps.
const QUEUE: usize = 1000;

/// Records events; cheap to clone. The sending task ends with the last clone, after it has sent what is queued.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// None: they are logged only.
    queue: Option<mpsc::Sender<Box<Event>>>,
    clock: Clock,
    node_name: String,
    dropped: AtomicU64,
    /// Of the last event's name: names must differ also within one tick of the clock.
    last_stamp: AtomicU64,
}

impl Events {
    pub fn spawn(api: ApiServer, clock: Clock, node_name: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(sink::run(api, clock, receiver));
        Self::new(Some(queue), clock, node_name)
    }

    /// For a node without an API server.
    pub fn log_only() -> Self {
        Self::new(None, Clock::start(), "")
    }

    fn new(queue: Option<mpsc::Sender<Box<Event>>>, clock: Clock, node_name: &str) -> Self {
        let node_name = node_name.to_owned();
        let (dropped, last_stamp) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { queue, clock, node_name, dropped, last_stamp }) }
    }

    /// About a pod as a whole.
    pub fn pod(&self, pod: &DesiredPod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record(pod_reference(pod, None), kind, reason, message.into());
    }

    /// About one container, by its name or by the field path that `field_path` makes.
    pub fn container(
        &self,
        pod: &DesiredPod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let path = if container.contains('{') {
            Some(container.to_owned())
        } else {
            pod.container(container).map(|(list, _)| field_path(list, container))
        };
        self.record(pod_reference(pod, path), kind, reason, message.into());
    }

    /// About this node. Upstream puts the node's name where its UID belongs, and readers look for that.
    pub fn node(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        let name = &self.shared.node_name;
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            api_version: Some("v1".to_owned()),
            ..ObjectReference::default()
        };
        self.record(about, kind, reason, message.into());
    }

    /// How many events the full queue has cost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn record(&self, about: ObjectReference, kind: EventType, reason: &str, message: String) {
        let kind = kind_text(kind);
        let object = format!("{}/{}", text(&about.namespace), text(&about.name));
        let path = text(&about.field_path);
        tracing::info!(%object, fieldPath = path, kind = text(&about.kind), r#type = kind, reason, message, "event occurred");
        let Some(queue) = &self.shared.queue else { return };
        let event = self.event(about, kind, reason, message);
        if queue.try_send(Box::new(event)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn event(&self, about: ObjectReference, kind: &str, reason: &str, message: String) -> Event {
        let wall = self.shared.clock.wall();
        let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        let name = name(&about, self.stamp(wall));
        let host = Some(self.shared.node_name.clone());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: host.clone() }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: host,
            first_timestamp: Some(whole_seconds(wall)),
            last_timestamp: Some(whole_seconds(wall)),
            count: Some(1),
            ..Event::default()
        }
    }

    /// Nanoseconds, each used once.
    fn stamp(&self, wall: Timestamp) -> u64 {
        let now = u64::try_from(wall.as_nanosecond()).unwrap_or_default();
        let last = &self.shared.last_stamp;
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        before.map_or(now, |before| now.max(before + 1))
    }
}

fn name(about: &ObjectReference, stamp: u64) -> String {
    format!("{}.{stamp:x}", text(&about.name))
}

/// `spec.containers{app}` and its like: what an event about a container points at.
pub fn field_path(list: Containers, container: &str) -> String {
    let list = match list {
        Containers::Init | Containers::Sidecar => "initContainers",
        Containers::Regular => "containers",
        Containers::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{container}}}")
}

fn pod_reference(pod: &DesiredPod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.to_string()),
        name: Some(pod.key.name.to_string()),
        uid: Some(pod.uid.to_string()),
        api_version: Some("v1".to_owned()),
        resource_version: pod.pod.metadata.resource_version.clone(),
        field_path,
    }
}

fn kind_text(kind: EventType) -> &'static str {
    match kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// The API keeps no fractions in these fields.
fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
