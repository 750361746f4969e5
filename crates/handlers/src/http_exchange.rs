//! One request, one connection, one answer.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    MAX_OUTPUT,
    http::{HttpError, HttpRequest},
    spelling, tcp, tls,
};

pub(crate) struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    /// At most [`MAX_OUTPUT`] bytes.
    pub body: String,
}

/// What went wrong, before it is known under which URL to report it.
pub(crate) enum Fault {
    Failed(String),
    PlainHttp,
    Body(String),
}

impl Fault {
    pub fn into_error(self, url: String) -> HttpError {
        match self {
            Fault::Failed(text) => HttpError::NoAnswer { url, text },
            Fault::PlainHttp => HttpError::PlainHttp { url },
            Fault::Body(text) => HttpError::Body(text),
        }
    }
}

pub(crate) async fn exchange(request: &HttpRequest) -> Result<Answer, Fault> {
    let target = &request.target;
    let dialed = tcp::connect(&target.host, target.port).await;
    let stream = dialed.map_err(|e| Fault::Failed(tcp::dial_error(&target.authority(), &e)))?;
    if !target.https {
        return converse(request, stream).await;
    }
    match tls::connect(&target.host, stream).await {
        Ok(stream) => converse(request, stream).await,
        Err(e) if tls::is_plain_http(&e) => Err(Fault::PlainHttp),
        Err(e) => Err(Fault::Failed(format!("tls: {}", spelling::io_error(&e)))),
    }
}

async fn converse<S>(request: &HttpRequest, stream: S) -> Result<Answer, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // Go's servers do not care, but some of others match header names by case.
    builder.title_case_headers(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let message = message(request)?;
    let talk = async move {
        let response = sender.send_request(message).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let location = head.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: head.status, location, body: read(body).await? })
    };
    // The connection is driven here rather than in a task of its own, so that it ends with this future.
    tokio::pin!(talk);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        _ = &mut connection => talk.await,
    }
}

fn message(request: &HttpRequest) -> Result<Request<Empty<Bytes>>, Fault> {
    let built = Request::builder().method(Method::GET).uri(&request.target.path).body(Empty::new());
    let mut message = built.map_err(|e| Fault::Failed(e.to_string()))?;
    let host = match &request.host_header {
        Some(host) => host.clone(),
        None => request.target.authority().parse().map_err(|_| Fault::Failed("invalid Host header".to_owned()))?,
    };
    *message.headers_mut() = request.headers.clone();
    message.headers_mut().insert(header::HOST, host);
    Ok(message)
}

async fn read(mut body: Incoming) -> Result<String, Fault> {
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Fault::Body(hyper_text(&e)))?;
        if let Ok(data) = frame.into_data() {
            out.extend_from_slice(&data);
        }
        if out.len() >= MAX_OUTPUT {
            out.truncate(MAX_OUTPUT);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn failed(e: hyper::Error) -> Fault {
    Fault::Failed(hyper_text(&e))
}

fn hyper_text(e: &hyper::Error) -> String {
    if e.is_incomplete_message() || e.is_canceled() {
        return "EOF".to_owned();
    }
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    match source {
        Some(io) => format!("read: {}", spelling::io_error(io)),
        None => format!("net/http: HTTP/1.x transport connection broken: {e}"),
    }
}
