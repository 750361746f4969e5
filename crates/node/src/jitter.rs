//! Spreads what many nodes do at the same interval.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Between half of the interval less and half of it more.
pub(crate) fn half_around(interval: Duration) -> Duration {
    interval.mul_f64(0.5 + fraction())
}

/// Evenly in 0..1; the hasher's seed is the process's own source of randomness.
fn fraction() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_stay_in_their_bounds() {
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            assert!((0.5..=1.5).contains(&half_around(second).as_secs_f64()));
        }
    }
}
