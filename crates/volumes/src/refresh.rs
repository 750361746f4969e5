//! The task that keeps files current.
//!
//! Reads: changes of Secrets and ConfigMaps; the registry's times for aging tokens and for retries.
//! Writes: the volumes of the pods concerned, a few pods at a time.
//! Wakes on: a changed object, the earliest time in the registry, a new time in the registry, the end of a refresh.

use std::sync::Arc;

use apiserver::ObjectRef;
use pod::{Mono, PodUid};
use tokio::{
    sync::{
        Semaphore,
        broadcast::{Receiver, error::RecvError},
    },
    task::JoinSet,
};

use crate::{prepare::Which, volumes::Inner};

/// Pods that are refreshed at the same time when an object that many use has changed.
const AT_ONCE: usize = 8;

enum Wake {
    Changed(ObjectRef),
    /// Changes were lost: everybody may be concerned.
    Lagged,
    /// The API client is gone, and with it all changes.
    NoMoreChanges,
    Due,
    Rescheduled,
    Refreshed(Option<PodUid>),
}

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut changes = inner.api.as_ref().map(|api| api.objects.changed());
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    loop {
        let next = inner.registry().next_due();
        let wake = tokio::select! {
            change = next_change(&mut changes) => change,
            () = sleep_until(&inner, next) => Wake::Due,
            () = inner.rescheduled.notified() => Wake::Rescheduled,
            Some(done) = running.join_next() => Wake::Refreshed(done.ok()),
        };
        let pods = match wake {
            Wake::Changed(object) => inner.registry().changed(Some(&object)),
            Wake::Lagged => inner.registry().changed(None),
            Wake::NoMoreChanges => {
                changes = None;
                Vec::new()
            }
            Wake::Due => inner.registry().due(inner.clock.mono()),
            Wake::Rescheduled => Vec::new(),
            Wake::Refreshed(uid) => uid.filter(|uid| inner.registry().refreshed(uid)).into_iter().collect(),
        };
        for uid in pods {
            running.spawn(refresh(inner.clone(), slots.clone(), uid));
        }
    }
}

async fn next_change(changes: &mut Option<Receiver<ObjectRef>>) -> Wake {
    let Some(receiver) = changes else { return std::future::pending().await };
    match receiver.recv().await {
        Ok(object) => Wake::Changed(object),
        Err(RecvError::Lagged(_)) => Wake::Lagged,
        Err(RecvError::Closed) => Wake::NoMoreChanges,
    }
}

async fn sleep_until(inner: &Inner, at: Option<Mono>) {
    match at {
        Some(at) => inner.clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn refresh(inner: Arc<Inner>, slots: Arc<Semaphore>, uid: PodUid) -> PodUid {
    let _slot = slots.acquire_owned().await;
    let pod = inner.registry().pod(&uid);
    if let Some(pod) = pod
        && let Err(error) = inner.update(&pod, Which::Changing, false).await
        && inner.registry().is_open(&uid)
    {
        tracing::warn!(pod = %pod.key, error = apiserver::with_causes(&error), "volumes can't be refreshed; to be tried again");
    }
    uid
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
