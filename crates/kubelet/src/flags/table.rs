//! The 130 flags of the 1.37 kubelet on Linux, and `--help`.

use Reads::*;

use super::value::Reads;
use crate::{
    config::schema,
    support::{
        Support,
        Support::{NoEffect, NotYet, Works},
    },
};

/// What a flag sets.
#[derive(Clone, Copy, Debug)]
pub enum Sets {
    /// The field of the configuration at this path; the flag wins over the file.
    Config(&'static str),
    /// An option that only the command line has.
    Own { default: &'static str, help: &'static str, support: Support },
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub reads: Reads,
    pub sets: Sets,
    pub deprecated: bool,
}

impl Flag {
    pub fn support(&self) -> Support {
        match self.sets {
            Sets::Own { support, .. } => support,
            // A nested field is honoured as its top-level field is.
            Sets::Config(path) => schema::top(path).map_or(Works, |(field, _)| field.support),
        }
    }
}

/// A flag that mirrors a field of the configuration: upstream calls all but a few of them deprecated.
const fn mirror(name: &'static str, reads: Reads, path: &'static str) -> Flag {
    Flag { name, short: None, reads, sets: Sets::Config(path), deprecated: true }
}

/// A mirror that is not deprecated.
const fn kept(name: &'static str, reads: Reads, path: &'static str) -> Flag {
    Flag { deprecated: false, ..mirror(name, reads, path) }
}

const fn own(name: &'static str, reads: Reads, default: &'static str, support: Support, help: &'static str) -> Flag {
    Flag { name, short: None, reads, sets: Sets::Own { default, help, support }, deprecated: false }
}

const fn old(flag: Flag) -> Flag {
    Flag { deprecated: true, ..flag }
}

const fn short(short: char, flag: Flag) -> Flag {
    Flag { short: Some(short), ..flag }
}

const CONTAINER_GC: Support = NotYet("one dead instance of each container is kept, whatever is asked for");

/// In order of name.
#[rustfmt::skip] // one flag, one line where it fits
pub static FLAGS: &[Flag] = &[
    mirror("address", Ip, "address"),
    mirror("allowed-unsafe-sysctls", Texts, "allowedUnsafeSysctls"),
    mirror("anonymous-auth", Bool, "authentication.anonymous.enabled"),
    mirror("authentication-token-webhook", Bool, "authentication.webhook.enabled"),
    mirror("authentication-token-webhook-cache-ttl", Duration, "authentication.webhook.cacheTTL"),
    mirror("authorization-mode", Text, "authorization.mode"),
    mirror("authorization-webhook-cache-authorized-ttl", Duration, "authorization.webhook.cacheAuthorizedTTL"),
    mirror("authorization-webhook-cache-unauthorized-ttl", Duration, "authorization.webhook.cacheUnauthorizedTTL"),
    own("bootstrap-kubeconfig", Text, "", Works,
        "kubeconfig used once, to ask for a client certificate, when the file of --kubeconfig does not exist"),
    own("cert-dir", Text, "/var/lib/kubelet/pki", Works,
        "directory of the serving certificate; unused when --tls-cert-file and --tls-private-key-file are given"),
    mirror("cgroup-driver", Text, "cgroupDriver"),
    mirror("cgroup-root", Text, "cgroupRoot"),
    mirror("cgroups-per-qos", Bool, "cgroupsPerQOS"),
    mirror("client-ca-file", Text, "authentication.x509.clientCAFile"),
    own("cloud-provider", Text, "", Works, "\"external\" when a cloud controller initialises nodes, else empty"),
    mirror("cluster-dns", Texts, "clusterDNS"),
    mirror("cluster-domain", Text, "clusterDomain"),
    own("config", Text, "", Works, "KubeletConfiguration file; flags win over it"),
    own("config-dir", Text, "", Works,
        "directory of drop-ins: its *.conf files are merged over the configuration file in order of name"),
    mirror("container-log-max-files", Int32, "containerLogMaxFiles"),
    mirror("container-log-max-size", Text, "containerLogMaxSize"),
    mirror("container-runtime-endpoint", Text, "containerRuntimeEndpoint"),
    mirror("contention-profiling", Bool, "enableContentionProfiling"),
    mirror("cpu-cfs-quota", Bool, "cpuCFSQuota"),
    mirror("cpu-cfs-quota-period", Duration, "cpuCFSQuotaPeriod"),
    mirror("cpu-manager-policy", Text, "cpuManagerPolicy"),
    mirror("cpu-manager-policy-options", OnePair, "cpuManagerPolicyOptions"),
    mirror("cpu-manager-reconcile-period", Duration, "cpuManagerReconcilePeriod"),
    mirror("enable-controller-attach-detach", Bool, "enableControllerAttachDetach"),
    mirror("enable-debugging-handlers", Bool, "enableDebuggingHandlers"),
    mirror("enable-server", Bool, "enableServer"),
    mirror("enforce-node-allocatable", Texts, "enforceNodeAllocatable"),
    mirror("event-burst", Int32, "eventBurst"),
    mirror("event-qps", Int32, "eventRecordQPS"),
    mirror("eviction-hard", Thresholds, "evictionHard"),
    mirror("eviction-max-pod-grace-period", Int32, "evictionMaxPodGracePeriod"),
    mirror("eviction-minimum-reclaim", Map, "evictionMinimumReclaim"),
    mirror("eviction-pressure-transition-period", Duration, "evictionPressureTransitionPeriod"),
    mirror("eviction-soft", Thresholds, "evictionSoft"),
    mirror("eviction-soft-grace-period", Map, "evictionSoftGracePeriod"),
    own("exit-on-lock-contention", Bool, "false", Works,
        "exit when another process opens the lock file; needs --lock-file"),
    old(own("experimental-allocatable-ignore-eviction", Bool, "false", Works,
        "leave evictionHard out of the node's allocatable")),
    old(own("experimental-mounter-path", Text, "", NotYet("mounts are made by system calls, not by a program"),
        "program that mounts volumes")),
    kept("fail-cgroupv1", Bool, "failCgroupV1"),
    mirror("fail-swap-on", Bool, "failSwapOn"),
    mirror("feature-gates", Gates, "featureGates"),
    mirror("file-check-frequency", Duration, "fileCheckFrequency"),
    mirror("hairpin-mode", Text, "hairpinMode"),
    mirror("healthz-bind-address", Ip, "healthzBindAddress"),
    mirror("healthz-port", Int32, "healthzPort"),
    short('h', own("help", Bool, "false", Works, "this text")),
    own("hostname-override", Text, "", Works, "name of the node, in place of the host's name"),
    own("housekeeping-interval", Duration, "10s", NoEffect("there is no cAdvisor that would need it"),
        "interval of cAdvisor's housekeeping"),
    mirror("http-check-frequency", Duration, "httpCheckFrequency"),
    own("image-credential-provider-bin-dir", Text, "", Works, "directory of the credential provider plugins"),
    own("image-credential-provider-config", Text, "", Works,
        "CredentialProviderConfig file, or a directory of such files merged in order of name"),
    mirror("image-gc-high-threshold", Int32, "imageGCHighThresholdPercent"),
    mirror("image-gc-low-threshold", Int32, "imageGCLowThresholdPercent"),
    mirror("image-service-endpoint", Text, "imageServiceEndpoint"),
    mirror("kernel-memcg-notification", Bool, "kernelMemcgNotification"),
    mirror("kube-api-burst", Int32, "kubeAPIBurst"),
    mirror("kube-api-content-type", Text, "contentType"),
    mirror("kube-api-qps", Int32, "kubeAPIQPS"),
    mirror("kube-reserved", Map, "kubeReserved"),
    mirror("kube-reserved-cgroup", Text, "kubeReservedCgroup"),
    own("kubeconfig", Text, "", Works, "how to reach the API server; without it the node runs standalone"),
    mirror("kubelet-cgroups", Text, "kubeletCgroups"),
    mirror("local-storage-capacity-isolation", Bool, "localStorageCapacityIsolation"),
    own("lock-file", Text, "", Works, "file to lock, so that a second agent waits for the first"),
    kept("log-flush-frequency", Duration, "logging.flushFrequency"),
    mirror("log-json-info-buffer-size", Quantity, "logging.options.json.infoBufferSize"),
    mirror("log-json-split-stream", Bool, "logging.options.json.splitStream"),
    mirror("log-text-info-buffer-size", Quantity, "logging.options.text.infoBufferSize"),
    mirror("log-text-split-stream", Bool, "logging.options.text.splitStream"),
    mirror("logging-format", Text, "logging.format"),
    mirror("make-iptables-util-chains", Bool, "makeIPTablesUtilChains"),
    mirror("manifest-url", Text, "staticPodURL"),
    mirror("manifest-url-header", Headers, "staticPodURLHeader"),
    mirror("max-open-files", Int64, "maxOpenFiles"),
    mirror("max-pods", Int32, "maxPods"),
    old(own("maximum-dead-containers", Int32, "-1", CONTAINER_GC, "dead containers kept on the node; negative: no limit")),
    old(own("maximum-dead-containers-per-container", Int32, "1", CONTAINER_GC, "dead instances kept of each container")),
    mirror("memory-manager-policy", Text, "memoryManagerPolicy"),
    old(own("minimum-container-ttl-duration", Duration, "0s", CONTAINER_GC, "age at which a dead container may go")),
    mirror("minimum-image-ttl-duration", Duration, "imageMinimumGCAge"),
    own("node-ip", Text, "", Works,
        "address of the node, or one of each family with a comma between; 0.0.0.0 or :: prefers that family"),
    own("node-labels", Labels, "", Works, "labels of the node when it registers, key=value with commas between"),
    mirror("node-status-max-images", Int32, "nodeStatusMaxImages"),
    mirror("node-status-update-frequency", Duration, "nodeStatusUpdateFrequency"),
    mirror("oom-score-adj", Int32, "oomScoreAdj"),
    mirror("pod-cidr", Text, "podCIDR"),
    mirror("pod-manifest-path", Text, "staticPodPath"),
    mirror("pod-max-pids", Int64, "podPidsLimit"),
    mirror("pods-per-core", Int32, "podsPerCore"),
    mirror("port", Int32, "port"),
    mirror("protect-kernel-defaults", Bool, "protectKernelDefaults"),
    kept("provider-id", Text, "providerID"),
    mirror("qos-reserved", Map, "qosReserved"),
    mirror("read-only-port", Int32, "readOnlyPort"),
    mirror("register-node", Bool, "registerNode"),
    mirror("register-with-taints", Taints, "registerWithTaints"),
    mirror("registry-burst", Int32, "registryBurst"),
    mirror("registry-qps", Int32, "registryPullQPS"),
    mirror("reserved-cpus", Text, "reservedSystemCPUs"),
    mirror("reserved-memory", ReservedMemory, "reservedMemory"),
    mirror("resolv-conf", Text, "resolvConf"),
    own("root-dir", Text, "/var/lib/kubelet", Works, "directory of the agent's files and of the pods' volumes"),
    mirror("rotate-certificates", Bool, "rotateCertificates"),
    mirror("rotate-server-certificates", Bool, "serverTLSBootstrap"),
    mirror("runonce", Bool, "runOnce"),
    own("runtime-cgroups", Text, "", Works, "cgroup of the runtime's own processes, for statistics"),
    mirror("runtime-request-timeout", Duration, "runtimeRequestTimeout"),
    own("seccomp-default", Bool, "false", Works, "RuntimeDefault as the seccomp profile of all that ask for none"),
    mirror("serialize-image-pulls", Bool, "serializeImagePulls"),
    mirror("streaming-connection-idle-timeout", Duration, "streamingConnectionIdleTimeout"),
    mirror("sync-frequency", Duration, "syncFrequency"),
    mirror("system-cgroups", Text, "systemCgroups"),
    mirror("system-reserved", Map, "systemReserved"),
    mirror("system-reserved-cgroup", Text, "systemReservedCgroup"),
    mirror("tls-cert-file", Text, "tlsCertFile"),
    mirror("tls-cipher-suites", Texts, "tlsCipherSuites"),
    mirror("tls-min-version", Text, "tlsMinVersion"),
    mirror("tls-private-key-file", Text, "tlsPrivateKeyFile"),
    mirror("topology-manager-policy", Text, "topologyManagerPolicy"),
    mirror("topology-manager-policy-options", Map, "topologyManagerPolicyOptions"),
    mirror("topology-manager-scope", Text, "topologyManagerScope"),
    short('v', kept("v", Level, "logging.verbosity")),
    own("version", Version, "false", Works,
        "print the version and exit; \"raw\" prints more; vX.Y.Z... sets the version that is reported"),
    kept("vmodule", Vmodule, "logging.vmodule"),
    mirror("volume-plugin-dir", Text, "volumePluginDir"),
    mirror("volume-stats-agg-period", Duration, "volumeStatsAggPeriod"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_mirror_has_its_field() {
        assert!(FLAGS.is_sorted_by_key(|flag| flag.name));
        assert_eq!(FLAGS.len(), 131, "130 and --help");
        for flag in FLAGS {
            if let Sets::Config(path) = flag.sets {
                assert!(schema::field(path).is_some(), "{} sets {path}", flag.name);
            }
        }
        let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
    }
}
