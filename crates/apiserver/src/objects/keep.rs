//! One object kept up to date: read it, then watch it.
//!
//! Reads: one object by name. Writes: its slot; a note of each change after the first read.
//! Wakes on: watch events, the end of the watch, a reload of the client.
//!
//! The read goes to the store itself, so that a pod gets what its author wrote before it. The watch then starts at
//! "whatever the server has at hand", which needs no list: it tells the object if it is there, and all that follows.
//! Only when it stays silent (the object may be gone since the read) the object is read once more.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::{ObjectRef, cache::Slot};
use crate::{
    ApiError, ApiServer,
    backoff::{Backoff, random_fraction},
    budget::Budget,
    follow::WatchLine,
    reachability::with_causes,
    request::{Call, path},
    rows::{Row, version_number},
};

const WATCH_LEAST: Duration = Duration::from_secs(300);
const WATCH_OVERTIME: Duration = Duration::from_secs(30);
/// The server answers a watch from its cache at once; this is long enough for a busy one.
const SILENCE: Duration = Duration::from_secs(1);
/// The Node authorizer learns of a new pod a moment after the node does.
const AUTHORIZER_LAG: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(250)];

/// A kind that can be marked immutable.
pub(super) trait Kept: Row + Sync + Clone {
    fn is_immutable(&self) -> bool;
}

impl Kept for Secret {
    fn is_immutable(&self) -> bool {
        self.immutable.unwrap_or(false)
    }
}

impl Kept for ConfigMap {
    fn is_immutable(&self) -> bool {
        self.immutable.unwrap_or(false)
    }
}

/// Runs until it is dropped, or until the object turns out to be immutable.
pub(super) async fn keep<K: Kept>(
    api: ApiServer,
    object: ObjectRef,
    slot: watch::Sender<Slot<K>>,
    changes: broadcast::Sender<ObjectRef>,
) {
    let mut keeper = Keeper { api, object, slot, changes, seen: 0 };
    let mut backoff = Backoff::watching();
    loop {
        let mut reloads = keeper.api.reloads();
        let started = Instant::now();
        let result = tokio::select! {
            result = keeper.read_then_watch() => result,
            _ = reloads.changed() => Ok(Next::Again),
        };
        match result {
            Ok(Next::Done) => return,
            Ok(Next::Again) => {}
            Err(error) => {
                tracing::debug!(object = %keeper.object, error = %with_causes(&error), "following broke off");
                keeper.failed();
            }
        }
        if started.elapsed() >= WATCH_OVERTIME {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

struct Keeper<K> {
    api: ApiServer,
    object: ObjectRef,
    slot: watch::Sender<Slot<K>>,
    changes: broadcast::Sender<ObjectRef>,
    /// The newest version told so far: a server's cache may lag behind what was read from the store.
    seen: u128,
}

enum Next {
    Done,
    Again,
}

impl<K: Kept> Keeper<K> {
    async fn read_then_watch(&mut self) -> Result<Next, ApiError> {
        if self.read_as_new_pod().await? {
            return Ok(Next::Done);
        }
        self.watch().await
    }

    /// The first read of an object may come too early for the authorizer.
    async fn read_as_new_pod(&mut self) -> Result<bool, ApiError> {
        if matches!(*self.slot.borrow(), Slot::Loading) {
            for wait in AUTHORIZER_LAG {
                match self.read().await {
                    Err(error) if error.is_forbidden() => tokio::time::sleep(wait).await,
                    done => return done,
                }
            }
        }
        self.read().await
    }

    /// Takes what the store has, whatever was known before; says whether it is immutable.
    async fn read(&mut self) -> Result<bool, ApiError> {
        let kind = self.object.kind.resource();
        let path = path::named(&self.object.namespace, kind, &self.object.name);
        let call = Call::get(path, self.object.to_string()).paid_by(Budget::Free);
        match self.api.ask::<K>(call).await {
            Ok(mut row) => {
                row.slim();
                let immutable = row.is_immutable();
                self.seen = version_number(row.version());
                self.publish(Slot::Present(Arc::new(row)));
                Ok(immutable)
            }
            Err(error) if error.is_not_found() => {
                self.seen = 0;
                self.publish(Slot::Missing);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&mut self) -> Result<Next, ApiError> {
        let timeout = WATCH_LEAST.mul_f64(1.0 + random_fraction());
        let path = path::namespaced(&self.object.namespace, self.object.kind.resource());
        let call = Call::watch(path, self.object.to_string())
            .with("fieldSelector", format!("metadata.name={}", self.object.name))
            .with("resourceVersion", "0")
            .with("timeoutSeconds", timeout.as_secs().to_string());
        let started = Instant::now();
        let mut stream = self.api.open_watch(call).await?;
        let mut silent_at = Some(started + SILENCE);
        loop {
            let until = silent_at.unwrap_or(started + timeout + WATCH_OVERTIME);
            match tokio::time::timeout_at(until, stream.next()).await {
                Ok(line) => {
                    let Some(line) = line? else { return Ok(Next::Again) };
                    silent_at = None;
                    if let Some(event) = WatchLine::parse(stream.call(), &line)?
                        && self.take(stream.call(), &event)?
                    {
                        return Ok(Next::Done);
                    }
                }
                Err(_) if silent_at.take().is_some() => {
                    if self.read().await? {
                        return Ok(Next::Done);
                    }
                }
                Err(_) => return Ok(Next::Again),
            }
        }
    }

    /// Handles one event; says whether the object is immutable from now on.
    fn take(&mut self, call: &Call, event: &WatchLine<'_>) -> Result<bool, ApiError> {
        if !matches!(event.kind, "ADDED" | "MODIFIED" | "DELETED") {
            return Ok(false);
        }
        let decoded = serde_json::from_slice::<K>(event.object.get().as_bytes());
        let mut row = decoded.map_err(|e| ApiError::decode(call.operation, &call.object, &e))?;
        let version = version_number(row.version());
        if version <= self.seen {
            return Ok(false);
        }
        self.seen = version;
        if event.kind == "DELETED" {
            self.publish(Slot::Missing);
            return Ok(false);
        }
        row.slim();
        let immutable = row.is_immutable();
        self.publish(Slot::Present(Arc::new(row)));
        Ok(immutable)
    }

    /// Sets the slot; tells of it when it is a change and not the first read.
    fn publish(&self, new: Slot<K>) {
        let mut told = false;
        self.slot.send_if_modified(|old| {
            let differs = differs(old, &new);
            if differs {
                told = !matches!(old, Slot::Loading);
                *old = new;
            }
            differs
        });
        if told {
            // Nobody may be listening.
            let _ = self.changes.send(self.object.clone());
        }
    }

    /// An object that was read before stays as it was: pods go on with the last known contents.
    fn failed(&self) {
        self.slot.send_if_modified(|slot| {
            let never_read = matches!(slot, Slot::Loading | Slot::Failed);
            if never_read {
                *slot = Slot::Failed;
            }
            never_read
        });
    }
}

fn differs<K: Row>(old: &Slot<K>, new: &Slot<K>) -> bool {
    match (old, new) {
        (Slot::Present(old), Slot::Present(new)) => old.uid() != new.uid() || old.version() != new.version(),
        (Slot::Missing, Slot::Missing) => false,
        _ => true,
    }
}
