//! Rotation of containers' logs: one task for all of them. A log is only looked at (one stat) when it may have grown
//! to its limit by then, so that quiet containers cost next to nothing.
//!
//! Reads: the PLEG's pictures, sizes of log files. Writes: log files. Wakes on: a picture changing, the earliest look.

mod files;
mod pace;

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cri::{Cri, CriError};
use futures::StreamExt as _;
use host::Clock;
use pod::{ContainerId, ContainerState, Mono, ObservedPod};
use tokio::sync::watch;

use pace::Pace;

use crate::files::FilesError;

/// containerLogMaxSize, containerLogMaxFiles, containerLogMaxWorkers, containerLogMonitorInterval.
#[derive(Clone, Copy, Debug)]
pub struct RotationPolicy {
    pub max_size: u64,
    /// The one being written included.
    pub max_files: usize,
    /// So many logs are rotated (and compressed) at once.
    pub workers: usize,
    /// The least time between two looks at one log.
    pub interval: Duration,
}

/// All pods of which the runtime has anything.
pub type Pictures = Arc<dyn Fn() -> Arc<Vec<Arc<ObservedPod>>> + Send + Sync>;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("reopen the log: {0}")]
    Reopen(CriError),
}

pub struct LogRotation {
    cri: Cri,
    clock: Clock,
    policy: RotationPolicy,
    pictures: Pictures,
    followed: BTreeMap<ContainerId, Followed>,
}

/// One running container's log.
struct Followed {
    path: PathBuf,
    pace: Pace,
    /// Its last rotation failed; said once.
    failing: bool,
}

impl LogRotation {
    pub fn new(cri: Cri, clock: Clock, policy: RotationPolicy, pictures: Pictures) -> Self {
        Self { cri, clock, policy, pictures, followed: BTreeMap::new() }
    }

    /// Runs until dropped. `changes` wakes when the pictures are others. A container that starts is looked at on the
    /// next beat, together with all that start before it: in a burst of pods that is one walk through them all.
    pub async fn run(mut self, mut changes: watch::Receiver<()>) {
        let interval = self.policy.interval;
        changes.mark_changed();
        loop {
            let due = self.followed.values().map(|log| log.pace.due()).min();
            let next = due.map(|due| self.clock.beat_from(due - interval / 2, interval));
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.clock.beat(interval).await;
                    changes.mark_unchanged();
                    self.follow_running();
                }
                () = self.clock.sleep_until(next.unwrap_or_default()), if next.is_some() => {}
            }
            self.look().await;
        }
    }

    /// What does not run writes nothing more: its last log stays as it is.
    fn follow_running(&mut self) {
        let (now, interval, max_size) = (self.clock.mono(), self.policy.interval, self.policy.max_size);
        let pictures = (self.pictures)();
        let mut running = HashSet::new();
        for container in pictures.iter().flat_map(|pod| &pod.containers) {
            if container.state != ContainerState::Running || container.log_path.is_empty() {
                continue;
            }
            running.insert(&container.id);
            if !self.followed.contains_key(&container.id) {
                let pace = Pace::new(now, interval, max_size);
                let log = Followed { path: PathBuf::from(&container.log_path), pace, failing: false };
                self.followed.insert(container.id.clone(), log);
            }
        }
        self.followed.retain(|id, _| running.contains(id));
    }

    /// Looks at every log whose time is nearer to this beat than to the next one: one wake for all of them.
    async fn look(&mut self) {
        let now = self.clock.mono();
        let soon = now + self.policy.interval / 2;
        let due: Vec<(ContainerId, PathBuf)> = self
            .followed
            .iter()
            .filter(|(_, log)| log.pace.due() <= soon)
            .map(|(id, log)| (id.clone(), log.path.clone()))
            .collect();
        let this = &*self;
        let looks = futures::stream::iter(due)
            .map(|(id, path)| async move {
                let seen = this.keep_small(&id, &path).await;
                (id, seen)
            })
            .buffer_unordered(self.policy.workers.max(1))
            .collect::<Vec<_>>();
        for (id, seen) in looks.await {
            self.note(&id, seen, now);
        }
    }

    fn note(&mut self, id: &ContainerId, seen: Result<u64, Failure>, now: Mono) {
        let Some(log) = self.followed.get_mut(id) else { return };
        match seen {
            Ok(size) => {
                log.failing = false;
                log.pace.saw(size, now);
            }
            Err(error) => {
                if !std::mem::replace(&mut log.failing, true) {
                    tracing::warn!(container = %id, log = %log.path.display(), %error, "a container's log can't be rotated; trying again");
                }
                log.pace.failed(now);
            }
        }
    }

    /// The log's size afterwards.
    async fn keep_small(&self, id: &ContainerId, log: &Path) -> Result<u64, Failure> {
        let size = match size_of(log)? {
            Some(size) => size,
            None => {
                // Somebody moved it away: the runtime goes on writing to a file without a name.
                self.reopen(id).await?;
                size_of(log)?.unwrap_or(0)
            }
        };
        if size < self.policy.max_size {
            return Ok(size);
        }
        self.rotate(id, log).await?;
        tracing::debug!(container = %id, log = %log.display(), size, "container log rotated");
        Ok(0)
    }

    async fn rotate(&self, id: &ContainerId, log: &Path) -> Result<(), Failure> {
        let (path, keep) = (log.to_owned(), self.policy.max_files.saturating_sub(2));
        // Reads and writes megabytes: not on a thread that others need.
        let tidied = tokio::task::spawn_blocking(move || files::tidy(&path, keep)).await;
        tidied.expect("tidying logs does not panic")?;
        let rotated = files::set_aside(log, self.clock.wall())?;
        if let Err(error) = self.reopen(id).await {
            // The runtime still writes to that file: it must be found under its name.
            files::put_back(&rotated, log)?;
            return Err(error);
        }
        Ok(())
    }

    async fn reopen(&self, id: &ContainerId) -> Result<(), Failure> {
        self.cri.reopen_container_log(id).await.map_err(Failure::Reopen)
    }
}

fn size_of(log: &Path) -> Result<Option<u64>, FilesError> {
    match fs::metadata(log) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FilesError { operation: "look at", path: log.to_owned(), source }),
    }
}
