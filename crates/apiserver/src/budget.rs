//! How many requests per second each kind of call may make: a burst of events must not delay a status.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

/// Which budget a call is paid from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Leases and node status, over a connection of their own: never held back.
    Heartbeat,
    /// The opening of watches and the reads that belong to them: as many as the pods here refer to, and a pod's
    /// start waits for them.
    Free,
    /// Pod status, pods' creation and deletion.
    Status,
    Events,
    Tokens,
    /// Reads of single objects, lists, reviews.
    Reads,
}

#[derive(Debug)]
pub(crate) struct Budgets {
    status: TokenBucket,
    events: TokenBucket,
    tokens: TokenBucket,
    reads: TokenBucket,
}

impl Budgets {
    pub(crate) fn new(qps: f64, burst: u32, event_qps: f64, event_burst: u32) -> Self {
        let bucket = || TokenBucket::new(qps, burst);
        Self { status: bucket(), events: TokenBucket::new(event_qps, event_burst), tokens: bucket(), reads: bucket() }
    }

    pub(crate) async fn take(&self, budget: Budget) {
        match budget {
            Budget::Heartbeat | Budget::Free => {}
            Budget::Status => self.status.take().await,
            Budget::Events => self.events.take().await,
            Budget::Tokens => self.tokens.take().await,
            Budget::Reads => self.reads.take().await,
        }
    }
}

/// A token bucket kept as one instant: when the bucket will be full again.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    /// Zero: unlimited.
    interval: Duration,
    depth: Duration,
    full_at: Mutex<Option<Instant>>,
}

impl TokenBucket {
    /// A `qps` of zero or less doesn't limit.
    pub(crate) fn new(qps: f64, burst: u32) -> Self {
        let interval = if qps > 0.0 { Duration::from_secs_f64(1.0 / qps) } else { Duration::ZERO };
        Self { interval, depth: interval * burst.max(1), full_at: Mutex::new(None) }
    }

    pub(crate) async fn take(&self) {
        if let Some(at) = self.reserve() {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Takes a token, perhaps one of the future: then says when it is due.
    fn reserve(&self) -> Option<Instant> {
        if self.interval.is_zero() {
            return None;
        }
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(|e| e.into_inner());
        let next = full_at.map_or(now, |at| at.max(now)) + self.interval;
        *full_at = Some(next);
        let due = next.checked_sub(self.depth)?;
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let bucket = TokenBucket::new(10.0, 5);
        let start = Instant::now();
        for _ in 0..5 {
            bucket.take().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        bucket.take().await;
        bucket.take().await;
        assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn zero_qps_is_unlimited() {
        let bucket = TokenBucket::new(0.0, 1);
        let start = Instant::now();
        for _ in 0..1000 {
            bucket.take().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
