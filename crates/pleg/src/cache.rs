//! The one ordered cache: what was seen last of each pod, and who wants to know.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cri::Detail;
use pod::{ContainerId, ObservedPod, PodKey, PodUid};
use tokio::sync::watch;

/// The number of a look at the runtime, given when it begins.
pub(crate) type Look = u64;

pub(crate) struct Cache {
    pods: HashMap<PodUid, Entry>,
    looks: Look,
    /// The newest look at all pods that has been applied.
    swept: Look,
    /// Pods that it found but could not read, and of which there is no picture yet.
    unread: HashSet<PodUid>,
    orphans: watch::Sender<Arc<Vec<ObservedPod>>>,
    /// Told whenever any pod's picture differs from the one before.
    changes: watch::Sender<()>,
}

struct Entry {
    wanted: bool,
    /// Its version is the look that it was seen by.
    picture: watch::Sender<Arc<ObservedPod>>,
}

impl Entry {
    fn current(&self) -> Arc<ObservedPod> {
        self.picture.borrow().clone()
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            pods: HashMap::new(),
            looks: 0,
            swept: 0,
            unread: HashSet::new(),
            orphans: watch::Sender::new(Arc::default()),
            changes: watch::Sender::new(()),
        }
    }
}

impl Cache {
    /// Call it before the runtime is asked.
    pub fn begin_look(&mut self) -> Look {
        self.looks += 1;
        self.looks
    }

    /// The look that was begun last.
    pub fn last_look(&self) -> Look {
        self.looks
    }

    pub fn subscribe(&mut self, uid: &PodUid, key: &PodKey) -> watch::Receiver<Arc<ObservedPod>> {
        let entry = self.entry(uid, key);
        let newly_wanted = !std::mem::replace(&mut entry.wanted, true);
        let receiver = entry.picture.subscribe();
        if newly_wanted {
            self.publish_orphans();
        }
        receiver
    }

    /// As `subscribe`, without wanting the pod.
    pub fn peek(&self, uid: &PodUid) -> Option<watch::Receiver<Arc<ObservedPod>>> {
        self.pods.get(uid).map(|entry| entry.picture.subscribe())
    }

    /// The entry itself goes with the next sweep that finds nothing of the pod: until then it keeps an older look from
    /// bringing the pod back.
    pub fn forget(&mut self, uid: &PodUid) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.wanted = false;
            self.publish_orphans();
        }
    }

    pub fn current(&self, uid: &PodUid) -> Option<Arc<ObservedPod>> {
        self.pods.get(uid).map(Entry::current)
    }

    pub fn orphans(&self) -> watch::Receiver<Arc<Vec<ObservedPod>>> {
        self.orphans.subscribe()
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub fn snapshot(&self) -> Vec<Arc<ObservedPod>> {
        self.pods.values().map(Entry::current).filter(|p| !is_empty(p)).collect()
    }

    /// Whose container or sandbox that is.
    pub fn owner(&self, id: &ContainerId) -> Option<PodUid> {
        let has = |p: &ObservedPod| {
            p.containers.iter().any(|c| &c.id == id) || p.sandboxes.iter().any(|s| s.id.as_str() == id.as_str())
        };
        self.pods.iter().find(|(_, entry)| has(&entry.picture.borrow())).map(|(uid, _)| uid.clone())
    }

    /// One pod was looked at. Returns the newest picture, which may be that of a newer look.
    pub fn apply(&mut self, look: Look, pod: ObservedPod) -> Arc<ObservedPod> {
        let uid = pod.uid.clone();
        let key = pod.key.clone();
        self.unread.remove(&uid);
        let entry = self.entry(&uid, &key);
        let changed = replace(&entry.picture, look, pod);
        let (current, wanted) = (entry.current(), entry.wanted);
        if changed {
            self.changes.send_replace(());
        }
        if changed && !wanted {
            self.publish_orphans();
        }
        current
    }

    /// A part of one pod was looked at; the rest is as it was. None where no picture stands that it could be a part of.
    pub fn amend(&mut self, look: Look, uid: &PodUid, part: Detail) -> Option<Arc<ObservedPod>> {
        let known = self.current(uid).filter(|pod| pod.version > 0)?;
        if known.version > look {
            return Some(known);
        }
        let mut pod = (*known).clone();
        part.put_into(&mut pod);
        Some(self.apply(look, pod))
    }

    /// All pods were looked at. What is neither in `pods` nor `unreadable` is not there.
    pub fn apply_all(&mut self, look: Look, pods: Vec<ObservedPod>, unreadable: &HashSet<PodUid>) {
        let there: HashSet<PodUid> = pods.iter().map(|p| p.uid.clone()).collect();
        let mut changed = false;
        for pod in pods {
            let (uid, key) = (pod.uid.clone(), pod.key.clone());
            changed |= replace(&self.entry(&uid, &key).picture, look, pod);
        }
        self.pods.retain(|uid, entry| {
            if there.contains(uid) || unreadable.contains(uid) {
                return true;
            }
            let key = entry.picture.borrow().key.clone();
            changed |= replace(&entry.picture, look, ObservedPod::empty(uid.clone(), key));
            let current = entry.picture.borrow();
            entry.wanted || !is_empty(&current) || current.version > look
        });
        self.unread = unreadable.iter().filter(|uid| !self.pods.contains_key(*uid)).cloned().collect();
        self.swept = self.swept.max(look);
        if changed {
            self.changes.send_replace(());
        }
        self.publish_orphans();
    }

    /// Ids of all containers known.
    pub fn containers(&self) -> HashSet<ContainerId> {
        let ids = |entry: &Entry| entry.current().containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
        self.pods.values().flat_map(ids).collect()
    }

    fn entry(&mut self, uid: &PodUid, key: &PodKey) -> &mut Entry {
        // A pod that the last sweep did not find is known to be empty as of that sweep; of one that it could not read
        // nothing is known.
        let version = if self.unread.contains(uid) { 0 } else { self.swept };
        self.pods.entry(uid.clone()).or_insert_with(|| Entry {
            wanted: false,
            picture: watch::Sender::new(Arc::new(ObservedPod {
                version,
                ..ObservedPod::empty(uid.clone(), key.clone())
            })),
        })
    }

    fn publish_orphans(&self) {
        let unwanted = self.pods.values().filter(|e| !e.wanted).map(Entry::current);
        let mut orphans: Vec<ObservedPod> = unwanted.filter(|p| !is_empty(p)).map(|p| (*p).clone()).collect();
        orphans.sort_by(|a, b| a.uid.cmp(&b.uid));
        self.orphans.send_if_modified(|current| {
            let changed = current.len() != orphans.len() || current.iter().zip(&orphans).any(|(a, b)| !is_same(a, b));
            *current = Arc::new(orphans);
            changed
        });
    }
}

