//! Ends pods that take more local storage than they may: an emptyDir beyond its size limit, a container or a pod beyond
//! its limit of ephemeral storage.
//!
//! Reads: directories and, for containers' own layers, the runtime's statistics; only of pods that have such a limit.
//! Writes: events, and a word to whoever ends pods. Wakes on: changes among the active pods, and on a timer as long as
//! one of them has a limit.

mod limits;
mod measure;

use std::{collections::HashSet, sync::Arc, sync::LazyLock, time::Duration};

use apiserver::Events;
use cri::Cri;
use host::{Clock, RootDir};
use pod::{DesiredPod, PodUid, TerminationCause, mounts::EventType};
use prometheus::IntCounterVec;
use tokio::sync::{mpsc, watch};

use limits::Excess;

/// Between two measurements: upstream's.
const PERIOD: Duration = Duration::from_secs(10);
/// Large trees take long to walk: at most this part of the time goes into it.
const SHARE: u32 = 20;
/// What upstream calls an immediate end.
const GRACE: Duration = Duration::from_secs(1);
const REASON: &str = "Evicted";

static EVICTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of pod evictions by eviction signal";
    metrics::counters("kubelet_evictions", help, &["eviction_signal"])
});

/// A pod to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub uid: PodUid,
    pub cause: TerminationCause,
    pub grace: Duration,
}

/// The pods that count against the node now.
pub type ActivePods = Arc<dyn Fn() -> Vec<DesiredPod> + Send + Sync>;

/// Watches over what pods keep on the node's disk.
pub struct LocalStorage {
    pub root: RootDir,
    pub cri: Cri,
    pub clock: Clock,
    pub events: Events,
    pub active: ActivePods,
    /// Wakes when `active` gives something else.
    pub changes: watch::Receiver<()>,
    pub evictions: mpsc::Sender<Eviction>,
}

impl LocalStorage {
    /// Until whoever ends pods is gone.
    pub async fn run(mut self) {
        let mut evicted = HashSet::new();
        loop {
            self.changes.mark_unchanged();
            let active = (self.active)();
            evicted.retain(|uid| active.iter().any(|pod| pod.uid == *uid));
            let limited: Vec<_> = active.into_iter().filter(limits::has_limit).collect();
            if limited.is_empty() {
                if self.changes.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let began = self.clock.mono();
            for pod in limited {
                if evicted.contains(&pod.uid) {
                    continue;
                }
                let Some(excess) = self.excess(&pod).await else { continue };
                if !self.evict(&pod, excess).await {
                    return;
                }
                evicted.insert(pod.uid);
            }
            let ended = self.clock.mono();
            self.clock.sleep_until(self.clock.next_beat(PERIOD).max(ended + ended.since(began) * SHARE)).await;
        }
    }

    async fn excess(&self, pod: &DesiredPod) -> Option<Excess> {
        let layers = if limits::limits_containers(pod) { self.layers(pod).await? } else { Vec::new() };
        let (root, measured) = (self.root.clone(), pod.clone());
        let usage = tokio::task::spawn_blocking(move || measure::usage(&root, &measured, layers)).await.ok()?;
        limits::excess(pod, &usage)
    }

    async fn layers(&self, pod: &DesiredPod) -> Option<Vec<cri::WritableLayer>> {
        match self.cri.writable_layers(&pod.uid).await {
            Ok(layers) => Some(layers),
            Err(error) => {
                tracing::warn!(pod = %pod.key, uid = %pod.uid, %error, "can't measure its containers' storage");
                None
            }
        }
    }

    async fn evict(&self, pod: &DesiredPod, excess: Excess) -> bool {
        if pod.is_critical() {
            tracing::warn!(pod = %pod.key, uid = %pod.uid, message = excess.message, "a critical pod is not evicted");
            return true;
        }
        self.events.pod(pod, EventType::Warning, REASON, excess.message.clone());
        EVICTIONS.with_label_values(&[excess.signal]).inc();
        let (reason, message) = (REASON.to_owned(), excess.message);
        let cause = TerminationCause::Failed { reason, message, disruption: false };
        self.evictions.send(Eviction { uid: pod.uid.clone(), cause, grace: GRACE }).await.is_ok()
    }
}
