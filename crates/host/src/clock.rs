//! The one clock. Monotonic time follows tokio's clock, so a test on a paused clock owns it.

use std::time::Duration;

use pod::{Mono, Now, time::Timestamp};
use tokio::time::Instant;

/// tokio's clock stands still while the machine is suspended. Less than this is no suspend but a busy machine.
const SUSPENDED: Duration = Duration::from_secs(60);
/// Nothing wakes a sleeper when the machine does: who sleeps longer looks at the time in between.
const LONGEST_NAP: Duration = Duration::from_secs(120);

/// Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    /// Time since boot at `origin`, so that what happened before the agent started can be expressed.
    uptime: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: Instant::now(), uptime: since_boot() }
    }

    /// When the agent started.
    pub fn started(&self) -> Mono {
        Mono(self.uptime)
    }

    /// Time in which the machine was suspended counts: what has a lifetime elsewhere, such as a token, ages meanwhile.
    pub fn mono(&self) -> Mono {
        self.mono_at(Instant::now())
    }

    fn mono_at(&self, now: Instant) -> Mono {
        let awake = now.saturating_duration_since(self.origin);
        Mono(self.uptime + elapsed(awake, since_boot().saturating_sub(self.uptime)))
    }

    /// Wall time, for API fields and file names only.
    #[allow(clippy::disallowed_methods)] // the one place that reads it
    pub fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: self.wall() }
    }

    pub async fn sleep_until(&self, at: Mono) {
        loop {
            let now = Instant::now();
            let left = at.since(self.mono_at(now));
            tokio::time::sleep_until(now + left.min(LONGEST_NAP)).await;
            if left <= LONGEST_NAP {
                return;
            }
        }
    }

    /// Until the next beat of `period`.
    pub async fn beat(&self, period: Duration) {
        self.sleep_until(self.next_beat(period)).await;
    }

    pub fn next_beat(&self, period: Duration) -> Mono {
        self.beat_from(self.mono() + Duration::from_nanos(1), period)
    }

    /// The first beat of `period` that is not before `at`. The beats of all periods are counted from the agent's start,
    /// so what has to be done now and then is done together: to wake an idle agent costs more than what it does then.
    pub fn beat_from(&self, at: Mono, period: Duration) -> Mono {
        let beats = at.since(self.started()).as_nanos().div_ceil(period.as_nanos().max(1));
        self.started() + period.saturating_mul(u32::try_from(beats).unwrap_or(u32::MAX))
    }
}

fn since_boot() -> Duration {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32)
}

/// Never less than it was before, since the difference of the two only grows.
fn elapsed(awake: Duration, with_suspends: Duration) -> Duration {
    if with_suspends > awake + SUSPENDED { with_suspends } else { awake }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_suspend_counts_and_a_busy_machine_does_not() {
        assert_eq!(elapsed(secs(10), secs(3610)), secs(3610));
        assert_eq!(elapsed(secs(10), secs(13)), secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_multiples_of_a_period_comes_together() {
        let clock = Clock::start();
        let since = || clock.mono().since(clock.started());
        tokio::time::sleep(Duration::from_millis(10_001)).await;
        clock.beat(secs(10)).await;
        assert_eq!(since(), secs(20));
        // From a beat itself to the next one.
        clock.beat(secs(10)).await;
        assert_eq!(since(), secs(30));
        clock.beat(secs(20)).await;
        assert_eq!(since(), secs(40));
        assert_eq!(clock.beat_from(clock.mono(), secs(20)), clock.mono());
        assert_eq!(clock.beat_from(clock.mono() + secs(1), secs(60)), clock.started() + secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sleep_ends_at_its_time() {
        let clock = Clock::start();
        let at = clock.mono() + secs(1000);
        clock.sleep_until(at).await;
        assert_eq!(clock.mono(), at);
    }
}
