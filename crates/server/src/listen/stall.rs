//! A connection whose peer must go on taking what is written to it: else the reply, its memory and its place would be
//! kept for as long as the peer likes. Nothing is timed while the peer keeps up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a peer may take nothing; it depends on what is being written. Shared with who knows that.
#[derive(Clone, Debug)]
pub struct Patience(Arc<AtomicU64>);

impl Patience {
    pub fn new(limit: Duration) -> Self {
        let patience = Self(Arc::default());
        patience.set(limit);
        patience
    }

    /// Zero: without end.
    pub fn set(&self, limit: Duration) {
        self.0.store(limit.as_millis() as u64, Ordering::Relaxed);
    }

    fn limit(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.0.load(Ordering::Relaxed))).filter(|limit| !limit.is_zero())
    }
}

pub struct Stallable<S> {
    inner: S,
    patience: Patience,
    /// While the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Stallable<S> {
    pub fn new(inner: S, patience: Patience) -> Self {
        Self { inner, patience, stalled: None }
    }

    fn written(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let limit = self.patience.limit().filter(|_| write.is_pending());
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_now_and_then_is_waited_for() {
        let (ours, mut peer) = duplex(16);
        let mut ours = Stallable::new(ours, Patience::new(LIMIT));
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
        let mut ours = Stallable::new(ours, Patience::new(LIMIT));
        let since = Instant::now();
        assert_eq!(ours.write_all(&[0; 80]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(since.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_peer_is_waited_for_as_long_as_it_likes() {
        let (ours, _peer) = duplex(16);
        let patience = Patience::new(LIMIT);
        let mut ours = Stallable::new(ours, patience.clone());
        patience.set(Duration::ZERO);
        assert!(tokio::time::timeout(100 * LIMIT, ours.write_all(&[0; 80])).await.is_err());
    }
}
