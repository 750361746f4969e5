//! Task: one `v5.channel.k8s.io` websocket for exec or attach, translated to SPDY toward the runtime.
//!
//! Reads: channels 0 (stdin), 4 (resize) and 255 (end of a channel) from the client; stdout, stderr and the final
//! status from the runtime. Writes: the same the other way, on channels 1, 2 and 3. Wakes on: either end.
//! The websocket is accepted before the runtime is asked, so every later failure goes to channel 3 as a Status.

use std::{pin::pin, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt as _, Stream as Messages, StreamExt as _, future, stream::SplitSink};
use http::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{
    Joint,
    copy::Activity,
    parameters::StreamParameters,
    passthrough,
    remote_command::{self, MOST_STATUS_BYTES, NOT_ACCEPTED, STREAM_CREATION, Streams},
    session::{Sender, Stream},
    websocket,
};
use crate::{dispatch::Call, reply::Reply};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const END_OF_CHANNEL: u8 = 255;

/// How long the client may take to read the end.
const FAREWELL: Duration = Duration::from_secs(5);

pub fn serve(call: Call, joint: Joint, wanted: StreamParameters) -> Reply {
    let accepted = match websocket::accept(&call.head.headers, Some(websocket::V5)) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal,
    };
    let (stop, tasks) = (joint.stop.clone(), joint.tasks.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(call, joint, wanted) => {}
        }
    });
    accepted
}

async fn run(call: Call, joint: Joint, wanted: StreamParameters) {
    let request = spdy_request(&joint, &call);
    let client = match hyper::upgrade::on(Request::from_parts(call.head, call.body)).await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return tracing::info!(%error, "a websocket did not come about"),
    };
    let client = WebSocketStream::from_raw_socket(client, Role::Server, Some(websocket::config())).await;
    let runtime = async {
        let request = request.map_err(|_| "the runtime's streaming URL is malformed".to_owned())?;
        remote_command::connect(&joint.url, request, remote_command::V4).await
    };
    translate(client, runtime, wanted, joint.idle).await;
}

fn spdy_request(joint: &Joint, call: &Call) -> Result<Request<http_body_util::Empty<Bytes>>, Reply> {
    passthrough::request(joint, http::Method::POST, &remote_command::spdy(remote_command::V4), call.peer)
}

/// Joins the two until the command ends, the client goes, or both are idle too long.
pub async fn translate<C, R>(
    client: WebSocketStream<C>,
    runtime: impl Future<Output = Result<R, String>>,
    wanted: StreamParameters,
    idle: Duration,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Send + 'static,
{
    let (sink, mut incoming) = client.split();
    let (outgoing, queue) = mpsc::channel(16);
    let taken = Activity::begin();
    let mut sending = pin!(future::maybe_done(send_all(sink, queue, &taken)));
    let joined = async {
        let first = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        // Tells the client that the connection stands.
        let _ = outgoing.send(on_channel(first, &[])).await;
        match runtime.await {
            Ok(runtime) => exchange(runtime, &mut incoming, &outgoing, wanted, idle).await,
            Err(message) => End::Status(internal_error(&message)),
        }
    };
    let end = {
        let mut joined = pin!(joined);
        tokio::select! {
            end = &mut joined => end,
            () = &mut sending => joined.await,
        }
    };
    // From here on a client that takes nothing is idle.
    taken.note();
    let patience = match &end {
        End::Status(_) if idle.is_zero() => Duration::ZERO,
        End::Status(_) => idle.max(FAREWELL),
        End::Idle | End::ClientGone => FAREWELL,
    };
    tokio::select! {
        () = part(end, sending, incoming, outgoing) => {}
        () = taken.idle_for(patience) => tracing::debug!("a client did not read to the end"),
    }
}

/// How an exchange ended.
enum End {
    Status(Value),
    Idle,
    ClientGone,
}

/// Sends what is left and the end, and waits for the client to close.
async fn part(
    end: End,
    sending: impl Future<Output = ()>,
    mut incoming: impl Messages<Item = Result<Message, Error>> + Unpin,
    outgoing: mpsc::Sender<Message>,
) {
    let (all, sent) = oneshot::channel::<()>();
    let status = match end {
        End::Status(status) => Some(status),
        End::Idle => Some(internal_error("the connection was idle too long")),
        End::ClientGone => None,
    };
    let words = async move {
        if let Some(status) = status {
            let _ = outgoing.send(on_channel(ERROR, status.to_string().as_bytes())).await;
            let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = outgoing.send(Message::Close(Some(normal))).await;
        }
    };
    let writing = async move {
        future::join(sending, words).await;
        drop(all);
    };
    // To close with input unread would reset the connection and lose the status.
    let reading = async {
        let farewell = async {
            let _ = sent.await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = async { while let Some(Ok(_)) = incoming.next().await {} } => {}
            () = farewell => {}
        }
    };
    future::join(writing, reading).await;
}

async fn send_all<C>(
    mut sink: SplitSink<WebSocketStream<C>, Message>,
    mut queue: mpsc::Receiver<Message>,
    taken: &Activity,
) where
    C: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = queue.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
        taken.note();
    }
}

