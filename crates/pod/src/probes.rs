//! What the prober has found out, as the planner and the status rules read it.

use std::collections::HashMap;

use crate::ContainerId;

/// The outcome of a probe after thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Success,
    Failure,
}

/// The verdicts on one container; `None` where no probe of that kind has decided yet or none is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerProbes {
    pub startup: Option<Verdict>,
    pub liveness: Option<Verdict>,
    pub readiness: Option<Verdict>,
}

/// Keyed by container id, never by name: a replaced container starts anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults(pub HashMap<ContainerId, ContainerProbes>);

impl ProbeResults {
    pub fn of(&self, id: &ContainerId) -> ContainerProbes {
        self.0.get(id).copied().unwrap_or_default()
    }
}
