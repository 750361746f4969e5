//! The 126 fields of KubeletConfiguration `kubelet.config.k8s.io/v1beta1`: name, kind, default, and whether ferrolet
//! honours them. Decoding, defaulting, the effective configuration, the start-up warnings and docs/SUPPORT.md all
//! read this one table.

use Kind::*;

use crate::support::{
    Support,
    Support::{NoEffect, NotYet, Partly, Works},
};

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Float,
    Text,
    Duration,
    /// A duration that an older format gave as a number of nanoseconds.
    DurationOrNanos,
    Quantity,
    Texts,
    Int32s,
    /// name -> text
    Map,
    /// name -> list of texts
    Multimap,
    /// name -> true or false
    Gates,
    /// name -> quantity
    Quantities,
    Object(&'static [Field]),
    Objects(&'static [Field]),
}

/// What a missing or zero value means, as upstream's Go type has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// A plain Go value: zero counts as not given, so the default replaces it; zero is left out of output.
    Zero,
    /// A Go pointer: only a missing value takes the default; a zero is a value.
    Null,
    /// A plain Go value that output always shows.
    Shown,
}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub absent: Absent,
    /// JSON text of the default; "" where zero (or nothing) is the default.
    pub default: &'static str,
    pub support: Support,
}

/// A plain value.
const fn plain(name: &'static str, kind: Kind, default: &'static str, support: Support) -> Field {
    Field { name, kind, absent: Absent::Zero, default, support }
}

/// A pointer: its zero is a value.
const fn pointer(name: &'static str, kind: Kind, default: &'static str, support: Support) -> Field {
    Field { name, kind, absent: Absent::Null, default, support }
}

const fn shown(name: &'static str, kind: Kind, default: &'static str, support: Support) -> Field {
    Field { name, kind, absent: Absent::Shown, default, support }
}

const EVICTION: Support = NotYet("no pod is evicted for lack of memory, disk or PIDs yet");
const CPU_MANAGER: Support = NotYet("containers get no exclusive CPUs yet");
const MEMORY_MANAGER: Support = NotYet("containers get no NUMA-bound memory yet");
const TOPOLOGY: Support = NotYet("no NUMA alignment yet");
const IPTABLES: Support = NoEffect("unused upstream since the dockershim left");
const MEMORY_QOS: Support = Partly("a pod's protection follows a resize only when its memory limit changes");
const PROFILING: Support = NotYet("there is no profiling endpoint yet");

