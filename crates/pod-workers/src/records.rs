//! A record of pods' resources that outlives the agent, in a file of upstream's name and format.
//!
//! Reads: the file, once. Writes: the file, some time after a change (many changes of a burst make one write) or at
//! once where that is asked for. Wakes on: a change, and the time at which the file is due.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use pod::{
    DesiredPod, PodUid,
    api::ResourceRequirements,
    resize::{PodResources, Records, decode, encode},
};
use tokio::{sync::watch, time::timeout};

/// What the node has granted.
pub const ALLOCATED: &str = "allocated_pods_state";
/// What runtime and kernel were told last.
pub const ACTUATED: &str = "actuated_pods_state";

/// Changes of what is recorded that come within this time are written together.
const GATHER: Duration = Duration::from_millis(100);
/// A record that is new says what the pod's spec says, and would be read so without it: it is of use from the pod's first
/// resize on. The file holds all pods, so each write costs more the more there are.
const GATHER_NEW: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResourceRecords(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None: nothing is written.
    path: Option<PathBuf>,
    records: Mutex<Records>,
    changed: watch::Sender<Changes>,
    /// Held while the file is written; the text that is in it.
    written: Mutex<String>,
}

/// How many there have been.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Changes {
    /// Of pods or containers that had no record.
    new: u64,
    /// Of what was recorded.
    renewed: u64,
}

enum Change {
    None,
    New,
    Renewed,
}

impl Change {
    /// What was recorded before, and what is now.
    fn of<T: PartialEq>(before: Option<&T>, after: &T) -> Self {
        match before {
            None => Self::New,
            Some(before) if before == after => Self::None,
            Some(_) => Self::Renewed,
        }
    }
}

