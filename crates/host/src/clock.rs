//! The one clock. Monotonic time follows tokio's clock, so a test on a paused clock owns it.

use std::time::Duration;

use pod::{Mono, Now, time::Timestamp};
use tokio::time::Instant;

/// Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    /// Time since boot at `origin`, so that what happened before the agent started can be expressed.
    uptime: Duration,
}

impl Clock {
    pub fn start() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let uptime = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
        Self { origin: Instant::now(), uptime }
    }

    pub fn mono(&self) -> Mono {
        Mono(self.uptime + self.origin.elapsed())
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
        tokio::time::sleep(at.since(self.mono())).await;
    }
}
