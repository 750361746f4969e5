//! What the node has and what of it pods may use.

use host::MachineFacts;
use pod::quantity::{Amounts, Format, Quantity};

use crate::config::{HardEviction, NodeConfig, Threshold};

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
pub const HUGEPAGES: &str = "hugepages-";

fn bytes(value: u64, format: Format) -> Quantity {
    Quantity::from_value(i64::try_from(value).unwrap_or(i64::MAX), format)
}

/// `storage` is the size in bytes of the root directory's file system, None where it is not to be told.
pub fn capacity(config: &NodeConfig, machine: &MachineFacts, storage: Option<u64>) -> Amounts {
    let mut capacity = Amounts::from([
        (CPU.to_owned(), Quantity::from_milli(i64::from(machine.num_cpus) * 1000, Format::DecimalSi)),
        (MEMORY.to_owned(), bytes(machine.memory_bytes, Format::BinarySi)),
        (PODS.to_owned(), Quantity::from_value(pods(config, machine.num_cpus), Format::DecimalSi)),
    ]);
    for pages in &machine.hugepages {
        let size = bytes(pages.page_size, Format::BinarySi);
        capacity
            .insert(format!("{HUGEPAGES}{size}"), bytes(pages.page_size.saturating_mul(pages.pages), Format::BinarySi));
    }
    if let Some(storage) = storage {
        capacity.insert(EPHEMERAL_STORAGE.to_owned(), bytes(storage, Format::DecimalSi));
    }
    capacity
}

fn pods(config: &NodeConfig, cores: u32) -> i64 {
    match config.pods_per_core {
        0 => i64::from(config.max_pods),
        per_core => i64::from(cores.saturating_mul(per_core).min(config.max_pods)),
    }
}

/// Capacity less what is reserved and what eviction keeps free; memory also less huge pages. Never below nothing.
pub fn allocatable(config: &NodeConfig, capacity: &Amounts) -> Amounts {
    let eviction = eviction_reserve(config.hard_eviction, capacity);
    let mut left: Amounts = capacity
        .iter()
        .map(|(name, has)| {
            let kept = [&config.system_reserved, &config.kube_reserved, &eviction];
            let kept = kept.into_iter().filter_map(|list| list.get(name)).copied();
            (name.clone(), floor(kept.fold(*has, Quantity::minus)))
        })
        .collect();
    let huge = capacity.iter().filter(|(name, _)| name.starts_with(HUGEPAGES)).map(|(_, amount)| *amount);
    if let Some(memory) = left.get_mut(MEMORY) {
        *memory = floor(huge.fold(*memory, Quantity::minus));
    }
    left
}

fn floor(amount: Quantity) -> Quantity {
    if amount.is_negative() { Quantity::from_value(0, amount.format()) } else { amount }
}

fn eviction_reserve(thresholds: HardEviction, capacity: &Amounts) -> Amounts {
    let pairs = [(MEMORY, thresholds.memory), (EPHEMERAL_STORAGE, thresholds.nodefs)];
    let reserves = pairs.into_iter().filter_map(|(name, threshold)| {
        let amount = match threshold? {
            Threshold::Amount(amount) => amount,
            Threshold::Share(share) => {
                let has = capacity.get(name).copied().unwrap_or_default();
                Quantity::from_value((has.value() as f64 * share) as i64, Format::BinarySi)
            }
        };
        Some((name.to_owned(), amount))
    });
    reserves.collect()
}

/// Why a configuration can't be: more is reserved than there is.
pub fn check(config: &NodeConfig, capacity: &Amounts) -> Result<(), String> {
    let eviction = eviction_reserve(config.hard_eviction, capacity);
    let over = capacity.iter().filter_map(|(name, has)| {
        let lists = [&config.system_reserved, &config.kube_reserved, &eviction];
        let reserved = lists.into_iter().filter_map(|list| list.get(name)).copied().fold(Quantity::ZERO, Quantity::plus);
        (reserved > *has).then(|| {
            format!("Resource {name:?} has a reservation of {reserved} but capacity of {has}. Expected capacity >= reservation.")
        })
    });
    let over: Vec<String> = over.collect();
    if over.is_empty() { Ok(()) } else { Err(over.join(" ")) }
}

#[cfg(test)]
mod tests {
    use host::facts::HugePages;

    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    fn machine() -> MachineFacts {
        MachineFacts {
            num_cpus: 4,
            memory_bytes: 8 << 30,
            hugepages: vec![HugePages { page_size: 2 << 20, pages: 512 }, HugePages { page_size: 1 << 30, pages: 0 }],
            ..MachineFacts::default()
        }
    }

    fn texts(amounts: &Amounts) -> Vec<String> {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn capacity_is_written_as_upstream_writes_it() {
        let capacity = capacity(&NodeConfig::new("n"), &machine(), Some(10_000_000_000));
        let expected =
            ["cpu=4", "ephemeral-storage=10G", "hugepages-1Gi=0", "hugepages-2Mi=1Gi", "memory=8Gi", "pods=110"];
        assert_eq!(texts(&capacity), expected);
    }

    #[test]
    fn cores_may_limit_pods() {
        let config = NodeConfig { pods_per_core: 10, ..NodeConfig::new("n") };
        assert_eq!(capacity(&config, &machine(), None)[PODS], q("40"));
        let config = NodeConfig { pods_per_core: 100, ..NodeConfig::new("n") };
        assert_eq!(capacity(&config, &machine(), None)[PODS], q("110"));
    }

    #[test]
    fn allocatable_leaves_out_what_is_reserved_evicted_and_huge() {
        let config = NodeConfig {
            kube_reserved: Amounts::from([("cpu".into(), q("500m")), ("memory".into(), q("1Gi"))]),
            system_reserved: Amounts::from([("cpu".into(), q("250m"))]),
            hard_eviction: HardEviction {
                memory: Some(Threshold::Amount(q("100Mi"))),
                nodefs: Some(Threshold::Share(0.1)),
            },
            ..NodeConfig::new("n")
        };
        let left = allocatable(&config, &capacity(&config, &machine(), Some(10_000_000_000)));
        assert_eq!(left[CPU].to_string(), "3250m");
        // 8Gi - 1Gi reserved - 100Mi eviction - 1Gi huge pages
        assert_eq!(left[MEMORY].to_string(), "6044Mi");
        assert_eq!(left[EPHEMERAL_STORAGE].to_string(), "9G");
        assert_eq!((left["hugepages-2Mi"], left[PODS]), (q("1Gi"), q("110")));
    }

    #[test]
    fn nothing_is_allocatable_below_zero() {
        let config = NodeConfig { kube_reserved: Amounts::from([("cpu".into(), q("64"))]), ..NodeConfig::new("n") };
        let capacity = capacity(&config, &machine(), None);
        assert_eq!(allocatable(&config, &capacity)[CPU].to_string(), "0");
        assert_eq!(
            check(&config, &capacity).unwrap_err(),
            "Resource \"cpu\" has a reservation of 64 but capacity of 4. Expected capacity >= reservation."
        );
        assert!(check(&NodeConfig::new("n"), &capacity).is_ok());
    }
}
