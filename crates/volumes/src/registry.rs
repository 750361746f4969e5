//! The pods whose volumes are kept, and when each is to be looked at again. Plain data: it neither waits nor calls.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use apiserver::{ObjectRef, refs_of};
use pod::{DesiredPod, Mono, PodUid};
use tokio::sync::Mutex;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);

/// What serializes work on one pod. Asking the API server may take long, and must not keep a container's start from
/// the disk, so there are two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks {
    /// Held from the first question to the last file, so that an older answer never overwrites a newer one.
    pub update: Arc<Mutex<()>>,
    /// Held while the pod's directory is worked on.
    pub disk: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// None once the pod is being taken down.
    pod: Option<DesiredPod>,
    locks: Locks,
    refs: BTreeSet<ObjectRef>,
    /// All volumes have been put in place.
    mounted: bool,
    wanted_since: Option<Mono>,
    due: Option<Mono>,
    failures: u32,
    refreshing: bool,
    /// Something changed during the refresh.
    again: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Registry(HashMap<PodUid, Entry>);

impl Registry {
    pub fn enter(&mut self, pod: &DesiredPod, now: Mono) -> Locks {
        let entry = self.0.entry(pod.uid.clone()).or_default();
        entry.wanted_since.get_or_insert(now);
        entry.refs = refs_of(&pod.pod);
        entry.pod = Some(pod.clone());
        entry.locks.clone()
    }

    /// A newer version of a pod whose volumes stay as they are.
    pub fn renew(&mut self, pod: &DesiredPod) {
        if let Some(kept) = self.0.get_mut(&pod.uid).and_then(|entry| entry.pod.as_mut()) {
            *kept = pod.clone();
        }
    }

    /// From here on nothing is put into the pod's directory.
    pub fn close(&mut self, uid: &PodUid) -> Locks {
        let entry = self.0.entry(uid.clone()).or_default();
        *entry = Entry { locks: entry.locks.clone(), ..Entry::default() };
        entry.locks.clone()
    }

    /// Forgets a closed pod; one that was entered again meanwhile stays.
    pub fn forget(&mut self, uid: &PodUid) {
        if self.0.get(uid).is_some_and(|entry| entry.pod.is_none()) {
            self.0.remove(uid);
        }
    }

    pub fn is_mounted(&self, uid: &PodUid) -> bool {
        self.0.get(uid).is_some_and(|entry| entry.mounted)
    }

    pub fn is_open(&self, uid: &PodUid) -> bool {
        self.0.get(uid).is_some_and(|entry| entry.pod.is_some())
    }

    pub fn locks(&self, uid: &PodUid) -> Locks {
        self.0.get(uid).map(|entry| entry.locks.clone()).unwrap_or_default()
    }

    pub fn pod(&self, uid: &PodUid) -> Option<DesiredPod> {
        self.0.get(uid)?.pod.clone()
    }

    /// All files are as they should be, until `renew_at`; when they are for the first time, since when they were wanted.
    pub fn succeeded(&mut self, uid: &PodUid, renew_at: Option<Mono>) -> Option<Mono> {
        let entry = self.0.get_mut(uid)?;
        (entry.failures, entry.due) = (0, renew_at);
        let first = entry.pod.is_some() && !std::mem::replace(&mut entry.mounted, true);
        entry.wanted_since.filter(|_| first)
    }

    /// To be tried again, later each time.
    pub fn failed(&mut self, uid: &PodUid, now: Mono) {
        if let Some(entry) = self.0.get_mut(uid) {
            let delay = FIRST_RETRY.saturating_mul(1 << entry.failures.min(16)).min(LAST_RETRY);
            (entry.failures, entry.due) = (entry.failures + 1, Some(now + delay));
        }
    }

    /// Pods that refer to the object, now to be refreshed; all of them when it is not known which object changed.
    pub fn changed(&mut self, object: Option<&ObjectRef>) -> Vec<PodUid> {
        let affected = |e: &Entry| object.map_or(!e.refs.is_empty(), |o| e.refs.contains(o));
        self.take(affected)
    }

