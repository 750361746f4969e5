//! What is known of each pod: the newest status, what the API object says, and what is still to be done.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use pod::{
    DesiredPod, Mono, PodKey, PodUid,
    phase::is_terminal_field,
    status::{check_transition, says_the_same},
};

use crate::{
    StatusUpdate,
    patch::{mirror_patch, status_patch},
    progress::{is_mere_end, is_mere_progress},
};

/// Between a step of a pod's start and the word of it: most often the next step is done by then, and one patch tells
/// of both. Upstream sees such a step at its next relist, a second apart.
const HOLD: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// One pod's page.
#[derive(Debug)]
struct Page {
    /// Tells it from the pages that the pod had before.
    number: u64,
    update: StatusUpdate,
    /// Grows with every change that the API must see.
    version: u64,
    /// The version that the API has, 0 for none.
    synced: u64,
    /// The API object as last seen; for a static pod its mirror. None: not known, must be read.
    object: Option<Arc<Pod>>,
    mirror: Option<Mirror>,
    /// When the oldest change was made that the API does not have.
    since: Mono,
    in_flight: bool,
    retry: Option<(Mono, u32)>,
    /// All that the API lacks can wait until then.
    hold: Option<Mono>,
    /// The object is no more: nothing is left to write.
    gone: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Mirror {
    uid: PodUid,
    key: PodKey,
}

/// One thing to do at the API server.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub pod: PodUid,
    /// Of the API object.
    pub uid: PodUid,
    pub key: PodKey,
    pub status: Arc<PodStatus>,
    pub object: Option<Arc<Pod>>,
    /// Whether the object is to be deleted once its phase is final.
    pub confirm_deletion: bool,
    /// The object is a static pod's mirror.
    pub is_mirror: bool,
    page: u64,
    version: u64,
    since: Mono,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Synced(Arc<Pod>),
    /// Deleted by us or by others.
    Gone,
    /// `stale`: our picture of the object does not hold.
    Failed {
        stale: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pages: HashMap<PodUid, Page>,
    begun: u64,
    mirrors: HashMap<PodUid, Arc<Pod>>,
}

impl Book {
    pub fn get(&self, pod: &PodUid) -> Option<Arc<PodStatus>> {
        self.pages.get(pod).map(|page| page.update.status.clone())
    }

    pub fn is_told(&self, pod: &PodUid) -> bool {
        self.pages.get(pod).is_none_or(|page| !page.is_unsynced())
    }

    pub fn forget(&mut self, pod: &PodUid) {
        self.pages.remove(pod);
        self.mirrors.remove(pod);
    }

    /// True when something is to be sent.
    pub fn set(&mut self, update: StatusUpdate, now: Mono) -> bool {
        let uid = update.pod.uid.clone();
        let Some(page) = self.pages.get_mut(&uid) else {
            self.begun += 1;
            let page = Page::new(self.begun, update, self.mirrors.get(&uid).cloned(), now);
            self.pages.insert(uid, page);
            return true;
        };
        page.set(update, now)
    }

    /// The mirror pod of a static pod appeared, changed, or (None) is gone.
    pub fn set_mirror(&mut self, pod: &PodUid, mirror: Option<Arc<Pod>>, now: Mono) -> bool {
        match &mirror {
            Some(mirror) => self.mirrors.insert(pod.clone(), mirror.clone()),
            None => self.mirrors.remove(pod),
        };
        self.pages.get_mut(pod).is_some_and(|page| page.set_mirror(mirror, now))
    }

    /// The next thing to do now; it is in flight from then on.
    pub fn take_due(&mut self, now: Mono) -> Option<Job> {
        self.pages.values_mut().find_map(|page| page.take_due(now))
    }

    /// When something will be due that is not yet.
    pub fn next_due(&self) -> Option<Mono> {
        let waiting = self.pages.values().filter(|page| !page.in_flight && page.is_unsynced());
        waiting.filter_map(Page::not_before).min()
    }

    /// Since when the API lacked what it now has.
    pub fn done(&mut self, job: &Job, outcome: Outcome, now: Mono) -> Option<Mono> {
        // A static pod that was put back has a page anew, of which earlier answers say nothing.
        let page = self.pages.get_mut(&job.pod).filter(|page| page.number == job.page)?;
        page.in_flight = false;
        if page.target().is_none_or(|(uid, _)| *uid != job.uid) {
            return None; // meanwhile another mirror pod
        }
        match outcome {
            Outcome::Synced(object) => {
                if page.object.as_ref().is_none_or(|known| resource_version(&object) > resource_version(known)) {
                    page.object = Some(object);
                }
                page.synced = job.version;
                page.retry = None;
                if !page.is_unsynced() {
                    page.hold = None;
                }
                page.since = now;
                Some(job.since)
            }
            Outcome::Gone => {
                page.gone = true;
                None
            }
            Outcome::Failed { stale } => {
                if stale {
                    page.object = None;
                }
                let tries = page.retry.map_or(0, |(_, tries)| tries);
                let delay = RETRY_FIRST.saturating_mul(1 << tries.min(5)).min(RETRY_MAX);
                page.retry = Some((now + delay, tries + 1));
                None
            }
        }
    }
}

impl Page {
    fn new(number: u64, update: StatusUpdate, mirror: Option<Arc<Pod>>, now: Mono) -> Self {
        let mut page = Self {
            number,
            object: (!update.pod.is_static()).then(|| update.pod.pod.clone()),
            update,
            version: 1,
            synced: 0,
            mirror: None,
            since: now,
            in_flight: false,
            retry: None,
            hold: None,
            gone: false,
        };
        page.set_mirror(mirror, now);
        page
    }

