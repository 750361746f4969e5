//! Looks at all pods.
//!
//! Reads: the runtime. Writes: the cache, health, hints for pods that could not be read. Wakes on: its interval, a
//! stream that begins or ceases to stand, a container of unknown origin.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{hints::Hint, look::Observer};

pub(crate) async fn run(
    observer: Arc<Observer>,
    hints: mpsc::UnboundedSender<Hint>,
    mut stands: watch::Receiver<bool>,
) {
    let mut last = Instant::now();
    loop {
        let standing = *stands.borrow_and_update();
        metrics::pleg::RELIST_INTERVAL.observe(last.elapsed().as_secs_f64());
        last = Instant::now();
        sweep(&observer, &hints).await;
        let interval = if standing { observer.config.safety_interval } else { observer.config.poll_interval };
        tokio::select! {
            () = observer.clock.beat(interval) => {}
            () = observer.sweep_wanted.notified() => {}
            Ok(()) = stands.changed() => {}
        }
    }
}

async fn sweep(observer: &Observer, hints: &mpsc::UnboundedSender<Hint>) {
    match observer.look_at_all().await {
        Ok(unreadable) => {
            let now = observer.clock.now();
            observer.health.seen(now.mono);
            metrics::pleg::LAST_SEEN.set(now.wall.as_second() as f64);
            observer.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
            for uid in unreadable {
                _ = hints.send(Hint::Look(uid));
            }
        }
        Err(error) => {
            if observer.health.failed(observer.clock.mono(), &error) {
                tracing::warn!(%error, "could not look at the pods");
            } else {
                tracing::debug!(%error, "could not look at the pods");
            }
        }
    }
}
