//! Feature gates: what is known, what was set, what follows; errors worded as upstream words them.

mod table;

use std::collections::BTreeMap;

pub use table::GATES;

use crate::support::Support;

/// The features that a node declares by the gate of the same name, in order. Those that depend on the runtime too are
/// not among them: this agent has none of them yet.
const DECLARED: [&str; 7] = [
    "DRANodeAllocatableResources",
    "DRAOptionalNodeOperations",
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "InPlacePodVerticalScalingMemoryBackedVolumes",
    "RestartAllContainersOnContainerExits",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
    GA,
    Deprecated,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::GA => "GA",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

impl Stage {
    /// As the metric `kubernetes_feature_enabled` has it: none for what is generally available.
    pub const fn as_metric(self) -> &'static str {
        match self {
            Self::GA => "",
            stage => stage.as_str(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Gate {
    pub name: &'static str,
    pub default: bool,
    pub stage: Stage,
    /// Cannot be set to anything but its default.
    pub locked: bool,
    /// Gates that must be on when this one is.
    pub needs: &'static [&'static str],
    pub support: Support,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("unrecognized feature gate: {0}")]
    Unrecognized(String),
    #[error("cannot set feature gate {name} to {value}, feature is locked to {}", !value)]
    Locked { name: String, value: bool },
    #[error("{name} is enabled, but depends on features that are disabled: [{}]", missing.join(" "))]
    Depends { name: &'static str, missing: Vec<&'static str> },
}

/// The state of all gates; holds only what differs from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    set: BTreeMap<&'static str, bool>,
}

fn find(name: &str) -> Option<&'static Gate> {
    GATES.binary_search_by(|gate| gate.name.cmp(name)).ok().map(|index| &GATES[index])
}

impl FeatureGates {
    /// All gates as the given settings leave them. An unknown gate hides every other fault, as upstream; else all
    /// locked ones are reported; else all unmet dependencies.
    pub fn new(given: &BTreeMap<String, bool>) -> Result<Self, Vec<GateError>> {
        if let Some(unknown) = given.keys().find(|name| find(name).is_none()) {
            return Err(vec![GateError::Unrecognized(unknown.clone())]);
        }
        let given: Vec<_> = given.iter().filter_map(|(name, value)| Some((find(name)?, *value))).collect();
        let locked: Vec<_> = given
            .iter()
            .filter(|(gate, value)| gate.locked && gate.default != *value)
            .map(|(gate, value)| GateError::Locked { name: gate.name.to_owned(), value: *value })
            .collect();
        if !locked.is_empty() {
            return Err(locked);
        }
        let gates = Self::with(&given);
        let unmet = gates.unmet();
        if unmet.is_empty() { Ok(gates) } else { Err(unmet) }
    }

