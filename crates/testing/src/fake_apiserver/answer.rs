//! Answers, and the parsing of what was asked.

use std::{collections::HashMap, io};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::{Body, Recorded, State};

pub(super) fn json(code: u16, body: &Value) -> Response<Body> {
    let full = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    respond(code, full.boxed_unsync())
}

pub(super) fn respond(code: u16, body: Body) -> Response<Body> {
    let builder = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    builder.body(body).expect("a status code and a fixed header")
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    json(code, &status_body(code, reason, message))
}

pub(super) fn status_body(code: u16, reason: &str, message: &str) -> Value {
    let (kind, version) = ("Status", "v1");
    json!({"kind": kind, "apiVersion": version, "status": "Failure", "code": code, "reason": reason, "message": message})
}

pub(super) fn not_found(path: &str) -> Response<Body> {
    status(404, "NotFound", &format!("{path} not found"))
}

/// Percent escapes resolved.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        let code = escape.and_then(|e| std::str::from_utf8(e).ok()).and_then(|e| u8::from_str_radix(e, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (unescaped(key), unescaped(&value.replace('+', " ")))).collect()
}

impl State {
    pub(super) fn refusal(&mut self, request: &Recorded) -> Option<Response<Body>> {
        let fits = |r: &&mut super::Refusal| {
            (r.method.is_empty() || r.method == request.method)
                && request.path.starts_with(&r.path_prefix)
                && r.left != Some(0)
        };
        let refusal = self.refusals.iter_mut().find(fits)?;
        refusal.left = refusal.left.map(|left| left - 1);
        Some(status(refusal.code, &refusal.reason, &refusal.message))
    }
}

/// A body that stays open: lines are sent into it until its sender is dropped.
pub(super) fn streaming() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let lines = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let frames = tokio_stream::StreamExt::map(lines, |line| Ok::<_, io::Error>(hyper::body::Frame::data(line)));
    (sender, http_body_util::StreamBody::new(frames).boxed_unsync())
}
