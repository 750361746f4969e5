//! Calls that go on when whoever made them has given up.
//!
//! A pod may be deleted while one of its containers is being created or started. Were the call cut off, the runtime
//! would undo half of it and show a container that failed to start, which nobody did.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use pod::PodUid;
use tokio::sync::RwLock;

/// Of every pod the calls under way: readers of its lock.
#[derive(Debug, Default)]
pub(crate) struct Uncut(Mutex<HashMap<PodUid, Arc<RwLock<()>>>>);

impl Uncut {
    /// Dropped, it leaves the call to itself.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        pod: &PodUid,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let lock = self.with(|locks| locks.entry(pod.clone()).or_default().clone());
        let held = lock.read_owned().await;
        let (all, pod) = (self.clone(), pod.clone());
        let running = tokio::spawn(trace::carry(async move {
            let outcome = call.await;
            drop(held);
            all.forget(&pod);
            outcome
        }));
        match running.await {
            Ok(outcome) => outcome,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Whether no call is under way for the pod.
    pub fn is_settled(&self, pod: &PodUid) -> bool {
        self.with(|locks| !locks.contains_key(pod))
    }

    /// Returns when no call is under way for the pod.
    pub async fn settled(&self, pod: &PodUid) {
        let lock = self.with(|locks| locks.get(pod).cloned());
        if let Some(lock) = lock {
            drop(lock.write().await);
            // Whoever lets go of it last tidies up.
            drop(lock);
            self.forget(pod);
        }
    }

    fn forget(&self, pod: &PodUid) {
        self.with(|locks| {
            // The map's own is the only one left.
            if locks.get(pod).is_some_and(|lock| Arc::strong_count(lock) == 1) {
                locks.remove(pod);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<PodUid, Arc<RwLock<()>>>) -> T) -> T {
        // No code that holds it can panic halfway through a change.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_without_its_caller_and_can_be_waited_for() {
        let (calls, pod) = (Arc::new(Uncut::default()), PodUid::new("u"));
        let (done, heard) = tokio::sync::oneshot::channel();
        let call = async move {
            sleep(Duration::from_secs(5)).await;
            done.send(()).unwrap();
        };
        assert!(timeout(Duration::from_secs(1), calls.run(&pod, call)).await.is_err());
        let begun = Instant::now();
        calls.settled(&PodUid::new("another")).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(!calls.is_settled(&pod));
        calls.settled(&pod).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(4));
        assert!(calls.is_settled(&pod), "nothing is kept of a pod that was waited for");
        heard.await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(calls.run(&pod, async { 7 }).await, 7);
        assert!(calls.with(|locks| locks.is_empty()), "nothing is kept of pods that are at rest");
    }
}
