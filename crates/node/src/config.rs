//! What the operator says about the node, and what the node asks the rest of the agent.

use std::{collections::BTreeMap, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use apiserver::{ApiServer, Events};
use cri::Cri;
use host::{Clock, addresses::NodeIp};
use pod::{
    api::{ContainerImage, Taint},
    quantity::{Amounts, Quantity},
};
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node_name: String,
    /// Value of label kubernetes.io/hostname and of the Hostname address.
    pub host_name: String,
    pub node_ip: NodeIp,
    /// Option cloud-provider is `external`.
    pub external_cloud: bool,
    pub provider_id: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Without it the Node object is made by somebody else.
    pub register: bool,
    pub controller_attach_detach: bool,
    pub max_pods: u32,
    /// 0: not limited by cores.
    pub pods_per_core: u32,
    pub status_update_frequency: Duration,
    pub status_report_frequency: Duration,
    pub lease_duration_seconds: i32,
    pub kubelet_version: String,
    pub kubelet_port: u16,
    /// -1: all.
    pub max_images: i32,
    /// Option localStorageCapacityIsolation.
    pub local_storage_isolation: bool,
    /// Its file system is the node's ephemeral storage.
    pub root_dir: PathBuf,
    /// No agent has been here before.
    pub new_machine: bool,
    pub kube_reserved: Amounts,
    pub system_reserved: Amounts,
    pub hard_eviction: HardEviction,
    /// Sorted.
    pub declared_features: Vec<String>,
}

impl NodeConfig {
    /// A node of that name with every option at its default.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            host_name: node_name.to_owned(),
            node_ip: NodeIp::Unset,
            external_cloud: false,
            provider_id: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            register: true,
            controller_attach_detach: true,
            max_pods: 110,
            pods_per_core: 0,
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            lease_duration_seconds: 40,
            kubelet_version: "v1.37.2".to_owned(),
            kubelet_port: 10250,
            max_images: 50,
            local_storage_isolation: true,
            new_machine: false,
            root_dir: PathBuf::from("/var/lib/kubelet"),
            kube_reserved: Amounts::new(),
            system_reserved: Amounts::new(),
            hard_eviction: HardEviction::default(),
            declared_features: Vec::new(),
        }
    }
}

/// The thresholds of evictionHard that take room from allocatable: memory.available and nodefs.available.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HardEviction {
    pub memory: Option<Threshold>,
    pub nodefs: Option<Threshold>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    Amount(Quantity),
    /// 0.1 is 10 %.
    Share(f64),
}

/// What eviction has found to be scarce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

pub type ImageLister = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<ContainerImage>> + Send>> + Send + Sync>;
/// None until the volumes of the node's pods are known.
pub type VolumesInUse = Arc<dyn Fn() -> Option<Vec<String>> + Send + Sync>;
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The parts of the agent that the node's status speaks of.
#[derive(Clone)]
pub struct NodeParts {
    /// None: standalone.
    pub api: Option<ApiServer>,
    pub events: Events,
    pub cri: Cri,
    pub clock: Clock,
    /// Sorted by size, greatest first; asked for every 30 s, and may wait for the runtime.
    pub images: ImageLister,
    pub volumes_in_use: VolumesInUse,
    /// Asked at every status, so it must not wait.
    pub pleg_health: Health,
    pub pressure: watch::Receiver<Pressure>,
    pub shutting_down: watch::Receiver<bool>,
}
