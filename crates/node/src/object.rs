//! The Node object as this kubelet would make it, and what it corrects in one that exists.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use pod::api::{Node, NodeSpec, Taint};

use crate::{config::NodeConfig, resources::HUGEPAGES};

const OS: &str = "kubernetes.io/os";
const ARCH: &str = "kubernetes.io/arch";
const HOST_NAME: &str = "kubernetes.io/hostname";
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Labels that are set again on a node that exists; --node-labels beyond these count at registration only.
const KEPT_LABELS: [&str; 11] = [
    HOST_NAME,
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    OS,
    ARCH,
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Metadata and spec; the status is set by `status::set_status`.
pub fn initial_node(config: &NodeConfig, architecture: &str) -> Node {
    let defaults = [
        (HOST_NAME, config.host_name.as_str()),
        (OS, "linux"),
        (ARCH, architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ];
    let mut labels: std::collections::BTreeMap<String, String> =
        defaults.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    labels.extend(config.labels.clone());
    let mut taints = config.taints.clone();
    if config.external_cloud {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    let annotations = config.controller_attach_detach.then(|| [(ATTACH_DETACH.to_owned(), "true".to_owned())].into());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: (!config.provider_id.is_empty()).then(|| config.provider_id.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Brings a node that was registered before in line with the one that would be registered now.
pub fn reconcile(existing: &mut Node, initial: &Node) {
    let wanted = initial.metadata.annotations.as_ref().and_then(|a| a.get(ATTACH_DETACH));
    let annotations = existing.metadata.annotations.get_or_insert_default();
    match wanted {
        Some(value) => drop(annotations.insert(ATTACH_DETACH.to_owned(), value.clone())),
        None => drop(annotations.remove(ATTACH_DETACH)),
    }
    let labels = existing.metadata.labels.get_or_insert_default();
    for (key, value) in initial.metadata.labels.iter().flatten() {
        if !KEPT_LABELS.contains(&key.as_str()) {
            continue;
        }
        if value.is_empty() {
            labels.remove(key);
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
    reconcile_huge_pages(existing, initial);
}

fn reconcile_huge_pages(existing: &mut Node, initial: &Node) {
    let (Some(wanted), status) = (&initial.status, existing.status.get_or_insert_default()) else { return };
    let pairs = [(&mut status.capacity, &wanted.capacity), (&mut status.allocatable, &wanted.allocatable)];
    for (have, want) in pairs {
        let is_huge = |name: &str| name.starts_with(HUGEPAGES);
        let Some(list) = have else {
            *have = want.clone();
            continue;
        };
        list.retain(|name, _| !is_huge(name));
        list.extend(want.iter().flatten().filter(|(name, _)| is_huge(name)).map(|(n, q)| (n.clone(), q.clone())));
    }
}

/// The Node object is of another machine, whose devices this one may not have: none of them until somebody says so.
pub fn forget_devices(existing: &mut Node) {
    let status = existing.status.get_or_insert_default();
    for (name, amount) in [&mut status.capacity, &mut status.allocatable].into_iter().flatten().flatten() {
        if is_extended(name) {
            amount.0 = "0".to_owned();
        }
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// A node must be found by what it runs on, whoever removed these labels.
pub fn ensure_required_labels(node: &mut Node, architecture: &str) {
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert(OS.to_owned(), "linux".to_owned());
    labels.insert(ARCH.to_owned(), architecture.to_owned());
}

/// Makes an object vanish with the Node. None before the Node's UID is known.
pub fn owner_reference(node: &Node) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        ..OwnerReference::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
    use pod::api::NodeStatus;

    use super::*;

    fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
        node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    #[test]
    fn a_new_node_carries_default_labels_and_those_of_the_operator() {
        let labels = BTreeMap::from([("zone".into(), "a".into()), (ARCH.into(), "odd".into())]);
        let node = initial_node(&NodeConfig { labels, ..NodeConfig::new("n") }, "amd64");
        assert_eq!((label(&node, HOST_NAME), label(&node, "zone")), (Some("n"), Some("a")));
        assert_eq!((label(&node, "beta.kubernetes.io/arch"), label(&node, ARCH)), (Some("amd64"), Some("odd")));
        assert_eq!(node.metadata.annotations.unwrap()[ATTACH_DETACH], "true");
        assert!(node.spec.unwrap().taints.is_none());
    }

    #[test]
    fn an_external_cloud_taints_the_node_until_it_has_seen_it() {
        let node = initial_node(&NodeConfig { external_cloud: true, ..NodeConfig::new("n") }, "amd64");
        assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "node.cloudprovider.kubernetes.io/uninitialized");
    }

    #[test]
    fn an_existing_node_keeps_its_own_labels_and_taints() {
        let initial =
            initial_node(&NodeConfig { labels: [("new".into(), "1".into())].into(), ..NodeConfig::new("n") }, "arm64");
        let mut existing = Node::default();
        existing.metadata.labels = Some([("own".into(), "1".into()), (ARCH.into(), "amd64".into())].into());
        reconcile(&mut existing, &initial);
        assert_eq!(
            (label(&existing, "own"), label(&existing, ARCH), label(&existing, "new")),
            (Some("1"), Some("arm64"), None)
        );
        assert_eq!(existing.metadata.annotations.as_ref().unwrap()[ATTACH_DETACH], "true");
        let without = initial_node(&NodeConfig { controller_attach_detach: false, ..NodeConfig::new("n") }, "arm64");
        reconcile(&mut existing, &without);
        assert!(existing.metadata.annotations.unwrap().is_empty());
    }

    #[test]
    fn a_new_machine_has_none_of_its_predecessors_devices() {
        let list = [("example.com/gpu", "2"), ("cpu", "4"), ("storage.kubernetes.io/own", "1")]
            .map(|(name, amount)| (name.to_owned(), ApiQuantity(amount.to_owned())));
        let mut existing = Node::default();
        existing.status.get_or_insert_default().capacity = Some(list.into());
        forget_devices(&mut existing);
        let capacity = existing.status.unwrap().capacity.unwrap();
        let amounts: Vec<&str> = capacity.values().map(|amount| amount.0.as_str()).collect();
        assert_eq!(amounts, ["4", "0", "1"]);
    }

    #[test]
    fn page_sizes_of_an_existing_node_become_those_of_now() {
        let list = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), ApiQuantity(value.to_owned()))]);
        let node = |name: &str, value: &str| Node {
            status: Some(NodeStatus { capacity: Some(list(name, value)), ..NodeStatus::default() }),
            ..Node::default()
        };
        let mut existing = node("hugepages-1Gi", "4Gi");
        reconcile(&mut existing, &node("hugepages-2Mi", "8Mi"));
        assert_eq!(existing.status.unwrap().capacity.unwrap(), list("hugepages-2Mi", "8Mi"));
    }
}
