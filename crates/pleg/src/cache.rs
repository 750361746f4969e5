//! The one ordered cache: what was seen last of each pod, and who wants to know.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cri::Detail;
use pod::{ContainerId, ContainerState, ObservedPod, PodKey, PodUid};
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
    /// Its version is the newest look of which it shows anything.
    picture: watch::Sender<Arc<ObservedPod>>,
    /// The look that the whole of it was seen by.
    whole: Look,
    /// Containers and sandboxes that were looked at alone, by looks begun after that one.
    parts: Vec<(Look, String)>,
}

impl Entry {
    fn current(&self) -> Arc<ObservedPod> {
        self.picture.borrow().clone()
    }

    /// Puts the picture in place unless there is a newer one; wakes subscribers only if it differs. Returns whether it
    /// does. Parts that were seen by newer looks stay: an answer that was long under way does not know them yet, but may
    /// know of an end that no part shows.
    fn replace(&mut self, look: Look, mut pod: ObservedPod) -> bool {
        if self.whole >= look {
            return false;
        }
        self.whole = look;
        self.parts.retain(|(seen, _)| *seen > look);
        let current = self.current();
        for part in self.parts.iter().filter_map(|(_, id)| part_of(&current, id)) {
            put(part, &mut pod);
        }
        if pod.key.name.is_empty() {
            pod.key = current.key.clone();
        }
        self.publish(look, pod)
    }

    /// As `replace`, for a part alone.
    fn amend(&mut self, look: Look, part: Detail) -> bool {
        let id = id_of(&part);
        if self.whole >= look || self.parts.iter().any(|(seen, known)| known == id && *seen > look) {
            return false;
        }
        self.parts.retain(|(_, known)| known != id);
        self.parts.push((look, id.to_owned()));
        let mut pod = (*self.current()).clone();
        put(part, &mut pod);
        self.publish(look, pod)
    }

    fn publish(&self, look: Look, mut pod: ObservedPod) -> bool {
        self.picture.send_if_modified(|current| {
            pod.version = look.max(current.version);
            let changed = !is_same(current, &pod) || current.version == 0;
            *current = Arc::new(pod);
            changed
        })
    }
}

fn id_of(part: &Detail) -> &str {
    match part {
        Detail::Sandbox(sandbox) => sandbox.id.as_str(),
        Detail::Container(container) => container.id.as_str(),
    }
}

fn part_of(pod: &ObservedPod, id: &str) -> Option<Detail> {
    let container = pod.containers.iter().find(|c| c.id.as_str() == id);
    let sandbox = || pod.sandboxes.iter().find(|s| s.id.as_str() == id);
    container.map(|c| Detail::Container(Box::new(c.clone()))).or_else(|| sandbox().map(|s| Detail::Sandbox(s.clone())))
}

