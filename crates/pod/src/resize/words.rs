//! How a resize is told: conditions and event messages.

use k8s_openapi::{
    api::core::v1::{Container, PodCondition, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Serialize;

use crate::{DesiredPod, conditions, time::Timestamp};

/// One of the two conditions that a resize has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub reason: String,
    pub message: String,
    /// Of the spec that asked for it.
    pub generation: i64,
    /// When the reason last changed.
    pub since: Timestamp,
    pub looked_at: Timestamp,
}

impl Condition {
    /// `before`: the same condition as it was.
    pub fn new(before: Option<&Self>, reason: &str, message: &str, generation: i64, now: Timestamp) -> Self {
        let since = before.filter(|b| b.reason == reason).map_or(now, |b| b.since);
        Self { reason: reason.to_owned(), message: message.to_owned(), generation, since, looked_at: now }
    }

    fn from_status(status: &PodStatus, type_: &str) -> Option<Self> {
        let found = conditions::find(status.conditions.as_ref(), type_)?;
        let since = found.last_transition_time.as_ref()?.0;
        Some(Self {
            reason: found.reason.clone().unwrap_or_default(),
            message: found.message.clone().unwrap_or_default(),
            generation: found.observed_generation.unwrap_or_default(),
            since,
            looked_at: found.last_probe_time.as_ref().map_or(since, |t| t.0),
        })
    }

    fn to_api(&self, type_: &str) -> PodCondition {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: set(&self.reason),
            message: set(&self.message),
            observed_generation: Some(self.generation).filter(|g| *g != 0),
            last_transition_time: Some(Time(self.since)),
            last_probe_time: Some(Time(self.looked_at)),
        }
    }
}

/// Both conditions, as the status shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeReport {
    /// The resize is not granted (yet): Deferred or Infeasible.
    pub pending: Option<Condition>,
    /// It is granted and not everywhere yet. Reason Error: the last try failed.
    pub in_progress: Option<Condition>,
}

impl ResizeReport {
    /// As an earlier agent left them.
    pub fn from_status(status: &PodStatus) -> Self {
        Self {
            pending: Condition::from_status(status, conditions::RESIZE_PENDING),
            in_progress: Condition::from_status(status, conditions::RESIZE_IN_PROGRESS),
        }
    }
    pub fn to_api(&self) -> Vec<PodCondition> {
        let pending = self.pending.as_ref().map(|c| c.to_api(conditions::RESIZE_PENDING));
        let in_progress = self.in_progress.as_ref().map(|c| c.to_api(conditions::RESIZE_IN_PROGRESS));
        pending.into_iter().chain(in_progress).collect()
    }
}

/// What the one who grants resizes tells a pod's worker, which gets the pod with the resources that are granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeWord {
    pub pending: Option<Condition>,
    pub accepted: Option<Accepted>,
}

/// The newest resize that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub generation: i64,
    pub at: Timestamp,
}

/// What happened to a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Started,
    Completed,
    Error,
    Deferred,
    Infeasible,
}

impl Verb {
    pub fn event(self) -> &'static str {
        match self {
            Verb::Started => "ResizeStarted",
            Verb::Completed => "ResizeCompleted",
            Verb::Error => "ResizeError",
            Verb::Deferred => "ResizeDeferred",
            Verb::Infeasible => "ResizeInfeasible",
        }
    }
    fn text(self) -> &'static str {
        match self {
            Verb::Started => "Pod resize started",
            Verb::Completed => "Pod resize completed",
            Verb::Error => "Pod resize error",
            Verb::Deferred => "Pod resize Deferred",
            Verb::Infeasible => "Pod resize Infeasible",
        }
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(rename = "initContainers", skip_serializing_if = "Vec::is_empty")]
    init: Vec<OfContainer<'a>>,
    #[serde(rename = "containers", skip_serializing_if = "Vec::is_empty")]
    regular: Vec<OfContainer<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct OfContainer<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

fn list(containers: &[Container]) -> Vec<OfContainer<'_>> {
    let of = |c: &'_ Container| c.resources.clone().unwrap_or_default();
    containers.iter().map(|c| OfContainer { name: &c.name, resources: of(c) }).collect()
}

/// The message of a resize's event.
pub fn summary(verb: Verb, pod: &DesiredPod, generation: i64, error: &str) -> String {
    let (init, regular) = (list(pod.init_containers()), list(pod.regular_containers()));
    let summary = Summary { init, regular, generation, error };
    let json = serde_json::to_string(&summary).expect("text and numbers are JSON");
    format!("{}: {json}", verb.text())
}
