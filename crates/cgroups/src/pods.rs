//! The cgroups of pods.

use std::{collections::BTreeSet, fs, time::Duration};

use pod::{
    DesiredPod, PodUid,
    qos::{QosClass, qos_class},
    resources::{PodCgroup, pod_cgroup},
};
use rustix::process::{Pid, test_kill_process};

use crate::{
    CgroupName, Cgroups, Driver, Error, Limits, Result, Version, blocking, files, hierarchy::below, name::pod_of_entry,
    node::texts, weight_to_shares,
};

/// A killed process leaves its cgroup only when the kernel has torn it down.
const KILL_ROUNDS: u32 = 10;
const REMOVE_ROUNDS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What the kernel enforces on a pod now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnforcedLimits {
    pub cpu_shares: Option<u64>,
    /// Microseconds; None: no limit.
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    /// Bytes; None: no limit.
    pub memory: Option<i64>,
}

impl Cgroups {
    /// Makes the pod's cgroup if it is not there in full. The answer is what the runtime takes as cgroup_parent.
    pub async fn ensure_pod(&self, desired: &DesiredPod) -> Result<String> {
        if !self.shared.config.per_qos {
            return Ok(String::new());
        }
        let name = self.pod_name(desired);
        if !self.exists(&name) {
            self.create(&name, &self.pod_limits(desired)).await?;
        }
        Ok(name.cgroup_parent(self.driver()))
    }

    /// The same name without touching anything.
    pub fn cgroup_parent(&self, desired: &DesiredPod) -> String {
        if !self.shared.config.per_qos {
            return String::new();
        }
        self.pod_name(desired).cgroup_parent(self.driver())
    }

    /// Sets the limits anew, after a resize.
    pub async fn update_pod(&self, desired: &DesiredPod) -> Result<()> {
        self.set_pod(desired, &self.pod_limits(desired)).await
    }

    /// Sets some limits only: a resize goes resource by resource.
    pub async fn set_pod(&self, desired: &DesiredPod, limits: &Limits) -> Result<()> {
        if !self.shared.config.per_qos {
            return Ok(());
        }
        self.set(&self.pod_name(desired), limits).await
    }

    /// What `ensure_pod` and `update_pod` set.
    pub fn pod_limits(&self, desired: &DesiredPod) -> Limits {
        let config = &self.shared.config;
        let period = i64::try_from(config.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000);
        let mut limits = limits_of(pod_cgroup(desired, config.cpu_cfs_quota, period));
        limits.pids = (config.pod_pids_limit > 0).then_some(config.pod_pids_limit);
        // A pod uses no huge pages but those it asks for.
        let asked = std::mem::replace(&mut limits.hugepages, self.all_page_sizes(0));
        limits.hugepages.extend(asked);
        if let Some(qos) = self.memory_qos() {
            limits.unified = texts(qos.of_pod(desired, rustix::param::page_size()));
        }
        limits
    }

    pub fn pod_exists(&self, desired: &DesiredPod) -> bool {
        !self.shared.config.per_qos || self.exists(&self.pod_name(desired))
    }

