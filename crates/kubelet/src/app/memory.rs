//! Memory goes back to the kernel when there is peace: after the start, and after pods came or went.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

/// So long nothing changed: what was freed is not wanted again at once.
const PEACE: Duration = Duration::from_secs(10);
/// And once more: what waits for deadlines (connections, watches, events to be counted together) is freed later.
const LONG_PEACE: Duration = Duration::from_secs(60);
/// A node on which something changes all the time gives back now and then nevertheless: some milliseconds a minute keep
/// what lives on from being spread over a heap as large as the largest moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Task. Wakes on `changes` of what runs here; while nothing changes it sleeps.
pub(super) async fn run(mut changes: watch::Receiver<()>, give_back: impl Fn()) {
    loop {
        let at_last = Instant::now() + PATIENCE;
        loop {
            changes.mark_unchanged();
            let peace = (Instant::now() + PEACE).min(at_last);
            match timeout_at(peace, changes.changed()).await {
                Ok(Ok(())) if Instant::now() < at_last => {}
                Ok(Err(_)) => return,
                Ok(Ok(())) | Err(_) => break,
            }
        }
        give_back();
        let next = match timeout(LONG_PEACE, changes.changed()).await {
            Ok(changed) => changed,
            Err(_) => {
                give_back();
                changes.changed().await
            }
        };
        if next.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn spawn() -> (watch::Sender<()>, Arc<AtomicUsize>) {
        let (sender, changes) = watch::channel(());
        let times = Arc::new(AtomicUsize::new(0));
        let count = times.clone();
        tokio::spawn(run(changes, move || _ = count.fetch_add(1, Ordering::Relaxed)));
        (sender, times)
    }

    async fn busy(sender: &watch::Sender<()>, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send_replace(());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_soon_and_late_after_the_start_and_after_each_burst() {
        let (sender, times) = spawn();
        busy(&sender, 20).await;
        assert_eq!(times.load(Ordering::Relaxed), 0);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(times.load(Ordering::Relaxed), 1);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(times.load(Ordering::Relaxed), 2);
        busy(&sender, 50).await;
        assert_eq!(times.load(Ordering::Relaxed), 2);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(times.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_peace_gives_back_now_and_then() {
        let (sender, times) = spawn();
        busy(&sender, 1000).await;
        assert_eq!(times.load(Ordering::Relaxed), 16);
    }
}
