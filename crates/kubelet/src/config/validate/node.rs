//! The node: taints, labels, cgroup version, swap, shutdown, user namespaces, sysctls, the flags about the node.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Check, Invalid};
use crate::{
    config::{duration::GoDuration, names},
    flags::Given,
};

const USERNS_UNIT: i64 = 65536;
const ALLOWED_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const ALLOWED_LABEL_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn check(check: &mut Check<'_>) {
    let c = check.config;
    check.refuse_if(c.run_once, || Invalid::new("runOnce", true, "run-once mode is gone and must not be set"));
    check.refuse_if(c.fail_cgroup_v1 && !check.host.cgroup_v2, || {
        Invalid::new(
            "failCgroupV1",
            true,
            "this host uses cgroup v1, on which the kubelet is configured not to run; set it to false to run here",
        )
    });
    check.refuse_if(c.single_process_oom_kill == Some(false) && !check.host.cgroup_v2, || {
        Invalid::new("singleProcessOOMKill", false, "must not be false on a host that uses cgroup v1")
    });
    check.refuse_if(c.fail_swap_on && check.host.swap_on, || {
        Invalid::new("failSwapOn", true, "swap is on (see /proc/swaps): turn it off, or set this to false")
    });
    taints(check);
    user_namespaces(check);
    sysctls(check);
    shutdown(check);
    check.refuse_if(!matches!(c.hairpin_mode.as_str(), "promiscuous-bridge" | "hairpin-veth" | "none"), || {
        Invalid::new(
            "hairpinMode",
            &c.hairpin_mode,
            "must be one of \"none\", \"hairpin-veth\" or \"promiscuous-bridge\"",
        )
    });
    let strategy = &c.config_map_and_secret_change_detection_strategy;
    check.refuse_if(!matches!(strategy.as_str(), "Get" | "Cache" | "Watch"), || {
        let field = "configMapAndSecretChangeDetectionStrategy";
        Invalid::new(field, strategy, "must be one of \"Get\", \"Cache\" or \"Watch\"")
    });
}

fn taints(check: &mut Check<'_>) {
    for (index, taint) in check.config.register_with_taints.iter().enumerate() {
        let field = format!("registerWithTaints[{index}]");
        let effect = (!taint.effect.is_empty() && !names::is_taint_effect(&taint.effect))
            .then(|| "effect must be one of NoSchedule, PreferNoSchedule or NoExecute".to_owned());
        let value = taint.value.as_deref().unwrap_or_default();
        let key = names::qualified_name(&taint.key).map(|fault| format!("key: {fault}"));
        let value_fault = names::label_value(value).map(|fault| format!("value: {fault}"));
        let shown = format!("{}={value}:{}", taint.key, taint.effect);
        for fault in [key, value_fault, effect].into_iter().flatten() {
            check.refuse(Invalid::new(&field, &shown, fault));
        }
        check.refuse_if(taint.time_added.is_some(), || Invalid::new(&field, &shown, "timeAdded must not be set"));
    }
}

fn user_namespaces(check: &mut Check<'_>) {
    const FIELD: &str = "userNamespaces.idsPerPod";
    let Some(ids) = check.config.user_namespaces.as_ref().and_then(|userns| userns.ids_per_pod) else { return };
    let reason = match ids {
        _ if ids < USERNS_UNIT => "must not be less than 65536",
        _ if ids % USERNS_UNIT != 0 => "must be a multiple of 65536",
        _ if ids > i64::from(u32::MAX) => "must not be more than 4294967295",
        _ => return,
    };
    check.refuse(Invalid::new(FIELD, ids, reason));
}

fn sysctls(check: &mut Check<'_>) {
    const FIELD: &str = "defaultPodSysctls";
    let sysctls = &check.config.default_pod_sysctls;
    if sysctls.is_empty() {
        return;
    }
    if !check.on("DefaultPodSysctls") {
        check.refuse(Invalid::required(FIELD, "feature gate DefaultPodSysctls is needed to set it"));
        return;
    }
    let mut seen = BTreeSet::new();
    for name in sysctls.keys() {
        let field = format!("{FIELD}[{name}]");
        if !names::is_sysctl(name) {
            check.refuse(Invalid::new(field, name, "is not a valid sysctl name"));
            continue;
        }
        let dotted = dotted(name);
        check.refuse_if(!is_namespaced(&dotted), || Invalid::new(&field, name, "is not known to be namespaced"));
        check.refuse_if(!seen.insert(dotted), || Invalid::new(&field, name, "is given twice, in two spellings"));
    }
}

