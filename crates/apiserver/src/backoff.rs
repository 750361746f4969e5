//! Exponential waiting with jitter, so that a cluster's nodes don't come back all at once.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Doubles from `first` to `most`; each wait is drawn from the upper half of its step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    step: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, step: first }
    }

    /// For list-and-watch: quick after one mishap, and never so slow that a control plane that boots beside
    /// this agent waits for it.
    pub(crate) const fn watching() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    pub(crate) fn reset(&mut self) {
        self.step = self.first;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.step / 2 + (self.step / 2).mul_f64(random_fraction());
        self.step = (self.step * 2).min(self.most);
        wait
    }
}

/// In [0, 1). The hasher's random keys are all the randomness that jitter needs.
pub(crate) fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_stay_in_the_upper_half() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        for most in [1, 2, 4, 8, 8] {
            let wait = backoff.next();
            assert!(wait >= Duration::from_secs(most) / 2 && wait <= Duration::from_secs(most), "{wait:?} of {most}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
