//! Each rule by one configuration that breaks it, and that the defaults break none.

use super::*;
use crate::{
    config::{Effective, conform, document, schema::FIELDS, with_defaults},
    flags,
};

const V2: Host = Host { cgroup_v2: true, swap_on: false };
const V1: Host = Host { cgroup_v2: false, swap_on: true };

fn effective(yaml: &str) -> Effective {
    let given = document::parse(yaml.as_bytes()).unwrap().value;
    let given = given.as_object().cloned().unwrap_or_default();
    let mut findings = conform::Findings::default();
    conform::conform(FIELDS, &given, "", &mut findings);
    assert!(findings.unknown.is_empty() && findings.wrong.is_empty(), "{yaml}: {findings:?}");
    let document = with_defaults(&given, &serde_json::Value::Null, &mut findings);
    let gates = crate::config::gates_of(&document["featureGates"]).unwrap();
    Effective { config: crate::config::decode(&document).unwrap(), gates, document, notes: Vec::new() }
}

fn faults(yaml: &str, host: Host) -> Vec<String> {
    let effective = effective(yaml);
    configuration(&effective.config, &effective.gates, host).iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(faults("", V2), Vec::<String>::new());
}

#[test]
fn all_faults_are_reported_together_with_field_flag_value_and_reason() {
    assert_eq!(
        faults("port: -1\nmaxPods: -5", V2),
        [
            "maxPods (--max-pods): Invalid value: -5: must not be a negative number",
            "port (--port): Invalid value: -1: must be between 1 and 65535, inclusive",
        ]
    );
}

#[test]
fn a_cgroup_v1_host_and_swap_are_refused_unless_allowed() {
    let refused = faults("", V1);
    assert!(refused[0].starts_with("failCgroupV1 (--fail-cgroupv1): Invalid value: true: this host uses cgroup v1"));
    assert!(refused[1].starts_with("failSwapOn (--fail-swap-on): Invalid value: true: swap is on"));
    assert!(faults("failCgroupV1: false\nfailSwapOn: false", V1).is_empty());
    assert_eq!(faults("failCgroupV1: false\nfailSwapOn: false\nsingleProcessOOMKill: false", V1).len(), 1);
    assert_eq!(faults("failCgroupV1: false\nfailSwapOn: false\nmemorySwap: {swapBehavior: LimitedSwap}", V1).len(), 1);
}