/// `net/ipv4/conf/eno2.100/x` and `net.ipv4.conf.eno2/100.x` are one name: the first separator tells the spelling.
fn dotted(name: &str) -> String {
    if !name.find(['.', '/']).is_some_and(|first| name[first..].starts_with('/')) {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

fn is_namespaced(sysctl: &str) -> bool {
    sysctl == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."].iter().any(|p| sysctl.starts_with(p))
}

fn shutdown(check: &mut Check<'_>) {
    let c = check.config;
    let (total, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let graceful = check.on("GracefulNodeShutdown");
    let given = total > GoDuration::default() || critical > GoDuration::default();
    check.refuse_if(graceful && critical > total, || {
        let reason = format!("must not exceed shutdownGracePeriod {total}");
        Invalid::new("shutdownGracePeriodCriticalPods", critical, reason)
    });
    for (field, period) in [("shutdownGracePeriod", total), ("shutdownGracePeriodCriticalPods", critical)] {
        let short = !period.is_zero() && period < GoDuration::from_secs(1);
        check.refuse_if(graceful && short, || Invalid::new(field, period, "must be zero or at least 1s"));
        let off = !graceful && period > GoDuration::default();
        check.refuse_if(off, || Invalid::new(field, period, "requires feature gate GracefulNodeShutdown"));
    }
    if c.shutdown_grace_period_by_pod_priority.is_empty() {
        return;
    }
    const BY_PRIORITY: &str = "shutdownGracePeriodByPodPriority";
    let by_priority = check.on("GracefulNodeShutdownBasedOnPodPriority");
    check.refuse_if(!by_priority, || {
        Invalid::required(BY_PRIORITY, "feature gate GracefulNodeShutdownBasedOnPodPriority is needed to set it")
    });
    check.refuse_if(by_priority && given, || {
        Invalid::new("shutdownGracePeriod", total, format!("cannot be set together with {BY_PRIORITY}"))
    });
}

/// Faults of the flags about the node.
pub(super) fn flags(given: &Given) -> Vec<Invalid> {
    let mut faults = node_labels(given);
    let provider = given.text("cloud-provider");
    if !matches!(provider.as_str(), "" | "external") {
        faults.push(Invalid::new("--cloud-provider", &provider, "must be empty or \"external\""));
    }
    if let Err(reason) = parse_node_ips(&given.text("node-ip")) {
        faults.push(Invalid::new("--node-ip", &given.text("node-ip"), reason));
    }
    if given.bool("exit-on-lock-contention") && given.text("lock-file").is_empty() {
        let reason = "cannot exit on lock file contention: no lock file specified";
        faults.push(Invalid::new("--exit-on-lock-contention", true, reason));
    }
    faults
}

fn node_labels(given: &Given) -> Vec<Invalid> {
    let mut faults = Vec::new();
    for (key, value) in given.map("node-labels") {
        let label = format!("{key}={value}");
        if is_kubernetes_label(&key) && !is_node_label(&key) {
            faults.push(Invalid::new("--node-labels", &label, unknown_label()));
        }
        for fault in [names::qualified_name(&key), names::label_value(&value)].into_iter().flatten() {
            faults.push(Invalid::new("--node-labels", &label, fault));
        }
    }
    faults
}

fn unknown_label() -> String {
    format!(
        "labels in the 'kubernetes.io' and 'k8s.io' namespaces must begin with an allowed prefix ({}) or be in the \
         specifically allowed set ({})",
        ALLOWED_LABEL_PREFIXES.join(", "),
        ALLOWED_LABELS.join(", ")
    )
}

fn is_below(namespace: &str, domain: &str) -> bool {
    namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn is_kubernetes_label(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    is_below(namespace, "kubernetes.io") || is_below(namespace, "k8s.io")
}

fn is_node_label(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    ALLOWED_LABELS.contains(&key) || ALLOWED_LABEL_PREFIXES.iter().any(|prefix| is_below(namespace, prefix))
}

/// The addresses of --node-ip. What is no address is passed over, as upstream does with a log line.
pub fn parse_node_ips(text: &str) -> Result<Vec<IpAddr>, &'static str> {
    let ips: Vec<IpAddr> = text.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    match ips[..] {
        [] | [_] => Ok(ips),
        [a, b] if a.is_ipv6() == b.is_ipv6() => Err("must contain either a single IP or a dual-stack pair of IPs"),
        [a, b] if a.is_unspecified() || b.is_unspecified() => {
            Err("dual-stack node IP cannot include '0.0.0.0' or '::'")
        }
        [_, _] => Ok(ips),
        _ => Err("must contain either a single IP or a dual-stack pair of IPs"),
    }
}
