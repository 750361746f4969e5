//! A record of pods' resources that outlives the agent, in a file of upstream's name and format.
//!
//! Reads: the file, once. Writes: the file, a moment after a change (many changes of a burst make one write) or at
//! once where that is asked for. Wakes on: a change, and the time at which the file is due.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use host::HostError;
use pod::{
    DesiredPod, PodUid,
    api::ResourceRequirements,
    resize::{PodResources, Records, decode, encode},
};
use tokio::sync::watch;

/// What the node has granted.
pub const ALLOCATED: &str = "allocated_pods_state";
/// What runtime and kernel were told last.
pub const ACTUATED: &str = "actuated_pods_state";

/// Changes that come within this time are written together. A pod's first record is in the file before its sandbox is up:
/// read anew after a crash, its spec may ask for something else by then.
const GATHER: Duration = Duration::from_millis(100);
/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResourceRecords(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None: nothing is written.
    path: Option<PathBuf>,
    records: Mutex<Records>,
    changed: watch::Sender<()>,
    /// Held while the file is written; the text that is in it.
    written: Mutex<String>,
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
        Self(Arc::new(Shared { path, records: Mutex::new(records), changed: watch::Sender::new(()), written }))
    }

    /// Keeps the file in step; runs until dropped.
    pub async fn keep(self) {
        let mut changed = self.0.changed.subscribe();
        while changed.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            changed.mark_unchanged();
            while let Err(error) = self.flushed().await {
                tracing::error!(%error, "the record of pods' resources isn't written; it is tried again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Returns when what was set before is in the file.
    pub async fn flushed(&self) -> Result<(), HostError> {
        let this = self.clone();
        let flush = tokio::task::spawn_blocking(move || this.flush()).await;
        flush.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Writes what is not written yet. Blocking.
    pub fn flush(&self) -> Result<(), HostError> {
        let Some(path) = &self.0.path else { return Ok(()) };
        let mut written = self.0.written.lock().expect("a writer panicked");
        let text = encode(&self.lock());
        if *written != text {
            host::atomic_file::write(path, text.as_bytes(), 0o600)?;
            *written = text;
        }
        Ok(())
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
            before.as_ref() != Some(&resources)
        });
    }

    /// Only where there is no record yet.
    pub fn init(&self, pod: &DesiredPod) {
        self.change(|records| {
            let is_new = !records.contains_key(pod.uid.as_str());
            if is_new {
                records.insert(pod.uid.to_string(), PodResources::of(pod));
            }
            is_new
        });
    }

    pub fn set_container(&self, uid: &PodUid, name: &str, resources: ResourceRequirements) {
        self.change(|records| {
            let containers = &mut records.entry(uid.to_string()).or_default().containers;
            let before = containers.insert(name.to_owned(), resources.clone());
            before.as_ref() != Some(&resources)
        });
    }

    /// Changes the record of the pod as a whole.
    pub fn set_pod_level(&self, uid: &PodUid, change: impl FnOnce(&mut ResourceRequirements)) {
        self.change(|records| {
            change(records.entry(uid.to_string()).or_default().pod_level.get_or_insert_default());
            true
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

    /// `change` says whether it has changed anything.
    fn change(&self, change: impl FnOnce(&mut Records) -> bool) {
        let has_changed = change(&mut self.lock());
        if has_changed {
            self.0.changed.send_replace(());
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
        let (uid, resources) = (PodUid::new("u"), cpu("1"));
        let records = ResourceRecords::open(path.clone());
        records.set_container(&uid, "c", resources.clone());
        records.flush().unwrap();
        let again = ResourceRecords::open(path.clone());
        assert_eq!(again.get(&uid).unwrap().containers["c"], resources);
        std::fs::write(&path, "{\"data\":\"{}\",\"checksum\":1}").unwrap();
        assert_eq!(ResourceRecords::open(path).get(&uid), None);
    }

    fn cpu(limit: &str) -> ResourceRequirements {
        serde_json::from_value(json!({"limits": {"cpu": limit}})).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_within_a_moment_is_written_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ACTUATED);
        let records = ResourceRecords::open(path.clone());
        let _keeper = tokio::spawn(records.clone().keep());
        tokio::task::yield_now().await;
        records.set_container(&PodUid::new("u"), "c", cpu("11"));
        tokio::time::sleep(GATHER - Duration::from_millis(1)).await;
        records.set_container(&PodUid::new("u"), "c", cpu("12"));
        assert!(!path.exists());
        // The clock stands still while a file is being written.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(std::fs::read_to_string(&path).unwrap().contains("12"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_written_later_though_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not yet");
        let records = ResourceRecords::open(folder.join(ACTUATED));
        let _keeper = tokio::spawn(records.clone().keep());
        tokio::task::yield_now().await;
        records.set_container(&PodUid::new("u"), "c", cpu("11"));
        let error = records.flushed().await.unwrap_err().to_string();
        assert!(error.contains("not yet") && error.contains("No such file"), "{error}");
        tokio::time::sleep(GATHER * 2).await;
        std::fs::create_dir(&folder).unwrap();
        tokio::time::sleep(RETRY).await;
        assert!(std::fs::read_to_string(folder.join(ACTUATED)).unwrap().contains("11"));
    }
}