impl ResourceRecords {
    /// A file that is damaged is as good as none: what the pods' specs say counts then.
    pub fn open(path: PathBuf) -> Self {
        let records = match std::fs::read_to_string(&path) {
            Ok(text) => decode(&text).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "the record of pods' resources is lost");
                Records::new()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Records::new(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the record of pods' resources can't be read");
                Records::new()
            }
        };
        Self::with(Some(path), records)
    }

    /// For tests and for nodes without a file.
    pub fn in_memory() -> Self {
        Self::with(None, Records::new())
    }

    fn with(path: Option<PathBuf>, records: Records) -> Self {
        let written = Mutex::new(encode(&records));
        Self(Arc::new(Shared {
            path,
            records: Mutex::new(records),
            changed: watch::Sender::new(Changes::default()),
            written,
        }))
    }

    /// Keeps the file in step; runs until dropped.
    pub async fn keep(self) {
        let mut changed = self.0.changed.subscribe();
        let mut written = Changes::default();
        while changed.changed().await.is_ok() {
            let is_renewed = |now: &Changes| now.renewed != written.renewed;
            // What is renewed shortens the wait for what is new.
            let _ = timeout(GATHER_NEW, changed.wait_for(is_renewed)).await;
            if is_renewed(&changed.borrow()) {
                tokio::time::sleep(GATHER).await;
            }
            written = *changed.borrow_and_update();
            self.flushed().await;
        }
    }

    /// Returns when what was set before is in the file.
    pub async fn flushed(&self) {
        let this = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || this.flush()).await {
            tracing::error!(%error, "writing the record of pods' resources ended abnormally");
        }
    }

    /// Writes what is not written yet. Blocking.
    pub fn flush(&self) {
        let Some(path) = &self.0.path else { return };
        let mut written = self.0.written.lock().expect("a writer panicked");
        let text = encode(&self.lock());
        if *written == text {
            return;
        }
        match host::atomic_file::write(path, text.as_bytes(), 0o600) {
            Ok(()) => *written = text,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the record of pods' resources isn't written")
            }
        }
    }

    pub fn get(&self, uid: &PodUid) -> Option<PodResources> {
        self.lock().get(uid.as_str()).cloned()
    }

    /// Without a copy; no record reads as an empty one.
    pub fn read<T>(&self, uid: &PodUid, read: impl FnOnce(&PodResources) -> T) -> T {
        match self.lock().get(uid.as_str()) {
            Some(record) => read(record),
            None => read(&PodResources::default()),
        }
    }

    pub fn set(&self, uid: &PodUid, resources: PodResources) {
        self.change(|records| {
            let before = records.insert(uid.to_string(), resources.clone());
            Change::of(before.as_ref(), &resources)
        });
    }

    /// Only where there is no record yet.
    pub fn init(&self, pod: &DesiredPod) {
        self.change(|records| {
            if records.contains_key(pod.uid.as_str()) {
                return Change::None;
            }
            records.insert(pod.uid.to_string(), PodResources::of(pod));
            Change::New
        });
    }

    pub fn set_container(&self, uid: &PodUid, name: &str, resources: ResourceRequirements) {
        self.change(|records| {
            let containers = &mut records.entry(uid.to_string()).or_default().containers;
            let before = containers.insert(name.to_owned(), resources.clone());
            Change::of(before.as_ref(), &resources)
        });
    }

    /// Changes the record of the pod as a whole.
    pub fn set_pod_level(&self, uid: &PodUid, change: impl FnOnce(&mut ResourceRequirements)) {
        self.change(|records| {
            change(records.entry(uid.to_string()).or_default().pod_level.get_or_insert_default());
            Change::Renewed
        });
    }

    /// Written with the next change: a record too many does no harm.
    pub fn remove(&self, uid: &PodUid) {
        self.lock().remove(uid.as_str());
    }

    /// Forgets pods that nobody knows any more.
    pub fn retain(&self, is_known: impl Fn(&PodUid) -> bool) {
        self.lock().retain(|uid, _| is_known(&PodUid::new(uid)));
    }

    fn change(&self, change: impl FnOnce(&mut Records) -> Change) {
        let change = change(&mut self.lock());
        match change {
            Change::None => {}
            Change::New => self.0.changed.send_modify(|changes| changes.new += 1),
            Change::Renewed => self.0.changed.send_modify(|changes| changes.renewed += 1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().expect("a writer panicked")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_flushed_is_there_after_a_restart_and_damage_is_as_good_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ACTUATED);
        let (uid, limits) = (PodUid::new("u"), json!({"limits": {"cpu": "1"}}));
        let resources: ResourceRequirements = serde_json::from_value(limits).unwrap();
        let records = ResourceRecords::open(path.clone());
        records.set_container(&uid, "c", resources.clone());
        records.flush();
        let again = ResourceRecords::open(path.clone());
        assert_eq!(again.get(&uid).unwrap().containers["c"], resources);
        std::fs::write(&path, "{\"data\":\"{}\",\"checksum\":1}").unwrap();
        assert_eq!(ResourceRecords::open(path).get(&uid), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_is_written_after_a_while_and_what_is_changed_soon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ACTUATED);
        let limits = |cpu: &str| serde_json::from_value(json!({"limits": {"cpu": cpu}})).unwrap();
        let records = ResourceRecords::open(path.clone());
        let _keeper = tokio::spawn(records.clone().keep());
        let is_written = async |cpu: &str, within: Duration| {
            // The clock stands still while a file is being written.
            tokio::time::sleep(within).await;
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains(cpu))
        };
        tokio::task::yield_now().await;
        records.set_container(&PodUid::new("u"), "c", limits("11"));
        tokio::time::sleep(GATHER_NEW - Duration::from_millis(1)).await;
        assert!(!path.exists());
        assert!(is_written("11", Duration::from_millis(2)).await);
        records.set_container(&PodUid::new("v"), "c", limits("12"));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!std::fs::read_to_string(&path).unwrap().contains("12"));
        records.set_container(&PodUid::new("u"), "c", limits("13"));
        tokio::time::sleep(GATHER - Duration::from_millis(1)).await;
        assert!(!std::fs::read_to_string(&path).unwrap().contains("13"));
        assert!(is_written("13", Duration::from_millis(2)).await);
    }
}
