//! The cgroups that divide the node: what pods may use together, and what is kept for the system and the agent.

use std::time::Duration;

use anyhow::Context;
use apiserver::{Events, with_causes};
use cgroups::{Amount, Cgroups, NodeResources, Reserved};
use host::MachineFacts;
use node::NodeFacts;
use pod::{
    mounts::EventType,
    quantity::{Amounts, Quantity},
};

use super::machine::amounts;
use crate::options::Options;

const ENFORCED: &str = "NodeAllocatableEnforced";
const NOT_ENFORCED: &str = "FailedNodeAllocatableEnforcement";
const RETRY: Duration = Duration::from_secs(60);

/// What the machine has, and what kubeReserved and systemReserved keep of it.
pub(super) fn node_resources(
    options: &Options,
    facts: &NodeFacts,
    machine: &MachineFacts,
) -> anyhow::Result<NodeResources> {
    let (kube, system) = reserved_amounts(options)?;
    let capacity = Amount {
        milli_cpu: facts.capacity.get("cpu").map_or(i64::from(machine.num_cpus) * 1000, Quantity::milli_value),
        memory: facts.capacity.get("memory").map_or(machine.memory_bytes as i64, Quantity::value),
        pids: machine.max_pids.and_then(|p| i64::try_from(p).ok()),
    };
    let sum = |name: &str, value: fn(&Quantity) -> i64| {
        let named = [&kube, &system].into_iter().filter_map(|list| list.get(name)).map(value);
        named.reduce(|a, b| a.saturating_add(b))
    };
    let reserved = Amount {
        milli_cpu: sum("cpu", Quantity::milli_value).unwrap_or_default(),
        memory: sum("memory", Quantity::value).unwrap_or_default(),
        pids: sum("pid", Quantity::value),
    };
    Ok(NodeResources { capacity, reserved })
}

fn reserved_amounts(options: &Options) -> anyhow::Result<(Amounts, Amounts)> {
    let (kube, system) = options.reserved();
    Ok((amounts("kubeReserved", &kube)?, amounts("systemReserved", &system)?))
}

/// Task: sets the limit of all pods together. It fails as long as they use more; that may take until some are evicted.
pub(super) async fn enforce_allocatable(cgroups: Cgroups, resources: NodeResources, events: Events) {
    loop {
        let Err(error) = cgroups.enforce_node(&resources).await else { break };
        let cgroup = cgroups.kubepods_path();
        let message = format!("Failed to update Node Allocatable Limits {cgroup:?}: {}", with_causes(&error));
        tracing::warn!("{message}");
        events.node(EventType::Warning, NOT_ENFORCED, message);
        tokio::time::sleep(RETRY).await;
    }
    events.node(EventType::Normal, ENFORCED, "Updated Node Allocatable limit across pods");
}

/// One kind of enforceNodeAllocatable other than `pods`.
struct Kind {
    name: &'static str,
    system: bool,
    compressible_only: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "system-reserved", system: true, compressible_only: false },
    Kind { name: "kube-reserved", system: false, compressible_only: false },
    Kind { name: "system-reserved-compressible", system: true, compressible_only: true },
    Kind { name: "kube-reserved-compressible", system: false, compressible_only: true },
];

/// Limits the cgroups of the system and of the agent, where that is asked for. A cgroup that is not there ends the
/// start, as with upstream: its limits would silently not hold.
pub(super) async fn enforce_reserved(options: &Options, cgroups: &Cgroups, events: &Events) -> anyhow::Result<()> {
    let (kube, system) = reserved_amounts(options)?;
    let config = &options.config;
    for kind in KINDS.iter().filter(|kind| config.enforce_node_allocatable.iter().any(|k| k == kind.name)) {
        let (cgroup, amounts, words) = match kind.system {
            true => (&config.system_reserved_cgroup, &system, "system reserved"),
            false => (&config.kube_reserved_cgroup, &kube, "kube reserved"),
        };
        let reserved = reserved_of(amounts, kind.compressible_only);
        if let Err(error) = cgroups.enforce_reserved(cgroup, &reserved).await {
            let message = format!("Failed to enforce limits on the {words} cgroup {cgroup:?}");
            events.node(EventType::Warning, NOT_ENFORCED, format!("{message}: {}", with_causes(&error)));
            return Err(error).context(message);
        }
        events.node(EventType::Normal, ENFORCED, format!("Updated limits on {words} cgroup {cgroup}"));
    }
    Ok(())
}

fn reserved_of(amounts: &Amounts, compressible_only: bool) -> Reserved {
    Reserved {
        milli_cpu: amounts.get("cpu").map(Quantity::milli_value),
        memory: amounts.get("memory").map(Quantity::value),
        pids: amounts.get("pid").map(Quantity::value),
        compressible_only,
    }
}