    fn with(given: &[(&'static Gate, bool)]) -> Self {
        let mut set = BTreeMap::new();
        for (switch, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            let Some((_, value)) = given.iter().find(|(gate, _)| gate.name == switch) else { continue };
            let of_stage = |gate: &&Gate| gate.stage == stage && !gate.name.starts_with("All");
            set.extend(GATES.iter().filter(of_stage).map(|gate| (gate.name, *value)));
        }
        set.extend(given.iter().map(|(gate, value)| (gate.name, *value)));
        set.retain(|name, value| find(name).is_some_and(|gate| gate.default != *value));
        Self { set }
    }

    fn unmet(&self) -> Vec<GateError> {
        let enabled = GATES.iter().filter(|gate| self.enabled(gate.name));
        enabled
            .filter_map(|gate| {
                let missing: Vec<_> = gate.needs.iter().copied().filter(|need| !self.enabled(need)).collect();
                (!missing.is_empty()).then_some(GateError::Depends { name: gate.name, missing })
            })
            .collect()
    }

    /// False for a name that is no gate.
    pub fn enabled(&self, name: &str) -> bool {
        self.set.get(name).copied().unwrap_or_else(|| find(name).is_some_and(|gate| gate.default))
    }

    /// What the node declares in its status: the features that are on and that this agent has. Sorted.
    pub fn declared(&self) -> Vec<String> {
        let has =
            |name: &str| find(name).is_some_and(|gate| matches!(gate.support, Support::Works | Support::Partly(_)));
        DECLARED.iter().filter(|name| self.enabled(name) && has(name)).map(|name| (*name).to_owned()).collect()
    }

    /// The gates that are not at their default.
    pub fn changed(&self) -> impl Iterator<Item = (&'static Gate, bool)> + '_ {
        self.set.iter().filter_map(|(name, value)| Some((find(name)?, *value)))
    }

    /// All gates with their state, for the metric `kubernetes_feature_enabled`.
    pub fn all(&self) -> impl Iterator<Item = (&'static Gate, bool)> + '_ {
        GATES.iter().map(|gate| (gate, self.enabled(gate.name)))
    }
}

/// The lines of `--help`: gates that are still worth setting.
pub fn help_lines() -> impl Iterator<Item = String> {
    let open = GATES.iter().filter(|gate| matches!(gate.stage, Stage::Alpha | Stage::Beta));
    open.map(|gate| format!("{}=true|false ({} - default={})", gate.name, gate.stage.as_str(), gate.default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(given: &[(&str, bool)]) -> Result<FeatureGates, Vec<String>> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        FeatureGates::new(&given).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_node_declares_what_is_on_and_what_this_agent_has() {
        assert!(DECLARED.is_sorted() && DECLARED.iter().all(|name| find(name).is_some()));
        let declared = set(&[]).unwrap().declared();
        assert!(declared.contains(&"ExtendWebSocketsToKubelet".to_owned()), "{declared:?}");
        let all = set(&[("AllAlpha", true)]).unwrap_or_default().declared();
        let has = |name: &str| matches!(find(name).unwrap().support, Support::Works | Support::Partly(_));
        assert!(all.iter().all(|name| has(name)), "{all:?}");
        let without = set(&[("ExtendWebSocketsToKubelet", false)]).unwrap().declared();
        assert!(!without.contains(&"ExtendWebSocketsToKubelet".to_owned()), "{without:?}");
    }

    #[test]
    fn the_table_is_in_order_and_its_dependencies_exist() {
        assert!(GATES.is_sorted_by_key(|gate| gate.name));
        for gate in GATES {
            assert!(gate.needs.iter().all(|need| find(need).is_some()), "{}", gate.name);
        }
        assert!(FeatureGates::default().unmet().is_empty());
    }

    #[test]
    fn an_unknown_gate_is_refused_by_name() {
        assert_eq!(set(&[("Foo", true), ("ImageVolume", false)]), Err(vec!["unrecognized feature gate: Foo".into()]));
        assert!(set(&[("SidecarContainers", true)]).is_err(), "gone in 1.37");
    }

    #[test]
    fn a_locked_gate_may_only_be_set_to_its_default() {
        let refused = "cannot set feature gate ImageVolume to false, feature is locked to true";
        assert_eq!(set(&[("ImageVolume", false)]), Err(vec![refused.into()]));
        assert!(set(&[("ImageVolume", true), ("GitRepoVolumeDriver", false)]).is_ok());
    }

    #[test]
    fn a_gate_needs_those_it_depends_on() {
        let errors = set(&[("PodLevelResources", false)]).unwrap_err();
        assert_eq!(errors.len(), 3);
        assert!(errors.contains(
            &"PodLevelResourcesFixDefaulting is enabled, but depends on features that are disabled: [PodLevelResources]"
                .to_owned()
        ));
        let both = "CompositePodGroup is enabled, but depends on features that are disabled: \
                    [GenericWorkload TopologyAwareWorkloadScheduling]";
        assert_eq!(set(&[("CompositePodGroup", true)]), Err(vec![both.into()]));
    }

    #[test]
    fn all_alpha_and_all_beta_set_what_was_not_set_by_name() {
        let gates = set(&[("AllBeta", true), ("AllAlpha", true), ("EventedPLEG", false)]).unwrap();
        assert!(gates.enabled("ContainerStopSignals"));
        assert!(!gates.enabled("EventedPLEG"));
        assert!(gates.enabled("PodAndContainerStatsFromCRI"), "a beta that is off by default");
        assert!(!gates.enabled("Foo"));
    }
}
