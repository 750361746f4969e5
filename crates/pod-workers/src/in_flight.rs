//! The actions a worker has begun: tasks that it owns, so that ending the worker ends them.

use std::collections::HashMap;

use pod::{ContainerId, Waiting, resize::PodResources, resources::PodCgroup};
use tokio::task::{AbortHandle, JoinSet};

use trace::SharedSpan;

use crate::actions::Setup;

/// How an action ended.
#[derive(Debug)]
pub(crate) enum Done {
    Setup(Result<Setup, Failure>),
    Sandbox(Result<(), Failure>),
    TornDown(Result<(), Failure>),
    Started {
        name: String,
        result: Result<(), Failure>,
    },
    Stopped {
        id: ContainerId,
        result: Result<(), Failure>,
    },
    /// `all`: nothing is left of what was to go.
    Pruned {
        all: bool,
    },
    Refreshed,
    Resized(Box<Resized>),
    /// All containers are gone, to be started anew.
    RemovedAll(Result<(), Failure>),
    Terminated(Result<(), Failure>),
    Cleaned(Result<(), Failure>),
}

/// How a resize ended.
#[derive(Debug)]
pub(crate) struct Resized {
    /// On success what runtime and kernel have now.
    pub result: Result<PodResources, String>,
    /// What the pod's cgroup has after a failure.
    pub enforced: Option<PodCgroup>,
}

/// Why an action failed, as people will read it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub waiting: Waiting,
    /// When the failed part knows best how long to wait before the next try.
    pub retry_after: Option<std::time::Duration>,
    /// Whoever failed has told the user already.
    pub event_sent: bool,
}

impl Failure {
    pub fn new(reason: &str, message: impl ToString) -> Self {
        let waiting = Waiting { reason: reason.to_owned(), message: message.to_string() };
        Self { waiting, retry_after: None, event_sent: false }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// What those that are begun now are done for.
    pub span: SharedSpan,
    set: JoinSet<Done>,
    starts: HashMap<String, AbortHandle>,
}

async fn for_span(span: SharedSpan, task: impl Future<Output = Done>) -> Done {
    let done = span.clone().cover(task).await;
    if let (Some(span), Some(failure)) = (span.get(), done.failure()) {
        span.record_error(failure);
    }
    done
}

impl Done {
    fn failure(&self) -> Option<&str> {
        let failed = match self {
            Done::Setup(Err(failure)) => failure,
            Done::Started { result, .. } | Done::Stopped { result, .. } => result.as_ref().err()?,
            Done::Sandbox(result)
            | Done::TornDown(result)
            | Done::RemovedAll(result)
            | Done::Terminated(result)
            | Done::Cleaned(result) => result.as_ref().err()?,
            Done::Resized(resized) => return resized.result.as_ref().err().map(String::as_str),
            Done::Setup(Ok(_)) | Done::Pruned { .. } | Done::Refreshed => return None,
        };
        Some(&failed.waiting.message)
    }
}

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = Done> + Send + 'static) {
        self.set.spawn(for_span(self.span.clone(), task));
    }

    pub fn spawn_start(&mut self, name: &str, task: impl Future<Output = Done> + Send + 'static) {
        let handle = self.set.spawn(for_span(self.span.clone(), task));
        self.starts.insert(name.to_owned(), handle);
    }

    /// What is being started belongs to a past that ends here.
    pub fn abort_starts(&mut self) {
        for (_, start) in self.starts.drain() {
            start.abort();
        }
    }

    /// A deletion is seen at once: pulls and starts end here, and the relist that follows shows what they left. What
    /// has just ended is not heard of any more either.
    pub fn abort_all(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Cancel safe. None when there is nothing to wait for.
    pub async fn next(&mut self) -> Option<Done> {
        let done = loop {
            match self.set.join_next().await? {
                Ok(done) => break done,
                Err(aborted) if aborted.is_cancelled() => {} // whoever did so has taken it into account
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        };
        if let Done::Started { name, .. } = &done {
            self.starts.remove(name);
        }
        Some(done)
    }
}
