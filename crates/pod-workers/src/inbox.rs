//! What a worker is told from outside, as one state: the latest word wins and nothing queues up.

use std::time::Duration;

use pod::{DesiredPod, TerminationCause, resize::ResizeWord};

/// The dispatcher's word to one worker.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    /// With the resources that the node has granted.
    pub desired: DesiredPod,
    /// The source no longer has the pod.
    pub removed: bool,
    /// Somebody on the node wants it ended (eviction, shutdown, preemption).
    pub end: Option<End>,
    pub resize: ResizeWord,
}

#[derive(Clone, Debug)]
pub(crate) struct End {
    pub cause: TerminationCause,
    pub grace: Option<Duration>,
}

impl Inbox {
    pub fn new(desired: DesiredPod) -> Self {
        Self { desired, removed: false, end: None, resize: ResizeWord::default() }
    }
}
