//! The node's status as data: what was found out goes in, a Node with that status comes out.

use std::{collections::BTreeSet, net::IpAddr};

use cri::{Features, Handler, Version};
use host::MachineFacts;
use k8s_openapi::{apimachinery::pkg::api::resource::Quantity as ApiQuantity, jiff::Timestamp};
use pod::{
    api::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
        NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
    },
    quantity::{Amounts, to_api_list},
};

use crate::{
    conditions,
    config::{NodeConfig, Pressure},
    resources::HUGEPAGES,
};

const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";
const MAX_NAMES_PER_IMAGE: usize = 5;

/// Everything that a status is made of.
#[derive(Clone, Debug)]
pub struct StatusInputs<'a> {
    pub config: &'a NodeConfig,
    pub machine: &'a MachineFacts,
    /// Empty where they could not be found out: then those in the object stay.
    pub host_ips: &'a [IpAddr],
    pub capacity: &'a Amounts,
    pub allocatable: &'a Amounts,
    pub runtime_version: Option<&'a Version>,
    pub handlers: &'a [Handler],
    pub features: Option<Features>,
    pub images: &'a [ContainerImage],
    /// None: not known yet.
    pub volumes_in_use: Option<&'a [String]>,
    pub pressure: Pressure,
    /// Why the node is not ready, in the order that the message has them.
    pub not_ready: &'a [String],
    pub now: Timestamp,
}

/// What the change of status means to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Reason of an event `Node NAME status is now: REASON`.
    StatusIsNow(&'static str),
    Rebooted {
        boot_id: String,
    },
}

/// Sets status, and the annotation that goes with it, in place.
pub fn set_status(node: &mut Node, inputs: &StatusInputs<'_>) -> Vec<Announcement> {
    let mut said = Vec::new();
    set_provided_ip(node, inputs);
    let status = node.status.get_or_insert_default();
    set_addresses(status, inputs);
    set_resources(status, inputs);
    said.extend(set_system(status, inputs));
    let port = i32::from(inputs.config.kubelet_port);
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) });
    status.images = none_if_empty(images(inputs.images, inputs.config.max_images));
    status.runtime_handlers = none_if_empty(inputs.handlers.iter().map(handler).collect());
    if let Some(features) = inputs.features {
        let supplemental = Some(features.supplemental_groups_policy);
        status.features = Some(NodeFeatures { supplemental_groups_policy: supplemental });
    }
    let conditions = status.conditions.get_or_insert_default();
    let changes =
        conditions::update(conditions, inputs.pressure, &not_ready(status.capacity.as_ref(), inputs), inputs.now);
    said.extend(changes.into_iter().map(Announcement::StatusIsNow));
    if let Some(volumes) = inputs.volumes_in_use {
        status.volumes_in_use = none_if_empty(volumes.to_vec());
    }
    status.declared_features = none_if_empty(inputs.config.declared_features.clone());
    said
}

/// The API leaves empty lists out: so that both compare as equal.
fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn not_ready(
    capacity: Option<&std::collections::BTreeMap<String, ApiQuantity>>,
    inputs: &StatusInputs<'_>,
) -> Vec<String> {
    let mut errors = inputs.not_ready.to_vec();
    let mut required = vec!["cpu", "memory", "pods"];
    if inputs.config.local_storage_isolation {
        required.push("ephemeral-storage");
    }
    let missing: Vec<&str> =
        required.into_iter().filter(|name| capacity.is_none_or(|list| !list.contains_key(*name))).collect();
    if !missing.is_empty() {
        errors.push(format!("missing node capacity for resources: {}", missing.join(", ")));
    }
    errors
}

/// An external cloud provider reads from it which addresses the operator chose.
fn set_provided_ip(node: &mut Node, inputs: &StatusInputs<'_>) {
    use host::addresses::NodeIp;
    let given = match inputs.config.node_ip {
        NodeIp::Given(ip) => Some(ip.to_string()),
        NodeIp::Dual(one, two) => Some(format!("{one},{two}")),
        NodeIp::Unset | NodeIp::Prefer(_) => None,
    };
    match given.filter(|_| inputs.config.external_cloud) {
        Some(ips) => {
            node.metadata.annotations.get_or_insert_default().insert(PROVIDED_IP.to_owned(), ips);
        }
        None => {
            if let Some(annotations) = &mut node.metadata.annotations {
                annotations.remove(PROVIDED_IP);
            }
        }
    }
}

