//! Task: a SPDY connection to the runtime's streaming server, from the client's side.
//!
//! Reads: frames. Writes: each stream's data to its receiver. Wakes on: the connection. A receiver that is not read
//! holds up the others, as in the servers' own library: the consumer drains all of them.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};

use super::spdy::{Frame, HeaderBlocks, MOST_DATA};

/// One stream that we opened.
pub struct Stream {
    pub id: u32,
    /// Ends with the stream or the connection.
    pub data: mpsc::Receiver<Bytes>,
    accepted: oneshot::Receiver<()>,
}

impl Stream {
    /// False when the server refused it. Data sent before would be thrown away by the server.
    pub async fn accepted(&mut self) -> bool {
        (&mut self.accepted).await.is_ok()
    }
}

/// The sending side; cheap to clone.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<Frame>);

impl Sender {
    /// False once the connection is gone.
    pub async fn data(&self, stream: u32, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(MOST_DATA));
            if self.0.send(Frame::Data { stream, last: false, data: part }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// No more data will come on that stream.
    pub async fn finish(&self, stream: u32) -> bool {
        self.0.send(Frame::Data { stream, last: true, data: Bytes::new() }).await.is_ok()
    }
}

struct Inbound {
    accepted: Option<oneshot::Sender<()>>,
    data: mpsc::Sender<Bytes>,
}

/// A connection whose streams are all opened at its beginning.
pub struct Session<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    streams: HashMap<u32, Inbound>,
    outbox: mpsc::Receiver<Frame>,
    sender: Sender,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Session<S> {
    /// Opens one stream per header list, in that order.
    pub async fn open(connection: S, headers: &[&[(&str, &str)]]) -> std::io::Result<(Self, Vec<Stream>)> {
        let (reader, mut writer) = tokio::io::split(connection);
        let mut blocks = HeaderBlocks::default();
        let mut wire = BytesMut::new();
        let (mut inbound, mut streams) = (HashMap::new(), Vec::new());
        for (headers, id) in headers.iter().zip((1..).step_by(2)) {
            Frame::SynStream { stream: id, last: false, block: blocks.write(headers) }.encode(&mut wire);
            let (accept, accepted) = oneshot::channel();
            let (sender, data) = mpsc::channel(16);
            inbound.insert(id, Inbound { accepted: Some(accept), data: sender });
            streams.push(Stream { id, data, accepted });
        }
        writer.write_all(&wire).await?;
        writer.flush().await?;
        let (outgoing, outbox) = mpsc::channel(16);
        Ok((Self { reader, writer, streams: inbound, outbox, sender: Sender(outgoing) }, streams))
    }

    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Until the connection ends; then every stream ends.
    pub async fn run(self) -> std::io::Result<()> {
        let Self { mut reader, writer, mut streams, outbox, sender } = self;
        // Replies to pings must not wait for a place behind data, nor keep reading from going on.
        let (pongs, ping) = mpsc::channel(8);
        // Only the users' senders keep the outbox open.
        drop(sender);
        let reading = async move {
            while let Some(frame) = Frame::read(&mut reader).await? {
                if let Frame::Ping(id) = &frame {
                    // An even id is the server's own; an odd one would answer ours, of which there are none.
                    if id % 2 == 0 {
                        let _ = pongs.try_send(frame);
                    }
                    continue;
                }
                if !deliver(&mut streams, frame).await {
                    return Ok(());
                }
            }
            Ok(())
        };
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            ended = &mut reading => ended,
            Err(error) = write(writer, outbox, ping) => {
                // A server whose command has ended takes nothing more, but what it said last may still be unread.
                tracing::debug!(%error, "the runtime's streaming server takes nothing more");
                reading.await
            }
        }
    }
}

/// False at the end of the connection.
async fn deliver(streams: &mut HashMap<u32, Inbound>, frame: Frame) -> bool {
    match frame {
        Frame::SynReply { stream, last } => {
            let accepted = streams.get_mut(&stream).and_then(|inbound| inbound.accepted.take());
            accepted.map(|accepted| accepted.send(()));
            if last {
                streams.remove(&stream);
            }
        }
        Frame::Data { stream, last, data } => {
            if let Some(inbound) = streams.get(&stream).filter(|_| !data.is_empty()) {
                // Gone: its consumer wants no more; the rest of the connection goes on.
                let _ = inbound.data.send(data).await;
            }
            if last {
                streams.remove(&stream);
            }
        }
        Frame::Headers { stream, last: true } | Frame::Reset { stream, .. } => {
            streams.remove(&stream);
        }
        Frame::GoAway => return false,
        Frame::SynStream { .. } | Frame::Headers { .. } | Frame::Ping(_) | Frame::Ignored => {}
    }
    true
}

async fn write<W: AsyncWrite>(
    writer: WriteHalf<W>,
    mut outbox: mpsc::Receiver<Frame>,
    mut pings: mpsc::Receiver<Frame>,
) -> std::io::Result<()> {
    let mut writer = writer;
    let mut wire = BytesMut::new();
    loop {
        let frame = tokio::select! {
            Some(frame) = pings.recv() => frame,
            frame = outbox.recv() => match frame {
                Some(frame) => frame,
                // Nobody sends any more; what the server still has to say is read on.
                None => std::future::pending().await,
            },
        };
        frame.encode(&mut wire);
        writer.write_all(&wire).await?;
        writer.flush().await?;
        wire.clear();
    }
}
