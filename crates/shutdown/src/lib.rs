//! Graceful node shutdown: holds the machine's shutdown up by a lock of logind until the pods have ended, those of the
//! least priority first.
//!
//! Reads: logind's signals, the pods that are active. Writes: whether the node shuts down, words to whoever ends pods,
//! events, the record of the last shutdown. Wakes on: a signal, changes among the pods, the end of a group's time.

mod error;
mod logind;
mod plan;
mod record;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use apiserver::Events;
use futures::StreamExt;
use host::Clock;
use pod::{DesiredPod, PodUid, TerminationCause, mounts::EventType};
use tokio::sync::{mpsc, watch};

pub use error::{Error, Result};
pub use logind::{Login, Logind};
pub use plan::{Period, periods};
pub use record::{FILE, Record, show};

const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
const EVENT: &str = "Shutdown";
/// Between two attempts to follow logind: at first, and where it goes on failing.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// logind reads its configuration when it comes to it.
const LOOKS: u32 = 6;
/// The longest that a shutdown is held up for the sake of words to the API server: it may be one of the pods that ended.
const TELLING: Duration = Duration::from_secs(5);
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// A pod to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub uid: PodUid,
    pub cause: TerminationCause,
    pub grace: Duration,
}

pub struct Parts {
    pub clock: Clock,
    pub events: Events,
    /// The pods to end, at the time of asking.
    pub active: Arc<dyn Fn() -> Vec<DesiredPod> + Send + Sync>,
    /// Nothing of the pod runs and its volumes are taken down.
    pub is_over: Arc<dyn Fn(&PodUid) -> bool + Send + Sync>,
    /// Wakes when `is_over` may say something else.
    pub changes: watch::Receiver<()>,
    /// The API server knows how the pod ended.
    pub is_told: Arc<dyn Fn(&PodUid) -> bool + Send + Sync>,
    /// Wakes when `is_told` may say something else.
    pub tellings: watch::Receiver<()>,
    pub ends: mpsc::Sender<End>,
    /// True from the signal on: the node is not ready and takes no pods.
    pub shutting_down: watch::Sender<bool>,
    /// Where gate GracefulNodeShutdownBasedOnPodPriority is on.
    pub record: Option<Record>,
}

pub struct NodeShutdown {
    /// In ascending order.
    pub periods: Vec<Period>,
    pub parts: Parts,
}

impl NodeShutdown {
    /// Until dropped; a lost connection is made anew.
    pub async fn run<L, C, F>(mut self, connect: C)
    where
        L: Login,
        C: Fn() -> F + Send,
        F: Future<Output = Result<L>> + Send,
    {
        if let Some(record) = &self.parts.record {
            record.load();
        }
        let mut pause = PAUSE;
        loop {
            let followed = match connect().await {
                Ok(login) => self.follow(&login).await,
                Err(error) => Err(error),
            };
            match followed {
                Ok(()) => {
                    tracing::warn!("logind is silent; it is asked again");
                    pause = PAUSE;
                }
                Err(error) => tracing::warn!(%error, "a shutdown of this machine would not wait for its pods"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until the connection ends.
    async fn follow<L: Login>(&mut self, login: &L) -> Result<()> {
        self.ensure_delay(login).await?;
        // Before the lock, or a shutdown in between would be held up by somebody who doesn't know of it.
        let mut signals = login.signals().await?;
        let mut lock = Some(login.inhibit().await?);
        tracing::info!(periods = ?self.periods, "a shutdown of this machine waits for its pods");
        let mut signal = signals.next().await;
        while let Some(begins) = signal {
            self.tell(begins);
            if begins {
                signal = tokio::select! {
                    biased;
                    next = signals.next() => next, // called off: those that are left stay
                    () = self.end_pods() => {
                        lock = None;
                        tracing::info!("the pods have ended, the machine may shut down");
                        signals.next().await
                    }
                };
            } else {
                if lock.is_none() {
                    lock = Some(login.inhibit().await?);
                }
                signal = signals.next().await;
            }
        }
        Ok(())
    }

    /// logind lets nobody hold a shutdown up for longer than it is configured to.
    async fn ensure_delay<L: Login>(&self, login: &L) -> Result<()> {
        let wanted = plan::total(&self.periods);
        let mut held = login.delay().await?;
        if held >= wanted {
            return Ok(());
        }
        login.set_delay(wanted).await?;
        let mut pause = FIRST_LOOK;
        for _ in 0..LOOKS {
            held = login.delay().await?;
            if held >= wanted {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::TooShort { held, wanted })
    }

    fn tell(&self, begins: bool) {
        let message = match begins {
            true => "Shutdown manager detected shutdown event",
            false => "Shutdown manager detected shutdown cancellation",
        };
        tracing::info!(begins, "logind speaks of a shutdown");
        self.parts.events.node(EventType::Normal, EVENT, message);
        self.parts.shutting_down.send_replace(begins);
    }

    async fn end_pods(&mut self) {
        let began = self.parts.clock.wall();
        if let Some(record) = &self.parts.record {
            record.began(began);
        }
        let (mut all, mut until) = (HashSet::new(), self.parts.clock.mono());
        for group in plan::groups(&self.periods, (self.parts.active)()) {
            until = self.parts.clock.mono() + group.grace;
            let mut left = HashSet::new();
            for pod in group.pods {
                let grace = plan::grace(&pod, group.grace);
                tracing::info!(pod = %pod.key, uid = %pod.uid, ?grace, "ending a pod before the shutdown");
                let cause =
                    TerminationCause::Failed { reason: REASON.into(), message: MESSAGE.into(), disruption: true };
                left.insert(pod.uid.clone());
                if self.parts.ends.send(End { uid: pod.uid, cause, grace }).await.is_err() {
                    return; // the agent itself is ending
                }
            }
            all.extend(left.iter().cloned());
            tokio::select! {
                () = all_are(&self.parts.is_over, &mut self.parts.changes, &mut left) => {}
                () = self.parts.clock.sleep_until(until) => {
                    tracing::warn!(?left, "the time of a group is over, but not all of its pods have ended");
                }
            }
        }
        let until = until.min(self.parts.clock.mono() + TELLING);
        tokio::select! {
            () = all_are(&self.parts.is_told, &mut self.parts.tellings, &mut all) => {}
            () = self.parts.clock.sleep_until(until) => {
                tracing::warn!(?all, "the API server has not been told how these pods ended");
            }
        }
        if let Some(record) = &self.parts.record {
            record.ended(began, self.parts.clock.wall());
        }
    }
}

/// Until `is` holds of all that are `left`.
async fn all_are(
    is: &Arc<dyn Fn(&PodUid) -> bool + Send + Sync>,
    changes: &mut watch::Receiver<()>,
    left: &mut HashSet<PodUid>,
) {
    loop {
        changes.mark_unchanged();
        left.retain(|uid| !is(uid));
        if left.is_empty() {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
