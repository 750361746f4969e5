//! Pods bound to this node, as the API server tells. Mirror pods are set aside: they stand for static ones.

use std::{collections::HashMap, sync::Arc};

use apiserver::{ApiServer, PodEvent};
use host::Clock;
use pod::{DesiredPod, PodUid, Source, api::Pod, static_pod::CONFIG_MIRROR};
use tokio::sync::mpsc;

use crate::{Mirrors, SourceEvent, statics::with_local_annotations};

/// Runs as long as somebody listens.
pub(crate) async fn follow(
    api: ApiServer,
    node_name: String,
    clock: Clock,
    out: mpsc::Sender<SourceEvent>,
    mirrors: Mirrors,
) {
    let mut events = api.watch_pods(&node_name);
    let mut known = Known { clock, out, mirrors, first_seen: HashMap::new() };
    while let Some(event) = events.recv().await {
        if known.take(event).await.is_err() {
            return;
        }
    }
}

struct Known {
    clock: Clock,
    out: mpsc::Sender<SourceEvent>,
    mirrors: Mirrors,
    /// Of every pod that is no mirror.
    first_seen: HashMap<PodUid, String>,
}

type Sent = Result<(), mpsc::error::SendError<SourceEvent>>;

impl Known {
    async fn take(&mut self, event: PodEvent) -> Sent {
        match event {
            PodEvent::Synced(pods) => {
                for pod in pods {
                    self.hand_on(pod).await?;
                }
                self.mirrors.synced(Source::Api);
                self.out.send(SourceEvent::Synced(Source::Api)).await
            }
            PodEvent::Applied(pod) => self.hand_on(pod).await,
            PodEvent::Deleted { uid, key } => {
                self.mirrors.gone(&key, &uid);
                match self.first_seen.remove(&uid) {
                    Some(_) => self.out.send(SourceEvent::Removed(uid)).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn hand_on(&mut self, pod: Arc<Pod>) -> Sent {
        if pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CONFIG_MIRROR)) {
            self.mirrors.seen(pod);
            return Ok(());
        }
        let Some(desired) = DesiredPod::new(Source::Api, pod) else {
            tracing::error!("the API server sent a pod without name, uid or spec; it is passed over");
            return Ok(());
        };
        let clock = self.clock;
        let seen = self.first_seen.entry(desired.uid.clone()).or_insert_with(|| clock.wall().to_string());
        self.out.send(SourceEvent::Set(with_local_annotations(desired, seen))).await
    }
}