fn set_addresses(status: &mut NodeStatus, inputs: &StatusInputs<'_>) {
    let config = inputs.config;
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let host_name = address("Hostname", config.host_name.clone());
    if config.external_cloud {
        if status.addresses.as_ref().is_some_and(|known| !known.is_empty()) {
            // The cloud's own word counts.
            return;
        }
        if config.node_ip == host::addresses::NodeIp::Unset {
            status.addresses = Some(vec![host_name]);
            return;
        }
    }
    if inputs.host_ips.is_empty() {
        return;
    }
    let internal = inputs.host_ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    status.addresses = Some(internal.chain([host_name]).collect());
}

/// Resources of others (extended ones) stay; huge pages of sizes that are gone do not.
fn set_resources(status: &mut NodeStatus, inputs: &StatusInputs<'_>) {
    let is_stale = |name: &str| name.starts_with(HUGEPAGES) && !inputs.capacity.contains_key(name);
    let merge = |list: &mut Option<std::collections::BTreeMap<String, ApiQuantity>>, own: &Amounts| {
        let list = list.get_or_insert_default();
        list.retain(|name, _| !is_stale(name));
        list.extend(to_api_list(own));
    };
    merge(&mut status.capacity, inputs.capacity);
    merge(&mut status.allocatable, inputs.allocatable);
    let known: BTreeSet<String> = status.capacity.iter().flatten().map(|(name, _)| name.clone()).collect();
    if let Some(allocatable) = &mut status.allocatable {
        allocatable.retain(|name, _| known.contains(name));
        for (name, amount) in status.capacity.iter().flatten() {
            allocatable.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
}

fn set_system(status: &mut NodeStatus, inputs: &StatusInputs<'_>) -> Option<Announcement> {
    let machine = inputs.machine;
    let before = status.node_info.take().unwrap_or_default();
    let rebooted = !before.boot_id.is_empty() && before.boot_id != machine.boot_id;
    let runtime = match inputs.runtime_version {
        Some(version) => format!("{}://{}", version.runtime_name, version.runtime_version),
        // Kept over a break of the runtime: the same one will be back.
        None if before.container_runtime_version.contains("://") => before.container_runtime_version,
        None => "containerd://Unknown".to_owned(),
    };
    let swap = i64::try_from(machine.swap_bytes).ok().filter(|bytes| *bytes > 0);
    status.node_info = Some(NodeSystemInfo {
        machine_id: machine.machine_id.clone(),
        system_uuid: machine.system_uuid.clone(),
        boot_id: machine.boot_id.clone(),
        kernel_version: machine.kernel_version.clone(),
        os_image: machine.os_image.clone(),
        container_runtime_version: runtime,
        kubelet_version: inputs.config.kubelet_version.clone(),
        kube_proxy_version: String::new(),
        operating_system: "linux".to_owned(),
        architecture: machine.architecture.to_owned(),
        swap: swap.map(|bytes| NodeSwapStatus { capacity: Some(bytes) }).or(before.swap),
        ..NodeSystemInfo::default()
    });
    rebooted.then(|| Announcement::Rebooted { boot_id: machine.boot_id.clone() })
}

fn images(images: &[ContainerImage], max: i32) -> Vec<ContainerImage> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let shorten = |image: &ContainerImage| {
        let mut image = image.clone();
        if let Some(names) = &mut image.names {
            names.truncate(MAX_NAMES_PER_IMAGE);
        }
        image
    };
    images.iter().take(max).map(shorten).collect()
}

fn handler(handler: &Handler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    }
}

#[cfg(test)]
pub mod tests {
    use host::addresses::NodeIp;

    use super::*;
    use crate::resources::{allocatable, capacity};

    pub fn machine() -> MachineFacts {
        MachineFacts {
            machine_id: "m".into(),
            boot_id: "boot-1".into(),
            architecture: "amd64",
            num_cpus: 2,
            memory_bytes: 4 << 30,
            ..MachineFacts::default()
        }
    }

    pub struct World {
        pub config: NodeConfig,
        pub machine: MachineFacts,
        pub ips: Vec<IpAddr>,
        pub not_ready: Vec<String>,
        pub images: Vec<ContainerImage>,
        pub second: i64,
    }

    impl Default for World {
        fn default() -> Self {
            Self {
                config: NodeConfig::new("n"),
                machine: machine(),
                ips: vec!["192.0.2.2".parse().unwrap()],
                not_ready: Vec::new(),
                images: Vec::new(),
                second: 0,
            }
        }
    }

