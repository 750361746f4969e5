//! From options and the machine to what each part is configured with: translation, no decisions about pods.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, bail};
use cgroups::{Cgroups, Config as CgroupsConfig, Driver, Version};
use cri::Cri;
use host::{MachineFacts, RootDir, addresses::NodeIp};
use node::{HardEviction, NodeConfig, NodeFacts, Threshold};
use pod::{
    backoff::BackoffLimits,
    memory_qos::MemoryQos,
    quantity::{Amounts, Quantity},
    sysctl::SysctlPolicy,
};
use pod_workers::DispatcherConfig;
use runtime::{
    RuntimeConfig,
    resources::{ResourceRules, SwapBehavior},
    user_ids::{self, UserIds},
};

use crate::{config::types::KubeletConfiguration, options::Options};

/// And whether no agent has used it before.
pub(super) fn root_dir(options: &Options) -> anyhow::Result<(RootDir, bool)> {
    let root = RootDir::new(&options.flags.root_dir).with_logs(&options.config.pod_logs_dir, "/var/log/containers");
    let is_new = !root.pods().exists();
    root.create().with_context(|| format!("cannot make --root-dir {}", options.flags.root_dir.display()))?;
    if let Err(error) = root.make_shared() {
        tracing::warn!(%error, "the root directory is not a shared mount: mounts do not propagate from pods");
    }
    Ok((root, is_new))
}

/// The driver that the runtime itself uses; an older one does not say, and the configuration decides.
pub(super) async fn cgroups(options: &Options, cri: &Cri) -> anyhow::Result<Cgroups> {
    let config = &options.config;
    let configured = if config.cgroup_driver == "systemd" { Driver::Systemd } else { Driver::Cgroupfs };
    let driver = match cri.runtime_config().await {
        Ok(cri::CgroupDriver::Systemd) => Driver::Systemd,
        Ok(cri::CgroupDriver::Cgroupfs) => Driver::Cgroupfs,
        Err(error) if error.is_unimplemented() => configured,
        Err(error) => return Err(error).context("the runtime does not tell its cgroup driver"),
    };
    tracing::info!(?driver, "cgroup driver");
    let cgroups = Cgroups::new(CgroupsConfig {
        driver,
        root: options.cgroup_root().to_owned(),
        per_qos: config.cgroups_per_qos,
        cpu_cfs_quota: config.cpu_cfs_quota,
        cpu_cfs_quota_period: config.cpu_cfs_quota_period.std(),
        pod_pids_limit: config.pod_pids_limit,
        enforce_pods: config.enforce_node_allocatable.iter().any(|e| e == "pods"),
        memory_qos: memory_qos(options),
    })?;
    Ok(cgroups)
}

fn memory_qos(options: &Options) -> Option<MemoryQos> {
    let config = &options.config;
    options.gates.enabled("MemoryQoS").then(|| MemoryQos {
        tiered_reservation: config.memory_reservation_policy == "TieredReservation",
        throttling_factor: config.memory_throttling_factor,
    })
}

/// The agent's own limits; what is not permitted is only logged.
pub(super) fn tune(options: &Options) {
    let wanted = options.config.max_open_files.max(0) as u64;
    let limit = rustix::process::Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::debug!(%error, wanted, "maxOpenFiles not set");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", options.config.oom_score_adj.to_string()) {
        tracing::debug!(%error, "oomScoreAdj not set");
    }
}

pub(super) fn node_config(options: &Options, root: &RootDir, new_machine: bool) -> anyhow::Result<NodeConfig> {
    let (config, flags) = (&options.config, &options.flags);
    let ips = options.node_ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let (kube, system) = options.reserved();
    Ok(NodeConfig {
        host_name: options.node_name.clone(),
        node_ip: NodeIp::parse(&ips).context("--node-ip")?,
        external_cloud: flags.cloud_provider_external,
        provider_id: config.provider_id.clone(),
        labels: flags.node_labels.clone(),
        taints: config.register_with_taints.clone(),
        register: config.register_node,
        controller_attach_detach: config.enable_controller_attach_detach,
        max_pods: config.max_pods.max(0) as u32,
        pods_per_core: config.pods_per_core.max(0) as u32,
        status_update_frequency: config.node_status_update_frequency.std(),
        status_report_frequency: config.node_status_report_frequency.std(),
        lease_duration_seconds: config.node_lease_duration_seconds,
        kubelet_version: options.reported_version.clone(),
        kubelet_port: u16::try_from(config.port).unwrap_or(10250),
        max_images: config.node_status_max_images,
        local_storage_isolation: config.local_storage_capacity_isolation,
        root_dir: root.path().to_owned(),
        new_machine,
        kube_reserved: amounts("kubeReserved", &kube)?,
        system_reserved: amounts("systemReserved", &system)?,
        hard_eviction: hard_eviction(options)?,
        declared_features: options.gates.declared(),
        ..NodeConfig::new(&options.node_name)
    })
}