pub const FIELDS: &[Field] = &[
    plain("address", Text, "\"0.0.0.0\"", Works),
    plain("allowedUnsafeSysctls", Texts, "", Works),
    plain("authentication", Object(AUTHENTICATION), "", Works),
    plain("authorization", Object(AUTHORIZATION), "", Works),
    plain("cgroupDriver", Text, "\"cgroupfs\"", Works),
    plain("cgroupRoot", Text, "", Works),
    pointer("cgroupsPerQOS", Bool, "true", Works),
    plain("clusterDNS", Texts, "", Works),
    plain("clusterDomain", Text, "", Works),
    plain(
        "configMapAndSecretChangeDetectionStrategy",
        Text,
        "\"Watch\"",
        NotYet("ConfigMaps and Secrets are always watched, one by one"),
    ),
    pointer("containerLogMaxFiles", Int32, "5", Works),
    plain("containerLogMaxSize", Text, "\"10Mi\"", Works),
    pointer("containerLogMaxWorkers", Int32, "1", Works),
    pointer("containerLogMonitorInterval", Duration, "\"10s\"", Works),
    plain("containerRuntimeEndpoint", Text, "\"unix:///run/containerd/containerd.sock\"", Works),
    plain(
        "contentType",
        Text,
        "\"application/vnd.kubernetes.protobuf\"",
        NoEffect("requests to the API server are JSON whatever is asked for"),
    ),
    pointer("cpuCFSQuota", Bool, "true", Works),
    pointer("cpuCFSQuotaPeriod", Duration, "\"100ms\"", Works),
    plain("cpuManagerPolicy", Text, "\"none\"", CPU_MANAGER),
    plain("cpuManagerPolicyOptions", Map, "", CPU_MANAGER),
    plain("cpuManagerReconcilePeriod", Duration, "\"10s\"", CPU_MANAGER),
    plain("crashLoopBackOff", Object(CRASH_LOOP), "", Works),
    plain("defaultPodSysctls", Map, "", NotYet("no sysctls are added to pods yet")),
    plain("enableContentionProfiling", Bool, "", PROFILING),
    pointer("enableControllerAttachDetach", Bool, "true", NotYet("attachable volumes are not handled yet")),
    pointer("enableDebugFlagsHandler", Bool, "true", Works),
    pointer("enableDebuggingHandlers", Bool, "true", Works),
    pointer("enableProfilingHandler", Bool, "true", PROFILING),
    pointer("enableServer", Bool, "true", Works),
    pointer("enableSystemLogHandler", Bool, "true", Works),
    pointer("enableSystemLogQuery", Bool, "false", Works),
    pointer("enforceNodeAllocatable", Texts, "[\"pods\"]", Works),
    plain("eventBurst", Int32, "100", Works),
    pointer("eventRecordQPS", Int32, "50", Works),
    plain("evictionHard", Map, "", Partly("it lowers the node's allocatable, but no pod is evicted yet")),
    plain("evictionMaxPodGracePeriod", Int32, "", EVICTION),
    plain("evictionMinimumReclaim", Map, "", EVICTION),
    plain("evictionPressureTransitionPeriod", Duration, "\"5m0s\"", EVICTION),
    plain("evictionSoft", Map, "", EVICTION),
    plain("evictionSoftGracePeriod", Map, "", EVICTION),
    pointer("failCgroupV1", Bool, "true", Works),
    pointer("failSwapOn", Bool, "true", Works),
    plain("featureGates", Gates, "", Works),
    plain("fileCheckFrequency", Duration, "\"20s\"", Works),
    plain("hairpinMode", Text, "\"promiscuous-bridge\"", IPTABLES),
    plain("healthzBindAddress", Text, "\"127.0.0.1\"", Works),
    pointer("healthzPort", Int32, "10248", Works),
    plain("httpCheckFrequency", Duration, "\"20s\"", Works),
    pointer("imageGCHighThresholdPercent", Int32, "85", Works),
    pointer("imageGCLowThresholdPercent", Int32, "80", Works),
    plain("imageMaximumGCAge", Duration, "", Works),
    plain("imageMinimumGCAge", Duration, "\"2m0s\"", Works),
    plain("imagePullCredentialsVerificationPolicy", Text, "\"NeverVerifyPreloadedImages\"", Works),
    plain("imageServiceEndpoint", Text, "", Works),
    pointer("iptablesDropBit", Int32, "15", IPTABLES),
    pointer("iptablesMasqueradeBit", Int32, "14", IPTABLES),
    plain("kernelMemcgNotification", Bool, "", EVICTION),
    plain("kubeAPIBurst", Int32, "100", Works),
    pointer("kubeAPIQPS", Int32, "50", Works),
    plain("kubeReserved", Map, "", Works),
    plain("kubeReservedCgroup", Text, "", Works),
    plain("kubeletCgroups", Text, "", NotYet("ferrolet does not move itself to a cgroup yet")),
    pointer("localStorageCapacityIsolation", Bool, "true", Works),
    plain("logging", Object(LOGGING), "", Works),
    pointer(
        "makeIPTablesUtilChains",
        Bool,
        "true",
        NoEffect("no iptables chains are made: nothing of today's needs them"),
    ),
    plain("maxOpenFiles", Int64, "1000000", Works),
    pointer("maxParallelImagePulls", Int32, "", Works),
    plain("maxPods", Int32, "110", Works),
    plain("memoryManagerPolicy", Text, "\"None\"", MEMORY_MANAGER),
    plain("memoryReservationPolicy", Text, "\"None\"", MEMORY_QOS),
    plain(
        "memorySwap",
        Object(MEMORY_SWAP),
        "",
        Partly("containers get their share (cgroup v2); not yet tried on a node with swap"),
    ),
    pointer("memoryThrottlingFactor", Float, "", MEMORY_QOS),
    pointer("mergeDefaultEvictionSettings", Bool, "false", EVICTION),
    plain("nodeLeaseDurationSeconds", Int32, "40", Works),
    pointer("nodeStatusMaxImages", Int32, "50", Works),
    plain("nodeStatusReportFrequency", Duration, "\"5m0s\"", Works),
    plain("nodeStatusUpdateFrequency", Duration, "\"10s\"", Works),
    pointer("oomScoreAdj", Int32, "-999", Works),
    plain("podCIDR", Text, "", NotYet("the pod CIDR is not passed to the runtime yet")),
    plain("podLogsDir", Text, "\"/var/log/pods\"", Works),
    pointer("podPidsLimit", Int64, "-1", Works),
    plain("podsPerCore", Int32, "", Works),
    plain("port", Int32, "10250", Works),
    plain("preloadedImagesVerificationAllowlist", Texts, "", Works),
    plain("protectKernelDefaults", Bool, "", Works),
    plain("providerID", Text, "", Works),
    plain("qosReserved", Map, "", NotYet("no memory is reserved by QoS class yet")),
    plain("readOnlyPort", Int32, "", Works),
    pointer("registerNode", Bool, "true", Works),
    plain("registerWithTaints", Objects(TAINT), "", Works),
    plain("registryBurst", Int32, "10", Works),
    pointer("registryPullQPS", Int32, "5", Works),
    plain("reservedMemory", Objects(RESERVED_MEMORY), "", MEMORY_MANAGER),
    plain("reservedSystemCPUs", Text, "", Works),
    pointer("resolvConf", Text, "\"/etc/resolv.conf\"", Works),
    plain("rotateCertificates", Bool, "", Works),
    plain("runOnce", Bool, "", NoEffect("refused, as upstream refuses it")),
    plain("runtimeRequestTimeout", Duration, "\"2m0s\"", Works),
    pointer("seccompDefault", Bool, "false", Works),
    pointer("serializeImagePulls", Bool, "true", Works),
    plain("serverTLSBootstrap", Bool, "", Works),
    plain("showHiddenMetricsForVersion", Text, "", NoEffect("there are no hidden metrics")),
    plain("shutdownGracePeriod", Duration, "", Works),
    plain("shutdownGracePeriodByPodPriority", Objects(SHUTDOWN_BY_PRIORITY), "", Works),
    plain("shutdownGracePeriodCriticalPods", Duration, "", Works),
    pointer("singleProcessOOMKill", Bool, "", Works),
    plain("staticPodPath", Text, "", Works),
    plain("staticPodURL", Text, "", Works),
    plain("staticPodURLHeader", Multimap, "", Works),
    plain("streamingConnectionIdleTimeout", Duration, "\"4h0m0s\"", Works),
    plain(
        "syncFrequency",
        Duration,
        "\"1m0s\"",
        NoEffect("pods are worked on when something happens, not at intervals"),
    ),
    plain("systemCgroups", Text, "", NotYet("other processes are not moved to a cgroup yet")),
    plain("systemReserved", Map, "", Works),
    plain("systemReservedCgroup", Text, "", Works),
    plain("tlsCertFile", Text, "", Works),
    plain(
        "tlsCipherSuites",
        Texts,
        "",
        Partly("suites without forward secrecy or authenticated encryption are left out"),
    ),
    plain("tlsCurvePreferences", Int32s, "", Partly("the TLS library has X25519, P-256 and P-384")),
    plain("tlsMinVersion", Text, "", Partly("TLS 1.2 is the lowest version whatever is asked for")),
    plain("tlsPrivateKeyFile", Text, "", Works),
    plain("topologyManagerPolicy", Text, "\"none\"", TOPOLOGY),
    plain("topologyManagerPolicyOptions", Map, "", TOPOLOGY),
    plain("topologyManagerScope", Text, "\"container\"", TOPOLOGY),
    pointer("tracing", Object(TRACING), "", Works),
    pointer("userNamespaces", Object(USER_NAMESPACES), "", Works),
    plain(
        "volumePluginDir",
        Text,
        "\"/usr/libexec/kubernetes/kubelet-plugins/volume/exec/\"",
        NotYet("FlexVolume plugins are not run"),
    ),
    plain(
        "volumeStatsAggPeriod",
        Duration,
        "\"1m0s\"",
        Partly("volumes that the kubelet fills itself, not yet those of drivers"),
    ),
];

