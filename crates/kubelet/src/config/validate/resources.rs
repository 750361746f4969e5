//! Reserved resources, node allocatable, resource managers, eviction thresholds, memory and swap.

use std::collections::{BTreeMap, BTreeSet};

use pod::quantity::Quantity;

use super::{Check, Invalid};
use crate::config::{duration::GoDuration, names};

/// A memoryThrottlingFactor that old files carry, tolerated with the gate off.
const FORMER_THROTTLING: f64 = 0.9;

const SIGNALS: [&str; 9] = [
    "memory.available",
    "allocatableMemory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

pub(super) fn check(check: &mut Check<'_>) {
    let c = check.config;
    check.refuse_if(!c.system_cgroups.is_empty() && c.cgroup_root.is_empty(), || {
        Invalid::new("systemCgroups", &c.system_cgroups, "needs cgroupRoot (--cgroup-root) to be given too")
    });
    enforcement(check);
    reserved(check, "systemReserved", &c.system_reserved);
    reserved(check, "kubeReserved", &c.kube_reserved);
    reserved_cpus(check);
    reserved_memory(check);
    managers(check);
    memory(check);
    eviction(check);
}

fn enforcement(check: &mut Check<'_>) {
    const FIELD: &str = "enforceNodeAllocatable";
    let c = check.config;
    let kinds = &c.enforce_node_allocatable;
    for full in ["system-reserved", "kube-reserved"] {
        let both = kinds.iter().any(|k| k == full) && kinds.contains(&format!("{full}-compressible"));
        check.refuse_if(both, || {
            Invalid::new(FIELD, full, format!("cannot be given together with {full}-compressible"))
        });
    }
    let mut seen = BTreeSet::new();
    for kind in kinds {
        if !seen.insert(kind) {
            check.refuse(Invalid::new(FIELD, kind, "is given twice"));
            continue;
        }
        let needs = match kind.as_str() {
            "none" => {
                check.refuse_if(kinds.len() > 1, || Invalid::new(FIELD, kind, "may not be given with any other"));
                continue;
            }
            "pods" => None,
            "system-reserved" | "system-reserved-compressible" => {
                c.system_reserved_cgroup.is_empty().then_some("systemReservedCgroup (--system-reserved-cgroup)")
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                c.kube_reserved_cgroup.is_empty().then_some("kubeReservedCgroup (--kube-reserved-cgroup)")
            }
            _ => {
                let valid = "must be one of pods, system-reserved, system-reserved-compressible, kube-reserved, \
                             kube-reserved-compressible or none";
                check.refuse(Invalid::new(FIELD, kind, valid));
                continue;
            }
        };
        if let Some(cgroup) = needs {
            check.refuse(Invalid::new(FIELD, kind, format!("needs {cgroup} to be given too")));
        }
        check.refuse_if(!c.cgroups_per_qos, || {
            Invalid::new(FIELD, kind, "needs cgroupsPerQOS (--cgroups-per-qos) to be true")
        });
    }
}

fn reserved(check: &mut Check<'_>, field: &str, resources: &BTreeMap<String, String>) {
    for (resource, amount) in resources {
        let field = format!("{field}[{resource}]");
        if !matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
            let reason = "cannot be reserved: only cpu, memory, ephemeral-storage and pid can";
            check.refuse(Invalid::new(field, amount, reason));
            continue;
        }
        match amount.parse::<Quantity>() {
            Err(fault) => check.refuse(Invalid::new(field, amount, fault.to_string())),
            Ok(q) => check.refuse_if(q.is_negative(), || Invalid::new(field, amount, "cannot be negative")),
        }
    }
}

fn reserved_cpus(check: &mut Check<'_>) {
    const FIELD: &str = "reservedSystemCPUs";
    let c = check.config;
    let cpus = &c.reserved_system_cpus;
    if cpus.is_empty() {
        return;
    }
    check.refuse_if(!c.system_reserved_cgroup.is_empty() || !c.kube_reserved_cgroup.is_empty(), || {
        Invalid::new(FIELD, cpus, "cannot be given together with systemReservedCgroup or kubeReservedCgroup")
    });
    check.refuse_if(parse_cpus(cpus).is_none(), || Invalid::new(FIELD, cpus, "is no list of CPUs such as 0-3,7"));
}