    /// Pods whose time has come, now to be refreshed.
    pub fn due(&mut self, now: Mono) -> Vec<PodUid> {
        self.take(|e| !e.refreshing && e.due.is_some_and(|at| at <= now))
    }

    /// The next time at which `due` has something.
    pub fn next_due(&self) -> Option<Mono> {
        self.0.values().filter(|e| e.pod.is_some() && !e.refreshing).filter_map(|e| e.due).min()
    }

    fn take(&mut self, wanted: impl Fn(&Entry) -> bool) -> Vec<PodUid> {
        let mut taken = Vec::new();
        for (uid, entry) in self.0.iter_mut().filter(|(_, e)| e.pod.is_some()) {
            if !wanted(entry) {
                continue;
            }
            if entry.refreshing {
                entry.again = true;
            } else {
                entry.refreshing = true;
                taken.push(uid.clone());
            }
        }
        taken.sort();
        taken
    }

    /// The refresh is over; true when another one must follow at once.
    pub fn refreshed(&mut self, uid: &PodUid) -> bool {
        let Some(entry) = self.0.get_mut(uid) else { return false };
        let again = std::mem::take(&mut entry.again) && entry.pod.is_some();
        entry.refreshing = again;
        again
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::pod;

    fn registry() -> (Registry, PodUid) {
        let mut registry = Registry::default();
        let pod = pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}], "containers": []}));
        registry.enter(&pod, secs(1));
        registry.enter(&pod, secs(2));
        (registry, pod.uid)
    }

    fn secs(n: u64) -> Mono {
        Mono::from_secs(n)
    }

    #[test]
    fn a_changed_object_concerns_the_pods_that_name_it() {
        let (mut registry, uid) = registry();
        assert_eq!(registry.changed(Some(&ObjectRef::secret("ns", "c"))), []);
        assert_eq!(registry.changed(Some(&ObjectRef::config_map("ns", "c"))), std::slice::from_ref(&uid));
        // A second change during the refresh asks for another one, not for two at a time.
        assert_eq!(registry.changed(Some(&ObjectRef::config_map("ns", "c"))), []);
        assert!(registry.refreshed(&uid));
        assert!(!registry.refreshed(&uid));
        assert_eq!(registry.changed(None), [uid]);
    }

    #[test]
    fn a_failed_refresh_is_retried_later_each_time() {
        let (mut registry, uid) = registry();
        for delay in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            registry.failed(&uid, secs(1000));
            assert_eq!(registry.next_due(), Some(secs(1000 + delay)));
        }
        registry.succeeded(&uid, Some(secs(5000)));
        assert_eq!(registry.next_due(), Some(secs(5000)));
        assert_eq!(registry.due(secs(4999)), []);
        assert_eq!(registry.due(secs(5000)), std::slice::from_ref(&uid));
        // Not due again while it is being refreshed.
        assert_eq!((registry.due(secs(5001)), registry.next_due()), (vec![], None));
    }

    #[test]
    fn a_pod_that_is_taken_down_is_left_alone() {
        let (mut registry, uid) = registry();
        assert_eq!(registry.succeeded(&uid, Some(secs(1))), Some(secs(1)), "wanted since then");
        assert!(registry.is_mounted(&uid));
        assert_eq!(registry.succeeded(&uid, Some(secs(1))), None);
        registry.close(&uid);
        assert_eq!(registry.succeeded(&uid, None), None);
        assert!(!registry.is_mounted(&uid));
        assert!(!registry.is_open(&uid));
        assert_eq!((registry.due(secs(9)), registry.changed(None), registry.next_due()), (vec![], vec![], None));
        registry.forget(&uid);
        assert!(registry.0.is_empty());
    }

    #[test]
    fn a_pod_that_comes_back_during_its_teardown_is_not_forgotten() {
        let (mut registry, uid) = registry();
        let desired = registry.pod(&uid).unwrap();
        registry.close(&uid);
        registry.enter(&desired, secs(3));
        registry.forget(&uid);
        assert!(registry.is_open(&uid));
    }
}