/// What is shown to have ended stays so, whichever of two looks under way at once was answered first.
fn put(part: Detail, pod: &mut ObservedPod) {
    let ended = match part_of(pod, id_of(&part)) {
        Some(Detail::Sandbox(sandbox)) => !sandbox.ready,
        Some(Detail::Container(container)) => container.state == ContainerState::Exited,
        None => false,
    };
    if !ended {
        part.put_into(pod);
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

    /// The newest look at the whole pod.
    pub fn seen_whole(&self, uid: &PodUid) -> Option<Look> {
        self.pods.get(uid).map(|entry| entry.whole)
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
        let changed = entry.replace(look, pod);
        let (current, wanted) = (entry.current(), entry.wanted);
        self.tell(changed, wanted);
        current
    }

    /// A part of one pod was looked at; the rest is as it was. None where no picture stands that it could be a part of.
    pub fn amend(&mut self, look: Look, uid: &PodUid, part: Detail) -> Option<Arc<ObservedPod>> {
        let entry = self.pods.get_mut(uid).filter(|entry| entry.whole > 0)?;
        let changed = entry.amend(look, part);
        let (current, wanted) = (entry.current(), entry.wanted);
        self.tell(changed, wanted);
        Some(current)
    }

    /// One pod's picture was put in place.
    fn tell(&self, changed: bool, wanted: bool) {
        if changed {
            self.changes.send_replace(());
        }
        if changed && !wanted {
            self.publish_orphans();
        }
    }

    /// All pods were looked at. What is neither in `pods` nor `unreadable` is not there.
    pub fn apply_all(&mut self, look: Look, pods: Vec<ObservedPod>, unreadable: &HashSet<PodUid>) {
        let there: HashSet<PodUid> = pods.iter().map(|p| p.uid.clone()).collect();
        let mut changed = false;
        for pod in pods {
            let (uid, key) = (pod.uid.clone(), pod.key.clone());
            changed |= self.entry(&uid, &key).replace(look, pod);
        }
        self.pods.retain(|uid, entry| {
            if there.contains(uid) || unreadable.contains(uid) {
                return true;
            }
            let key = entry.picture.borrow().key.clone();
            changed |= entry.replace(look, ObservedPod::empty(uid.clone(), key));
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
            whole: version,
            parts: Vec::new(),
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

fn is_empty(pod: &ObservedPod) -> bool {
    pod.sandboxes.is_empty() && pod.containers.is_empty()
}

/// Equal but for the version.
fn is_same(a: &ObservedPod, b: &ObservedPod) -> bool {
    a.uid == b.uid && a.sandboxes == b.sandboxes && a.containers == b.containers
}

#[cfg(test)]
mod tests {
    use pod::{ObservedContainer, ObservedSandbox};

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

    fn container(id: &str, state: ContainerState) -> ObservedContainer {
        ObservedContainer {
            id: id.into(),
            sandbox_id: "s1".into(),
            name: id.to_owned(),
            restart_count: 0,
            state,
            image: String::new(),
            image_id: String::new(),
            created_at: Default::default(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            annotations: Default::default(),
            mounts: vec![],
            user: None,
            resources: None,
            log_path: String::new(),
        }
    }
    fn with(containers: &[(&str, ContainerState)]) -> ObservedPod {
        let containers = containers.iter().map(|(id, state)| container(id, *state)).collect();
        ObservedPod { containers, ..web(&["s1"]) }
    }
    fn part(id: &str, state: ContainerState) -> Detail {
        Detail::Container(Box::new(container(id, state)))
    }
    fn states(pod: &ObservedPod) -> Vec<(&str, ContainerState)> {
        let mut all: Vec<_> = pod.containers.iter().map(|c| (c.id.as_str(), c.state)).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    #[test]
    fn a_part_does_not_hide_what_an_earlier_look_at_the_whole_finds() {
        use ContainerState::{Exited, Running};
        let mut cache = Cache::default();
        let mut rx = subscribe(&mut cache);
        let look = cache.begin_look();
        cache.apply(look, with(&[("a", Running)]));
        let (whole, of_b) = (cache.begin_look(), cache.begin_look());
        cache.amend(of_b, &"web".into(), part("b", Running)).unwrap();
        rx.mark_unchanged();
        let found = cache.apply(whole, with(&[("a", Exited)]));
        assert_eq!(states(&found), [("a", Exited), ("b", Running)]);
        assert!(rx.has_changed().unwrap());
        assert_eq!(rx.borrow().version, of_b);
        let (sweep, of_c) = (cache.begin_look(), cache.begin_look());
        cache.amend(of_c, &"web".into(), part("c", Running)).unwrap();
        cache.apply_all(sweep, vec![with(&[("a", Exited), ("b", Exited)])], &HashSet::new());
        assert_eq!(states(&rx.borrow()), [("a", Exited), ("b", Exited), ("c", Running)]);
        let look = cache.begin_look();
        cache.apply(look, with(&[("b", Exited)]));
        assert_eq!(states(&rx.borrow()), [("b", Exited)], "a newer look at the whole shows all there is");
    }

    #[test]
    fn parts_may_come_in_any_order() {
        use ContainerState::Running;
        let mut cache = Cache::default();
        let _rx = subscribe(&mut cache);
        let look = cache.begin_look();
        cache.apply(look, with(&[]));
        let (of_a, of_b) = (cache.begin_look(), cache.begin_look());
        cache.amend(of_b, &"web".into(), part("b", Running)).unwrap();
        let pod = cache.amend(of_a, &"web".into(), part("a", Running)).unwrap();
        assert_eq!((states(&pod), pod.version), (vec![("a", Running), ("b", Running)], of_b));
    }

    #[test]
    fn what_has_ended_runs_for_no_part_that_comes_late() {
        use ContainerState::{Exited, Running};
        let mut cache = Cache::default();
        let _rx = subscribe(&mut cache);
        let look = cache.begin_look();
        cache.apply(look, with(&[]));
        let (whole, of_a, again) = (cache.begin_look(), cache.begin_look(), cache.begin_look());
        cache.amend(of_a, &"web".into(), part("a", Running)).unwrap();
        assert_eq!(states(&cache.apply(whole, with(&[("a", Exited)]))), [("a", Exited)]);
        assert_eq!(states(&cache.amend(again, &"web".into(), part("a", Running)).unwrap()), [("a", Exited)]);
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
