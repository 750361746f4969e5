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
    let _ = a_write.shutdown().await;
    let _ = b_write.shutdown().await;
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
}
