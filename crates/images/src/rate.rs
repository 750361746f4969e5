//! A token bucket: `burst` at once, then `qps` a second. Who finds it empty is turned away, not queued.

use std::sync::Mutex;

use pod::Mono;

#[derive(Debug)]
pub struct TokenBucket {
    qps: f64,
    burst: f64,
    state: Mutex<(f64, Mono)>,
}

impl TokenBucket {
    /// A `qps` of zero means no limit.
    pub fn new(qps: f64, burst: u32, now: Mono) -> Self {
        let burst = f64::from(burst);
        Self { qps, burst, state: Mutex::new((burst, now)) }
    }

    pub fn try_take(&self, now: Mono) -> bool {
        if self.qps <= 0.0 {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let (tokens, last) = *state;
        let tokens = (tokens + now.since(last).as_secs_f64() * self.qps).min(self.burst);
        let granted = tokens >= 1.0;
        *state = (if granted { tokens - 1.0 } else { tokens }, now);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_empties_it_and_time_refills_it() {
        let s = Mono::from_secs;
        let bucket = TokenBucket::new(0.5, 2, s(0));
        let taken: Vec<bool> = [0, 0, 0, 1, 2, 100, 100, 100].map(|t| bucket.try_take(s(t))).to_vec();
        assert_eq!(taken, [true, true, false, false, true, true, true, false]);
        assert!((0..100).all(|_| TokenBucket::new(0.0, 0, s(0)).try_take(s(0))));
    }
}
