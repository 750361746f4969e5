//! What the servers are given, and nothing more.

use std::{path::PathBuf, sync::Arc, time::Duration};

use pod::{DesiredPod, Life, ObservedPod, PodKey, PodUid, api::PodStatus};
use tokio::sync::watch;

use crate::{Authenticator, Authorizer, routes::Endpoint};

/// One pod of this node with the status its worker last gave it.
#[derive(Clone, Debug)]
pub struct PodRow {
    pub desired: DesiredPod,
    pub status: Option<Arc<PodStatus>>,
    pub life: Life,
    /// A static pod's mirror: the UID that API clients know it by.
    pub mirror_uid: Option<PodUid>,
}

impl PodRow {
    /// True for the UID of the pod or of its mirror.
    pub fn answers_to(&self, uid: &str) -> bool {
        self.desired.uid.as_str() == uid || self.mirror_uid.as_ref().is_some_and(|mirror| mirror.as_str() == uid)
    }
}

/// The current pods; asked per request, so it must be cheap.
#[derive(Clone)]
pub struct PodsView(Arc<dyn Fn() -> Vec<PodRow> + Send + Sync>);

impl PodsView {
    pub fn new(list: impl Fn() -> Vec<PodRow> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    pub fn list(&self) -> Vec<PodRow> {
        (self.0)()
    }

    /// The pod of that name. While an old one of the same name is still going, the one not being deleted counts.
    pub fn by_name(&self, key: &PodKey) -> Option<PodRow> {
        let mut found: Option<PodRow> = None;
        for row in self.list().into_iter().filter(|row| row.desired.key == *key) {
            if found.is_none() || !row.desired.deletion_requested() {
                found = Some(row);
            }
        }
        found
    }
}

/// The runtime's view of one pod, followed without taking charge of it (`Pleg::peek`).
#[derive(Clone)]
pub struct Observed(Arc<ObservePod>);

type ObservePod = dyn Fn(&PodUid) -> Option<watch::Receiver<Arc<ObservedPod>>> + Send + Sync;

impl Observed {
    pub fn new(peek: impl Fn(&PodUid) -> Option<watch::Receiver<Arc<ObservedPod>>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(peek))
    }

    /// None when the runtime has nothing of the pod.
    pub fn follow(&self, pod: &PodUid) -> Option<watch::Receiver<Arc<ObservedPod>>> {
        (self.0)(pod)
    }

    pub fn now(&self, pod: &PodUid) -> Option<Arc<ObservedPod>> {
        self.follow(pod).map(|picture| picture.borrow().clone())
    }
}

/// A named part of `/healthz`; `Err` carries the reason, which is only shown at `/healthz/<name>`.
#[derive(Clone)]
pub struct HealthCheck {
    pub name: &'static str,
    pub check: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl HealthCheck {
    pub fn new(name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name, check: Arc::new(check) }
    }
}

/// Name, stage as metrics spell it, whether on.
pub type Feature = (&'static str, &'static str, bool);

/// Sets the log level; `Err` is shown to the client.
pub type SetVerbosity = dyn Fn(&str) -> Result<(), String> + Send + Sync;

pub struct ServerDeps {
    pub clock: host::Clock,
    pub cri: cri::Cri,
    pub cgroups: cgroups::Cgroups,
    /// Where the runtime's own processes are, below the hierarchies (`--runtime-cgroups`); None: not shown.
    pub runtime_cgroup: Option<String>,
    pub pods: PodsView,
    pub observed: Observed,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    /// Beside `ping`, `log` (always there): `syncloop` and the like.
    pub health: Vec<HealthCheck>,
    /// The KubeletConfiguration in force, as JSON; the server puts it below the key `kubeletconfig`.
    pub configz: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// `PUT /debug/flags/v`.
    pub set_verbosity: Arc<SetVerbosity>,
    /// `name=value` of every flag, for `/flagz`.
    pub flags: Arc<dyn Fn() -> Vec<(String, String)> + Send + Sync>,
    /// Feature gates: name, stage, whether on.
    pub features: Arc<dyn Fn() -> Vec<Feature> + Send + Sync>,
}

/// The configuration fields that the servers read.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub node_name: String,
    /// `/var/log/pods`, or podLogsDir.
    pub pod_logs_dir: PathBuf,
    /// What `/logs/` shows: `/var/log`.
    pub system_logs_dir: PathBuf,
    /// Where checkpoint archives go: `<root>/checkpoints`.
    pub checkpoints_dir: PathBuf,
    /// For the file system figures of `/stats/summary`.
    pub root_dir: PathBuf,
    pub enable_debugging_handlers: bool,
    pub enable_system_log_handler: bool,
    /// `/logs/?query=`.
    pub enable_system_log_query: bool,
    pub enable_profiling_handler: bool,
    pub enable_debug_flags_handler: bool,
    pub streaming_connection_idle_timeout: Duration,
    /// How often volumes are measured at most (volumeStatsAggPeriod); None: never.
    pub volume_stats_period: Option<Duration>,
    /// Gate PodLogsQuerySplitStreams (alpha).
    pub split_log_streams: bool,
    /// Gate ExtendWebSocketsToKubelet.
    pub extend_websockets: bool,
    /// What is not there since its feature gate is off.
    pub gated_off: Vec<Endpoint>,
    /// Upstream derives the verb of exec, attach and port-forward from the HTTP method, so `get nodes/proxy` is
    /// enough to run commands by websocket. False (the default) asks for `create` whatever the method.
    pub exec_by_get_asks_get: bool,
    pub version: String,
    pub limits: Limits,
}

/// What one server may use at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Requests that are answered at once.
    pub short_requests: usize,
    /// Exec, attach, port-forward and logs.
    pub streams: usize,
    /// How long a short request may take, and how long its client may take nothing of the reply.
    pub short_request_time: Duration,
    /// How long a client may take nothing of a log: one that is paged through, say.
    pub stalled_log_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            short_requests: 256,
            streams: 2048,
            short_request_time: Duration::from_secs(120),
            // As long as a reply of upstream's servers may take.
            stalled_log_time: Duration::from_secs(4 * 3600),
        }
    }
}

impl ServerConfig {
    /// Upstream's defaults for a node of that name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            pod_logs_dir: "/var/log/pods".into(),
            system_logs_dir: "/var/log".into(),
            checkpoints_dir: "/var/lib/kubelet/checkpoints".into(),
            root_dir: "/var/lib/kubelet".into(),
            enable_debugging_handlers: true,
            enable_system_log_handler: true,
            enable_system_log_query: false,
            enable_profiling_handler: true,
            enable_debug_flags_handler: true,
            streaming_connection_idle_timeout: Duration::from_secs(4 * 3600),
            volume_stats_period: Some(Duration::from_secs(60)),
            split_log_streams: false,
            extend_websockets: true,
            gated_off: Vec::new(),
            exec_by_get_asks_get: false,
            version: "v1.37.2".into(),
            limits: Limits::default(),
        }
    }
}
