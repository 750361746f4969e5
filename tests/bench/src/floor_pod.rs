//! What a kubelet tells the runtime of a pod of the benchmark: as much as counts in the runtime's time.

use std::{fs, io, path::Path};

use api_types::runtime::v1::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile,
    security_profile::ProfileType,
};

use crate::measures::IMAGE;

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const SERVICE: [(&str, &str); 7] = [
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
    ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
    ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
];

pub fn sandbox(name: &str, logs: &Path, cgroup: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "floor".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs.display().to_string(),
        dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..DnsConfig::default() }),
        labels: labels(name).into(),
        annotations: [("kubernetes.io/config.source".to_owned(), "api".to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup.into(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(profile(ProfileType::RuntimeDefault)),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// Its files lie in the pod's log directory.
pub fn container(name: &str, command: &[&str], logs: &Path) -> io::Result<ContainerConfig> {
    let mount = |inside: &str, host: &Path, readonly| Mount {
        container_path: inside.into(),
        host_path: host.display().to_string(),
        readonly,
        ..Mount::default()
    };
    let (token, hosts, last_words) = (logs.join("token"), logs.join("hosts"), logs.join("termination-log"));
    fs::create_dir_all(&token)?;
    fs::write(&hosts, "127.0.0.1 localhost\n")?;
    fs::write(&last_words, "")?;
    let env = SERVICE.map(|(key, value)| KeyValue { key: key.into(), value: value.into() });
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        envs: env.into(),
        mounts: vec![
            mount(TOKEN, &token, true),
            mount("/etc/hosts", &hosts, false),
            mount("/dev/termination-log", &last_words, false),
        ],
        labels: labels(name).into(),
        log_path: "c.log".into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 2,
                oom_score_adj: 999,
                ..LinuxContainerResources::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                run_as_user: Some(Int64Value { value: 0 }),
                seccomp: Some(profile(ProfileType::Unconfined)),
                masked_paths: MASKED.map(str::to_owned).into(),
                readonly_paths: READ_ONLY.map(str::to_owned).into(),
                ..LinuxContainerSecurityContext::default()
            }),
        }),
        ..ContainerConfig::default()
    })
}

fn labels(name: &str) -> [(String, String); 3] {
    ["name", "uid", "namespace"].map(|key| (format!("io.kubernetes.pod.{key}"), name.to_owned()))
}

fn profile(kind: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), ..SecurityProfile::default() }
}

/// The process is the first of its namespace, as in a pod by default.
fn namespaces() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() }
}
