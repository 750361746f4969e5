//! The only writer of pod status: newest status per pod in, strategic merge patches out, and the final delete.
//!
//! Reads: `set` and `mirror` calls. Writes: `pods/status` and, once a pod is finished here and its phase is final,
//! the deletion of its API object. Wakes on: a call, an answer, the time of a retry or of a word held back. It never
//! polls: what the API object says comes with the updates, since those carry the object as last seen.

mod book;
mod patch;
mod progress;
mod sync;
mod terminations;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apiserver::ApiServer;
use host::Clock;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use pod::{DesiredPod, PodUid};
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
};

use book::{Book, Job, Outcome};

/// Requests under way at one time; one per pod at most.
const CONCURRENCY: usize = 16;

/// What a pod worker has to say of its pod.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    pub pod: DesiredPod,
    pub status: Arc<PodStatus>,
    /// Nothing of the pod is left on the node: its API object may be deleted.
    pub finished: bool,
}

/// Cheap to clone; the task ends with the last handle.
#[derive(Clone, Debug)]
pub struct StatusManager {
    shared: Arc<Shared>,
    task: Option<Arc<Owned>>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    wake: Notify,
    told: watch::Sender<()>,
    clock: Clock,
}

impl Shared {
    /// No code below can panic halfway through a change of the book.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl StatusManager {
    /// Without an API server (standalone) statuses are kept and shown, but sent nowhere.
    pub fn spawn(api: Option<ApiServer>, clock: Clock) -> Self {
        let shared =
            Arc::new(Shared { book: Mutex::default(), wake: Notify::new(), told: watch::Sender::new(()), clock });
        let task = api.map(|api| Arc::new(Owned(tokio::spawn(run(api, shared.clone())))));
        Self { shared, task }
    }

    pub fn set(&self, update: StatusUpdate) {
        let now = self.shared.clock.mono();
        let mut book = self.shared.book();
        let before = book.get(&update.pod.uid);
        let before = before.as_deref().or(update.pod.pod.status.as_ref());
        for (kind, ending) in terminations::new_ones(before, &update.status) {
            let reason = ending.reason.as_deref().unwrap_or_default();
            metrics::status::TERMINATED.with_label_values(&[kind, &ending.exit_code.to_string(), reason]).inc();
        }
        let unsynced = book.set(update, now);
        drop(book);
        if unsynced {
            self.shared.wake.notify_one();
        }
    }

    /// The status that was set last, sent or not.
    pub fn get(&self, pod: &PodUid) -> Option<Arc<PodStatus>> {
        self.shared.book().get(pod)
    }

    /// The API has what was set last of this pod, or there is nothing to tell, or nobody.
    pub fn is_told(&self, pod: &PodUid) -> bool {
        self.task.is_none() || self.shared.book().is_told(pod)
    }

    /// Wakes when `is_told` may have become true of a pod.
    pub fn tellings(&self) -> watch::Receiver<()> {
        self.shared.told.subscribe()
    }

    /// The pod is gone from node and API.
    pub fn forget(&self, pod: &PodUid) {
        self.shared.book().forget(pod);
    }

    /// A static pod's status goes to its mirror pod, as the API has it now; None: there is none.
    pub fn mirror(&self, static_pod: &PodUid, mirror: Option<Arc<Pod>>) {
        let now = self.shared.clock.mono();
        let unsynced = self.shared.book().set_mirror(static_pod, mirror, now);
        if unsynced {
            self.shared.wake.notify_one();
        }
    }
}

async fn run(api: ApiServer, shared: Arc<Shared>) {
    let mut requests: JoinSet<(Job, Outcome)> = JoinSet::new();
    loop {
        while requests.len() < CONCURRENCY {
            let Some(job) = shared.book().take_due(shared.clock.mono()) else { break };
            requests.spawn(sync::sync(api.clone(), job));
        }
        let retry_at = shared.book().next_due();
        let answered = tokio::select! {
            () = shared.wake.notified() => None,
            Some(answered) = requests.join_next(), if !requests.is_empty() => Some(answered),
            () = shared.clock.sleep_until(retry_at.unwrap_or_default()), if retry_at.is_some() => None,
        };
        match answered {
            Some(Ok((job, outcome))) => note(&shared, &job, outcome),
            Some(Err(error)) => tracing::error!(%error, "a status request ended abnormally"),
            None => {}
        }
    }
}

fn note(shared: &Shared, job: &Job, outcome: Outcome) {
    let now = shared.clock.mono();
    let told = shared.book().done(job, outcome, now);
    shared.told.send_replace(());
    if let Some(since) = told {
        metrics::status::SYNC_DURATION.observe(now.since(since).as_secs_f64());
    }
}
