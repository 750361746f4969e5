//! The cgroups above the pods: kubepods with what the node may give away, and its QoS classes.

use std::{collections::BTreeMap, fs, sync::MutexGuard};

use pod::{
    DesiredPod,
    memory_qos::MemoryQos,
    qos::{QosClass, qos_class},
    resources::{cpu_shares, pod_requests},
};

use crate::{CgroupName, Cgroups, Driver, Limits, Result, Version, limits::MIN_SHARES};

/// Amounts in the kernel's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// None: not limited.
    pub pids: Option<i64>,
}

/// What the machine has, and how much of it kubeReserved and systemReserved keep from pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeResources {
    pub capacity: Amount,
    pub reserved: Amount,
}

/// What enforceNodeAllocatable sets on a cgroup of the system's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub milli_cpu: Option<i64>,
    pub memory: Option<i64>,
    pub pids: Option<i64>,
    /// CPU only.
    pub compressible_only: bool,
}

/// Huge pages of kubepods and of a QoS class are not limited; the pods' are.
const UNBOUNDED: u64 = 1 << 62;

impl Cgroups {
    /// Makes kubepods and the QoS classes, with their limits as far as the kernel takes them now.
    pub async fn ensure_node(&self, resources: &NodeResources) -> Result<()> {
        if !self.shared.config.per_qos {
            return Ok(());
        }
        for name in self.shared.root.lineage().filter(|name| !self.exists(name)) {
            self.create(&name, &Limits::default()).await?;
        }
        self.create(&self.shared.kubepods, &self.node_limits(resources)).await?;
        for class in [QosClass::Burstable, QosClass::BestEffort] {
            self.create(&self.class_name(class), &self.class_limits(class)).await?;
        }
        Ok(())
    }

    /// Sets the limits of kubepods again. It fails as long as pods use more than they shall: to be repeated.
    pub async fn enforce_node(&self, resources: &NodeResources) -> Result<()> {
        if !self.shared.config.per_qos {
            return Ok(());
        }
        self.set(&self.shared.kubepods, &self.node_limits(resources)).await
    }

    /// Limits an existing cgroup of the system or of the kubelet and runtime (systemReservedCgroup, kubeReservedCgroup).
    pub async fn enforce_reserved(&self, cgroup: &str, reserved: &Reserved) -> Result<()> {
        let name = match self.driver() {
            Driver::Cgroupfs => CgroupName::from_path(cgroup)?,
            Driver::Systemd => {
                let unit = cgroup.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let slice = unit.trim_end_matches(".slice");
                CgroupName::from_path(&slice.replace('-', "/").replace('_', "-"))?
            }
        };
        if !self.exists(&name) {
            return Err(crate::Error::Missing { name: cgroup.to_owned() });
        }
        let mut limits = Limits { cpu_shares: reserved.milli_cpu.map(cpu_shares), ..Limits::default() };
        if !reserved.compressible_only {
            limits.memory = reserved.memory;
            limits.pids = reserved.pids;
        }
        self.set(&name, &limits).await
    }

    /// Keeps the QoS classes at the sum of their pods' requests. For every change of the set of pods; writes only when
    /// a sum changed.
    pub async fn update_qos(&self, pods: &[DesiredPod]) -> Result<()> {
        if !self.shared.config.per_qos {
            return Ok(());
        }
        let classes = self.classes(pods);
        if self.told_classes().as_ref() == Some(&classes) {
            return Ok(());
        }
        for (name, limits) in &classes {
            self.set(name, limits).await?;
        }
        *self.told_classes() = Some(classes);
        Ok(())
    }

    fn classes(&self, pods: &[DesiredPod]) -> Vec<(CgroupName, Limits)> {
        let mut burstable = Limits { cpu_shares: Some(burstable_shares(pods)), ..Limits::default() };
        let mut classes = Vec::new();
        if let Some([all, class]) = self.memory_qos().and_then(|qos| qos.of_classes(pods)) {
            burstable.unified = texts(class);
            classes.push((self.shared.kubepods.clone(), Limits { unified: texts(all), ..Limits::default() }));
        }
        classes.push((self.class_name(QosClass::Burstable), burstable));
        classes
    }

    fn told_classes(&self) -> MutexGuard<'_, Option<Vec<(CgroupName, Limits)>>> {
        self.shared.classes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn memory_qos(&self) -> Option<MemoryQos> {
        self.shared.config.memory_qos.filter(|_| self.version() == Version::V2)
    }

