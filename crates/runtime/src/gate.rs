//! How many sandboxes are made at once.
//!
//! A sandbox costs the machine far more CPU than the call costs us. When a hundred pods arrive together, a hundred
//! sandboxes under way take turns on a few cores: each takes as long as all of them, and no container starts before
//! the last is nearly done. A few at a time keep the cores as busy, and the first pods run while the last still wait.

use std::{future::Future, time::Duration};

use tokio::{sync::Semaphore, time::sleep};

/// A part of a sandbox's time goes by waiting (network plugins, disks): more than one per core.
const PER_CORE: usize = 4;
/// One that takes longer hangs or waits for something else than a core: it stands in nobody's way any more.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Gate(Semaphore);

impl Gate {
    pub fn for_cores(cores: usize) -> Self {
        Self(Semaphore::new(PER_CORE * cores.max(1)))
    }

    /// Runs it when there is room, first come, first served. Dropped while it waits, it gives up its place.
    pub async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        // The gate is never closed.
        let mut place = self.0.acquire().await.ok();
        tokio::pin!(work);
        let overdue = sleep(PATIENCE);
        tokio::pin!(overdue);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = &mut overdue, if place.is_some() => place = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream::FuturesUnordered};
    use tokio::time::Instant;

    use super::*;

    async fn second() {
        sleep(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_many_are_done_long_before_the_last() {
        let gate = Gate::for_cores(1);
        let begun = Instant::now();
        let works: FuturesUnordered<_> = (0..8).map(|_| gate.pass(second())).collect();
        let ends: Vec<u64> = works.map(|()| begun.elapsed().as_secs()).collect().await;
        assert_eq!(ends, [1, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_hang_hold_up_the_others_for_a_moment_only() {
        let gate = Gate::for_cores(1);
        let hanging = (0..20).map(|_| gate.pass(std::future::pending::<()>()));
        let hanging = futures::future::join_all(hanging);
        let begun = Instant::now();
        let healthy = async {
            tokio::task::yield_now().await;
            gate.pass(async {}).await;
        };
        tokio::select! {
            _ = hanging => unreachable!("they hang"),
            () = healthy => {}
        }
        assert!(begun.elapsed() <= Duration::from_secs(26), "{:?}", begun.elapsed());
    }
}
