//! Watches: what happened since, and what happens.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Body, Recorded, State,
    answer::{respond, status_body, streaming},
    objects::{collection_of, selected},
};

/// One change of the store.
pub(super) struct Happening {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) path: String,
    pub(super) object: Value,
}

/// One open watch; dropping it ends the stream.
pub(super) struct Watch {
    collection: String,
    selector: Option<String>,
    lines: UnboundedSender<Bytes>,
}

impl Watch {
    pub(super) fn is_open(&self) -> bool {
        !self.lines.is_closed()
    }

    pub(super) fn send(&self, event: &Value) {
        let _ = self.lines.send(Bytes::from(format!("{event}\n")));
    }

    fn tell(&self, happening: &Happening) {
        let wanted =
            collection_of(&happening.path, &self.collection) && selected(&happening.object, self.selector.as_ref());
        if wanted {
            self.send(&json!({"type": happening.kind, "object": happening.object}));
        }
    }
}

pub(super) fn expired() -> Value {
    json!({"type": "ERROR", "object": status_body(410, "Expired", "too old resource version")})
}

impl State {
    pub(super) fn watch(&mut self, request: &Recorded) -> Response<Body> {
        let (lines, body) = streaming();
        let selector = request.query.get("fieldSelector").cloned();
        let watch = Watch { collection: request.path.clone(), selector, lines };
        let from = request.query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        if from == 0 {
            for (path, object) in &self.objects {
                let now = Happening { version: 0, kind: "ADDED", path: path.clone(), object: object.clone() };
                watch.tell(&now);
            }
        } else if from < self.oldest {
            watch.send(&expired());
            return respond(200, body);
        }
        self.history.iter().filter(|h| from != 0 && h.version > from).for_each(|h| watch.tell(h));
        self.watches.push(watch);
        respond(200, body)
    }

    /// A real server's watches stay silent about versions below the one they began at; tests restore through
    /// `restore`, which ends them.
    pub(super) fn tell(&mut self, happening: Happening) {
        self.watches.retain(Watch::is_open);
        self.watches.iter().for_each(|watch| watch.tell(&happening));
        self.history.push(happening);
    }
}
