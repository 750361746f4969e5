//! The cgroups of the node, its QoS classes and its pods: made, limited, measured and removed, on cgroup v1 (hybrid
//! machines included) and v2, with the cgroupfs and the systemd driver.
//!
//! Reads: mountinfo once, then what the kernel shows. Nothing is remembered but what the QoS classes were
//! told last.

pub mod details;
mod error;
mod files;
mod hierarchy;
mod limits;
mod name;
mod node;
mod pods;
mod systemd;
#[cfg(test)]
mod systemd_tests;
#[cfg(test)]
mod tests;
pub mod usage;

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

pub use details::Details;
pub use error::{Error, Result};
pub use hierarchy::{Hierarchies, Version};
pub use limits::{Limits, shares_to_weight, weight_to_shares};
pub use name::CgroupName;
pub use node::{Amount, NodeResources, Reserved};
use pod::{ContainerId, PodUid, SandboxId, memory_qos::MemoryQos, qos::QosClass};
pub use pods::EnforcedLimits;
pub use usage::{MemoryUsage, Pressure, Stall, Throttling, Usage};

use systemd::Systemd;

/// Who makes cgroups, and hence how they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub driver: Driver,
    /// Option cgroupRoot, a path with either driver: `/` or say `/bed`, made when it does not exist.
    pub root: String,
    /// Option cgroupsPerQOS. Without it no cgroup is made and the runtime chooses the parents.
    pub per_qos: bool,
    /// Option cpuCFSQuota.
    pub cpu_cfs_quota: bool,
    pub cpu_cfs_quota_period: Duration,
    /// Option podPidsLimit; zero or less is none.
    pub pod_pids_limit: i64,
    /// Whether enforceNodeAllocatable has `pods`.
    pub enforce_pods: bool,
    /// For cgroup v2. None: the feature MemoryQoS is off.
    pub memory_qos: Option<MemoryQos>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver: Driver::Cgroupfs,
            root: "/".to_owned(),
            per_qos: true,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            pod_pids_limit: -1,
            enforce_pods: true,
            memory_qos: None,
        }
    }
}

/// Cheap to clone; all clones share one D-Bus connection.
#[derive(Clone, Debug)]
pub struct Cgroups {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    root: CgroupName,
    kubepods: CgroupName,
    hierarchies: Hierarchies,
    systemd: Systemd,
    /// Page sizes of the machine in bytes.
    page_sizes: BTreeSet<u64>,
    /// What the QoS classes' groups were told last.
    classes: Mutex<Option<Vec<(CgroupName, Limits)>>>,
}

