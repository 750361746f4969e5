//! Whether a pod may run here: the checks that upstream makes before a pod's first sync, in its order, with its
//! reasons and messages.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, PodSpec, Taint};

use crate::{
    Containers, DesiredPod,
    desired::init_kind,
    node_affinity,
    qos::{QosClass, qos_class},
    quantity::{Amounts, ApiList, amounts},
    resources::{pod_requests, reserved_requests},
    restart_all,
    sysctl::SysctlPolicy,
};

/// The reason for which the node's labels alone refuse a pod.
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// Why a pod is refused. The status shows the message after `Pod was rejected: `, the event shows it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Rejection {
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

/// What admission must know of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub name: String,
    /// Of the Node object; `kubernetes.io/os` is taken to be linux whatever it says.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub allocatable: ApiList,
    pub sysctls: SysctlPolicy,
    /// Conditions under which pods are refused, as `MemoryPressure`, `DiskPressure`, `PIDPressure`.
    pub pressure: Vec<String>,
    /// The runtime can apply supplementalGroupsPolicy Strict.
    pub supplemental_groups_policy: bool,
    /// The kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// Features that the node declares in its status.
    pub declared_features: Vec<String>,
    pub shutting_down: bool,
}

/// `active`: the pods that use the node now (admitted, not terminal); the candidate itself is skipped among them.
pub fn admit(candidate: &DesiredPod, active: &[&DesiredPod], node: &NodeView) -> Result<(), Rejection> {
    let others: Vec<&DesiredPod> = active.iter().filter(|p| p.uid != candidate.uid).copied().collect();
    pressure(candidate, node)?;
    let sysctls = node.sysctls.check(candidate.spec());
    sysctls.map_err(|why| Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")))?;
    operating_system(candidate)?;
    supplemental_groups(candidate.spec(), node)?;
    predicates(candidate, &others, node)?;
    app_armor(candidate, node)?;
    declared_features(candidate, node)?;
    if node.shutting_down {
        return Err(Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down."));
    }
    Ok(())
}

/// Of the features that nodes declare, those that a pod can't do without.
fn declared_features(pod: &DesiredPod, node: &NodeView) -> Result<(), Rejection> {
    let needed = [
        ("RestartAllContainersOnContainerExits", restart_all::is_possible(pod)),
        ("UserNamespacesHostNetworkSupport", pod.host_network() && pod.spec().host_users == Some(false)),
    ];
    let missing = |(name, needed): (&'static str, bool)| {
        (needed && !node.declared_features.iter().any(|declared| declared == name)).then_some(name)
    };
    let missing: Vec<&str> = needed.into_iter().filter_map(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Pod requires node features that are not available: {}", missing.join(", "));
    Err(Rejection::new("PodFeatureUnsupported", message))
}

/// Under memory pressure alone, only best-effort pods that do not tolerate it are refused; under any other all are.
fn pressure(pod: &DesiredPod, node: &NodeView) -> Result<(), Rejection> {
    if node.pressure.is_empty() || pod.is_critical() {
        return Ok(());
    }
    if node.pressure == ["MemoryPressure"] {
        let taint =
            Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Taint::default() };
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        if qos_class(&pod.pod) != QosClass::BestEffort || node_affinity::tolerated(tolerations, &taint) {
            return Ok(());
        }
    }
    Err(Rejection::new("Evicted", format!("The node had condition: [{}]. ", node.pressure.join(" "))))
}

fn operating_system(pod: &DesiredPod) -> Result<(), Rejection> {
    let label = pod.pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if pod.spec().os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    Ok(())
}

fn supplemental_groups(spec: &PodSpec, node: &NodeView) -> Result<(), Rejection> {
    let policy = spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.supplemental_groups_policy {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

/// What the scheduler would have checked, for pods that did not come by it. A critical pod is refused for want of
/// resources only when nothing else is wrong.
fn predicates(pod: &DesiredPod, others: &[&DesiredPod], node: &NodeView) -> Result<(), Rejection> {
    let failed = |name: &str, why: &str| Rejection::new(name, format!("Predicate {name} failed: {why}"));
    let shortage = fits(pod, others, node);
    if !pod.is_critical()
        && let Err(shortage) = shortage
    {
        return Err(shortage);
    }
    let spec = pod.spec();
    if !node_affinity::accepts(spec, &node.name, &node.labels) {
        return Err(failed(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name) {
        return Err(failed("NodeName", "node(s) didn't match the requested node name"));
    }
    if ports_conflict(spec, others) {
        return Err(failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if !pod.is_static() && node_affinity::untolerated(&node.taints, tolerations, "NoExecute").is_some() {
        return Err(failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    shortage
}

/// A resource that the node has too little of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    pub requested: i64,
    pub used: i64,
    pub capacity: i64,
}

impl Shortage {
    pub fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }
}

impl From<&Shortage> for Rejection {
    fn from(s: &Shortage) -> Self {
        let Shortage { resource, requested, used, capacity } = s;
        Rejection::new(
            format!("OutOf{resource}"),
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )
    }
}

fn fits(pod: &DesiredPod, others: &[&DesiredPod], node: &NodeView) -> Result<(), Rejection> {
    shortages(pod, others, node).first().map_or(Ok(()), |shortage| Err(shortage.into()))
}

/// All that the node has too little of for this pod, beside the `active` ones.
pub fn shortages(pod: &DesiredPod, active: &[&DesiredPod], node: &NodeView) -> Vec<Shortage> {
    let others: Vec<&DesiredPod> = active.iter().filter(|p| p.uid != pod.uid).copied().collect();
    let mut short = Vec::new();
    let mut check = |name: &str, requested: i64, used: i64, capacity: i64| {
        if requested > 0 && requested > capacity - used {
            short.push(Shortage { resource: name.to_owned(), requested, used, capacity });
        }
    };
    let allocatable = amounts(Some(&node.allocatable));
    check("pods", 1, others.len() as i64, amount(&allocatable, "pods"));
    let wanted = pod_requests(&without_unknown_extended(pod.spec(), &allocatable));
    let used: Vec<Amounts> = others.iter().map(|p| reserved_requests(p)).collect();
    let scalars = wanted.keys().map(String::as_str).filter(|name| is_scalar(name));
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(scalars) {
        let (request, capacity) = (amount(&wanted, name), amount(&allocatable, name));
        let in_use: i64 = used.iter().map(|list| amount(list, name)).sum();
        check(name, request, in_use, capacity);
    }
    short
}

/// Milli for CPU, units for everything else.
fn amount(list: &Amounts, name: &str) -> i64 {
    list.get(name).map_or(0, |q| if name == "cpu" { q.milli_value() } else { q.value() })
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// An extended resource that the node does not have at all is the cluster's affair, not the node's.
fn without_unknown_extended(spec: &PodSpec, allocatable: &Amounts) -> PodSpec {
    let mut spec = spec.clone();
    let known = |name: &str| is_native(name) || name.starts_with("requests.") || allocatable.contains_key(name);
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for requests in containers.filter_map(|c| c.resources.as_mut()?.requests.as_mut()) {
        requests.retain(|name, _| known(name));
    }
    spec
}

type HostPort<'a> = (Option<IpAddr>, &'a str, i32);

/// Ports of containers that run as long as the pod.
fn host_ports(spec: &PodSpec) -> Vec<HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| init_kind(c) == Containers::Sidecar);
    let ports = |c: &'_ Container| c.ports.as_deref().map_or(0, <[_]>::len);
    let mut all = Vec::new();
    for container in sidecars.chain(&spec.containers).filter(|c| ports(c) > 0) {
        for port in container.ports.iter().flatten() {
            let Some(host_port) = port.host_port.filter(|p| *p > 0) else { continue };
            // No address and the zero address both stand for all.
            let ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            let ip = ip.filter(|ip| *ip != IpAddr::from([0, 0, 0, 0]));
            let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
            all.push((ip, protocol, host_port));
        }
    }
    all
}

fn ports_conflict(spec: &PodSpec, others: &[&DesiredPod]) -> bool {
    let wanted = host_ports(spec);
    if wanted.is_empty() {
        return false;
    }
    let taken: Vec<HostPort<'_>> = others.iter().flat_map(|p| host_ports(p.spec())).collect();
    wanted.iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(taken_ip, taken_protocol, taken_port)| {
            port == taken_port && protocol == taken_protocol && (ip.is_none() || taken_ip.is_none() || ip == taken_ip)
        })
    })
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Only a pod that has not started yet is asked: a running one was admitted before.
fn app_armor(pod: &DesiredPod, node: &NodeView) -> Result<(), Rejection> {
    let phase = pod.pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if phase != "Pending" || !needs_app_armor(pod) {
        return Ok(());
    }
    let refused = |why: String| Err(Rejection::new("AppArmor", format!("Cannot enforce AppArmor: {why}")));
    if !node.app_armor {
        return refused("AppArmor is not enabled on the host".into());
    }
    for (_, container) in pod.all_containers() {
        let profile = container.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
        let profile = profile.or_else(|| pod.spec().security_context.as_ref()?.app_armor_profile.as_ref());
        let Some(profile) = profile.filter(|p| p.type_ == "Localhost") else { continue };
        if profile.localhost_profile.as_deref().unwrap_or_default().trim().is_empty() {
            return refused(format!("invalid empty AppArmor profile name: {:?}", profile.type_));
        }
    }
    Ok(())
}

fn needs_app_armor(pod: &DesiredPod) -> bool {
    let of_pod = pod.spec().security_context.as_ref().and_then(|s| s.app_armor_profile.clone());
    let of_containers = pod.all_containers().into_iter().filter_map(|(_, c)| c.security_context?.app_armor_profile);
    let mut annotations = pod.pod.metadata.annotations.iter().flatten();
    of_pod.into_iter().chain(of_containers).any(|p| p.type_ != "Unconfined")
        || annotations.any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    fn pod_from(source: Source, uid: &str, spec: Value) -> DesiredPod {
        let mut full = json!({"containers": [{"name": "c"}]});
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": full});
        DesiredPod::new(source, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn pod(uid: &str, spec: Value) -> DesiredPod {
        pod_from(Source::Api, uid, spec)
    }
    fn wants(name: &str, amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {name: amount}}}]})
    }
    fn port(value: Value) -> Value {
        json!({"containers": [{"name": "c", "ports": [value]}]})
    }
    fn node() -> NodeView {
        NodeView {
            name: "n1".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            allocatable: serde_json::from_value(json!({"cpu": "2", "memory": "1Gi", "pods": "3", "x/gpu": "1"}))
                .unwrap(),
            sysctls: SysctlPolicy::new((6, 0), &[]).unwrap(),
            ..NodeView::default()
        }
    }
    fn reason(result: Result<(), Rejection>) -> String {
        result.err().map(|r| r.reason).unwrap_or_default()
    }
    fn alone(p: &DesiredPod, node: &NodeView) -> String {
        reason(admit(p, &[], node))
    }

    #[test]
    fn a_pod_that_fits_is_admitted() {
        assert_eq!(admit(&pod("a", wants("cpu", "1500m")), &[], &node()), Ok(()));
    }

    #[test]
    fn the_first_missing_resource_is_named_with_its_numbers() {
        let other = pod("o", wants("cpu", "1500m"));
        let refused = admit(&pod("a", wants("cpu", "1")), &[&other], &node()).unwrap_err();
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.message,
            "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
        );
        assert_eq!(alone(&pod("a", wants("memory", "2Gi")), &node()), "OutOfmemory");
        assert_eq!(alone(&pod("a", wants("ephemeral-storage", "1")), &node()), "OutOfephemeral-storage");
        assert_eq!(alone(&pod("a", wants("x/gpu", "2")), &node()), "OutOfx/gpu");
    }

    #[test]
    fn a_running_pod_does_not_count_against_itself() {
        let same = pod("a", wants("cpu", "2"));
        assert_eq!(reason(admit(&same, &[&same], &node())), "");
    }

    #[test]
    fn an_extended_resource_unknown_here_is_ignored() {
        assert_eq!(alone(&pod("a", wants("y/fpga", "9")), &node()), "");
    }

    #[test]
    fn too_many_pods_are_too_many() {
        let (a, b, c) = (pod("1", json!({})), pod("2", json!({})), pod("3", json!({})));
        let refused = admit(&pod("x", json!({})), &[&a, &b, &c], &node()).unwrap_err();
        assert_eq!(
            refused,
            Rejection::new("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3")
        );
    }

    #[test]
    fn affinity_name_and_taints_are_checked() {
        let refused = admit(&pod("a", json!({"nodeSelector": {"zone": "b"}})), &[], &node()).unwrap_err();
        assert_eq!(refused.message, "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector");
        assert_eq!(alone(&pod("a", json!({"nodeName": "n2"})), &node()), "NodeName");
        let mut tainted = node();
        tainted.taints = vec![Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() }];
        assert_eq!(alone(&pod("a", json!({})), &tainted), "TaintToleration");
        assert_eq!(alone(&pod("a", json!({"tolerations": [{"operator": "Exists"}]})), &tainted), "");
        assert_eq!(alone(&pod_from(Source::File, "a", json!({})), &tainted), "");
    }

    #[test]
    fn host_ports_conflict_by_address_protocol_and_number() {
        let taken = pod("o", port(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"})));
        let against = |p: Value| reason(admit(&pod("a", port(p)), &[&taken], &node()));
        assert_eq!(against(json!({"containerPort": 80, "hostPort": 80})), "NodePorts");
        assert_eq!(against(json!({"containerPort": 80, "hostPort": 80, "hostIP": "0.0.0.0"})), "NodePorts");
        assert_eq!(against(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2"})), "");
        assert_eq!(against(json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"})), "");
        assert_eq!(against(json!({"containerPort": 80})), "");
    }

    #[test]
    fn another_operating_system_is_refused() {
        assert_eq!(alone(&pod("a", json!({"os": {"name": "windows"}})), &node()), "PodOSNotSupported");
        assert_eq!(alone(&pod("a", json!({"os": {"name": "linux"}})), &node()), "");
    }

    #[test]
    fn unsafe_sysctls_are_forbidden() {
        let p = pod("a", json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
        let refused = admit(&p, &[], &node()).unwrap_err();
        assert_eq!(refused, Rejection::new("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"));
    }

    #[test]
    fn pressure_refuses_best_effort_pods_first_and_never_critical_ones() {
        let mut pressed = node();
        pressed.pressure = vec!["MemoryPressure".into()];
        assert_eq!(alone(&pod("a", json!({})), &pressed), "Evicted");
        assert_eq!(alone(&pod("a", wants("cpu", "1")), &pressed), "");
        assert_eq!(
            alone(
                &pod(
                    "a",
                    json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]})
                ),
                &pressed
            ),
            ""
        );
        pressed.pressure.push("DiskPressure".into());
        let refused = admit(&pod("a", wants("cpu", "1")), &[], &pressed).unwrap_err();
        assert_eq!(refused.message, "The node had condition: [MemoryPressure DiskPressure]. ");
        assert_eq!(alone(&pod("a", json!({"priority": 2_000_000_000})), &pressed), "");
    }

    #[test]
    fn app_armor_needs_a_kernel_that_has_it() {
        let p = pod("a", json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}));
        let refused = admit(&p, &[], &node()).unwrap_err();
        assert_eq!(refused, Rejection::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
        assert_eq!(alone(&p, &NodeView { app_armor: true, ..node() }), "");
    }

    #[test]
    fn what_a_pod_cannot_do_without_must_be_declared() {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}});
        let p = pod("a", json!({"containers": [{"name": "c", "restartPolicyRules": [rule]}]}));
        let feature = "RestartAllContainersOnContainerExits";
        let refused = admit(&p, &[], &node()).unwrap_err();
        let message = format!("Pod requires node features that are not available: {feature}");
        assert_eq!(refused, Rejection::new("PodFeatureUnsupported", message));
        assert_eq!(alone(&p, &NodeView { declared_features: vec![feature.to_owned()], ..node() }), "");
    }

    #[test]
    fn a_node_that_shuts_down_takes_nobody() {
        assert_eq!(alone(&pod("a", json!({})), &NodeView { shutting_down: true, ..node() }), "NodeShutdown");
    }

    #[test]
    fn strict_supplemental_groups_need_the_runtimes_support() {
        let p = pod("a", json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}));
        assert_eq!(alone(&p, &node()), "SupplementalGroupsPolicyNotSupported");
    }
}