    fn set(&mut self, update: StatusUpdate, now: Mono) -> bool {
        let (old, new) = (&self.update.status, &update.status);
        if let Err(why) = check_transition(&update.pod, old, new) {
            tracing::error!(pod = %update.pod.key, uid = %update.pod.uid, why, "status refused");
            self.update.pod = update.pod;
            if update.finished && !self.update.finished {
                self.update.finished = true;
                self.bump(now);
            }
            return self.is_unsynced();
        }
        let changed = !says_the_same(old, new)
            || self.update.finished != update.finished
            || self.update.pod.deletion_requested() != update.pod.deletion_requested();
        let finished = self.update.finished || update.finished;
        let is_step = if update.pod.deletion_requested() { is_mere_end } else { is_mere_progress };
        let can_wait = changed && !finished && (self.hold.is_some() || !self.is_unsynced()) && is_step(old, new);
        let seen = !update.pod.is_static() && self.see(&update.pod.pod);
        self.update = StatusUpdate { finished, ..update };
        if changed {
            self.hold = can_wait.then(|| self.hold.unwrap_or(now + HOLD));
            self.bump(now);
        } else if seen && self.differs_from_object() {
            self.bump(now);
        }
        self.is_unsynced()
    }

    fn set_mirror(&mut self, mirror: Option<Arc<Pod>>, now: Mono) -> bool {
        if !self.update.pod.is_static() {
            return false;
        }
        let Some(object) = mirror else {
            (self.mirror, self.object) = (None, None);
            return false;
        };
        let Some(target) = Mirror::of(&object) else { return false };
        let another = self.mirror.as_ref() != Some(&target);
        if another {
            (self.mirror, self.gone, self.retry) = (Some(target), false, None);
            if self.synced == 0 {
                self.adopt_times(&object);
            }
            self.object = Some(object.clone());
        }
        if (another || self.see(&object)) && self.differs_from_object() {
            self.bump(now);
        }
        self.is_unsynced()
    }

    /// A static pod's source knows no status, so that after our restart its mirror alone tells since when all this
    /// holds.
    fn adopt_times(&mut self, mirror: &Pod) {
        let Some(told) = &mirror.status else { return };
        let status = Arc::make_mut(&mut self.update.status);
        for condition in status.conditions.iter_mut().flatten() {
            let same = |c: &&PodCondition| c.type_ == condition.type_ && c.status == condition.status;
            if let Some(told) = told.conditions.iter().flatten().find(same) {
                condition.last_transition_time.clone_from(&told.last_transition_time);
            }
        }
        if told.start_time.is_some() {
            status.start_time.clone_from(&told.start_time);
        }
    }

    /// Takes a newer picture of the object; false for an echo of what is known, which stands in for our own copy of
    /// an answer: everybody else keeps the echo.
    fn see(&mut self, object: &Arc<Pod>) -> bool {
        let Some(known) = &self.object else { return false };
        let (seen, known) = (resource_version(object), resource_version(known));
        if seen >= known {
            self.object = Some(object.clone());
        }
        seen > known
    }

    /// Somebody else changed what is ours to say.
    fn differs_from_object(&self) -> bool {
        let known = self.object.as_ref().and_then(|o| o.status.as_ref());
        let patch = if self.update.pod.is_static() { mirror_patch } else { status_patch };
        patch(known, &self.update.status).is_some()
    }

    fn bump(&mut self, now: Mono) {
        if !self.is_unsynced() {
            self.since = now;
        }
        self.version += 1;
    }

    /// UID and name of the API object; none for a static pod without mirror.
    fn target(&self) -> Option<(&PodUid, &PodKey)> {
        let pod: &DesiredPod = &self.update.pod;
        if pod.is_static() {
            return self.mirror.as_ref().map(|m| (&m.uid, &m.key));
        }
        Some((&pod.uid, &pod.key))
    }

    fn is_unsynced(&self) -> bool {
        !self.gone && self.synced < self.version && self.target().is_some()
    }

    fn not_before(&self) -> Option<Mono> {
        self.retry.map(|(at, _)| at).max(self.hold)
    }

    fn take_due(&mut self, now: Mono) -> Option<Job> {
        let due = self.not_before().is_none_or(|at| at <= now);
        if self.in_flight || !due || !self.is_unsynced() {
            return None;
        }
        let (uid, key) = self.target().map(|(uid, key)| (uid.clone(), key.clone()))?;
        self.in_flight = true;
        Some(Job {
            pod: self.update.pod.uid.clone(),
            uid,
            key,
            status: self.update.status.clone(),
            object: self.object.clone(),
            confirm_deletion: self.update.finished && !self.update.pod.is_static(),
            is_mirror: self.update.pod.is_static(),
            page: self.number,
            version: self.version,
            since: self.since,
        })
    }
}

impl Mirror {
    fn of(pod: &Pod) -> Option<Self> {
        let uid = PodUid::new(pod.metadata.uid.as_deref()?);
        let key = PodKey::new(pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        Some(Self { uid, key })
    }
}

/// Versions of one resource may be compared (KEP-5504); an unreadable one is older than any.
fn resource_version(pod: &Pod) -> u128 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Whether the object may go: its owner asked for it, its phase is final.
pub(crate) fn may_be_deleted(object: &Pod) -> bool {
    object.metadata.deletion_timestamp.is_some()
        && is_terminal_field(object.status.as_ref().and_then(|s| s.phase.as_deref()))
}
