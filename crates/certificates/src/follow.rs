//! Waits for files to change, whether they are written, replaced, or come by a link that is turned (as in a mounted
//! Secret).

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::select_all;
use host::inotify::DirWatch;
use tokio::time::{Instant, sleep, timeout_at};

/// For what no event tells: a file system without them, a link into another directory.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// Pairs are written one file after the other.
const SETTLE: Duration = Duration::from_millis(200);

/// Files and what was in them. To be made before they are loaded, so that no change falls between.
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    seen: u64,
}

impl Files {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = fingerprint(&paths);
        Self { paths, seen }
    }

    /// Calls `changed` whenever the contents are others than before. Never ends.
    pub async fn follow(mut self, mut changed: impl FnMut()) {
        loop {
            self.changed().await;
            changed();
        }
    }

    /// Until the contents are others than before.
    pub async fn changed(&mut self) {
        loop {
            wait(&self.paths).await;
            let now = fingerprint(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

/// Until something happens in one of the directories, at most a minute.
async fn wait(files: &[PathBuf]) {
    let deadline = Instant::now() + LOOK_ANYWAY;
    let dirs: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    let mut watches: Vec<DirWatch> = dirs.into_iter().filter_map(|dir| DirWatch::new(dir).ok()).collect();
    let any = async {
        match watches.is_empty() {
            true => std::future::pending().await,
            false => drop(select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed()))).await),
        }
    };
    if timeout_at(deadline, any).await.is_ok() {
        sleep(SETTLE).await;
    }
}

fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_other_contents_count_as_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("a"), dir.path().join("b")];
        fs::write(&files[0], "1").unwrap();
        let count = AtomicU32::new(0);
        let change = || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let write = async {
            // Within a minute of paused time whatever the events do.
            sleep(Duration::from_secs(1)).await;
            fs::write(&files[0], "1").unwrap();
            sleep(LOOK_ANYWAY * 2).await;
            assert_eq!(count.load(Ordering::Relaxed), 0);
            fs::write(&files[1], "2").unwrap();
            sleep(LOOK_ANYWAY * 2).await;
        };
        tokio::select! {
            () = Files::new(files.to_vec()).follow(change) => {}
            () = write => {}
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
