//! Who holds which object, and the last state of each.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use pod::PodUid;
use tokio::sync::{broadcast, watch};

use super::{
    ObjectRef,
    keep::{Kept, keep},
};
use crate::{ApiError, ApiServer, owned::Owned};

/// What is known of one object.
#[derive(Clone)]
pub(super) enum Slot<K> {
    Loading,
    Present(Arc<K>),
    Missing,
    /// It could not be read even once.
    Failed,
}

pub(super) struct Cache<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    api: ApiServer,
    changes: broadcast::Sender<ObjectRef>,
    state: Mutex<State<K>>,
}

struct State<K> {
    objects: HashMap<ObjectRef, Entry<K>>,
    held: HashMap<PodUid, HashSet<ObjectRef>>,
}

struct Entry<K> {
    holders: HashSet<PodUid>,
    slot: watch::Receiver<Slot<K>>,
    _task: Owned,
}

impl<K: Kept> Cache<K> {
    pub(super) fn new(api: ApiServer, changes: broadcast::Sender<ObjectRef>) -> Self {
        let state = Mutex::new(State { objects: HashMap::new(), held: HashMap::new() });
        Self { shared: Arc::new(Shared { api, changes, state }) }
    }

    /// Takes the new references before it lets the old ones go: an object in both is not read again.
    pub(super) fn hold(&self, pod: &PodUid, refs: Vec<ObjectRef>) {
        let wanted: HashSet<ObjectRef> = refs.into_iter().collect();
        let mut state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
        for object in &wanted {
            let entry = state.objects.entry(object.clone()).or_insert_with(|| self.follow(object));
            entry.holders.insert(pod.clone());
        }
        let before =
            if wanted.is_empty() { state.held.remove(pod) } else { state.held.insert(pod.clone(), wanted.clone()) };
        for object in before.unwrap_or_default().difference(&wanted) {
            let Some(entry) = state.objects.get_mut(object) else { continue };
            entry.holders.remove(pod);
            if entry.holders.is_empty() {
                state.objects.remove(object);
            }
        }
    }

    fn follow(&self, object: &ObjectRef) -> Entry<K> {
        let (writer, slot) = watch::channel(Slot::Loading);
        let task = keep(self.shared.api.clone(), object.clone(), writer, self.shared.changes.clone());
        Entry { holders: HashSet::new(), slot, _task: Owned::spawn(task) }
    }

    /// None when nobody holds the object, or when following it has failed so far: ask the server then.
    pub(super) async fn get(&self, object: &ObjectRef) -> Option<Result<Arc<K>, ApiError>> {
        let mut slot = {
            let state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
            state.objects.get(object)?.slot.clone()
        };
        // An error here: the pod was released meanwhile.
        let known = slot.wait_for(|slot| !matches!(slot, Slot::Loading)).await.ok()?.clone();
        match known {
            Slot::Present(value) => Some(Ok(value)),
            Slot::Missing => Some(Err(ApiError::not_found("get", object.to_string()))),
            Slot::Loading | Slot::Failed => None,
        }
    }
}
