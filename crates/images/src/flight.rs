//! Work that several callers want at once is done once. It runs while anybody waits: the last one to go cancels it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, Weak},
};

use tokio::{sync::watch, task::AbortHandle};

#[derive(Debug)]
struct Flight<T> {
    result: watch::Receiver<Option<T>>,
    task: AbortHandle,
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Work under way, by what it is about.
#[derive(Debug)]
pub struct Flights<K, T>(Mutex<HashMap<K, Weak<Flight<T>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// The result of `work`, or of the same work that somebody else has begun.
    pub async fn join<W>(&self, key: K, work: impl FnOnce() -> W) -> T
    where
        W: Future<Output = T> + Send + 'static,
    {
        let flight = self.board(key, work);
        let mut result = flight.result.clone();
        let done = result.wait_for(Option::is_some).await;
        match done.map(|r| r.clone()) {
            Ok(Some(result)) => result,
            _ => panic!("shared work ended without a result: it panicked"),
        }
    }

    fn board<W>(&self, key: K, work: impl FnOnce() -> W) -> Arc<Flight<T>>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(|e| e.into_inner());
        flights.retain(|_, flight| flight.strong_count() > 0);
        let under_way = flights.get(&key).and_then(Weak::upgrade);
        // One that has ended answers those who waited, not those who come later.
        if let Some(flight) = under_way.filter(|f| f.result.borrow().is_none()) {
            return flight;
        }
        let (tx, result) = watch::channel(None);
        let work = work();
        let task = tokio::spawn(trace::carry(async move {
            let done = work.await;
            tx.send_replace(Some(done));
        }));
        let flight = Arc::new(Flight { result, task: task.abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };
    use tokio::time::{sleep, timeout};

    #[derive(Default)]
    struct Counts {
        begun: AtomicU32,
        ended: AtomicU32,
    }

    /// Takes ten seconds.
    async fn pull(flights: &Flights<&'static str, u32>, counts: &Arc<Counts>) -> u32 {
        let counts = Arc::clone(counts);
        flights
            .join("image", || async move {
                counts.begun.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_secs(10)).await;
                counts.ended.fetch_add(1, Ordering::SeqCst) + 1
            })
            .await
    }

    fn seen(counts: &Counts) -> (u32, u32) {
        (counts.begun.load(Ordering::SeqCst), counts.ended.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_together_share_one_result() {
        let (flights, counts) = (Flights::default(), Arc::default());
        let both = tokio::join!(pull(&flights, &counts), pull(&flights, &counts));
        assert_eq!((both, seen(&counts)), ((1, 1), (1, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_leaves_the_others_waiting() {
        let (flights, counts) = (Flights::default(), Arc::default());
        let impatient = timeout(Duration::from_secs(1), pull(&flights, &counts));
        let (impatient, patient) = tokio::join!(impatient, pull(&flights, &counts));
        assert_eq!((impatient.is_err(), patient, seen(&counts)), (true, 1, (1, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_to_go_cancels_the_work() {
        let (flights, counts) = (Flights::default(), Arc::default());
        let _ = timeout(Duration::from_secs(1), pull(&flights, &counts)).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(seen(&counts), (1, 0));
        assert_eq!(pull(&flights, &counts).await, 1);
        assert_eq!(seen(&counts), (2, 1));
    }
}