fn on_channel(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}

/// Until the command ends, the client goes, or both are idle too long.
async fn exchange<R>(
    runtime: R,
    incoming: &mut (impl Messages<Item = Result<Message, Error>> + Unpin),
    outgoing: &mpsc::Sender<Message>,
    wanted: StreamParameters,
    idle: Duration,
) -> End
where
    R: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, mut streams) =
        match tokio::time::timeout(STREAM_CREATION, remote_command::open(runtime, wanted)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return End::Status(internal_error(&error.to_string())),
            Err(_) => return End::Status(internal_error(NOT_ACCEPTED)),
        };
    let sender = session.sender();
    let activity = Activity::begin();
    let work = async {
        if !streams.accepted().await {
            return End::Status(internal_error(NOT_ACCEPTED));
        }
        let input = Input {
            sender,
            stdin: streams.stdin.as_ref().map(|stream| stream.id),
            resize: streams.resize.as_ref().map(|stream| stream.id),
            activity: &activity,
        };
        tokio::select! {
            status = outputs(streams, outgoing, &activity) => status.map_or(End::ClientGone, End::Status),
            () = input.forward(incoming) => End::ClientGone,
        }
    };
    let session = async {
        if let Err(error) = session.run().await {
            tracing::debug!(%error, "a connection to the runtime's streaming server ended");
        }
        // What it had received is still being sent on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = work => end,
        () = session => End::ClientGone,
        () = activity.idle_for(idle) => End::Idle,
    }
}

/// stdout and stderr to their ends, then the status. None when the client takes nothing any more.
async fn outputs(streams: Streams, outgoing: &mpsc::Sender<Message>, activity: &Activity) -> Option<Value> {
    let Streams { error, stdout, stderr, stdin, resize } = streams;
    let (out, err, status, ..) = tokio::join!(
        pump(STDOUT, stdout, outgoing, activity),
        pump(STDERR, stderr, outgoing, activity),
        remote_command::collect(error, MOST_STATUS_BYTES),
        discard(stdin),
        discard(resize),
    );
    (out && err).then(|| final_status(&status))
}

/// False when the client takes nothing any more.
async fn pump(channel: u8, stream: Option<Stream>, outgoing: &mpsc::Sender<Message>, activity: &Activity) -> bool {
    let Some(mut stream) = stream else { return true };
    while let Some(data) = stream.data.recv().await {
        activity.note();
        if outgoing.send(on_channel(channel, &data)).await.is_err() {
            return false;
        }
    }
    true
}

/// Nothing comes on these; were it not read, it would hold up the others.
async fn discard(stream: Option<Stream>) {
    if let Some(mut stream) = stream {
        while stream.data.recv().await.is_some() {}
    }
}

struct Input<'a> {
    sender: Sender,
    stdin: Option<u32>,
    resize: Option<u32>,
    activity: &'a Activity,
}

impl Input<'_> {
    /// Until the client closes or breaks the protocol.
    async fn forward(mut self, incoming: &mut (impl Messages<Item = Result<Message, Error>> + Unpin)) {
        while let Some(Ok(message)) = incoming.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            self.activity.note();
            if !self.one(&data).await {
                return;
            }
        }
    }

    /// False when the client breaks the protocol. That the runtime takes nothing more is no reason to stop: its output
    /// and the status are still on their way.
    async fn one(&mut self, frame: &Bytes) -> bool {
        let Some((channel, data)) = frame.split_first() else { return true };
        match *channel {
            STDIN => {
                if let Some(stdin) = self.stdin
                    && !self.sender.data(stdin, frame.slice(1..)).await
                {
                    self.stdin = None;
                }
            }
            // One JSON document per message, as the runtime's decoder expects them one after the other.
            RESIZE => {
                if let Some(resize) = self.resize
                    && !self.sender.data(resize, [data, b"\n"].concat().into()).await
                {
                    self.resize = None;
                }
            }
            END_OF_CHANNEL => match data {
                [STDIN] => {
                    if let Some(stdin) = self.stdin.take() {
                        self.sender.finish(stdin).await;
                    }
                }
                [channel] => return *channel <= RESIZE,
                _ => return false,
            },
            _ => {}
        }
        true
    }
}

/// What the client gets for the runtime's last word, which is a Status already.
fn final_status(said: &[u8]) -> Value {
    if said.is_empty() {
        return internal_error("the runtime ended the connection without saying how the command ended");
    }
    match serde_json::from_slice::<Value>(said) {
        Ok(status) if status["status"] == "Success" => json!({ "metadata": {}, "status": "Success" }),
        Ok(status) if status["status"] == "Failure" => status,
        _ => internal_error(&format!("error stream protocol error in {:?}", String::from_utf8_lossy(said))),
    }
}

fn internal_error(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}

#[cfg(test)]
mod tests;
