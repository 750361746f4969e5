//! Pod spec to PodSandboxConfig.

use std::collections::{BTreeMap, HashSet};

use api_types::runtime::v1::{
    DnsConfig, Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, Protocol, SecurityProfile, UserNamespace, security_profile::ProfileType,
};
use cri::labels;
use pod::{
    DesiredPod,
    api::{Container, ContainerPort},
};

use crate::{
    config::RuntimeConfig,
    hostname::{Hostname, HostnameError},
    resources,
    security::{self, SecurityError},
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxConfigError {
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The node's resolv.conf: a pod without its servers would ask the wrong ones for as long as it lives.
    #[error("cannot read {path}: {detail}")]
    ResolvConf { path: String, detail: String },
}

/// What comes from elsewhere than pod and configuration.
#[derive(Clone, Debug, Default)]
pub struct SandboxInput {
    pub attempt: u32,
    pub cgroup_parent: String,
    pub dns: DnsConfig,
    pub userns: UserNamespace,
    /// Supplemental groups that volumes ask for.
    pub volume_groups: Vec<i64>,
}

pub fn sandbox_config(
    pod: &DesiredPod,
    input: SandboxInput,
    config: &RuntimeConfig,
) -> Result<PodSandboxConfig, SandboxConfigError> {
    let SandboxInput { attempt, cgroup_parent, dns, userns, volume_groups } = input;
    let linux = LinuxPodSandboxConfig {
        cgroup_parent,
        security_context: Some(sandbox_security(pod, userns, volume_groups)?),
        sysctls: sysctls(pod),
        overhead: Some(resources::overhead(pod, &config.resources)),
        resources: Some(resources::sandbox_resources(pod, &config.resources)),
    };
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.key.name.to_string(),
            uid: pod.uid.to_string(),
            namespace: pod.key.namespace.to_string(),
            attempt,
        }),
        hostname: kernel_hostname(pod, &config.cluster_domain)?,
        log_directory: config.root.pod_log(&pod.key, &pod.uid).to_string_lossy().into_owned(),
        dns_config: Some(dns),
        port_mappings: pod.regular_containers().iter().flat_map(port_mappings).collect(),
        labels: sandbox_labels(pod),
        annotations: pod.pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(linux),
        ..PodSandboxConfig::default()
    })
}

fn kernel_hostname(pod: &DesiredPod, cluster_domain: &str) -> Result<String, HostnameError> {
    if pod.host_network() {
        return Ok(String::new());
    }
    let as_fqdn = pod.spec().set_hostname_as_fqdn == Some(true);
    Hostname::of(pod, cluster_domain)?.for_kernel(as_fqdn)
}

/// The pod's own labels and those by which its sandbox is found again.
fn sandbox_labels(pod: &DesiredPod) -> BTreeMap<String, String> {
    let mut labels = pod.pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// The labels that sandbox and containers share.
pub(crate) fn identity(pod: &DesiredPod) -> [(String, String); 3] {
    [
        (labels::POD_NAME.to_owned(), pod.key.name.to_string()),
        (labels::POD_NAMESPACE.to_owned(), pod.key.namespace.to_string()),
        (labels::POD_UID.to_owned(), pod.uid.to_string()),
    ]
}

fn sysctls(pod: &DesiredPod) -> BTreeMap<String, String> {
    let list = pod.spec().security_context.as_ref().and_then(|sc| sc.sysctls.as_deref());
    let set = list.unwrap_or_default().iter();
    set.map(|s| (pod::sysctl::normalize(&s.name), s.value.clone())).collect()
}

fn sandbox_security(
    pod: &DesiredPod,
    userns: UserNamespace,
    volume_groups: Vec<i64>,
) -> Result<LinuxSandboxSecurityContext, SecurityError> {
    let sc = pod.spec().security_context.clone().unwrap_or_default();
    Ok(LinuxSandboxSecurityContext {
        namespace_options: Some(security::namespaces(pod, userns)),
        selinux_options: sc.se_linux_options.as_ref().map(security::selinux),
        run_as_user: sc.run_as_user.map(|value| Int64Value { value }),
        run_as_group: sc.run_as_group.map(|value| Int64Value { value }),
        supplemental_groups: security::supplemental_groups(pod).into_iter().chain(volume_groups).collect(),
        supplemental_groups_policy: security::groups_policy(pod)?,
        privileged: security::has_privileged_container(pod),
        // Whatever the containers ask for: the sandbox process needs no more.
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        ..LinuxSandboxSecurityContext::default()
    })
}

/// Of ports that mean the same only the first is mapped.
fn port_mappings(container: &Container) -> Vec<PortMapping> {
    let mut seen = HashSet::new();
    let ports = container.ports.as_deref().unwrap_or_default();
    ports.iter().filter(|p| seen.insert(port_identity(p))).map(port_mapping).collect()
}

fn port_identity(port: &ContainerPort) -> String {
    if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
        return name.to_owned();
    }
    let ip = port.host_ip.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or_default();
    format!("{ip}-{protocol}:{}:{}", port.container_port, port.host_port.unwrap_or(0))
}