/// Puts the picture in place unless there is a newer one; wakes subscribers only if it differs. Returns whether it does.
fn replace(picture: &watch::Sender<Arc<ObservedPod>>, look: Look, mut pod: ObservedPod) -> bool {
    picture.send_if_modified(|current| {
        if current.version >= look {
            return false;
        }
        if pod.key.name.is_empty() {
            pod.key = current.key.clone();
        }
        pod.version = look;
        let changed = !is_same(current, &pod) || current.version == 0;
        *current = Arc::new(pod);
        changed
    })
}

fn is_empty(pod: &ObservedPod) -> bool {
    pod.sandboxes.is_empty() && pod.containers.is_empty()
}

/// Equal but for the version.
fn is_same(a: &ObservedPod, b: &ObservedPod) -> bool {
    a.uid == b.uid && a.sandboxes == b.sandboxes && a.containers == b.containers
}

#[cfg(test)]
mod tests {
    use pod::ObservedSandbox;

    use super::*;

    fn web(sandboxes: &[&str]) -> ObservedPod {
        let sandbox = |id: &&str| ObservedSandbox {
            id: (*id).into(),
            attempt: 0,
            ready: true,
            created_at: Default::default(),
            ips: vec![],
            host_network: false,
            runtime_handler: String::new(),
        };
        let empty = ObservedPod::empty("web".into(), PodKey::new("default", "web"));
        ObservedPod { sandboxes: sandboxes.iter().map(sandbox).collect(), ..empty }
    }
    fn subscribe(cache: &mut Cache) -> watch::Receiver<Arc<ObservedPod>> {
        cache.subscribe(&"web".into(), &PodKey::new("default", "web"))
    }
    fn ids(pod: &ObservedPod) -> Vec<&str> {
        pod.sandboxes.iter().map(|s| s.id.as_str()).collect()
    }

    #[test]
    fn of_a_pod_that_the_first_sweep_could_not_read_nothing_is_known() {
        let mut cache = Cache::default();
        let look = cache.begin_look();
        cache.apply_all(look, vec![], &HashSet::from(["web".into()]));
        let picture = subscribe(&mut cache);
        assert_eq!(picture.borrow().version, 0);
        let look = cache.begin_look();
        cache.apply(look, web(&["s"]));
        assert_eq!((picture.borrow().version, ids(&picture.borrow())), (look, vec!["s"]));
    }

    #[test]
    fn an_older_look_does_not_replace_a_newer_one() {
        let mut cache = Cache::default();
        let rx = subscribe(&mut cache);
        let (older, newer) = (cache.begin_look(), cache.begin_look());
        cache.apply(newer, web(&["s2", "s1"]));
        cache.apply_all(older, vec![web(&["s1"])], &HashSet::new());
        assert_eq!(ids(&rx.borrow()), ["s2", "s1"]);
        assert_eq!(rx.borrow().version, newer);
    }

