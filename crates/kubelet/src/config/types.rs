//! KubeletConfiguration as the parts of the agent use it: every field present and typed.
//!
//! Decoded only from a document that `conform` has brought to the schema, so defaults are not repeated here.

use std::collections::BTreeMap;

use pod::api;
use serde::Deserialize;

use super::duration::GoDuration;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    pub address: String,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub cgroup_driver: String,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub config_map_and_secret_change_detection_strategy: String,
    pub container_log_max_files: i32,
    pub container_log_max_size: String,
    pub container_log_max_workers: i32,
    pub container_log_monitor_interval: GoDuration,
    pub container_runtime_endpoint: String,
    pub content_type: String,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: GoDuration,
    pub cpu_manager_policy: String,
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    pub cpu_manager_reconcile_period: GoDuration,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub default_pod_sysctls: BTreeMap<String, String>,
    pub enable_contention_profiling: bool,
    pub enable_controller_attach_detach: bool,
    pub enable_debug_flags_handler: bool,
    pub enable_debugging_handlers: bool,
    pub enable_profiling_handler: bool,
    pub enable_server: bool,
    pub enable_system_log_handler: bool,
    pub enable_system_log_query: bool,
    pub enforce_node_allocatable: Vec<String>,
    pub event_burst: i32,
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction_max_pod_grace_period: i32,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    pub eviction_pressure_transition_period: GoDuration,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    pub fail_cgroup_v1: bool,
    pub fail_swap_on: bool,
    pub feature_gates: BTreeMap<String, bool>,
    pub file_check_frequency: GoDuration,
    pub hairpin_mode: String,
    pub healthz_bind_address: String,
    pub healthz_port: i32,
    pub http_check_frequency: GoDuration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: i32,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: i32,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    pub image_pull_credentials_verification_policy: String,
    pub image_service_endpoint: String,
    pub iptables_drop_bit: i32,
    pub iptables_masquerade_bit: i32,
    pub kernel_memcg_notification: bool,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: i32,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    pub kube_reserved: BTreeMap<String, String>,
    pub kube_reserved_cgroup: String,
    pub kubelet_cgroups: String,
    pub local_storage_capacity_isolation: bool,
    pub logging: Logging,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    pub max_open_files: i64,
    pub max_parallel_image_pulls: Option<i32>,
    pub max_pods: i32,
    pub memory_manager_policy: String,
    pub memory_reservation_policy: String,
    pub memory_swap: MemorySwap,
    pub memory_throttling_factor: Option<f64>,
    pub merge_default_eviction_settings: bool,
    pub node_lease_duration_seconds: i32,
    pub node_status_max_images: i32,
    pub node_status_report_frequency: GoDuration,
    pub node_status_update_frequency: GoDuration,
    pub oom_score_adj: i32,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub pod_logs_dir: String,
    pub pod_pids_limit: i64,
    pub pods_per_core: i32,
    pub port: i32,
    pub preloaded_images_verification_allowlist: Vec<String>,
    pub protect_kernel_defaults: bool,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub qos_reserved: BTreeMap<String, String>,
    pub read_only_port: i32,
    pub register_node: bool,
    pub register_with_taints: Vec<api::Taint>,
    pub registry_burst: i32,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    pub reserved_memory: Vec<MemoryReservation>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub resolv_conf: String,
    pub rotate_certificates: bool,
    pub run_once: bool,
    pub runtime_request_timeout: GoDuration,
    pub seccomp_default: bool,
    pub serialize_image_pulls: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub show_hidden_metrics_for_version: String,
    pub shutdown_grace_period: GoDuration,
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownByPriority>,
    pub shutdown_grace_period_critical_pods: GoDuration,
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    pub static_pod_path: String,
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: String,
    #[serde(rename = "staticPodURLHeader")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    pub streaming_connection_idle_timeout: GoDuration,
    pub sync_frequency: GoDuration,
    pub system_cgroups: String,
    pub system_reserved: BTreeMap<String, String>,
    pub system_reserved_cgroup: String,
    pub tls_cert_file: String,
    pub tls_cipher_suites: Vec<String>,
    pub tls_curve_preferences: Vec<i32>,
    pub tls_min_version: String,
    pub tls_private_key_file: String,
    pub topology_manager_policy: String,
    pub topology_manager_policy_options: BTreeMap<String, String>,
    pub topology_manager_scope: String,
    pub tracing: Option<Tracing>,
    pub user_namespaces: Option<UserNamespaces>,
    pub volume_plugin_dir: String,
    pub volume_stats_agg_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Authentication {
    pub x509: X509Authentication,
    pub webhook: WebhookAuthentication,
    pub anonymous: AnonymousAuthentication,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct X509Authentication {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WebhookAuthentication {
    pub enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AnonymousAuthentication {
    pub enabled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Authorization {
    /// `Webhook` or `AlwaysAllow`.
    pub mode: String,
    pub webhook: WebhookAuthorization,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// `None` only with the gate KubeletCrashLoopBackOffMax off.
    pub max_container_restart_period: Option<GoDuration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    pub flush_frequency: GoDuration,
    pub verbosity: u32,
    pub vmodule: Vec<VmoduleItem>,
    pub options: LoggingOptions,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmoduleItem {
    /// A file's base name without suffix, `*` and `?` allowed.
    pub file_pattern: String,
    pub verbosity: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoggingOptions {
    pub text: OutputRouting,
    pub json: OutputRouting,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputRouting {
    /// Informational lines to stdout, errors to stderr.
    pub split_stream: bool,
    /// A quantity.
    pub info_buffer_size: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySwap {
    pub swap_behavior: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    pub numa_node: i32,
    /// resource -> quantity
    pub limits: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownByPriority {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    pub endpoint: Option<String>,
    pub sampling_rate_per_million: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserNamespaces {
    pub ids_per_pod: Option<i64>,
}
