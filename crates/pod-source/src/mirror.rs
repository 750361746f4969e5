//! Mirror pods: for each static pod one object in the API, made and kept by the agent. A mirror is only a mirror:
//! deleting it ends nothing, it is made again.
//!
//! Reads: static pods wanted, mirrors seen. Writes: the API, `SourceEvent::Mirror`. Wakes on: either changing, or a
//! failed call whose retry is due.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use apiserver::{ApiError, ApiServer};
use host::Clock;
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use pod::{
    DesiredPod, Mono, PodKey, PodUid, Source,
    static_pod::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::SourceEvent;

/// The wait after a failed call doubles from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A control plane that runs as static pods of this node comes up within seconds.
const RETRY_UNREACHABLE: Duration = Duration::from_secs(2);
/// By then no watch tells old news any more.
const OLD_NEWS: Duration = Duration::from_secs(600);

enum Word {
    Wanted(Box<DesiredPod>),
    Unwanted(PodUid),
    Ended(PodUid),
    Seen(Arc<Pod>),
    Gone(PodKey, PodUid),
    Synced(Source),
}

/// Cheap to clone: tells the task that keeps the mirrors. Never waits, so that a hanging API server can't hold back
/// static pods.
#[derive(Clone, Debug)]
pub struct Mirrors(mpsc::UnboundedSender<Word>);

impl Mirrors {
    /// `sources` will each say once that they have delivered their first full state.
    pub(crate) fn spawn(
        api: ApiServer,
        node_name: &str,
        clock: Clock,
        sources: &[Source],
        out: mpsc::Sender<SourceEvent>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (words, heard) = mpsc::unbounded_channel();
        tasks.spawn(Keeper::new(api, node_name, clock, sources, out).run(heard));
        Self(words)
    }

    fn say(&self, word: Word) {
        // The keeper ends only with the whole source.
        let _ = self.0.send(word);
    }
    pub(crate) fn wanted(&self, desired: &DesiredPod) {
        self.say(Word::Wanted(Box::new(desired.clone())));
    }
    pub(crate) fn unwanted(&self, uid: &PodUid) {
        self.say(Word::Unwanted(uid.clone()));
    }
    /// The static pod has left the node.
    pub fn ended(&self, uid: &PodUid) {
        self.say(Word::Ended(uid.clone()));
    }
    pub(crate) fn seen(&self, pod: Arc<Pod>) {
        self.say(Word::Seen(pod));
    }
    pub(crate) fn gone(&self, key: &PodKey, uid: &PodUid) {
        self.say(Word::Gone(key.clone(), uid.clone()));
    }
    pub(crate) fn synced(&self, source: Source) {
        self.say(Word::Synced(source));
    }
}

struct Keeper {
    api: ApiServer,
    node_name: String,
    clock: Clock,
    out: mpsc::Sender<SourceEvent>,
    wanted: HashMap<PodUid, DesiredPod>,
    /// No manifest has them any more, but they may still run: until they have ended their mirrors stay.
    leaving: HashMap<PodUid, PodKey>,
    seen: HashMap<PodKey, Arc<Pod>>,
    /// UIDs that this task has deleted and of which the watch may still tell old news; since when. A watch that broke off
    /// meanwhile never tells of them.
    ended: HashMap<PodUid, Mono>,
    /// Sources whose pods are not all known yet. Before the API's are, nothing is missing; before a manifest
    /// source's are, none of its mirrors is left over.
    awaited: HashSet<Source>,
    retry: Option<Mono>,
    failures: u32,
    complaints: HashMap<PodKey, String>,
}

impl Keeper {
    fn new(api: ApiServer, node_name: &str, clock: Clock, sources: &[Source], out: mpsc::Sender<SourceEvent>) -> Self {
        Self {
            api,
            node_name: node_name.to_owned(),
            clock,
            out,
            wanted: HashMap::new(),
            leaving: HashMap::new(),
            seen: HashMap::new(),
            ended: HashMap::new(),
            awaited: sources.iter().copied().collect(),
            retry: None,
            failures: 0,
            complaints: HashMap::new(),
        }
    }

    async fn run(mut self, mut heard: mpsc::UnboundedReceiver<Word>) {
        let clock = self.clock;
        loop {
            let retry = self.retry;
            tokio::select! {
                word = heard.recv() => match word {
                    Some(word) => {
                        self.failures = 0;
                        self.take(word).await;
                    }
                    None => return,
                },
                () = clock.sleep_until(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            // What came together is answered together.
            while let Ok(word) = heard.try_recv() {
                self.take(word).await;
            }
            if !self.awaited.contains(&Source::Api) {
                self.retry = self.reconcile().await.err().map(|error| clock.mono() + self.wait_after(&error));
            }
        }
    }

    async fn take(&mut self, word: Word) {
        match word {
            Word::Wanted(desired) => {
                let known = self.seen.get(&desired.key).filter(|m| mirrors(m, &desired)).cloned();
                let uid = desired.uid.clone();
                self.leaving.remove(&uid);
                self.wanted.insert(uid.clone(), *desired);
                if let Some(mirror) = known {
                    self.tell(uid, Some(mirror)).await;
                }
            }
            Word::Unwanted(uid) => {
                if let Some(desired) = self.wanted.remove(&uid) {
                    self.leaving.insert(uid, desired.key);
                }
            }
            Word::Ended(uid) => {
                let has_left = self.leaving.remove(&uid).is_some();
                // Its manifest was put back meanwhile: with the pod that ended went all that was known of its mirror.
                let mirror = self.wanted.get(&uid).and_then(|d| Some((self.seen.get(&d.key)?, d)));
                let mirror = mirror.filter(|(m, d)| mirrors(m, d)).map(|(m, _)| m.clone());
                if has_left || mirror.is_some() {
                    self.tell(uid, mirror).await;
                }
            }
            Word::Seen(pod) => {
                let key = key_of(&pod);
                if self.ended.contains_key(&uid_of(&pod)) {
                    return;
                }
                let owner = self.wanted.values().find(|d| d.key == key && mirrors(&pod, d)).map(|d| d.uid.clone());
                self.seen.insert(key, pod.clone());
                if let Some(uid) = owner {
                    self.tell(uid, Some(pod)).await;
                }
            }
            Word::Gone(key, uid) => {
                self.ended.remove(&uid);
                let same = self.seen.get(&key).is_some_and(|m| uid_of(m) == uid);
                if same {
                    self.seen.remove(&key);
                    let owner = self.wanted.values().find(|d| d.key == key).map(|d| d.uid.clone());
                    if let Some(uid) = owner {
                        self.tell(uid, None).await;
                    }
                }
            }
            Word::Synced(source) => {
                self.awaited.remove(&source);
            }
        }
    }

    async fn tell(&self, static_uid: PodUid, mirror: Option<Arc<Pod>>) {
        let mirror = mirror.map(|m| Box::new(Arc::unwrap_or_clone(m)));
        let _ = self.out.send(SourceEvent::Mirror { static_uid, mirror }).await;
    }

    /// Makes the API agree with the static pods; one that the server refuses holds up no other.
    async fn reconcile(&mut self) -> Result<(), ApiError> {
        let mut failed = Ok(());
        let stale: Vec<Arc<Pod>> = self.seen.values().filter(|m| self.is_stale(m)).cloned().collect();
        for mirror in stale {
            let key = key_of(&mirror);
            let uid = uid_of(&mirror);
            match self.api.delete_pod(&key, &uid, Some(0)).await {
                Ok(()) => {
                    let now = self.clock.mono();
                    self.ended.retain(|_, since| now.since(*since) < OLD_NEWS);
                    self.ended.insert(uid, now);
                    self.seen.remove(&key);
                }
                // Gone already, or another one by now of which the watch will tell.
                Err(error) if error.is_not_found() || error.is_conflict() => drop(self.seen.remove(&key)),
                Err(error) => self.note(&mut failed, &key, error),
            }
        }
        let missing: Vec<DesiredPod> =
            self.wanted.values().filter(|d| !self.seen.contains_key(&d.key)).cloned().collect();
        for desired in missing {
            if failed.as_ref().is_err_and(ApiError::is_unreachable) {
                break; // the others would only wait for their deadlines too
            }
            match self.create(&desired).await {
                Ok(pod) => {
                    let pod = Arc::new(pod);
                    self.complaints.remove(&desired.key);
                    self.seen.insert(desired.key.clone(), pod.clone());
                    self.tell(desired.uid.clone(), Some(pod)).await;
                }
                Err(error) => self.note(&mut failed, &desired.key, error),
            }
        }
        failed
    }

    /// Where no edition of the static pod is on its way out: a mirror that is being deleted, that mirrors an earlier
    /// edition, or whose manifest is gone.
    fn is_stale(&self, mirror: &Pod) -> bool {
        let key = key_of(mirror);
        if self.leaving.values().any(|leaving| *leaving == key) {
            return false;
        }
        let mut editions = self.wanted.values().filter(|d| d.key == key).peekable();
        if editions.peek().is_none() {
            let annotations = mirror.metadata.annotations.as_ref();
            let source = annotations.and_then(|a| a.get(CONFIG_SOURCE)).map(String::as_str);
            return !self.awaited.iter().any(|s| source.is_none() || source == Some(s.as_str()));
        }
        mirror.metadata.deletion_timestamp.is_some() || !editions.any(|d| mirrors(mirror, d))
    }

    fn wait_after(&mut self, error: &ApiError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let most = if error.is_unreachable() { RETRY_UNREACHABLE } else { RETRY_MOST };
        (RETRY_FIRST * 2u32.saturating_pow(self.failures.min(10) - 1)).min(most)
    }

    /// Keeps the error, and complains once per pod and reason.
    fn note(&mut self, failed: &mut Result<(), ApiError>, key: &PodKey, error: ApiError) {
        let text = error.to_string();
        // A node that isn't registered yet, a watch that lags: both pass.
        let passing = error.is_unreachable() || error.is_not_found() || error.is_already_exists();
        if !passing && self.complaints.get(key) != Some(&text) {
            tracing::warn!(pod = %key, error = text, "mirror pod not in step; trying again");
            self.complaints.insert(key.clone(), text);
        }
        *failed = Err(error);
    }

    /// NodeRestriction wants the mirror owned by this node's object, by UID.
    async fn create(&self, desired: &DesiredPod) -> Result<Pod, ApiError> {
        let node = self.api.get_node(&self.node_name).await?;
        if node.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::not_found("get", format!("node {} that isn't being deleted", self.node_name)));
        }
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node_name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        self.api.create_pod(&mirror_of(desired, owner)).await
    }
}

fn key_of(pod: &Pod) -> PodKey {
    let meta = &pod.metadata;
    PodKey::new(meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
}

fn uid_of(pod: &Pod) -> PodUid {
    PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// The mirror carries the hash of the very pod it mirrors.
fn mirrors(mirror: &Pod, desired: &DesiredPod) -> bool {
    let annotations = mirror.metadata.annotations.as_ref();
    let hash = annotations.and_then(|a| a.get(CONFIG_MIRROR)).map(String::as_str);
    hash.is_some() && hash == desired.annotation(CONFIG_HASH)
}

fn mirror_of(desired: &DesiredPod, owner: OwnerReference) -> Pod {
    let meta = &desired.pod.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    let hash = annotations.get(CONFIG_HASH).cloned().unwrap_or_default();
    annotations.insert(CONFIG_MIRROR.to_owned(), hash);
    Pod {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            labels: meta.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: desired.pod.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use apiserver::ClientOptions;
    use pod::static_pod::{Manifest, from_manifest};
    use serde_json::json;
    use testing::FakeApiserver;

    use super::*;

    fn desired(image: &str) -> DesiredPod {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a", "image": image}]}});
        from_manifest(serde_json::from_value(pod).unwrap(), Manifest::File("/m"), "n").unwrap()
    }

    #[test]
    fn a_mirror_belongs_to_one_edition_of_its_manifest() {
        let (one, two) = (desired("i:1"), desired("i:2"));
        let mirror = mirror_of(&one, OwnerReference::default());
        assert!(mirrors(&mirror, &one));
        assert!(!mirrors(&mirror, &two));
        assert!(mirror.metadata.uid.is_none(), "the API server names it");
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_mirrors_that_no_watch_tells_of_are_not_remembered_for_ever() {
        let fake = FakeApiserver::new();
        fake.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "node-uid"}}));
        let api = ApiServer::from_service(fake, ClientOptions::default());
        let (out, _events) = mpsc::channel(100);
        let mut keeper = Keeper::new(api, "n", Clock::start(), &[], out);
        for edition in 1..10 {
            let desired = desired(&format!("i:{edition}"));
            keeper.take(Word::Wanted(Box::new(desired.clone()))).await;
            keeper.reconcile().await.unwrap();
            assert!(keeper.seen.contains_key(&desired.key), "made, and no watch has seen it");
            keeper.take(Word::Unwanted(desired.uid.clone())).await;
            keeper.take(Word::Ended(desired.uid)).await;
            keeper.reconcile().await.unwrap();
            assert!(keeper.seen.is_empty());
            assert!((1..=2).contains(&keeper.ended.len()), "{:?}", keeper.ended);
            tokio::time::advance(OLD_NEWS / 2).await;
        }
    }
}
