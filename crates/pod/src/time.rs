//! Time as an input. Durations come from the monotonic clock; wall time only fills API fields.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

pub use jiff::Timestamp;

/// A point on the monotonic clock: time since the machine booted (`host::Clock` makes it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

impl Mono {
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, rhs: Duration) -> Mono {
        Mono(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;
    fn sub(self, rhs: Duration) -> Mono {
        Mono(self.0.saturating_sub(rhs))
    }
}

/// The moment a decision is made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Timestamp,
}

impl Now {
    /// The monotonic time at which something happened that is known by wall time only (a runtime's
    /// `finishedAt`, say). Never in the future, so that a clock jump delays nothing by more than the jump seen now.
    pub fn mono_of(&self, wall: Timestamp) -> Mono {
        self.mono - self.age_of(wall)
    }

    /// How long ago something happened that is known by wall time only, which may be before the machine's boot. Zero
    /// for the future.
    pub fn age_of(&self, wall: Timestamp) -> Duration {
        Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default()
    }
}