const AUTHENTICATION: &[Field] = &[
    plain("x509", Object(&[plain("clientCAFile", Text, "", Works)]), "", Works),
    plain(
        "webhook",
        Object(&[pointer("enabled", Bool, "true", Works), plain("cacheTTL", Duration, "\"2m0s\"", Works)]),
        "",
        Works,
    ),
    plain("anonymous", Object(&[pointer("enabled", Bool, "false", Works)]), "", Works),
];

const AUTHORIZATION: &[Field] = &[
    plain("mode", Text, "\"Webhook\"", Works),
    plain(
        "webhook",
        Object(&[
            plain("cacheAuthorizedTTL", Duration, "\"5m0s\"", Works),
            plain("cacheUnauthorizedTTL", Duration, "\"30s\"", Works),
        ]),
        "",
        Works,
    ),
];

const CRASH_LOOP: &[Field] = &[pointer("maxContainerRestartPeriod", Duration, "\"5m0s\"", Works)];

const LOGGING: &[Field] = &[
    plain("format", Text, "\"text\"", Works),
    plain("flushFrequency", DurationOrNanos, "\"5s\"", Works),
    shown("verbosity", Uint32, "", Works),
    plain(
        "vmodule",
        Objects(&[shown("filePattern", Text, "", Works), shown("verbosity", Uint32, "", Works)]),
        "",
        Works,
    ),
    plain(
        "options",
        Object(&[plain("text", Object(ROUTING), "", Works), plain("json", Object(ROUTING), "", Works)]),
        "",
        Works,
    ),
];