/// The CPUs of a list such as `0-3,7`.
pub fn parse_cpus(list: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // More CPUs than any machine has: a slip of the keyboard, not a list.
        if first > last || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn reserved_memory(check: &mut Check<'_>) {
    let mut seen = BTreeSet::new();
    for (index, reservation) in check.config.reserved_memory.iter().enumerate() {
        for (kind, amount) in &reservation.limits {
            let field = format!("reservedMemory[{index}].limits[{kind}]");
            check.refuse_if(!names::is_reservable_memory(kind), || {
                Invalid::new(&field, amount, "is not supported: only memory and hugepages-<size> are")
            });
            let zero = amount.parse::<Quantity>().is_ok_and(|q| q.is_zero());
            check.refuse_if(zero, || Invalid::new(&field, amount, "must not be zero"));
            check.refuse_if(!seen.insert((reservation.numa_node, kind)), || {
                Invalid::new(&field, amount, format!("is given twice for NUMA node {}", reservation.numa_node))
            });
        }
    }
}

fn managers(check: &mut Check<'_>) {
    let c = check.config;
    for (field, value, allowed) in [
        ("cpuManagerPolicy", &c.cpu_manager_policy, &["none", "static"][..]),
        ("memoryManagerPolicy", &c.memory_manager_policy, &["None", "Static"]),
        (
            "topologyManagerPolicy",
            &c.topology_manager_policy,
            &["none", "best-effort", "restricted", "single-numa-node"],
        ),
        ("topologyManagerScope", &c.topology_manager_scope, &["container", "pod"]),
        ("memoryReservationPolicy", &c.memory_reservation_policy, &["None", "TieredReservation"]),
    ] {
        check.refuse_if(!allowed.contains(&value.as_str()), || {
            Invalid::new(field, value, format!("must be one of {allowed:?}"))
        });
    }
    for (resource, percent) in &c.qos_reserved {
        let field = format!("qosReserved[{resource}]");
        check.refuse_if(resource != "memory", || Invalid::new(&field, percent, "only memory can be reserved"));
        let number = percent.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
        check.refuse_if(!number.is_some_and(|n| (0..=100).contains(&n)), || {
            Invalid::new(&field, percent, "must be a percentage from 0% to 100%")
        });
    }
}

fn memory(check: &mut Check<'_>) {
    let c = check.config;
    let qos = check.on("MemoryQoS");
    if let Some(factor) = c.memory_throttling_factor {
        const FIELD: &str = "memoryThrottlingFactor";
        check.refuse_if(!qos && factor != FORMER_THROTTLING, || {
            Invalid::new(FIELD, factor, "requires feature gate MemoryQoS")
        });
        check.refuse_if(factor <= 0.0 || factor > 1.0, || {
            Invalid::new(FIELD, factor, "must be greater than 0 and less than or equal to 1.0")
        });
    }
    check.refuse_if(!qos && c.memory_reservation_policy == "TieredReservation", || {
        Invalid::new("memoryReservationPolicy", &c.memory_reservation_policy, "requires feature gate MemoryQoS")
    });
    let swap = &c.memory_swap.swap_behavior;
    check.refuse_if(!matches!(swap.as_str(), "" | "NoSwap" | "LimitedSwap"), || {
        Invalid::new("memorySwap.swapBehavior", swap, "must be one of \"\", \"LimitedSwap\" or \"NoSwap\"")
    });
    check.refuse_if(swap == "LimitedSwap" && !check.host.cgroup_v2, || {
        Invalid::new("memorySwap.swapBehavior", swap, "needs a host that uses cgroup v2")
    });
}

fn eviction(check: &mut Check<'_>) {
    let c = check.config;
    for (field, thresholds) in [("evictionHard", &c.eviction_hard), ("evictionSoft", &c.eviction_soft)] {
        for (signal, value) in thresholds {
            refuse_signal(check, field, signal, value, threshold(value).err());
        }
    }
    for (signal, value) in &c.eviction_minimum_reclaim {
        refuse_signal(check, "evictionMinimumReclaim", signal, value, reclaim(value).err());
    }
    for (signal, value) in &c.eviction_soft_grace_period {
        let fault = match value.parse::<GoDuration>() {
            Err(fault) => Some(fault.to_string()),
            Ok(period) => period.is_negative().then(|| "must not be negative".to_owned()),
        };
        refuse_signal(check, "evictionSoftGracePeriod", signal, value, fault);
    }
    for (signal, value) in &c.eviction_soft {
        check.refuse_if(!c.eviction_soft_grace_period.contains_key(signal), || {
            Invalid::new(format!("evictionSoft[{signal}]"), value, "needs an evictionSoftGracePeriod for its signal")
        });
    }
}

fn refuse_signal(check: &mut Check<'_>, field: &str, signal: &str, value: &str, fault: Option<String>) {
    let field = format!("{field}[{signal}]");
    check.refuse_if(!SIGNALS.contains(&signal), || {
        Invalid::new(&field, value, format!("unsupported eviction signal, must be one of {}", SIGNALS.join(", ")))
    });
    if let Some(fault) = fault {
        check.refuse(Invalid::new(field, value, fault));
    }
}

fn percentage(value: &str) -> Option<Result<f64, String>> {
    let number = value.strip_suffix('%')?;
    Some(number.parse::<f64>().map_err(|_| "must be a percentage or a quantity".to_owned()))
}

fn threshold(value: &str) -> Result<(), String> {
    match percentage(value) {
        Some(percent) => match percent? {
            percent if (0.0..=100.0).contains(&percent) => Ok(()),
            _ => Err("must be between 0% and 100%".to_owned()),
        },
        None => match value.parse::<Quantity>().map_err(|e| e.to_string())? {
            amount if amount.is_zero() || amount.is_negative() => Err("must be positive".to_owned()),
            _ => Ok(()),
        },
    }
}

fn reclaim(value: &str) -> Result<(), String> {
    match percentage(value) {
        Some(percent) if percent.clone()? <= 0.0 => Err("must be positive".to_owned()),
        Some(_) => Ok(()),
        None if value.parse::<Quantity>().map_err(|e| e.to_string())?.is_negative() => {
            Err("must not be negative".to_owned())
        }
        None => Ok(()),
    }
}