    /// `update_qos` keeps what is protected.
    fn reserves_memory(&self) -> bool {
        self.memory_qos().is_some_and(|qos| qos.tiered_reservation)
    }

    pub(crate) fn class_name(&self, class: QosClass) -> CgroupName {
        match class {
            QosClass::Guaranteed => self.shared.kubepods.clone(),
            QosClass::Burstable => self.shared.kubepods.child("burstable"),
            QosClass::BestEffort => self.shared.kubepods.child("besteffort"),
        }
    }

    fn node_limits(&self, resources: &NodeResources) -> Limits {
        let mut limits = node_limits(resources, self.shared.config.enforce_pods);
        limits.hugepages = self.all_page_sizes(UNBOUNDED);
        // Told of a cpuset here, systemd enables the controller below and keeps it.
        limits.cpus = fs::read_to_string("/sys/devices/system/cpu/online").ok().map(|cpus| cpus.trim().to_owned());
        if self.version() == Version::V2 && !self.reserves_memory() {
            // An earlier configuration with memory reservation must not live on.
            limits.unified.extend([("memory.min", "0".to_owned()), ("memory.low", "0".to_owned())]);
        }
        limits
    }

    fn class_limits(&self, class: QosClass) -> Limits {
        let mut limits = Limits { hugepages: self.all_page_sizes(UNBOUNDED), ..Limits::default() };
        if class == QosClass::BestEffort {
            limits.cpu_shares = Some(MIN_SHARES);
        } else if self.version() == Version::V2 && !self.reserves_memory() {
            limits.unified.insert("memory.low", "0".to_owned());
        }
        limits
    }

    pub(crate) fn all_page_sizes(&self, limit: u64) -> BTreeMap<u64, u64> {
        self.shared.page_sizes.iter().map(|size| (*size, limit)).collect()
    }
}

/// As the kernel reads them.
pub(crate) fn texts(files: BTreeMap<&'static str, i64>) -> BTreeMap<&'static str, String> {
    files.into_iter().map(|(file, value)| (file, value.to_string())).collect()
}

fn node_limits(resources: &NodeResources, enforce: bool) -> Limits {
    let NodeResources { capacity, reserved } = resources;
    let left = |has: i64, keeps: i64| if enforce { has.saturating_sub(keeps).max(0) } else { has };
    Limits {
        cpu_shares: Some(cpu_shares(left(capacity.milli_cpu, reserved.milli_cpu))),
        memory: Some(left(capacity.memory, reserved.memory)),
        pids: capacity.pids.map(|pids| left(pids, reserved.pids.unwrap_or_default())),
        ..Limits::default()
    }
}

fn burstable_shares(pods: &[DesiredPod]) -> u64 {
    let burstable = pods.iter().filter(|pod| qos_class(&pod.pod) == QosClass::Burstable);
    let requests = burstable.filter_map(|pod| pod_requests(pod.spec()).get("cpu").map(|cpu| cpu.milli_value()));
    cpu_shares(requests.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;

    fn resources() -> NodeResources {
        NodeResources {
            capacity: Amount { milli_cpu: 4000, memory: 8 << 30, pids: Some(32768) },
            reserved: Amount { milli_cpu: 500, memory: 1 << 30, pids: Some(1000) },
        }
    }

    #[test]
    fn kubepods_gets_the_capacity_less_what_is_reserved() {
        let limits = node_limits(&resources(), true);
        assert_eq!((limits.cpu_shares, limits.memory, limits.pids), (Some(3584), Some(7 << 30), Some(31768)));
    }

    #[test]
    fn kubepods_does_not_limit_huge_pages() {
        let limits = crate::tests::cgroups(crate::Config::default()).node_limits(&resources());
        assert!(limits.hugepages.values().all(|limit| *limit == UNBOUNDED), "{:?}", limits.hugepages);
    }

    #[test]
    fn without_enforcement_kubepods_gets_the_capacity() {
        let limits = node_limits(&resources(), false);
        assert_eq!((limits.cpu_shares, limits.memory, limits.pids), (Some(4096), Some(8 << 30), Some(32768)));
    }

    #[test]
    fn only_burstable_pods_weigh_in_their_class() {
        let burstable = pod("b", r#"{"requests":{"cpu":"100m"}}"#);
        let guaranteed = pod("g", r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}"#);
        let best_effort = pod("e", "{}");
        assert_eq!(burstable_shares(&[burstable.clone(), guaranteed.clone(), burstable, best_effort]), 204);
        assert_eq!(burstable_shares(&[guaranteed]), MIN_SHARES);
    }
}