    impl World {
        pub fn set(&self, node: &mut Node) -> Vec<Announcement> {
            let capacity = capacity(&self.config, &self.machine, Some(1000));
            let allocatable = allocatable(&self.config, &capacity);
            let handlers = [Handler { name: String::new(), user_namespaces: true, ..Handler::default() }];
            let version =
                Version { runtime_name: "containerd".into(), runtime_version: "2.4.2".into(), ..Default::default() };
            let inputs = StatusInputs {
                config: &self.config,
                machine: &self.machine,
                host_ips: &self.ips,
                capacity: &capacity,
                allocatable: &allocatable,
                runtime_version: Some(&version),
                handlers: &handlers,
                features: Some(Features { supplemental_groups_policy: true, ..Features::default() }),
                images: &self.images,
                volumes_in_use: None,
                pressure: Pressure::default(),
                not_ready: &self.not_ready,
                now: Timestamp::from_second(1_700_000_000 + self.second).unwrap(),
            };
            set_status(node, &inputs)
        }
    }

    fn addresses(node: &Node) -> Vec<String> {
        let list = node.status.as_ref().unwrap().addresses.iter().flatten();
        list.map(|a| format!("{}={}", a.type_, a.address)).collect()
    }

    #[test]
    fn a_fresh_status_tells_who_and_what_the_node_is() {
        let mut node = Node::default();
        World::default().set(&mut node);
        assert_eq!(addresses(&node), ["InternalIP=192.0.2.2", "Hostname=n"]);
        let status = node.status.unwrap();
        let info = status.node_info.unwrap();
        assert_eq!(
            (info.kubelet_version.as_str(), info.container_runtime_version.as_str()),
            ("v1.37.2", "containerd://2.4.2")
        );
        assert_eq!((info.operating_system.as_str(), info.kube_proxy_version.as_str()), ("linux", ""));
        assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
        assert!(status.declared_features.is_none());
        assert!(status.images.is_none() && status.volumes_in_use.is_none());
    }

    #[test]
    fn unknown_addresses_leave_the_known_ones() {
        let mut node = Node::default();
        World::default().set(&mut node);
        World { ips: Vec::new(), ..World::default() }.set(&mut node);
        assert_eq!(addresses(&node), ["InternalIP=192.0.2.2", "Hostname=n"]);
    }

    #[test]
    fn an_external_cloud_has_the_last_word_on_addresses() {
        let ip = "192.0.2.2".parse().unwrap();
        let config = NodeConfig { external_cloud: true, node_ip: NodeIp::Given(ip), ..NodeConfig::new("n") };
        let world = World { config, ..World::default() };
        let mut node = Node::default();
        world.set(&mut node);
        assert_eq!(addresses(&node), ["InternalIP=192.0.2.2", "Hostname=n"]);
        assert_eq!(node.metadata.annotations.as_ref().unwrap()[PROVIDED_IP], "192.0.2.2");
        let cloud = vec![NodeAddress { type_: "ExternalIP".into(), address: "203.0.113.1".into() }];
        node.status.as_mut().unwrap().addresses = Some(cloud);
        world.set(&mut node);
        assert_eq!(addresses(&node), ["ExternalIP=203.0.113.1"]);
    }

    #[test]
    fn another_boot_id_is_a_reboot() {
        let mut node = Node::default();
        let mut world = World::default();
        let first = world.set(&mut node);
        assert!(!first.iter().any(|a| matches!(a, Announcement::Rebooted { .. })));
        world.machine.boot_id = "boot-2".into();
        assert!(world.set(&mut node).contains(&Announcement::Rebooted { boot_id: "boot-2".into() }));
        assert!(world.set(&mut node).is_empty());
    }

    #[test]
    fn extended_resources_stay_and_vanished_page_sizes_go() {
        let mut node = Node::default();
        World::default().set(&mut node);
        let status = node.status.as_mut().unwrap();
        for list in [&mut status.capacity, &mut status.allocatable] {
            let list = list.as_mut().unwrap();
            list.insert("example.com/gpu".into(), ApiQuantity("2".into()));
            list.insert("hugepages-1Gi".into(), ApiQuantity("0".into()));
        }
        World::default().set(&mut node);
        let status = node.status.unwrap();
        for list in [status.capacity.unwrap(), status.allocatable.unwrap()] {
            assert!(list.contains_key("example.com/gpu") && !list.contains_key("hugepages-1Gi"));
        }
    }

    #[test]
    fn images_and_their_names_are_cut_to_the_limit() {
        let image =
            |n: i64| ContainerImage { names: Some((0..7).map(|i| format!("name{i}")).collect()), size_bytes: Some(n) };
        let list: Vec<ContainerImage> = (0..60).map(image).collect();
        assert_eq!(images(&list, 50).len(), 50);
        assert_eq!(images(&list, -1).len(), 60);
        assert_eq!(images(&list, 1)[0].names.as_ref().unwrap().len(), 5);
    }
}