/// One fault each, in the field named.
#[test]
fn each_rule_refuses_what_breaks_it() {
    for (field, yaml) in [
        ("nodeLeaseDurationSeconds", "nodeLeaseDurationSeconds: -1"),
        ("systemCgroups", "systemCgroups: /x"),
        ("eventBurst", "eventBurst: -1"),
        ("eventRecordQPS", "eventRecordQPS: -1"),
        ("kubeAPIBurst", "kubeAPIBurst: -1"),
        ("kubeAPIQPS", "kubeAPIQPS: -1"),
        ("registryBurst", "registryBurst: -1"),
        ("registryPullQPS", "registryPullQPS: -1"),
        ("maxOpenFiles", "maxOpenFiles: -1"),
        ("podsPerCore", "podsPerCore: -1"),
        ("nodeStatusMaxImages", "nodeStatusMaxImages: -2"),
        ("healthzPort", "healthzPort: 65536"),
        ("readOnlyPort", "readOnlyPort: -1"),
        ("cpuCFSQuotaPeriod", "cpuCFSQuotaPeriod: 2s"),
        ("cpuCFSQuotaPeriod", "cpuCFSQuotaPeriod: 50ms\nfeatureGates: {CustomCPUCFSQuotaPeriod: false}"),
        ("imageGCHighThresholdPercent", "imageGCHighThresholdPercent: 101"),
        ("imageGCLowThresholdPercent", "imageGCLowThresholdPercent: 85"),
        ("imageMinimumGCAge", "imageMinimumGCAge: -1s"),
        ("imageMaximumGCAge", "imageMaximumGCAge: 1m"),
        ("iptablesDropBit", "iptablesDropBit: 32"),
        ("oomScoreAdj", "oomScoreAdj: -1001"),
        ("maxParallelImagePulls", "maxParallelImagePulls: 0"),
        ("maxParallelImagePulls", "maxParallelImagePulls: 2\nserializeImagePulls: true"),
        ("serverTLSBootstrap", "serverTLSBootstrap: true\nfeatureGates: {RotateKubeletServerCertificate: false}"),
        ("runOnce", "runOnce: true"),
        ("registerWithTaints[0]", "registerWithTaints: [{key: 'a b', effect: NoSchedule}]"),
        ("registerWithTaints[0]", "registerWithTaints: [{key: a, effect: Never}]"),
        (
            "registerWithTaints[0]",
            "registerWithTaints: [{key: a, effect: NoExecute, timeAdded: '2020-01-01T00:00:00Z'}]",
        ),
        ("topologyManagerPolicy", "topologyManagerPolicy: x"),
        ("topologyManagerScope", "topologyManagerScope: x"),
        ("cpuManagerPolicy", "cpuManagerPolicy: dynamic"),
        ("memoryManagerPolicy", "memoryManagerPolicy: static"),
        ("shutdownGracePeriodCriticalPods", "shutdownGracePeriod: 10s\nshutdownGracePeriodCriticalPods: 20s"),
        ("shutdownGracePeriod", "shutdownGracePeriod: 500ms"),
        (
            "shutdownGracePeriod",
            "shutdownGracePeriod: 5s\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 2}]",
        ),
        ("memorySwap.swapBehavior", "memorySwap: {swapBehavior: Unlimited}"),
        ("crashLoopBackOff.maxContainerRestartPeriod", "crashLoopBackOff: {maxContainerRestartPeriod: 301s}"),
        ("crashLoopBackOff.maxContainerRestartPeriod", "crashLoopBackOff: {maxContainerRestartPeriod: 500ms}"),
        ("enforceNodeAllocatable", "enforceNodeAllocatable: [pods, pods]"),
        ("enforceNodeAllocatable", "enforceNodeAllocatable: [other]"),
        ("enforceNodeAllocatable", "enforceNodeAllocatable: [system-reserved]"),
        ("enforceNodeAllocatable", "enforceNodeAllocatable: [kube-reserved-compressible]"),
        ("enforceNodeAllocatable", "cgroupsPerQOS: false"),
        ("hairpinMode", "hairpinMode: x"),
        ("imagePullCredentialsVerificationPolicy", "imagePullCredentialsVerificationPolicy: x"),
        ("preloadedImagesVerificationAllowlist", "preloadedImagesVerificationAllowlist: [a]"),
        ("reservedSystemCPUs", "reservedSystemCPUs: 3-1"),
        ("reservedSystemCPUs", "reservedSystemCPUs: 0-1\nkubeReservedCgroup: /x"),
        ("reservedMemory[0].limits[cpu]", "reservedMemory: [{numaNode: 0, limits: {cpu: 1}}]"),
        ("reservedMemory[0].limits[memory]", "reservedMemory: [{numaNode: 0, limits: {memory: '0'}}]"),
        (
            "reservedMemory[1].limits[memory]",
            "reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}, {numaNode: 0, limits: {memory: 2Gi}}]",
        ),
        ("memoryThrottlingFactor", "memoryThrottlingFactor: 1.1"),
        ("memoryThrottlingFactor", "memoryThrottlingFactor: 0.5\nfeatureGates: {MemoryQoS: false}"),
        ("memoryReservationPolicy", "memoryReservationPolicy: TieredReservation\nfeatureGates: {MemoryQoS: false}"),
        ("memoryReservationPolicy", "memoryReservationPolicy: x"),
        ("enableSystemLogQuery", "enableSystemLogQuery: true\nenableSystemLogHandler: false"),
        ("containerLogMaxWorkers", "containerLogMaxWorkers: 0"),
        ("containerLogMonitorInterval", "containerLogMonitorInterval: 2s"),
        ("containerLogMaxFiles", "containerLogMaxFiles: 1"),
        ("containerLogMaxSize", "containerLogMaxSize: big"),
        ("podLogsDir", "podLogsDir: logs"),
        ("podLogsDir", "podLogsDir: /var//log"),
        ("podLogsDir", "podLogsDir: /var/lög"),
        ("defaultPodSysctls", "defaultPodSysctls: {net.x: '1'}"),
        ("defaultPodSysctls[vm.x]", "featureGates: {DefaultPodSysctls: true}\ndefaultPodSysctls: {vm.x: '1'}"),
        (
            "defaultPodSysctls[net/x]",
            "featureGates: {DefaultPodSysctls: true}\ndefaultPodSysctls: {net/x: '1', net.x: '1'}",
        ),
        ("userNamespaces.idsPerPod", "userNamespaces: {idsPerPod: 65535}"),
        ("userNamespaces.idsPerPod", "userNamespaces: {idsPerPod: 65537}"),
        ("userNamespaces.idsPerPod", "userNamespaces: {idsPerPod: 4294967296}"),
        ("showHiddenMetricsForVersion", "showHiddenMetricsForVersion: '1.35'"),
        ("logging.format", "logging: {format: foo}"),
        ("logging.vmodule[0]", "logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}"),
        ("logging.options.text.splitStream", "logging: {options: {text: {splitStream: true}}}"),
        ("tracing.samplingRatePerMillion", "tracing: {samplingRatePerMillion: 1000001}"),
        ("tracing.endpoint", "tracing: {endpoint: 'http://x'}"),
        ("authorization.mode", "authorization: {mode: RBAC}"),
        ("tlsCipherSuites[0]", "tlsCipherSuites: [FOO]"),
        ("tlsMinVersion", "tlsMinVersion: VersionTLS14"),
        ("kubeReserved[cpu]", "kubeReserved: {cpu: '-1'}"),
        ("systemReserved[gpu]", "systemReserved: {gpu: '1'}"),
        ("evictionHard[memory.free]", "evictionHard: {memory.free: 1Gi}"),
        ("evictionHard[nodefs.available]", "evictionHard: {nodefs.available: 101%}"),
        ("evictionSoft[memory.available]", "evictionSoft: {memory.available: 1Gi}"),
        ("configMapAndSecretChangeDetectionStrategy", "configMapAndSecretChangeDetectionStrategy: Poll"),
        ("qosReserved[memory]", "qosReserved: {memory: 101%}"),
    ] {
        let found = faults(yaml, V2);
        let [fault] = &found[..] else { panic!("{yaml}: {found:?}") };
        let named = fault.split(": ").next().unwrap().split(" (").next().unwrap();
        assert_eq!(named, field, "{yaml}: {fault}");
    }
}

