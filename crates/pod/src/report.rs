//! The few facts about a pod that no runtime shows: what its worker is doing and what stands in the way.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use crate::{
    ContainerId,
    resize::ResizeReport,
    resources::PodCgroup,
    time::{Mono, Timestamp},
};

/// A pod's life on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Life {
    /// Known, not admitted yet.
    #[default]
    Pending,
    Syncing,
    /// Being stopped. `grace` only ever shrinks.
    Terminating {
        cause: TerminationCause,
        grace: Duration,
        since: Mono,
    },
    /// Nothing runs; volumes and cgroup are being taken down.
    Terminated,
    /// Nothing is left on the node: the API object may be deleted.
    Gone,
    /// Refused by admission: nothing was ever started.
    Rejected {
        reason: String,
        message: String,
    },
}

/// Why a pod is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminationCause {
    /// deletionTimestamp, or the manifest is gone.
    Deleted,
    /// All containers ended and none is to be restarted.
    Completed,
    /// Phase Failed with this reason and message (DeadlineExceeded, Evicted, NodeShutdown, ...). `disruption` adds
    /// condition DisruptionTarget=True with reason TerminationByKubelet.
    Failed { reason: String, message: String, disruption: bool },
    /// Running on the node, wanted by nobody.
    Orphaned,
}

/// Why a container is not running though it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One of `reason::*`.
    pub reason: String,
    pub message: String,
}

/// The step a pod is at, for people: shown in waiting messages and by `kubelet explain pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub doing: String,
    pub since: Mono,
    pub blocked_by: Option<String>,
}

/// What a pod worker tells the status rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerReport {
    pub life: Life,
    /// Why the pod was stopped, kept when its life moves on from `Terminating`: the phase, reason and message of
    /// its end come from here.
    pub cause: Option<TerminationCause>,
    /// status.startTime: when the pod was first seen here.
    pub first_seen: Option<Timestamp>,
    /// By container name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Containers that are stopped in order to be started again: their end is not final, whatever the restart policy
    /// says of it.
    pub restarting: HashSet<ContainerId>,
    /// Why there is no sandbox or volume yet (message of PodReadyToStartContainers, text for events).
    pub blocked: Option<Waiting>,
    pub step: Option<Step>,
    pub resize: ResizeReport,
    /// Set while the pod's cgroup has not the size that was allocated.
    pub enforced: Option<PodCgroup>,
}

impl WorkerReport {
    /// Why the pod is being or was stopped.
    pub fn cause(&self) -> Option<&TerminationCause> {
        match &self.life {
            Life::Terminating { cause, .. } => Some(cause),
            _ => self.cause.as_ref(),
        }
    }
    pub fn waiting_for(&self, container: &str) -> Option<&Waiting> {
        self.waiting.get(container)
    }
}
