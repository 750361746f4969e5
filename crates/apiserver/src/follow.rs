//! List and watch: one collection followed until its reader goes away.
//!
//! Reads: lists and watches of one path and field selector. Writes: changes to one channel.
//! Wakes on: watch events, the watch's end, a reload of the client, the reader's end.
//!
//! Whatever happens, the reader ends with the true set: every end of a watch but the one that we asked for by its
//! timeout leads to a new list, and what vanished meanwhile is told as gone. That covers a server that restarts on
//! an older store, where resource versions begin again and a resumed watch would stay silent.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    ApiError, ApiServer,
    backoff::{Backoff, random_fraction},
    body::StatusBody,
    request::Call,
    rows::{Row, version_number},
};

const PAGE: usize = 250;
/// A watch lasts a random time between these two, as client-go's.
const WATCH_LEAST: Duration = Duration::from_secs(300);
/// Beyond its timeout a watch that has not ended is dead.
const WATCH_OVERTIME: Duration = Duration::from_secs(30);
/// A watch that lasted this long was no failed attempt.
const WATCH_LASTED: Duration = Duration::from_secs(30);

/// What to follow.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    pub(crate) path: String,
    pub(crate) field_selector: Option<String>,
    /// For errors and logs: `pods of node-a`.
    pub(crate) object: String,
}

/// An object that is no longer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// One change of the collection. The first one is always `Synced`, and it comes once.
#[derive(Debug)]
pub(crate) enum Change<K> {
    Synced(Vec<K>),
    /// A channel makes room for many changes at once, and an object is large.
    Applied(Box<K>),
    Deleted(Gone),
}

/// Runs until the receiver of `out` is dropped.
pub(crate) async fn follow<K: Row>(api: ApiServer, collection: Collection, out: mpsc::Sender<Change<K>>) {
    let closed = out.clone();
    let mut follower = Follower { api, collection, known: HashMap::new(), synced: false, out };
    tokio::select! {
        () = closed.closed() => {}
        () = follower.run() => {}
    }
}

struct Follower<K> {
    api: ApiServer,
    collection: Collection,
    /// By UID: what the reader believes to be there.
    known: HashMap<String, Known>,
    synced: bool,
    out: mpsc::Sender<Change<K>>,
}

struct Known {
    namespace: String,
    name: String,
    version: String,
}

/// Why a watch is over.
enum Ended {
    /// At its own timeout: go on where it stopped.
    InTime,
    /// The version is too old or too new for the server: list at once.
    Stale,
    /// Anything else: list after a wait.
    Broken(Option<ApiError>),
    /// New credentials: list over the new connections.
    Reloaded,
}

impl<K: Row> Follower<K> {
    async fn run(&mut self) {
        let mut backoff = Backoff::watching();
        loop {
            let started = Instant::now();
            match self.list_then_watch().await {
                Err(ReaderGone) => return,
                Ok(Some(error)) => {
                    let text = crate::reachability::with_causes(&error);
                    tracing::warn!(collection = %self.collection.object, error = %text, "following broke off");
                }
                Ok(None) => {}
            }
            if started.elapsed() >= WATCH_LASTED {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Returns when only a new list helps.
    async fn list_then_watch(&mut self) -> Result<Option<ApiError>, ReaderGone> {
        let mut reloads = self.api.reloads();
        let mut version = match self.list().await {
            Ok((items, version)) => {
                self.replace(items).await?;
                version
            }
            Err(error) => return Ok(Some(error)),
        };
        loop {
            let ended = tokio::select! {
                ended = self.watch(&mut version) => ended?,
                _ = reloads.changed() => Ended::Reloaded,
            };
            match ended {
                Ended::InTime => match self.store_is_older_than(&version).await {
                    Ok(false) => {}
                    Ok(true) => return Ok(None),
                    Err(error) => return Ok(Some(error)),
                },
                Ended::Stale | Ended::Reloaded => return Ok(None),
                Ended::Broken(error) => return Ok(error),
            }
        }
    }

    /// The whole collection and the version it is of. Asks for the newest state, never for a cached one.
    async fn list(&self) -> Result<(Vec<K>, String), ApiError> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = self.list_call(PAGE).with_some("continue", token.as_deref());
            let body = self.api.ask_raw(&call).await?;
            let page: Page<'_> =
                serde_json::from_slice(&body).map_err(|e| ApiError::decode(call.operation, &call.object, &e))?;
            items.extend(page.items.iter().filter_map(|raw| self.decode(&call, raw)));
            match page.metadata.next_token {
                Some(next) if !next.is_empty() => token = Some(next),
                _ => return Ok((items, page.metadata.resource_version)),
            }
        }
    }

    fn list_call(&self, limit: usize) -> Call {
        Call::list(self.collection.path.clone(), self.collection.object.clone())
            .with_some("fieldSelector", self.collection.field_selector.as_deref())
            .with("limit", limit.to_string())
    }

    /// A restore from a backup between two watches would else go unseen.
    async fn store_is_older_than(&self, version: &str) -> Result<bool, ApiError> {
        let call = self.list_call(1);
        let body = self.api.ask_raw(&call).await?;
        let page: Page<'_> =
            serde_json::from_slice(&body).map_err(|e| ApiError::decode(call.operation, &call.object, &e))?;
        Ok(version_number(&page.metadata.resource_version) < version_number(version))
    }

    /// One object that can't be read must not hide the others.
    fn decode(&self, call: &Call, raw: &RawValue) -> Option<K> {
        // From bytes, as answers are read: a second reader of all types would cost 250 KiB of code.
        match serde_json::from_slice::<K>(raw.get().as_bytes()) {
            Ok(mut row) => {
                row.slim();
                Some(row)
            }
            Err(error) => {
                let name = serde_json::from_str::<NameOnly>(raw.get()).unwrap_or_default().metadata.name;
                let error = ApiError::decode(call.operation, &format!("{} {name}", call.object), &error);
                tracing::error!(%error, "object left out");
                None
            }
        }
    }

    /// Makes the reader's set equal to `items`: first what is gone, then what is new or changed.
    async fn replace(&mut self, items: Vec<K>) -> Result<(), ReaderGone> {
        let before = std::mem::take(&mut self.known);
        self.known = items.iter().map(|item| (item.uid().to_owned(), Known::of(item))).collect();
        if !self.synced {
            self.synced = true;
            return self.send(Change::Synced(items)).await;
        }
        let vanished: Vec<Gone> = before
            .iter()
            .filter(|(uid, _)| !self.known.contains_key(*uid))
            .map(|(uid, known)| known.gone(uid))
            .collect();
        for gone in vanished {
            self.send(Change::Deleted(gone)).await?;
        }
        for item in items {
            if before.get(item.uid()).is_none_or(|known| known.version != item.version()) {
                self.send(Change::Applied(Box::new(item))).await?;
            }
        }
        Ok(())
    }

    async fn watch(&mut self, version: &mut String) -> Result<Ended, ReaderGone> {
        let timeout = WATCH_LEAST.mul_f64(1.0 + random_fraction());
        let call = Call::watch(self.collection.path.clone(), self.collection.object.clone())
            .with_some("fieldSelector", self.collection.field_selector.as_deref())
            .with("resourceVersion", version.clone())
            .with("allowWatchBookmarks", "true")
            .with("timeoutSeconds", timeout.as_secs().to_string());
        let started = Instant::now();
        let mut stream = match self.api.open_watch(call).await {
            Ok(stream) => stream,
            Err(error) if is_stale(&error) => return Ok(Ended::Stale),
            Err(error) => return Ok(Ended::Broken(Some(error))),
        };
        loop {
            let line = match tokio::time::timeout_at(started + timeout + WATCH_OVERTIME, stream.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) if started.elapsed() + Duration::from_secs(2) >= timeout => return Ok(Ended::InTime),
                Ok(Ok(None)) => return Ok(Ended::Broken(None)),
                Ok(Err(error)) => return Ok(Ended::Broken(Some(error))),
                Err(_) => return Ok(Ended::Broken(None)),
            };
            if let Some(ended) = self.take(stream.call(), &line, version).await? {
                return Ok(ended);
            }
        }
    }