const ROUTING: &[Field] = &[plain("splitStream", Bool, "", Works), shown("infoBufferSize", Quantity, "\"0\"", Works)];

const MEMORY_SWAP: &[Field] = &[plain("swapBehavior", Text, "", Works)];

const TAINT: &[Field] = &[
    shown("key", Text, "", Works),
    plain("value", Text, "", Works),
    shown("effect", Text, "", Works),
    pointer("timeAdded", Text, "", Works),
];

const RESERVED_MEMORY: &[Field] = &[shown("numaNode", Int32, "", Works), shown("limits", Quantities, "", Works)];

const SHUTDOWN_BY_PRIORITY: &[Field] =
    &[shown("priority", Int32, "", Works), shown("shutdownGracePeriodSeconds", Int64, "", Works)];

const TRACING: &[Field] = &[pointer("endpoint", Text, "", Works), pointer("samplingRatePerMillion", Int32, "", Works)];

const USER_NAMESPACES: &[Field] = &[pointer("idsPerPod", Int64, "", Works)];

/// The top-level field of a path, with the rest of the path.
pub fn top(path: &str) -> Option<(&'static Field, &str)> {
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    FIELDS.iter().find(|field| field.name == name).map(|field| (field, rest))
}

/// The field at a dotted path.
pub fn field(path: &str) -> Option<&'static Field> {
    let (mut found, mut rest) = top(path)?;
    while !rest.is_empty() {
        let Object(inner) = found.kind else { return None };
        let (name, after) = rest.split_once('.').unwrap_or((rest, ""));
        found = inner.iter().find(|field| field.name == name)?;
        rest = after;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_126_fields_is_listed_once_in_order() {
        assert_eq!(FIELDS.len(), 126);
        // Upstream's list is sorted without regard to the case of one name only.
        let names: Vec<_> = FIELDS.iter().map(|f| f.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }

    #[test]
    fn each_default_is_json_of_its_kind() {
        for field in FIELDS.iter().filter(|f| !f.default.is_empty()) {
            serde_json::from_str::<serde_json::Value>(field.default).expect(field.name);
        }
        assert_eq!(field("authentication.webhook.cacheTTL").map(|f| f.default), Some("\"2m0s\""));
        assert!(field("authentication.nothing").is_none());
    }
}
