//! When to look at a log next: often enough to catch it near its limit, seldom while it does not grow.

use std::time::Duration;

use pod::Mono;

/// A log that lies still is looked at after so many intervals at last; so long can a sudden flood go unseen.
const MOST_INTERVALS: u32 = 6;

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    max_size: u64,
    seen: Option<(Mono, u64)>,
    pause: Duration,
    due: Mono,
}

impl Pace {
    /// The first look is due now.
    pub fn new(now: Mono, interval: Duration, max_size: u64) -> Self {
        Self { interval, max_size, seen: None, pause: interval, due: now }
    }

    pub fn due(&self) -> Mono {
        self.due
    }

    pub fn saw(&mut self, size: u64, now: Mono) {
        let before = self.seen.replace((now, size));
        let longest = self.interval * MOST_INTERVALS;
        self.pause = match before {
            // A new or rotated log shows no rate yet.
            None => self.interval,
            Some((_, old)) if size < old => self.interval,
            Some((_, old)) if size == old => (self.pause * 2).min(longest),
            Some((then, old)) => {
                // At the rate seen, half of the way to the limit: a rate may rise.
                let elapsed = now.since(then).as_secs_f64();
                let left = self.max_size.saturating_sub(size) as f64 / (size - old) as f64 * elapsed;
                Duration::try_from_secs_f64(left / 2.0).unwrap_or(longest).clamp(self.interval, longest)
            }
        };
        self.due = now + self.pause;
    }

    pub fn failed(&mut self, now: Mono) {
        self.pause = (self.pause * 2).min(self.interval * MOST_INTERVALS);
        self.due = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(second: u64) -> Mono {
        Mono::from_secs(second)
    }

    fn pauses(sizes: &[u64]) -> Vec<u64> {
        let mut pace = Pace::new(at(0), INTERVAL, 1000);
        let pause = |size: &u64| {
            let now = pace.due();
            pace.saw(*size, now);
            pace.due().since(now).as_secs()
        };
        sizes.iter().map(pause).collect()
    }

    #[test]
    fn a_log_that_lies_still_is_looked_at_less_and_less_often() {
        assert_eq!(pauses(&[5, 5, 5, 5, 5]), [10, 20, 40, 60, 60]);
    }

    #[test]
    fn growth_brings_the_next_look_to_half_of_the_way_to_the_limit() {
        // 10 a second: 900 more would take 90 s.
        assert_eq!(pauses(&[0, 100]), [10, 45]);
        // It fills within the interval: no more often than that.
        assert_eq!(pauses(&[0, 900]), [10, 10]);
        // 1 in 10 s: the limit is far away, yet the look is not.
        assert_eq!(pauses(&[0, 1]), [10, 60]);
    }

    #[test]
    fn a_rotated_log_starts_anew() {
        assert_eq!(pauses(&[5, 5, 5, 0, 0]), [10, 20, 40, 10, 20]);
    }
}