/// Whose usage to read.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// The whole machine.
    Node,
    /// Everything below kubepods.
    AllPods,
    Pod(&'a PodUid),
    Container(&'a PodUid, &'a ContainerId),
    /// Any cgroup by its path below the hierarchies, say the runtime's from /proc/PID/cgroup.
    Path(&'a str),
}

impl Cgroups {
    /// Looks at the machine, changes nothing yet.
    pub fn new(config: Config) -> Result<Self> {
        let hierarchies = Hierarchies::detect()?;
        Self::on(config, hierarchies)
    }

    fn on(config: Config, hierarchies: Hierarchies) -> Result<Self> {
        let root = CgroupName::from_path(&config.root)?;
        let kubepods = if config.per_qos { root.child("kubepods") } else { root.clone() };
        let page_sizes = page_sizes();
        let shared = Shared {
            config,
            root,
            kubepods,
            hierarchies,
            systemd: Systemd::default(),
            page_sizes,
            classes: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn version(&self) -> Version {
        self.shared.hierarchies.version()
    }

    /// Whether pods have cgroups of their own.
    pub fn has_pods(&self) -> bool {
        self.shared.config.per_qos
    }

    pub fn driver(&self) -> Driver {
        self.shared.config.driver
    }

    pub fn has_controller(&self, controller: &str) -> bool {
        self.shared.hierarchies.has(controller)
    }

    /// The path of kubepods below the hierarchies, as statistics name it.
    pub fn kubepods_path(&self) -> String {
        self.path(&self.shared.kubepods)
    }

    /// Blocking file reads, microseconds each.
    pub fn usage(&self, who: Who<'_>) -> Result<Usage> {
        let path = match who {
            Who::Node => "/".to_owned(),
            Who::AllPods => self.kubepods_path(),
            Who::Pod(uid) => self.pod_path(uid)?,
            Who::Container(uid, id) => self.container_path(uid, id)?,
            Who::Path(path) => path.to_owned(),
        };
        usage::read(&self.shared.hierarchies, &path)
    }

    /// For `/metrics/cadvisor`; a path below the hierarchies. Blocking file reads, many.
    pub fn details(&self, path: &str) -> Details {
        details::read(&self.shared.hierarchies, path)
    }

    /// Where this process is accounted for, as a path below the hierarchies.
    pub fn own_path(&self) -> Option<String> {
        self.shared.hierarchies.path_of(&fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// When the cgroup at that path below the hierarchies was made.
    pub fn created(&self, path: &str) -> Option<SystemTime> {
        details::created_at(&self.shared.hierarchies, path)
    }

    /// Any process right in the cgroup at that path below the hierarchies.
    pub fn process(&self, path: &str) -> Option<u32> {
        files::first_process(&self.shared.hierarchies, path)
    }

    /// How many processes are right in the cgroup at that path below the hierarchies.
    pub fn processes(&self, path: &str) -> u64 {
        details::processes(&self.shared.hierarchies, path)
    }

    /// A pod's path below the hierarchies, whatever its QoS class is.
    pub fn pod_path(&self, uid: &PodUid) -> Result<String> {
        let found = self.pod_names(uid).map(|name| self.path(&name)).find(|path| self.is_anywhere(path));
        found.ok_or_else(|| Error::Missing { name: format!("pod{uid}") })
    }

    /// Runtimes name it by the id alone or as `cri-containerd-ID.scope` and the like.
    pub fn container_path(&self, uid: &PodUid, id: &ContainerId) -> Result<String> {
        self.path_in_pod(uid, id.as_str())
    }

    /// Of the sandbox's own cgroup, whose process runs also while no container does. Not every runtime has one.
    pub fn sandbox_path(&self, uid: &PodUid, id: &SandboxId) -> Result<String> {
        self.path_in_pod(uid, id.as_str())
    }

    /// Of the cgroups that hold the pods of a QoS class; guaranteed ones have none.
    pub fn class_paths(&self) -> Vec<String> {
        let classes = [QosClass::BestEffort, QosClass::Burstable].map(|class| self.path(&self.class_name(class)));
        if self.shared.config.per_qos { classes.into() } else { Vec::new() }
    }

    fn path_in_pod(&self, uid: &PodUid, id: &str) -> Result<String> {
        let pod = self.pod_path(uid)?;
        let direct = format!("{pod}/{id}");
        if self.is_anywhere(&direct) {
            return Ok(direct);
        }
        let children = files::child_names(&self.shared.hierarchies, &pod);
        let found = children.into_iter().find(|name| name.contains(id));
        found.map(|name| format!("{pod}/{name}")).ok_or_else(|| Error::Missing { name: direct })
    }

    fn path(&self, name: &CgroupName) -> String {
        name.path(self.shared.config.driver)
    }

    fn is_anywhere(&self, path: &str) -> bool {
        files::exists_anywhere(&self.shared.hierarchies, path)
    }

    /// Makes the cgroup and what lies above it. Limits that the kernel refuses are logged only: better a pod
    /// without one of its limits than no pod.
    async fn create(&self, name: &CgroupName, limits: &Limits) -> Result<()> {
        let _timed = metrics::cgroups::operation("create");
        if self.driver() == Driver::Systemd {
            self.shared.systemd.start_slice(name, self.version()).await?;
        }
        let path = self.path(name);
        let this = self.clone();
        blocking(move || files::create(&this.shared.hierarchies, &path)).await?;
        if let Err(error) = self.set(name, limits).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(cgroup = %name, %error, cause, "cgroup works without some of its limits");
        }
        Ok(())
    }

    async fn set(&self, name: &CgroupName, limits: &Limits) -> Result<()> {
        let _timed = metrics::cgroups::operation("update");
        let (by_systemd, limits) = match self.driver() {
            Driver::Cgroupfs => (Ok(()), limits.clone()),
            Driver::Systemd => {
                let result = self.shared.systemd.set_limits(name, limits, self.version()).await;
                (result, limits.rounded_for_systemd())
            }
        };
        // The files are what the kernel enforces: they are set though systemd could not be told.
        let (this, path) = (self.clone(), self.path(name));
        let in_files =
            blocking(move || files::set(&this.shared.hierarchies, &path, &limits.writes(this.version()))).await;
        by_systemd.and(in_files)
    }

    /// Whether it is there with all hierarchies or controllers that pods need.
    fn exists(&self, name: &CgroupName) -> bool {
        self.shared.hierarchies.exists(&self.path(name))
    }
}

/// File operations on cgroups take a global kernel lock and may sleep.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled)?
}

fn page_sizes() -> BTreeSet<u64> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
        })
        .map(|kib| kib * 1024)
        .collect()
}
