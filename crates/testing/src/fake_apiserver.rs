//! An API server in this process, with real state: lists, watches, versions, and the ways in which they fail.
//!
//! It is a tower service; `apiserver::ApiServer::from_service(fake.clone(), ..)` talks to it without a socket.

mod answer;
mod objects;
mod watches;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use serde_json::Value;

use objects::{collection_of, path_of};
use watches::{Happening, Watch};

/// Cheap to clone; all clones are one server.
#[derive(Clone, Default)]
pub struct FakeApiserver {
    state: Arc<Mutex<State>>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    pub query: HashMap<String, String>,
    pub content_type: String,
    pub body: Value,
}

impl Recorded {
    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

#[derive(Default)]
struct State {
    version: u64,
    /// By path: `/api/v1/namespaces/default/pods/web`.
    objects: BTreeMap<String, Value>,
    history: Vec<Happening>,
    /// Versions below it are compacted away.
    oldest: u64,
    watches: Vec<Watch>,
    requests: Vec<Recorded>,
    refusals: Vec<Refusal>,
    replies: HashMap<(String, String), Value>,
    down: bool,
    made: u64,
}

struct Refusal {
    method: String,
    path_prefix: String,
    code: u16,
    reason: String,
    message: String,
    left: Option<u32>,
}

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

impl FakeApiserver {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Creates or replaces an object that names its apiVersion, kind and metadata; returns it as stored.
    pub fn put(&self, object: Value) -> Value {
        let path = path_of(&object);
        self.state().store(&path, object)
    }

    /// Takes an object away as its last finalizer would.
    pub fn remove(&self, path: &str) -> Option<Value> {
        self.state().remove(path)
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// The objects below a collection's path.
    pub fn objects(&self, collection: &str) -> Vec<Value> {
        let state = self.state();
        state.objects.iter().filter(|(path, _)| collection_of(path, collection)).map(|(_, o)| o.clone()).collect()
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.state().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    pub fn open_watches(&self) -> usize {
        let mut state = self.state();
        state.watches.retain(Watch::is_open);
        state.watches.len()
    }

    /// Ends all watches without a word, as a dying connection does.
    pub fn break_watches(&self) {
        self.state().watches.clear();
    }

    /// Sends "too old" over all watches and forgets the past.
    pub fn compact(&self) {
        let mut state = self.state();
        state.oldest = state.version;
        state.history.clear();
        for watch in std::mem::take(&mut state.watches) {
            watch.send(&watches::expired());
        }
    }

    /// Nobody answers until `up`; open watches end.
    pub fn down(&self) {
        let mut state = self.state();
        state.down = true;
        state.watches.clear();
    }

    pub fn up(&self) {
        self.state().down = false;
    }

    /// What `restore` brings back.
    pub fn backup(&self) -> Backup {
        let state = self.state();
        Backup { version: state.version, objects: state.objects.clone() }
    }

    /// The store of an earlier day: versions begin again from there, and watches end as the server restarts.
    pub fn restore(&self, backup: Backup) {
        let mut state = self.state();
        state.version = backup.version;
        state.objects = backup.objects;
        state.history.clear();
        state.oldest = 0;
        state.watches.clear();
    }

    /// Refuses what has this method ("" for any) and path prefix, `times` or (None) for ever.
    pub fn refuse(&self, method: &str, path_prefix: &str, code: u16, reason: &str, times: Option<u32>) {
        let (method, path_prefix, reason) = (method.to_owned(), path_prefix.to_owned(), reason.to_owned());
        let message = "refused by the test".to_owned();
        self.state().refusals.push(Refusal { method, path_prefix, code, reason, message, left: times });
    }

    /// As the Node authorizer refuses a node what no pod of the node refers to, as far as it knows.
    pub fn refuse_as_unrelated(&self, path_prefix: &str, times: u32) {
        let (method, path_prefix, reason) = (String::new(), path_prefix.to_owned(), "Forbidden".to_owned());
        let message = "no relationship found between node 'node-a' and this object".to_owned();
        self.state().refusals.push(Refusal { method, path_prefix, code: 403, reason, message, left: Some(times) });
    }

    pub fn allow_all(&self) {
        self.state().refusals.clear();
    }

    /// A fixed answer: token requests, reviews.
    pub fn reply(&self, method: &str, path: &str, body: Value) {
        self.state().replies.insert((method.to_owned(), path.to_owned()), body);
    }
}

/// A store's contents at one time.
#[derive(Clone, Debug)]
pub struct Backup {
    version: u64,
    objects: BTreeMap<String, Value>,
}

impl<B> tower::Service<Request<B>> for FakeApiserver
where
    B: BodyExt + Send + 'static,
    B::Data: Send,
    B::Error: std::fmt::Debug,
{
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map_err(|e| io::Error::other(format!("{e:?}")))?.to_bytes();
            let content_type = parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let recorded = Recorded {
                method: parts.method.to_string(),
                path: answer::unescaped(parts.uri.path()),
                query: answer::query(parts.uri.query().unwrap_or_default()),
                content_type: content_type.unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            };
            fake.serve(parts.method, recorded)
        })
    }
}

impl FakeApiserver {
    fn serve(&self, method: Method, request: Recorded) -> io::Result<Response<Body>> {
        let mut state = self.state();
        if state.down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.requests.push(request.clone());
        if let Some(refusal) = state.refusal(&request) {
            return Ok(refusal);
        }
        if let Some(reply) = state.replies.get(&(request.method.clone(), request.path.clone())) {
            return Ok(answer::json(200, reply));
        }
        Ok(match method {
            Method::GET if request.is_watch() => state.watch(&request),
            Method::GET => state.read(&request),
            Method::POST => state.create(&request),
            Method::PUT | Method::PATCH => state.change(&request),
            Method::DELETE => state.delete(&request),
            _ => answer::status(405, "MethodNotAllowed", "no such method"),
        })
    }
}