#[test]
fn allowlist_patterns_are_images_or_registry_prefixes() {
    let head = "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\n";
    let with = |pattern: &str| faults(&format!("{head}preloadedImagesVerificationAllowlist: ['{pattern}']"), V2).len();
    for good in ["registry.k8s.io/pause", "reg:5000/*", "reg.example/team/*", "busybox"] {
        assert_eq!(with(good), 0, "{good}");
    }
    for bad in ["", "/*", "*", "a/*/b", "reg/x:1", "reg/x@sha256:0", " a", "Reg/X"] {
        assert_eq!(with(bad), 1, "{bad}");
    }
}

#[test]
fn none_excludes_other_enforcement_and_needs_no_cgroups() {
    assert!(faults("cgroupsPerQOS: false\nenforceNodeAllocatable: [none]", V2).is_empty());
    assert_eq!(faults("enforceNodeAllocatable: [none, pods]", V2).len(), 1);
    assert!(faults("enforceNodeAllocatable: [pods, kube-reserved]\nkubeReservedCgroup: /k", V2).is_empty());
}

#[test]
fn cpu_lists_are_read() {
    assert_eq!(resources::parse_cpus("0-2, 5").map(Vec::from_iter), Some(vec![0, 1, 2, 5]));
    assert_eq!(resources::parse_cpus("").map(|cpus| cpus.len()), Some(0));
    for bad in ["a", "1-", "3-1", "1,,2", "0-9999999"] {
        assert_eq!(resources::parse_cpus(bad), None, "{bad}");
    }
}

fn flag_faults(args: &[&str]) -> Vec<String> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    super::flags(&flags::parse(&args).unwrap()).iter().map(ToString::to_string).collect()
}

#[test]
fn node_labels_of_kubernetes_are_limited_to_the_allowed_ones() {
    assert!(
        flag_faults(&["--node-labels=a=b,node.kubernetes.io/x=y,foo.kubelet.kubernetes.io/x=,kubernetes.io/arch=z"])
            .is_empty()
    );
    for bad in ["kubernetes.io/x=y", "a.k8s.io/x=y", "a b=c", "a=b c"] {
        assert_eq!(flag_faults(&[&format!("--node-labels={bad}")]).len(), 1, "{bad}");
    }
}

#[test]
fn node_addresses_are_one_or_a_pair_of_both_families() {
    for good in ["", "10.0.0.1", "10.0.0.1,fd00::1", "::", "nonsense"] {
        assert!(flag_faults(&["--node-ip", good]).is_empty(), "{good}");
    }
    for bad in ["10.0.0.1,10.0.0.2", "0.0.0.0,::", "10.0.0.1,fd00::1,fd00::2"] {
        assert_eq!(flag_faults(&["--node-ip", bad]).len(), 1, "{bad}");
    }
}

#[test]
fn other_flags_of_the_node_are_checked() {
    assert_eq!(flag_faults(&["--cloud-provider=aws"]).len(), 1);
    assert!(flag_faults(&["--cloud-provider=external"]).is_empty());
    assert_eq!(flag_faults(&["--exit-on-lock-contention"]).len(), 1);
}
