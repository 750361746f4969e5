//! Looking at the runtime: one look at a time per pod, termination messages put in place, the cache brought up to date.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cri::{Cri, Detail, Made};
use host::Clock;
use pod::{ContainerState, ObservedPod, PodUid};
use tokio::sync::{Notify, watch};

use crate::{PlegConfig, cache::Cache, health::Health, termination::Messages};

/// What the tasks share.
pub(crate) struct Observer {
    pub cri: Cri,
    pub clock: Clock,
    pub config: PlegConfig,
    pub health: Health,
    /// True after the first look at all pods.
    pub synced: watch::Sender<bool>,
    /// Somebody wants all pods looked at now.
    pub sweep_wanted: Notify,
    cache: Mutex<Cache>,
    messages: Messages,
    turns: Mutex<HashMap<PodUid, Arc<Turn>>>,
}

/// One pod's queue: those who wait while a look is under way share the next one.
#[derive(Default)]
struct Turn {
    looking: tokio::sync::Mutex<()>,
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Observer {
    pub fn new(cri: Cri, clock: Clock, config: PlegConfig) -> Self {
        Self {
            cri,
            clock,
            config,
            health: Health::default(),
            synced: watch::Sender::new(false),
            sweep_wanted: Notify::new(),
            cache: Mutex::default(),
            messages: Messages::default(),
            turns: Mutex::default(),
        }
    }

    pub fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture of one pod that was taken after this call began.
    pub async fn look_at(&self, uid: &PodUid) -> cri::Result<Arc<ObservedPod>> {
        let turn = self.turn(uid);
        let mine = turn.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let looking = turn.looking.lock().await;
        let answered = turn.answered.load(Ordering::SeqCst) >= mine;
        let shared = if answered { self.cache().current(uid) } else { None };
        let result = match shared {
            Some(pod) => Ok(pod),
            None => {
                // Answers all who asked before it begins.
                let answers = turn.asked.load(Ordering::SeqCst);
                let result = self.look_now(uid).await;
                if result.is_ok() {
                    turn.answered.store(answers, Ordering::SeqCst);
                }
                result
            }
        };
        drop(looking);
        drop(turn);
        self.drop_idle_turn(uid);
        result
    }

    /// A picture that shows what the caller has just made; the rest of it may be older.
    pub async fn look_at_made(&self, uid: &PodUid, made: &Made) -> cri::Result<Arc<ObservedPod>> {
        let look = self.cache().begin_look();
        if let Some(part) = self.cri.observe_made(made).await?
            && !has_ended(&part)
            && let Some(pod) = self.cache().amend(look, uid, part)
        {
            return Ok(pod);
        }
        self.look_at(uid).await
    }

    async fn look_now(&self, uid: &PodUid) -> cri::Result<Arc<ObservedPod>> {
        let timer = metrics::pleg::POD_RELIST_DURATION.start_timer();
        let look = self.cache().begin_look();
        let mut pod = self.cri.observe_pod(uid).await?;
        self.messages.fill(std::slice::from_mut(&mut pod)).await;
        timer.observe_duration();
        Ok(self.cache().apply(look, pod))
    }

    /// Looks at all pods; returns those of which a part could not be read.
    pub async fn look_at_all(&self) -> cri::Result<HashSet<PodUid>> {
        let timer = metrics::pleg::RELIST_DURATION.start_timer();
        let look = self.cache().begin_look();
        let mut all = self.cri.observe_all().await?;
        self.messages.fill(&mut all.pods).await;
        for (uid, error) in &all.failed {
            tracing::warn!(pod = %uid, %error, "a part of the pod could not be read");
        }
        let unreadable: HashSet<PodUid> = all.failed.into_iter().map(|(uid, _)| uid).collect();
        let known = {
            let mut cache = self.cache();
            cache.apply_all(look, all.pods, &unreadable);
            cache.containers()
        };
        self.messages.retain(&known);
        // Left over from looks that were given up.
        self.turns().retain(|_, turn| Arc::strong_count(turn) > 1);
        timer.observe_duration();
        Ok(unreadable)
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<PodUid, Arc<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, uid: &PodUid) -> Arc<Turn> {
        self.turns().entry(uid.clone()).or_default().clone()
    }

    fn drop_idle_turn(&self, uid: &PodUid) {
        let mut turns = self.turns();
        if turns.get(uid).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(uid);
        }
    }
}

/// Then there is more to read than its status.
fn has_ended(part: &Detail) -> bool {
    matches!(part, Detail::Container(container) if container.state == ContainerState::Exited)
}
