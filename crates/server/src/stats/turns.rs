//! Readings that block, one after the other: however many ask, one thread is busy with it.

use std::sync::Arc;

use tokio::{sync::Mutex, task::JoinError};

#[derive(Debug, Default)]
pub struct Turns(Arc<Mutex<()>>);

impl Turns {
    /// The turn lasts as long as the reading, also when whoever asked for it has gone meanwhile.
    pub async fn take<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        let turn = self.0.clone().lock_owned().await;
        let reading = move || {
            let _turn = turn;
            read()
        };
        tokio::task::spawn_blocking(reading).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reading_that_hangs_takes_one_thread_however_many_ask() {
        let two_threads = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
        two_threads.unwrap().block_on(async {
            let turns = Arc::new(Turns::default());
            let (finish, hangs) = std::sync::mpsc::channel::<()>();
            let hangs = Arc::new(std::sync::Mutex::new(hangs));
            for _ in 0..3 {
                let (turns, hangs) = (turns.clone(), hangs.clone());
                let asked = tokio::spawn(async move { turns.take(move || hangs.lock().unwrap().recv()).await });
                tokio::task::yield_now().await;
                asked.abort();
                assert!(asked.await.is_err());
            }
            let other = tokio::time::timeout(Duration::from_secs(5), tokio::task::spawn_blocking(|| {})).await;
            drop(finish);
            assert!(other.is_ok());
            turns.take(|| {}).await.unwrap();
        });
    }
}
