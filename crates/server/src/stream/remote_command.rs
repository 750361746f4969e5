//! Remote commands (exec, attach) as the runtime's streaming server speaks them: version 4, one SPDY stream each for
//! input, output, errors, the terminal's size and the final status.

use std::time::Duration;

use apiserver::with_causes;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    parameters::StreamParameters,
    passthrough,
    runtime_url::RuntimeUrl,
    session::{Session, Stream},
};

pub const V4: &str = "v4.channel.k8s.io";
/// How long the runtime may take to accept the streams, as upstream has it.
pub const STREAM_CREATION: Duration = Duration::from_secs(30);
pub const NOT_ACCEPTED: &str = "the runtime did not accept the streams";
pub const MOST_STATUS_BYTES: usize = 64 * 1024;

/// What asks for SPDY with that protocol inside.
pub fn spdy(protocol: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
        (header::HeaderName::from_static("x-stream-protocol-version"), HeaderValue::from_static(protocol)),
    ])
}

/// Upgraded to SPDY/3.1 with that protocol inside; `Err` is for the client.
pub async fn connect(
    url: &RuntimeUrl,
    request: Request<Empty<Bytes>>,
    protocol: &str,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, String> {
    let answer = url.ask(request).await.map_err(|error| error.chain())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let chosen = answer.headers().get("x-stream-protocol-version").and_then(|value| value.to_str().ok());
    if chosen != Some(protocol) {
        return Err(format!("the runtime chose the stream protocol {chosen:?} instead of {protocol}"));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| with_causes(&error))?;
    Ok(TokioIo::new(upgraded))
}

async fn refusal(answer: http::Response<Incoming>) -> String {
    let status = answer.status();
    let reply = match passthrough::relay_refusal(answer).await.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => error.to_string(),
    };
    format!("unable to upgrade connection: {} {}", status.as_u16(), reply.trim_end())
}

/// The streams of remote command version 4, each None where it was not wanted.
pub struct Streams {
    pub error: Stream,
    pub stdin: Option<Stream>,
    pub stdout: Option<Stream>,
    pub stderr: Option<Stream>,
    pub resize: Option<Stream>,
}

impl Streams {
    /// False where the runtime refused one, or did not answer in time.
    pub async fn accepted(&mut self) -> bool {
        let Self { error, stdin, stdout, stderr, resize } = self;
        all_accepted(std::iter::once(error).chain([stdin, stdout, stderr, resize].into_iter().flatten())).await
    }
}

pub async fn all_accepted<'a>(streams: impl Iterator<Item = &'a mut Stream>) -> bool {
    let all = async {
        for stream in streams {
            if !stream.accepted().await {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(STREAM_CREATION, all).await.unwrap_or(false)
}

pub async fn open<R>(runtime: R, wanted: StreamParameters) -> std::io::Result<(Session<R>, Streams)>
where
    R: AsyncRead + AsyncWrite + Send + 'static,
{
    let kinds = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty),
    ];
    let headers = kinds.iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| [("streamtype", *kind)]);
    let headers: Vec<_> = headers.collect();
    let headers: Vec<&[(&str, &str)]> = headers.iter().map(|list| &list[..]).collect();
    let (session, opened) = Session::open(runtime, &headers).await?;
    let mut opened = opened.into_iter();
    let mut next = |wanted: bool| if wanted { opened.next() } else { None };
    let error = next(true).ok_or_else(|| std::io::Error::other("no error stream"))?;
    let streams = Streams {
        error,
        stdin: next(wanted.stdin),
        stdout: next(wanted.stdout),
        stderr: next(wanted.stderr),
        resize: next(wanted.tty),
    };
    Ok((session, streams))
}

/// To the stream's end; what is beyond `most` bytes is read, but not kept.
pub async fn collect(mut stream: Stream, most: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = stream.data.recv().await {
        let room = most - all.len();
        all.extend_from_slice(&data[..data.len().min(room)]);
    }
    all
}
