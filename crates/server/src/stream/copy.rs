//! Bytes between two upgraded connections until one end closes, both are idle too long, or the server stops.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

const BUFFER: usize = 32 * 1024;
/// How long the two ends may take to be told of the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// When bytes last went through, in milliseconds since the beginning.
pub struct Activity {
    begun: Instant,
    last: AtomicU64,
}

impl Activity {
    pub fn begin() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    pub fn note(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves once nothing was noted for that long; never for zero.
    pub async fn idle_for(&self, limit: Duration) {
        if limit.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let until = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Returns when either direction ends: the streams inside have their own ends, so there is no half-open state to keep.
pub async fn both_ways<A, B>(a: A, b: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let activity = Activity::begin();
    let ended = tokio::select! {
        ended = one_way(&mut a_read, &mut b_write, &activity) => ended,
        ended = one_way(&mut b_read, &mut a_write, &activity) => ended,
        () = activity.idle_for(idle) => {
            tracing::info!(?idle, "a streaming connection was idle too long");
            Ok(())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a streaming connection ended");
    }
    // Over TLS even this waits for a peer that reads.
    let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(a_write.shutdown(), b_write.shutdown()) }).await;
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.flush().await;
        }
        activity.note();
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        activity.note();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_one_end_closes() {
        let (mut client, a) = tokio::io::duplex(64);
        let (mut server, b) = tokio::io::duplex(64);
        let joined = tokio::spawn(both_ways(a, b, Duration::ZERO));
        client.write_all(b"ping").await.unwrap();
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"pong");
        drop(server);
        joined.await.unwrap();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
        let (mut client, a) = tokio::io::duplex(64);
        let (_server, b) = tokio::io::duplex(64);
        let joined = tokio::spawn(both_ways(a, b, Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            client.write_all(b"x").await.unwrap();
        }
        assert!(!joined.is_finished());
        let since = Instant::now();
        joined.await.unwrap();
        assert!(since.elapsed() <= Duration::from_secs(10));
    }

    /// As TLS to a peer that reads nothing: the end cannot be told.
    struct Unending(DuplexStream);

    impl AsyncRead for Unending {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, to)
        }
    }

    impl AsyncWrite for Unending {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_cannot_be_told_of_the_end_is_not_waited_for() {
        const IDLE: Duration = Duration::from_secs(600);
        let (_client, a) = tokio::io::duplex(64);
        let (mut server, b) = tokio::io::duplex(64);
        let joined = tokio::spawn(both_ways(Unending(a), b, IDLE));
        let ended = async {
            let mut buffer = [0; 64];
            assert_eq!(server.read(&mut buffer).await.unwrap(), 0, "the other end is told");
        };
        let both = async { tokio::join!(joined, ended).0.unwrap() };
        assert!(tokio::time::timeout(IDLE + Duration::from_secs(30), both).await.is_ok());
    }
}
