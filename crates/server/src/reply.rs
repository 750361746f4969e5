//! Replies in the few forms the kubelet API uses.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type Reply = Response<Body>;

pub const TEXT: &str = "text/plain; charset=utf-8";
pub const JSON: &str = "application/json";
/// The Prometheus text format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// In the extensions of a reply that is written for as long as its client reads.
#[derive(Clone, Copy, Debug)]
pub struct Streamed;

pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// With something that is given back when the body has been sent, or is not wanted any more.
pub fn holding(inner: Body, held: impl Send + Unpin + 'static) -> Body {
    Holding { inner, _held: held }.boxed_unsync()
}

struct Holding<T> {
    inner: Body,
    _held: T,
}

impl<T: Unpin> hyper::body::Body for Holding<T> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of that type. `nosniff`, since log lines and error texts hold what a container wrote.
pub fn typed(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(content));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

pub fn text(status: StatusCode, message: impl Into<Bytes>) -> Reply {
    typed(status, TEXT, message)
}

/// Lines of a log, or of several.
pub fn log(body: Body) -> Reply {
    let mut reply = Response::new(body);
    reply.extensions_mut().insert(Streamed);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

pub fn json<T: Serialize>(value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(content) => typed(StatusCode::OK, JSON, content),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub fn not_found() -> Reply {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// RFC 9110: a 405 names what is allowed.
pub fn method_not_allowed(allowed: &[&str]) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    if let Ok(list) = HeaderValue::from_str(&allowed.join(", ")) {
        reply.headers_mut().insert(header::ALLOW, list);
    }
    reply
}

pub fn too_many_requests() -> Reply {
    let mut reply = text(StatusCode::TOO_MANY_REQUESTS, "too many requests in flight, try again later");
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_a_body_holds_is_free_once_it_was_read() {
        let held = Arc::new(());
        let mut body = holding(full("x"), held.clone());
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(1));
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