    /// Handles one line of the watch; Some when it ends the watch.
    async fn take(&mut self, call: &Call, line: &[u8], version: &mut String) -> Result<Option<Ended>, ReaderGone> {
        let event = match WatchLine::parse(call, line) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(None),
            Err(error) if is_stale(&error) => return Ok(Some(Ended::Stale)),
            Err(error) => return Ok(Some(Ended::Broken(Some(error)))),
        };
        if let Ok(meta) = serde_json::from_str::<VersionOnly>(event.object.get()) {
            *version = meta.metadata.resource_version;
        }
        match event.kind {
            "ADDED" | "MODIFIED" => {
                let Some(row) = self.decode(call, event.object) else { return Ok(None) };
                self.known.insert(row.uid().to_owned(), Known::of(&row));
                self.send(Change::Applied(Box::new(row))).await?;
            }
            "DELETED" => {
                let Some(row) = self.decode(call, event.object) else { return Ok(Some(Ended::Stale)) };
                if let Some(known) = self.known.remove(row.uid()) {
                    self.send(Change::Deleted(known.gone(row.uid()))).await?;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    async fn send(&self, change: Change<K>) -> Result<(), ReaderGone> {
        self.out.send(change).await.map_err(|_| ReaderGone)
    }
}

struct ReaderGone;

fn is_stale(error: &ApiError) -> bool {
    error.is_expired() || error.is_from_the_future()
}

impl Known {
    fn of(row: &impl Row) -> Self {
        Self { namespace: row.namespace().to_owned(), name: row.name().to_owned(), version: row.version().to_owned() }
    }
    fn gone(&self, uid: &str) -> Gone {
        Gone { uid: uid.to_owned(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// One line of a watch with the object still unread.
#[derive(Deserialize)]
pub(crate) struct WatchLine<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
}

impl<'a> WatchLine<'a> {
    /// None for an empty line. An event of type ERROR is the error that it carries.
    pub(crate) fn parse(call: &Call, line: &'a [u8]) -> Result<Option<Self>, ApiError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let wrong = |e| ApiError::decode(call.operation, &call.object, &e);
        let event: Self = serde_json::from_slice(line).map_err(wrong)?;
        if event.kind != "ERROR" {
            return Ok(Some(event));
        }
        let status: StatusBody = serde_json::from_slice(event.object.get().as_bytes()).map_err(wrong)?;
        let (operation, object) = (call.operation, call.object.clone());
        Err(ApiError::Refused { operation, object, refusal: status.refusal(500) })
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct VersionOnly {
    metadata: VersionMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionMeta {
    resource_version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NameOnly {
    metadata: NameMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NameMeta {
    name: String,
}
