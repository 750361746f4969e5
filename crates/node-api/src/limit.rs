//! A bucket of tokens: so many requests at once, and so many a second after that.

use std::sync::Mutex;

use host::Clock;
use pod::Mono;
use tonic::Status;

const PER_SECOND: f64 = 100.0;
const BURST: f64 = 10.0;

#[derive(Debug)]
pub struct Limit {
    clock: Clock,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    since: Mono,
}

impl Limit {
    pub fn new(clock: Clock) -> Self {
        Self { clock, bucket: Mutex::new(Bucket { tokens: BURST, since: clock.mono() }) }
    }

    /// Never waits: who asks too often is told so.
    #[allow(clippy::result_large_err)] // what tonic's handlers return
    pub fn admit(&self) -> Result<(), Status> {
        let mut bucket = self.bucket.lock().expect("no panic while the bucket is locked");
        let now = self.clock.mono();
        let grown = bucket.tokens + now.since(bucket.since).as_secs_f64() * PER_SECOND;
        *bucket = Bucket { tokens: grown.min(BURST), since: now };
        if bucket.tokens < 1.0 {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_at_once_then_a_hundred_a_second() {
        let limit = Limit::new(Clock::start());
        let admitted = |tries: usize| (0..tries).filter(|_| limit.admit().is_ok()).count();
        assert_eq!(admitted(15), 10);
        tokio::time::advance(Duration::from_millis(35)).await;
        assert_eq!(admitted(15), 3);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(admitted(15), 10);
    }
}