pub(super) fn amounts(field: &str, list: &BTreeMap<String, String>) -> anyhow::Result<Amounts> {
    list.iter()
        .map(|(name, text)| Ok((name.clone(), quantity(text).with_context(|| format!("{field}[{name}]"))?)))
        .collect()
}

fn quantity(text: &str) -> anyhow::Result<Quantity> {
    match text.parse::<Quantity>() {
        Ok(quantity) => Ok(quantity),
        Err(error) => bail!("{text:?} is no quantity: {error:?}"),
    }
}

fn hard_eviction(options: &Options) -> anyhow::Result<HardEviction> {
    if options.flags.allocatable_ignores_eviction {
        return Ok(HardEviction::default());
    }
    let threshold = |signal: &str| -> anyhow::Result<Option<Threshold>> {
        let Some(text) = options.config.eviction_hard.get(signal) else { return Ok(None) };
        let parsed = match text.strip_suffix('%') {
            Some(percent) => {
                // In upstream's precision: a figure of every pod that asks for more than there is.
                let percent = percent.parse::<f32>().with_context(|| format!("evictionHard[{signal}]"))?;
                Threshold::Share(f64::from(percent / 100.0))
            }
            None => Threshold::Amount(quantity(text).with_context(|| format!("evictionHard[{signal}]"))?),
        };
        Ok(Some(parsed))
    };
    Ok(HardEviction { memory: threshold("memory.available")?, nodefs: threshold("nodefs.available")? })
}

fn user_ids(config: &KubeletConfiguration) -> anyhow::Result<UserIds> {
    let per_pod = config.user_namespaces.as_ref().and_then(|users| users.ids_per_pod).map_or(Ok(65_536), u32::try_from);
    let delegated = user_ids::delegated().context("user namespaces of pods")?;
    let max_pods = u32::try_from(config.max_pods).unwrap_or_default();
    UserIds::new(per_pod.context("userNamespaces.idsPerPod")?, delegated, max_pods).context("user namespaces of pods")
}

pub(super) fn runtime_config(
    options: &Options,
    root: &RootDir,
    cgroups: &Cgroups,
    machine: &MachineFacts,
    facts: &NodeFacts,
) -> anyhow::Result<RuntimeConfig> {
    let config = &options.config;
    let v2 = cgroups.version() == Version::V2;
    let resources = ResourceRules {
        cgroup_v2: v2,
        cpu_cfs_quota: config.cpu_cfs_quota,
        cpu_cfs_quota_period: config.cpu_cfs_quota_period.std(),
        single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!v2),
        memory_capacity: facts.capacity.get("memory").map_or(machine.memory_bytes as i64, |q| q.value()),
        swap: match config.memory_swap.swap_behavior.as_str() {
            "LimitedSwap" => SwapBehavior::LimitedSwap,
            _ => SwapBehavior::NoSwap,
        },
        swap_controller: runtime::machine::swap_controller(v2),
        swap_capacity: machine.swap_bytes as i64,
        memory_qos: memory_qos(options),
        huge_page_sizes: machine.hugepages.iter().filter_map(|h| i64::try_from(h.page_size).ok()).collect(),
    };
    let node_ips = facts.host_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    Ok(RuntimeConfig {
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: (!config.resolv_conf.is_empty()).then(|| config.resolv_conf.clone().into()),
        node_ips,
        seccomp_default: options.seccomp_default,
        resources,
        masked_paths: runtime::machine::masked_paths(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        user_ids: user_ids(config)?,
        ..RuntimeConfig::new(root.clone())
    })
}

pub(super) fn dispatcher_config(
    options: &Options,
    machine: &MachineFacts,
    needs_node: bool,
) -> anyhow::Result<DispatcherConfig> {
    let mut backoff = BackoffLimits::default();
    if let Some(cap) = options.config.crash_loop_back_off.max_container_restart_period {
        backoff.cap = cap.std().max(Duration::from_secs(1));
        backoff.initial = backoff.initial.min(backoff.cap);
    }
    let sysctls = SysctlPolicy::new(kernel(&machine.kernel_version), &options.config.allowed_unsafe_sysctls);
    let app_armor =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    let limited_swap = options.config.memory_swap.swap_behavior == "LimitedSwap" && machine.swap_bytes > 0;
    match sysctls {
        Ok(sysctls) => {
            let declared_features = options.gates.declared();
            Ok(DispatcherConfig { backoff, needs_node, sysctls, app_armor, limited_swap, declared_features })
        }
        Err(error) => bail!("allowedUnsafeSysctls: {error}"),
    }
}

/// Major and minor release.
fn kernel(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_its_first_two_numbers() {
        assert_eq!(kernel("6.18.44-fc-v669"), (6, 18));
        assert_eq!(kernel(""), (0, 0));
    }
}
