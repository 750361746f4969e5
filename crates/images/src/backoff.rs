//! Back-off of failing pulls, per pod and image: 10 s, doubled at each failure, 300 s at most; forgotten after 600 s.

use std::{collections::HashMap, time::Duration};

use pod::{Mono, PodUid};

const INITIAL: Duration = Duration::from_secs(10);
const CAP: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackoffKey {
    pub pod: PodUid,
    pub image: String,
}

#[derive(Clone, Debug)]
struct Entry {
    delay: Duration,
    failed_at: Mono,
    /// Reason and text of the failure, to be repeated while waiting.
    error: String,
}

#[derive(Debug, Default)]
pub struct PullBackoff(HashMap<BackoffKey, Entry>);

impl PullBackoff {
    /// How much longer no pull is tried, and why.
    pub fn holds(&self, key: &BackoffKey, now: Mono) -> Option<(Duration, &str)> {
        let entry = self.0.get(key)?;
        let until = entry.failed_at + entry.delay;
        (until > now).then(|| (until.since(now), entry.error.as_str()))
    }

    /// Notes a failure; the time until the next try.
    pub fn failed(&mut self, key: BackoffKey, error: String, now: Mono) -> Duration {
        self.0.retain(|_, entry| now.since(entry.failed_at) <= CAP * 2);
        let delay = self.0.get(&key).map_or(INITIAL, |entry| (entry.delay * 2).min(CAP));
        self.0.insert(key, Entry { delay, failed_at: now, error });
        delay
    }

    pub fn succeeded(&mut self, key: &BackoffKey) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> BackoffKey {
        BackoffKey { pod: PodUid::new("u"), image: "busybox".into() }
    }
    const fn s(n: u64) -> Mono {
        Mono::from_secs(n)
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_cap() {
        let mut b = PullBackoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = b.failed(key(), "x".into(), s(now)).as_secs();
            waits.push(wait);
            assert_eq!(b.holds(&key(), s(now + wait - 1)), Some((Duration::from_secs(1), "x")));
            assert_eq!(b.holds(&key(), s(now + wait)), None);
            now += wait;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn success_and_time_forget() {
        let mut b = PullBackoff::default();
        b.failed(key(), "x".into(), s(0));
        b.succeeded(&key());
        assert_eq!(b.failed(key(), "x".into(), s(1)).as_secs(), 10);
        assert_eq!(b.failed(key(), "x".into(), s(602)).as_secs(), 10);
    }
}