    #[test]
    fn a_part_changes_nothing_else_and_gives_way_to_a_newer_look() {
        let mut cache = Cache::default();
        let _rx = subscribe(&mut cache);
        let part = |id: &str| Detail::Sandbox(web(&[id]).sandboxes.remove(0));
        let uid = "web".into();
        let look = cache.begin_look();
        assert!(cache.amend(look, &uid, part("s2")).is_none(), "nothing is known of the pod yet");
        let look = cache.begin_look();
        cache.apply(look, web(&["s1"]));
        let (part_look, newer) = (cache.begin_look(), cache.begin_look());
        let amended = cache.amend(part_look, &uid, part("s2")).unwrap();
        assert_eq!((ids(&amended), amended.version), (vec!["s2", "s1"], part_look));
        cache.apply(newer, web(&["s3"]));
        assert_eq!(ids(&cache.amend(part_look, &uid, part("s2")).unwrap()), ["s3"]);
    }

    #[test]
    fn an_older_sweep_does_not_empty_a_pod_made_since() {
        let mut cache = Cache::default();
        let rx = subscribe(&mut cache);
        let (sweep, look) = (cache.begin_look(), cache.begin_look());
        cache.apply(look, web(&["s1"]));
        cache.apply_all(sweep, vec![], &HashSet::new());
        assert_eq!(ids(&rx.borrow()), ["s1"]);
    }

    #[test]
    fn a_removed_pod_is_not_brought_back_by_an_older_sweep() {
        let mut cache = Cache::default();
        let (sweep, look) = (cache.begin_look(), cache.begin_look());
        cache.apply(look, web(&[]));
        cache.apply_all(sweep, vec![web(&["s1"])], &HashSet::new());
        assert!(cache.snapshot().is_empty() && cache.orphans().borrow().is_empty());
    }

    #[test]
    fn only_a_change_wakes_but_the_version_grows_with_every_look() {
        let mut cache = Cache::default();
        let mut rx = subscribe(&mut cache);
        let look = cache.begin_look();
        cache.apply(look, web(&["s1"]));
        assert!(rx.has_changed().unwrap());
        rx.mark_unchanged();
        let look = cache.begin_look();
        cache.apply(look, web(&["s1"]));
        assert!(!rx.has_changed().unwrap());
        assert_eq!(rx.borrow().version, look);
    }

    #[test]
    fn a_pod_that_the_sweep_did_not_find_is_known_to_be_empty() {
        let mut cache = Cache::default();
        assert_eq!(subscribe(&mut cache).borrow().version, 0);
        let sweep = cache.begin_look();
        cache.apply_all(sweep, vec![], &HashSet::new());
        assert_eq!(cache.subscribe(&"new".into(), &PodKey::new("default", "new")).borrow().version, sweep);
    }

    #[test]
    fn the_first_look_wakes_even_if_it_finds_nothing() {
        let mut cache = Cache::default();
        let rx = subscribe(&mut cache);
        let sweep = cache.begin_look();
        cache.apply_all(sweep, vec![], &HashSet::new());
        assert!(rx.has_changed().unwrap());
    }

    #[test]
    fn a_pod_that_could_not_be_read_keeps_its_picture() {
        let mut cache = Cache::default();
        let look = cache.begin_look();
        cache.apply(look, web(&["s1"]));
        let sweep = cache.begin_look();
        cache.apply_all(sweep, vec![], &HashSet::from(["web".into()]));
        assert_eq!(cache.snapshot().len(), 1);
    }

    #[test]
    fn a_pod_is_an_orphan_while_nobody_subscribes() {
        let mut cache = Cache::default();
        let orphans = cache.orphans();
        let look = cache.begin_look();
        cache.apply_all(look, vec![web(&["s1"])], &HashSet::new());
        assert_eq!(orphans.borrow().len(), 1);
        let _rx = subscribe(&mut cache);
        assert!(orphans.borrow().is_empty());
        cache.forget(&"web".into());
        assert_eq!(orphans.borrow().len(), 1);
        let look = cache.begin_look();
        cache.apply_all(look, vec![], &HashSet::new());
        assert!(orphans.borrow().is_empty() && cache.pods.is_empty());
    }

    #[test]
    fn an_empty_answer_keeps_the_pods_name() {
        let mut cache = Cache::default();
        let rx = subscribe(&mut cache);
        let look = cache.begin_look();
        cache.apply(look, ObservedPod::empty("web".into(), PodKey::new("", "")));
        assert_eq!(rx.borrow().key, PodKey::new("default", "web"));
    }
}
