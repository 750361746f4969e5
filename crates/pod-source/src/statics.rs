//! The static pods of one source: what is new, what changed, what went, from one full reading to the next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use host::Clock;
use pod::{
    DesiredPod, PodKey, PodUid, Source,
    static_pod::{CONFIG_SEEN, CONFIG_SOURCE},
};
use tokio::sync::mpsc;

use crate::{Mirrors, SourceEvent};

pub(crate) struct Statics {
    source: Source,
    out: mpsc::Sender<SourceEvent>,
    mirrors: Option<Mirrors>,
    clock: Clock,
    known: HashMap<PodUid, Known>,
    /// Names that more than one manifest claims, so that it is said once.
    clashes: BTreeSet<PodKey>,
    synced: bool,
}

struct Known {
    desired: DesiredPod,
    seen: String,
}

impl Statics {
    pub fn new(source: Source, out: mpsc::Sender<SourceEvent>, mirrors: Option<Mirrors>, clock: Clock) -> Self {
        Self { source, out, mirrors, clock, known: HashMap::new(), clashes: BTreeSet::new(), synced: false }
    }

    /// Takes a full reading. An edited manifest is another pod: the old one is removed before the new one is set.
    pub async fn now(&mut self, pods: Vec<DesiredPod>) {
        let now = self.one_per_name(pods);
        let gone: Vec<PodUid> = self.known.keys().filter(|uid| !now.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.known.remove(&uid);
            if let Some(mirrors) = &self.mirrors {
                mirrors.unwanted(&uid);
            }
            self.send(SourceEvent::Removed(uid)).await;
        }
        for desired in now.into_values() {
            self.set(desired).await;
        }
        if !self.synced {
            self.synced = true;
            if let Some(mirrors) = &self.mirrors {
                mirrors.synced(self.source);
            }
            self.send(SourceEvent::Synced(self.source)).await;
        }
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// A manifest that names its UID may change without becoming another pod.
    async fn set(&mut self, desired: DesiredPod) {
        let before = self.known.get(&desired.uid);
        if before.is_some_and(|known| known.desired.pod == desired.pod) {
            return;
        }
        let seen = before.map_or_else(|| self.clock.wall().to_string(), |known| known.seen.clone());
        let told = with_local_annotations(desired.clone(), &seen);
        self.known.insert(desired.uid.clone(), Known { desired, seen });
        if let Some(mirrors) = &self.mirrors {
            mirrors.wanted(&told);
        }
        self.send(SourceEvent::Set(told)).await;
    }

    /// Of two manifests with one pod name the last in order counts, as upstream; two can't share a mirror.
    fn one_per_name(&mut self, pods: Vec<DesiredPod>) -> BTreeMap<PodUid, DesiredPod> {
        let mut by_name: HashMap<PodKey, DesiredPod> = HashMap::new();
        let mut clashes = BTreeSet::new();
        for desired in pods {
            if let Some(other) = by_name.insert(desired.key.clone(), desired) {
                clashes.insert(other.key);
            }
        }
        for name in clashes.difference(&self.clashes) {
            tracing::error!(pod = %name, "several manifests have this pod name; only the last one counts");
        }
        self.clashes = clashes;
        by_name.into_values().map(|desired| (desired.uid.clone(), desired)).collect()
    }

    async fn send(&self, event: SourceEvent) {
        // Nobody listens any more: the agent is shutting down, and this task with it.
        let _ = self.out.send(event).await;
    }
}

/// The annotations that a pod has only on its node: where it came from, and when this agent first saw it.
pub(crate) fn with_local_annotations(mut desired: DesiredPod, seen: &str) -> DesiredPod {
    let annotations = Arc::make_mut(&mut desired.pod).metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), desired.source.as_str().to_owned());
    annotations.insert(CONFIG_SEEN.to_owned(), seen.to_owned());
    desired
}