    /// Every pod that has a cgroup, or a rest of one, on this node.
    pub fn pods(&self) -> Vec<PodUid> {
        if !self.shared.config.per_qos {
            return Vec::new();
        }
        let classes = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];
        let entries = classes
            .into_iter()
            .flat_map(|class| files::child_names(&self.shared.hierarchies, &self.path(&self.class_name(class))));
        let uids: BTreeSet<PodUid> = entries.filter_map(|entry| pod_of_entry(&entry, self.driver())).collect();
        uids.into_iter().collect()
    }

    /// Kills what still runs in the pod's cgroup and removes it, whatever QoS class it was in. One that is gone is fine.
    pub async fn remove_pod(&self, uid: &PodUid) -> Result<()> {
        if !self.shared.config.per_qos {
            return Ok(());
        }
        for name in self.pod_names(uid) {
            let path = self.path(&name);
            if !self.is_anywhere(&path) {
                continue;
            }
            let _timed = metrics::cgroups::operation("destroy");
            self.kill(&name).await?;
            if self.driver() == Driver::Systemd
                && let Err(error) = self.shared.systemd.stop_slice(&name).await
            {
                tracing::warn!(cgroup = %name, %error, "systemd did not stop a slice; its directories are removed all the same");
            }
            self.remove_dirs(&path).await?;
        }
        Ok(())
    }

    /// Kills every process of the pod, its containers' included.
    pub async fn kill_pod(&self, uid: &PodUid) -> Result<()> {
        for name in self.pod_names(uid).filter(|name| self.is_anywhere(&self.path(name))) {
            self.kill(&name).await?;
        }
        Ok(())
    }

    /// Lets a pod that is being stopped run with the least weight, so that it cannot slow down others.
    pub async fn throttle_pod(&self, desired: &DesiredPod) -> Result<()> {
        let limits = Limits { cpu_shares: Some(crate::limits::MIN_SHARES), ..Limits::default() };
        self.set_pod(desired, &limits).await
    }

    /// What the kernel enforces now, for resize. Blocking file reads.
    pub fn enforced_limits(&self, uid: &PodUid) -> Result<EnforcedLimits> {
        let path = self.pod_path(uid)?;
        let read = |controller: &'static str, file: &str| -> Result<String> {
            let file = below(self.shared.hierarchies.of(controller)?, &path).join(file);
            files::read(&file).map(|text| text.trim().to_owned())
        };
        match self.version() {
            Version::V1 => Ok(EnforcedLimits {
                cpu_shares: read("cpu", "cpu.shares")?.parse().ok(),
                cpu_quota: read("cpu", "cpu.cfs_quota_us")?.parse().ok().filter(|quota| *quota > 0),
                cpu_period: read("cpu", "cpu.cfs_period_us")?.parse().ok(),
                memory: read("memory", "memory.limit_in_bytes")?.parse().ok().filter(|limit| *limit < 1 << 62),
            }),
            Version::V2 => {
                let max = read("cpu", "cpu.max")?;
                let (quota, period) = max.split_once(' ').unwrap_or((&max, ""));
                Ok(EnforcedLimits {
                    cpu_shares: read("cpu", "cpu.weight")?.parse().ok().map(weight_to_shares),
                    cpu_quota: quota.parse().ok(),
                    cpu_period: period.parse().ok(),
                    memory: read("memory", "memory.max")?.parse().ok(),
                })
            }
        }
    }

    fn pod_name(&self, desired: &DesiredPod) -> CgroupName {
        self.class_name(qos_class(&desired.pod)).pod(&desired.uid)
    }

    /// Where a pod whose class is not known may be.
    pub(crate) fn pod_names(&self, uid: &PodUid) -> impl Iterator<Item = CgroupName> {
        let classes = [QosClass::Burstable, QosClass::BestEffort, QosClass::Guaranteed];
        classes.map(|class| self.class_name(class).pod(uid)).into_iter()
    }

    async fn kill(&self, name: &CgroupName) -> Result<()> {
        let path = self.path(name);
        let mut pause = FIRST_PAUSE;
        for _ in 0..KILL_ROUNDS {
            let (this, path) = (self.clone(), path.clone());
            if blocking(move || Ok(files::kill(&this.shared.hierarchies, &path))).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let left = files::processes(&self.shared.hierarchies, &path);
        let pids: Vec<i32> = left.into_iter().filter(|pid| is_alive(*pid)).collect();
        if pids.is_empty() { Ok(()) } else { Err(Error::StillRunning { name: name.to_string(), pids }) }
    }

    async fn remove_dirs(&self, path: &str) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        for round in 1.. {
            let (this, dirs) = (self.clone(), path.to_owned());
            match blocking(move || files::remove(&this.shared.hierarchies, &dirs)).await {
                Err(_) if round < REMOVE_ROUNDS => {}
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}

/// A zombie stays listed in its cgroup until its parent reaps it, but neither runs nor can be killed.
fn is_alive(pid: i32) -> bool {
    let exists = Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    exists && !matches!(state, Some('Z' | 'X'))
}

fn limits_of(cgroup: PodCgroup) -> Limits {
    Limits {
        cpu_shares: Some(cgroup.cpu_shares),
        cpu_quota: cgroup.cpu_quota.map(|(quota, _)| quota),
        cpu_period: cgroup.cpu_quota.and_then(|(_, period)| u64::try_from(period).ok()),
        memory: cgroup.memory_limit,
        hugepages: cgroup
            .huge_pages
            .into_iter()
            .filter_map(|(size, limit)| Some((u64::try_from(size).ok()?, u64::try_from(limit).ok()?)))
            .collect(),
        ..Limits::default()
    }
}
