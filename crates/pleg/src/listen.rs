//! Follows the runtime's events.
//!
//! Reads: the CRI's event stream, or containerd's own where the CRI has none. Writes: hints, and whether a stream
//! stands. Wakes on: an event, the stream's end.

use std::{sync::Arc, time::Duration};

use cri::EventStream;
use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use crate::{hints::Hint, look::Observer};

/// A runtime may send nothing before its first event: a stream that has not failed for so long stands.
const SETTLES: Duration = Duration::from_millis(500);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(3);
/// A runtime without events may be replaced by one that has them.
const ASK_AGAIN: Duration = Duration::from_secs(60);

enum End {
    Unimplemented,
    /// How long it stood.
    Broken(Duration),
}

pub(crate) async fn run(observer: Arc<Observer>, hints: mpsc::UnboundedSender<Hint>, standing: watch::Sender<bool>) {
    let listener = Listener { observer, hints, standing };
    let mut backoff = FIRST_BACKOFF;
    loop {
        let pause = match listener.follow_best().await {
            End::Unimplemented => ASK_AGAIN,
            End::Broken(stood) => {
                backoff = if stood > LAST_BACKOFF { FIRST_BACKOFF } else { (backoff * 2).min(LAST_BACKOFF) };
                backoff
            }
        };
        sleep(pause).await;
    }
}

struct Listener {
    observer: Arc<Observer>,
    hints: mpsc::UnboundedSender<Hint>,
    standing: watch::Sender<bool>,
}

impl Listener {
    async fn follow_best(&self) -> End {
        let end = self.follow(self.observer.cri.container_events()).await;
        match end {
            End::Unimplemented if self.is_containerd().await => {
                self.follow(self.observer.cri.containerd_events()).await
            }
            end => end,
        }
    }

    async fn is_containerd(&self) -> bool {
        self.observer.cri.version().await.is_ok_and(|v| v.runtime_name == "containerd")
    }

    async fn follow(&self, mut stream: EventStream) -> End {
        let opened = Instant::now();
        let settled = sleep(SETTLES);
        tokio::pin!(settled);
        let end = loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = &mut settled, if !self.stands() => {
                    self.stand();
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    if !self.stands() {
                        self.stand();
                    }
                    let now = self.observer.clock.now();
                    self.observer.health.seen(now.mono);
                    if let Some(made) = event.made {
                        metrics::pleg::EVENT_LATENCY.observe(now.age_of(made).as_secs_f64());
                    }
                    _ = self.hints.send(Hint::Event(event));
                }
                Some(Err(error)) if error.is_unimplemented() => break End::Unimplemented,
                Some(Err(error)) => {
                    tracing::info!(%error, "the runtime's event stream broke");
                    break End::Broken(opened.elapsed());
                }
                None => break End::Broken(opened.elapsed()),
            }
        };
        metrics::pleg::STREAM_ERRORS.inc();
        self.standing.send_if_modified(|stands| std::mem::replace(stands, false));
        end
    }

    fn stands(&self) -> bool {
        *self.standing.borrow()
    }

    /// The sweep that this wakes finds what happened before the stream stood.
    fn stand(&self) {
        metrics::pleg::STREAM_OPENED.inc();
        self.standing.send_replace(true);
    }
}
