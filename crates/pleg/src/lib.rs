//! Runtime events and relists -> observed pods: one ordered cache of what the container runtime has.
//!
//! Events are hints: each causes a look at the one pod it names, and what is published is always the answer to a look.
//! Looks are numbered when they begin; the answer to an older one never replaces that to a newer one.
//!
//! Tasks (all end with the last clone of the handle): `listen` follows the runtime's events, `hints` looks at single
//! pods, `sweep` looks at all pods: rarely while events flow, every second while they do not.

mod cache;
mod health;
mod hints;
mod listen;
mod log_tail;
mod look;
mod sweep;
mod termination;

use std::{sync::Arc, time::Duration};

use cri::{Cri, Made};
use host::Clock;
use pod::{ObservedPod, PodKey, PodUid};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use look::Observer;

#[derive(Clone, Debug)]
pub struct PlegConfig {
    /// Between looks at all pods while events flow: catches what a lost event would have told.
    pub safety_interval: Duration,
    /// The same while no event stream stands.
    pub poll_interval: Duration,
    /// Without a sign of life for so long, the node is not healthy.
    pub stale_after: Duration,
    /// A runtime that can't be reached is forgiven for so long: it may just be restarting.
    pub unreachable_after: Duration,
}

impl Default for PlegConfig {
    fn default() -> Self {
        Self {
            safety_interval: Duration::from_secs(60),
            poll_interval: Duration::from_secs(1),
            stale_after: Duration::from_secs(180),
            unreachable_after: Duration::from_secs(30),
        }
    }
}

/// The handle. Cheap to clone; when the last clone is dropped, all work ends.
#[derive(Clone)]
pub struct Pleg {
    observer: Arc<Observer>,
    _tasks: Arc<JoinSet<()>>,
}

impl Pleg {
    /// Must be called inside a tokio runtime.
    pub fn spawn(cri: Cri, clock: Clock, config: PlegConfig) -> Self {
        let observer = Arc::new(Observer::new(cri, clock, config));
        let (hints, inbox) = mpsc::unbounded_channel();
        let (standing, stands) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::run(observer.clone(), hints.clone(), standing));
        tasks.spawn(hints::run(observer.clone(), inbox));
        tasks.spawn(sweep::run(observer.clone(), hints, stands));
        Self { observer, _tasks: Arc::new(tasks) }
    }

    /// Returns once all pods have been looked at for the first time. Before that, every picture is empty.
    pub async fn synced(&self) {
        let mut synced = self.observer.synced.subscribe();
        // The sender lives in `self`.
        _ = synced.wait_for(|s| *s).await;
    }

    /// The pod's picture, now and at each change. Its `version` is 0 only before `synced()`.
    /// Whoever subscribes takes charge of the pod until `forget`.
    pub fn subscribe(&self, uid: &PodUid, key: &PodKey) -> watch::Receiver<Arc<ObservedPod>> {
        self.observer.cache().subscribe(uid, key)
    }

    /// For onlookers: follows a pod without taking charge of it. Ends when nothing of the pod is left.
    pub fn peek(&self, uid: &PodUid) -> Option<watch::Receiver<Arc<ObservedPod>>> {
        self.observer.cache().peek(uid)
    }

    /// Nobody is in charge of the pod any more: what is left of it becomes an orphan.
    pub fn forget(&self, uid: &PodUid) {
        self.observer.cache().forget(uid);
    }

    /// A picture taken after this call began, published too: for use after one's own actions.
    pub async fn relist(&self, uid: &PodUid) -> cri::Result<Arc<ObservedPod>> {
        self.observer.look_at(uid).await
    }

    /// As `relist`, with one call: shows what the caller has just made, while the rest may be as it was seen last.
    pub async fn relist_made(&self, uid: &PodUid, made: &Made) -> cri::Result<Arc<ObservedPod>> {
        self.observer.look_at_made(uid, made).await
    }

    /// Pods that the runtime has and nobody subscribed to. At the start of the agent that is all of them.
    pub fn orphans(&self) -> watch::Receiver<Arc<Vec<ObservedPod>>> {
        self.observer.cache().orphans()
    }

    /// All pods of which the runtime has anything.
    pub fn snapshot(&self) -> Arc<Vec<Arc<ObservedPod>>> {
        Arc::new(self.observer.cache().snapshot())
    }

    /// Wakes when any pod's picture has changed; many changes may make one wake.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.observer.cache().changes()
    }

    /// Why the node's containers can't be known at present.
    pub fn health(&self) -> Result<(), String> {
        self.observer.health.verdict(self.observer.clock.mono(), &self.observer.config)
    }
}