fn port_mapping(port: &ContainerPort) -> PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{pod, pod_with};
    use host::RootDir;
    use pod::api::{PodSecurityContext, PodSpec, SecurityContext, Sysctl};

    fn config(pod: &DesiredPod) -> PodSandboxConfig {
        let config = RuntimeConfig {
            cluster_domain: "cluster.local".into(),
            ..RuntimeConfig::new(RootDir::new("/var/lib/kubelet"))
        };
        let input = SandboxInput { attempt: 2, cgroup_parent: "/kubepods/poduid-1".into(), ..SandboxInput::default() };
        sandbox_config(pod, input, &config).unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_sandbox_is_named_labelled_and_placed_as_upstream_does() {
        let pod = pod_with(
            "web",
            |_| {},
            |m| {
                m.labels = Some(map(&[("app", "web")]));
                m.annotations = Some(map(&[("note", "x")]));
            },
        );
        let got = config(&pod);
        let metadata =
            PodSandboxMetadata { name: "web".into(), uid: "uid-1".into(), namespace: "ns".into(), attempt: 2 };
        assert_eq!(got.metadata, Some(metadata));
        assert_eq!(got.log_directory, "/var/log/pods/ns_web_uid-1");
        assert_eq!(got.hostname, "web");
        let labels = [
            ("app", "web"),
            ("io.kubernetes.pod.name", "web"),
            ("io.kubernetes.pod.namespace", "ns"),
            ("io.kubernetes.pod.uid", "uid-1"),
        ];
        assert_eq!(got.labels, map(&labels));
        assert_eq!(got.annotations, map(&[("note", "x")]));
        let linux = got.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/poduid-1");
        let seccomp = linux.security_context.unwrap().seccomp.unwrap();
        assert_eq!(seccomp.profile_type, ProfileType::RuntimeDefault as i32);
    }

    #[test]
    fn a_pod_on_the_host_network_has_no_host_name_of_its_own() {
        assert_eq!(config(&pod("web", |s| s.host_network = Some(true))).hostname, "");
    }

    #[test]
    fn the_pods_security_context_shapes_the_sandbox() {
        let pod = pod("web", |s: &mut PodSpec| {
            s.security_context = Some(PodSecurityContext {
                run_as_user: Some(1),
                run_as_group: Some(2),
                fs_group: Some(3),
                supplemental_groups: Some(vec![4]),
                sysctls: Some(vec![Sysctl { name: "net/ipv4/tcp_syncookies".into(), value: "1".into() }]),
                ..PodSecurityContext::default()
            });
            s.containers[0].security_context =
                Some(SecurityContext { privileged: Some(true), ..SecurityContext::default() });
        });
        let linux = config(&pod).linux.unwrap();
        assert_eq!(linux.sysctls, map(&[("net.ipv4.tcp_syncookies", "1")]));
        let sc = linux.security_context.unwrap();
        assert!(sc.privileged);
        assert_eq!((sc.run_as_user.unwrap().value, sc.run_as_group.unwrap().value), (1, 2));
        assert_eq!(sc.supplemental_groups, [3, 4]);
    }

    #[test]
    fn all_ports_are_mapped_once() {
        let port = |number: i32, host: Option<i32>, protocol: &str, name: Option<&str>| ContainerPort {
            container_port: number,
            host_port: host,
            protocol: Some(protocol.into()),
            name: name.map(str::to_owned),
            host_ip: None,
        };
        let pod = pod("web", |s| {
            let ports = [
                port(80, Some(8080), "TCP", Some("http")),
                port(81, None, "TCP", Some("http")),
                port(53, Some(53), "UDP", None),
                port(53, Some(53), "UDP", None),
                port(53, Some(53), "TCP", None),
            ];
            s.containers[0].ports = Some(ports.to_vec());
        });
        let got: Vec<_> =
            config(&pod).port_mappings.iter().map(|p| (p.protocol, p.container_port, p.host_port)).collect();
        assert_eq!(got, [(0, 80, 8080), (1, 53, 53), (0, 53, 53)]);
    }
}
