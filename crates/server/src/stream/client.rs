//! The runtime's streaming server from a client's side, for a check of the runtime.

use std::time::Duration;

use apiserver::with_causes;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::{
    parameters::StreamParameters,
    remote_command::{self, MOST_STATUS_BYTES, NOT_ACCEPTED, Streams, V4},
    runtime_url::RuntimeUrl,
    session::{Sender, Session},
};

const PORT_FORWARD: &str = "portforward.k8s.io";
/// Of what is kept of an answer.
const MOST_BYTES: usize = 64 * 1024;
/// For each exchange.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The runtime's last word, a `Status` of the API.
    pub status: serde_json::Value,
}

/// Runs what the URL stands for (with all three streams), with that input, to its end.
pub async fn exec(url: &str, input: &'static [u8]) -> Result<Said, String> {
    let wanted = StreamParameters { stdin: true, stdout: true, stderr: true, tty: false };
    exchange(url, wanted, async |mut streams: Streams, sender: Sender| {
        if !streams.accepted().await {
            return Err(NOT_ACCEPTED.to_owned());
        }
        let Streams { error, stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr), .. } = streams else {
            return Err(NOT_ACCEPTED.to_owned());
        };
        sender.data(stdin.id, Bytes::from_static(input)).await;
        sender.finish(stdin.id).await;
        let (stdout, stderr, status) = tokio::join!(
            remote_command::collect(stdout, MOST_BYTES),
            remote_command::collect(stderr, MOST_BYTES),
            remote_command::collect(error, MOST_STATUS_BYTES),
        );
        let status = serde_json::from_slice(&status).map_err(|error| format!("the final status: {error}"))?;
        Ok(Said { stdout, stderr, status })
    })
    .await
}

/// What the container that the URL stands for writes first.
pub async fn attach(url: &str) -> Result<Vec<u8>, String> {
    let wanted = StreamParameters { stdout: true, ..StreamParameters::default() };
    exchange(url, wanted, async |mut streams: Streams, _sender: Sender| {
        if !streams.accepted().await {
            return Err(NOT_ACCEPTED.to_owned());
        }
        let written = match streams.stdout.as_mut() {
            Some(stdout) => stdout.data.recv().await,
            None => None,
        };
        written.map(|data| data.to_vec()).ok_or_else(|| "the stream ended before anything was written".to_owned())
    })
    .await
}

/// Says something to that port of the pod, and returns what is answered until the end.
pub async fn forward(url: &str, port: u16, words: &'static [u8]) -> Result<Vec<u8>, String> {
    let url = RuntimeUrl::parse(url).map_err(|error| error.chain())?;
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let (error, data) = (headers("error"), headers("data"));
    let exchange = async {
        let connection = connect(&url, PORT_FORWARD).await?;
        let (session, streams) =
            Session::open(connection, &[&error, &data]).await.map_err(|error| error.to_string())?;
        let sender = session.sender();
        let talk = async {
            let Ok([mut error, mut data]) = <[_; 2]>::try_from(streams) else {
                return Err(NOT_ACCEPTED.to_owned());
            };
            if !remote_command::all_accepted([&mut error, &mut data].into_iter()).await {
                return Err(NOT_ACCEPTED.to_owned());
            }
            sender.finish(error.id).await;
            // Not finished: runtimes give up on an answer half a second after that.
            sender.data(data.id, Bytes::from_static(words)).await;
            let (answer, error) =
                tokio::join!(remote_command::collect(data, MOST_BYTES), remote_command::collect(error, MOST_BYTES));
            if error.is_empty() { Ok(answer) } else { Err(String::from_utf8_lossy(&error).into_owned()) }
        };
        until_done(talk, session).await
    };
    in_time(exchange).await
}

async fn exchange<T>(
    url: &str,
    wanted: StreamParameters,
    talk: impl AsyncFnOnce(Streams, Sender) -> Result<T, String>,
) -> Result<T, String> {
    let url = RuntimeUrl::parse(url).map_err(|error| error.chain())?;
    let exchange = async {
        let connection = connect(&url, V4).await?;
        let (session, streams) = remote_command::open(connection, wanted).await.map_err(|error| with_causes(&error))?;
        let sender = session.sender();
        until_done(talk(streams, sender), session).await
    };
    in_time(exchange).await
}

async fn connect(url: &RuntimeUrl, protocol: &'static str) -> Result<TokioIo<Upgraded>, String> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.path_and_query.parse().map_err(|_| "the URL's path is malformed".to_owned())?;
    *request.headers_mut() = remote_command::spdy(protocol);
    let host = HeaderValue::from_str(&url.address).unwrap_or(HeaderValue::from_static("localhost"));
    request.headers_mut().insert(header::HOST, host);
    remote_command::connect(url, request, protocol).await
}

/// The end of the connection ends the streams, and so the talk.
async fn until_done<T>(
    talk: impl Future<Output = Result<T, String>>,
    session: Session<TokioIo<Upgraded>>,
) -> Result<T, String> {
    let connection = async {
        if let Err(error) = session.run().await {
            tracing::debug!(%error, "a connection to the runtime's streaming server ended");
        }
        std::future::pending().await
    };
    tokio::select! {
        result = talk => result,
        result = connection => result,
    }
}

async fn in_time<T>(exchange: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| format!("no end within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, exchange).await.map_err(late)?
}
