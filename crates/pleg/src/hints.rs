//! Hints -> looks at single pods.
//!
//! Reads: hints of events and of sweeps. Writes: the cache, by looking. Wakes on: a hint, the end of a look, a delay.
//! At most one look per pod is under way here; hints that come meanwhile share the one after it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cri::{EventKind, RuntimeEvent};
use pod::{ContainerId, ContainerState, ObservedPod, PodUid};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{cache::Look, look::Observer};

/// Doubled with each attempt: an event may come before the runtime's lists show what it tells.
const FIRST_SECOND_LOOK: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_secs(1);
const ATTEMPTS: u8 = 6;
/// The creator of a container makes it known in this time; nobody else's needs to be found at once.
const STRANGER_DELAY: Duration = Duration::from_millis(100);
/// Who creates, starts or removes something looks at it himself when that has ended. Only where nobody has looked for
/// so long does the event cause a look: else each step of a pod's start and end would be looked at twice. On a busy
/// machine a step takes most of a second; upstream looks once a second too.
const OWN_DOING_DELAY: Duration = Duration::from_secs(1);

pub(crate) enum Hint {
    Event(RuntimeEvent),
    Look(PodUid),
}

/// What the next look at a pod is for.
#[derive(Default)]
struct Question {
    /// These have ended, so an event says; the picture should show it.
    ended: Vec<ContainerId>,
    attempt: u8,
}

enum Done {
    Looked(PodUid, Question, cri::Result<Arc<ObservedPod>>),
    Again(PodUid, Question),
    /// Long ago somebody did something to the pod; the look is the last one that was begun before.
    Settled(PodUid, Look, EventKind),
    Stranger(ContainerId),
}

pub(crate) async fn run(observer: Arc<Observer>, mut inbox: mpsc::UnboundedReceiver<Hint>) {
    let mut hints = Hints { observer, tasks: JoinSet::new(), pods: HashMap::new() };
    loop {
        tokio::select! {
            hint = inbox.recv() => match hint {
                Some(Hint::Event(event)) => hints.event(event),
                Some(Hint::Look(uid)) => hints.look(uid, Question::default()),
                None => return,
            },
            Some(Ok(done)) = hints.tasks.join_next() => hints.done(done),
        }
    }
}

struct Hints {
    observer: Arc<Observer>,
    tasks: JoinSet<Done>,
    /// Pods with a look under way, and the question that waits for its end.
    pods: HashMap<PodUid, Option<Question>>,
}

impl Hints {
    fn event(&mut self, event: RuntimeEvent) {
        let RuntimeEvent { id, pod, kind, .. } = event;
        let owner = pod.or_else(|| self.observer.cache().owner(&id));
        let begins = matches!(kind, EventKind::Created | EventKind::Started);
        match owner {
            Some(uid) if begins || kind == EventKind::Deleted => {
                let before = self.observer.cache().last_look();
                self.tasks.spawn(async move {
                    tokio::time::sleep(OWN_DOING_DELAY).await;
                    Done::Settled(uid, before, kind)
                });
            }
            Some(uid) => {
                let ended = if kind == EventKind::Stopped { vec![id] } else { Vec::new() };
                self.look(uid, Question { ended, attempt: 0 });
            }
            None if begins => {
                self.tasks.spawn(async move {
                    tokio::time::sleep(STRANGER_DELAY).await;
                    Done::Stranger(id)
                });
            }
            // It was unknown, and now it is gone.
            None => metrics::pleg::DISCARD_EVENTS.inc(),
        }
    }

    fn look(&mut self, uid: PodUid, question: Question) {
        if let Some(waiting) = self.pods.get_mut(&uid) {
            let waiting = waiting.get_or_insert_with(|| Question { attempt: question.attempt, ..Default::default() });
            waiting.attempt = waiting.attempt.min(question.attempt);
            waiting.ended.extend(question.ended);
            return;
        }
        self.pods.insert(uid.clone(), None);
        let observer = self.observer.clone();
        self.tasks.spawn(async move {
            let result = observer.look_at(&uid).await;
            Done::Looked(uid, question, result)
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Looked(uid, question, result) => {
                let waiting = self.pods.remove(&uid).flatten();
                self.follow_up(&uid, question, result);
                if let Some(next) = waiting {
                    self.look(uid, next);
                }
            }
            Done::Again(uid, question) => self.look(uid, question),
            Done::Settled(uid, before, kind) => {
                let cache = self.observer.cache();
                // What was made is looked at alone by who made it; that something is gone, only a look at all shows.
                let seen = match kind {
                    EventKind::Deleted => cache.seen_whole(&uid),
                    _ => cache.current(&uid).map(|pod| pod.version),
                };
                drop(cache);
                if seen.is_none_or(|look| look <= before) {
                    self.look(uid, Question::default());
                }
            }
            Done::Stranger(id) => {
                if self.observer.cache().owner(&id).is_none() {
                    self.observer.sweep_wanted.notify_one();
                }
            }
        }
    }

    /// Looks again, a bit later, where the answer does not show yet what an event told.
    fn follow_up(&mut self, uid: &PodUid, question: Question, result: cri::Result<Arc<ObservedPod>>) {
        let Question { mut ended, attempt } = question;
        let delay = match result {
            Ok(pod) => {
                ended.retain(|id| is_shown_running(&pod, id));
                if ended.is_empty() {
                    return;
                }
                FIRST_SECOND_LOOK * 2u32.pow(u32::from(attempt))
            }
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "could not look at the pod");
                RETRY
            }
        };
        if attempt >= ATTEMPTS {
            // The next sweep will find it.
            return;
        }
        let uid = uid.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            Done::Again(uid, Question { ended, attempt: attempt + 1 })
        });
    }
}

fn is_shown_running(pod: &ObservedPod, id: &ContainerId) -> bool {
    pod.container(id).is_some_and(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
        || pod.sandboxes.iter().any(|s| s.ready && s.id.as_str() == id.as_str())
}
