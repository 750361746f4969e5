//! Crash back-off of one pod's containers: 10 s, doubled at each crash, capped; forgotten after a quiet time.

use std::{collections::HashMap, time::Duration};

use crate::time::Mono;

/// `initial` and `cap` as configured (crashLoopBackOff.maxContainerRestartPeriod lowers both).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    pub initial: Duration,
    pub cap: Duration,
}

impl Default for BackoffLimits {
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), cap: Duration::from_secs(300) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Mono,
}

/// Keyed by container name; owned by the pod's worker, so it dies with the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    limits: BackoffLimits,
    entries: HashMap<String, Entry>,
}

impl Backoff {
    pub fn new(limits: BackoffLimits) -> Self {
        Self { limits, entries: HashMap::new() }
    }

    /// How long a container that ended at `ended` must wait, and until when; None when it may start now.
    pub fn holds(&self, name: &str, ended: Mono, now: Mono) -> Option<Hold> {
        let entry = self.entries.get(name)?;
        if self.is_forgotten(entry, now) {
            return None;
        }
        let until = ended + entry.delay;
        (until > now).then_some(Hold { delay: entry.delay, until })
    }

    /// Notes that a container which ended at `ended` is being started again.
    pub fn restarted(&mut self, name: &str, ended: Mono, now: Mono) {
        let limits = self.limits;
        let delay = match self.entries.get(name) {
            Some(entry) if !self.is_forgotten(entry, ended) => (entry.delay * 2).min(limits.cap),
            _ => limits.initial.min(limits.cap),
        };
        self.entries.insert(name.to_owned(), Entry { delay, updated: now });
    }

    /// The container changes: what went wrong with it before counts no more.
    pub fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    fn is_forgotten(&self, entry: &Entry, at: Mono) -> bool {
        at.since(entry.updated) > self.limits.cap * 2
    }
}

/// A container held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub delay: Duration,
    pub until: Mono,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Mono {
        Mono::from_secs(n)
    }
    fn delay(b: &Backoff, ended: u64, now: u64) -> Option<u64> {
        b.holds("app", s(ended), s(now)).map(|h| h.delay.as_secs())
    }

    #[test]
    fn the_first_crash_restarts_at_once_and_the_next_ones_wait_twice_as_long_each() {
        let mut b = Backoff::default();
        assert_eq!(delay(&b, 5, 5), None);
        b.restarted("app", s(5), s(5));
        assert_eq!(delay(&b, 6, 6), Some(10));
        assert_eq!(delay(&b, 6, 16), None);
        b.restarted("app", s(6), s(16));
        assert_eq!(delay(&b, 17, 17), Some(20));
    }

    #[test]
    fn the_delay_never_exceeds_the_cap() {
        let mut b = Backoff::default();
        let mut t = 0;
        for _ in 0..10 {
            b.restarted("app", s(t), s(t));
            t += 300;
        }
        assert_eq!(delay(&b, t, t), Some(300));
    }

    #[test]
    fn twice_the_cap_without_a_crash_forgets_the_delay() {
        let mut b = Backoff::default();
        b.restarted("app", s(0), s(0));
        b.restarted("app", s(10), s(10));
        assert_eq!(delay(&b, 611, 611), None);
        b.restarted("app", s(611), s(611));
        assert_eq!(delay(&b, 612, 612), Some(10));
    }
}
