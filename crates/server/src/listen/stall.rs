//! A connection whose peer must go on taking what is written to it: else the reply, its memory and its place would be
//! kept for as long as the peer likes. Nothing is timed while the peer keeps up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What a connection and the replies on it know of each other.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// In milliseconds.
    patience: AtomicU64,
    stalled: AtomicBool,
    goes_on: AtomicWaker,
}

impl Pace {
    /// How long the peer may take nothing of what is written now. Zero: without end.
    pub fn allow(&self, limit: Duration) {
        self.0.patience.store(limit.as_millis() as u64, Ordering::Relaxed);
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.0.patience.load(Ordering::Relaxed))).filter(|limit| !limit.is_zero())
    }

    fn set_stalled(&self, stalled: bool) {
        if self.0.stalled.swap(stalled, Ordering::AcqRel) && !stalled {
            self.0.goes_on.wake();
        }
    }
}

/// A body that is asked for more only while the peer takes what is there: what the connection itself would collect of it
/// is as large as the longest head of a request.
pub struct Paced<B> {
    inner: B,
    pace: Pace,
}

impl<B> Paced<B> {
    pub fn new(inner: B, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.pace.0.goes_on.register(cx.waker());
        if self.pace.0.stalled.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pub struct Stallable<S> {
    inner: S,
    pace: Pace,
    /// While the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Stallable<S> {
    pub fn new(inner: S, pace: Pace) -> Self {
        Self { inner, pace, stalled: None }
    }

    fn written(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.pace.set_stalled(write.is_pending());
        let limit = self.pace.patience().filter(|_| write.is_pending());
        let Some(limit) = limit else {
            self.stalled = None;
            return write;
        };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

/// A socket waits for nothing in its flush and shutdown.
impl<S: AsyncWrite + Unpin> AsyncWrite for Stallable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stallable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::StreamBody;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn paced(patience: Duration) -> Pace {
        let pace = Pace::default();
        pace.allow(patience);
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_now_and_then_is_waited_for() {
        let (ours, mut peer) = duplex(16);
        let mut ours = Stallable::new(ours, paced(LIMIT));
        let writing = tokio::spawn(async move { ours.write_all(&[0; 80]).await });
        for _ in 0..5 {
            tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
            peer.read_exact(&mut [0; 16]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (ours, _peer) = duplex(16);
        let mut ours = Stallable::new(ours, paced(LIMIT));
        let since = Instant::now();
        assert_eq!(ours.write_all(&[0; 80]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(since.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_peer_is_waited_for_as_long_as_it_likes() {
        let (ours, _peer) = duplex(16);
        let mut ours = Stallable::new(ours, paced(Duration::ZERO));
        assert!(tokio::time::timeout(100 * LIMIT, ours.write_all(&[0; 80])).await.is_err());
    }

    #[tokio::test]
    async fn of_a_long_reply_little_is_taken_before_its_client_reads() {
        let (ours, mut client) = duplex(4096);
        let (pace, taken) = (paced(LIMIT), Arc::new(AtomicU64::new(0)));
        let (counted, replies) = (taken.clone(), pace.clone());
        let service = service_fn(move |_| {
            let (counted, pace) = (counted.clone(), replies.clone());
            let pieces = (0..100).map(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[b'x'; 10_000])))
            });
            let pieces = futures::stream::iter(pieces).then(async |piece| {
                tokio::task::yield_now().await;
                piece
            });
            let body = Paced::new(StreamBody::new(Box::pin(pieces)), pace);
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        });
        let ours = TokioIo::new(Stallable::new(ours, pace));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(ours, service));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let before = taken.load(Ordering::Relaxed);
        assert!((1..=4).contains(&before), "{before} pieces are held");
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await.unwrap();
        assert_eq!(taken.load(Ordering::Relaxed), 100);
        assert!(reply.ends_with(b"x\r\n0\r\n\r\n"));
    }
}
