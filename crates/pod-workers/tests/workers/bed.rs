//! One machine (runtime, API server, root directory), and agents that come and go on it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use apiserver::{ApiServer, ClientOptions, Events, Services};
use cri::Cri;
use futures::future::BoxFuture;
use host::{Clock, RootDir};
use images::{CredentialProviders, Images, ImagesConfig, PullLimits};
use node::NodeFacts;
use pleg::{Pleg, PlegConfig};
use pod::{
    DesiredPod, Life, Mono, PodUid, Source,
    api::{ContainerState, Node, Pod, PodStatus},
    backoff::BackoffLimits,
    sysctl::SysctlPolicy,
};
use pod_workers::{Dispatcher, DispatcherConfig, Parts, PodCommand, PodsView, ResourceRecords};
use prober::Prober;
use runtime::{Runtime, RuntimeConfig, RuntimeParts};
use serde_json::{Value, json};
use status_manager::StatusManager;
use testing::{FakeApiserver, FakeCri, PodBuilder};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use volumes::{Volumes, VolumesConfig};

/// Nothing takes longer than this without being stuck.
const STUCK: Duration = Duration::from_secs(900);

pub const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub struct Machine {
    pub cri: FakeCri,
    pub api: FakeApiserver,
    dir: tempfile::TempDir,
}

pub struct Agent {
    pub parts: Parts,
    pub facts: watch::Sender<Arc<NodeFacts>>,
    pub shutting_down: watch::Sender<bool>,
    commands: mpsc::Sender<PodCommand>,
    dispatcher: JoinHandle<()>,
}

/// A node that has all and refuses nothing.
pub fn facts() -> NodeFacts {
    let node = json!({"metadata": {"name": "node-a"}});
    NodeFacts {
        node: Some(Arc::new(serde_json::from_value(node).unwrap())),
        host_ips: vec!["192.0.2.1".to_owned()],
        network_ready: true,
        runtime_ready: true,
        allocatable: [("cpu", "4"), ("memory", "8Gi"), ("pods", "110")]
            .map(|(name, much)| (name.to_owned(), much.parse().unwrap()))
            .into(),
        ..NodeFacts::default()
    }
}

impl Machine {
    pub fn new() -> Self {
        Self { cri: FakeCri::start(), api: FakeApiserver::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> RootDir {
        let dir = self.dir.path();
        RootDir::new(dir.join("kubelet")).with_logs(dir.join("pods"), dir.join("containers"))
    }
    pub fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.root().pod(uid)
    }

    pub async fn agent(&self) -> Agent {
        self.agent_that(facts(), false).await
    }

    pub async fn agent_that(&self, facts: NodeFacts, needs_node: bool) -> Agent {
        let clock = Clock::start();
        let cri = Cri::connect(&self.cri.endpoint(), "", s(120)).unwrap();
        let api = ApiServer::from_service(self.api.clone(), ClientOptions::default());
        let events = Events::log_only();
        let (facts, node) = watch::channel(Arc::new(facts));
        let pleg = Pleg::spawn(cri.clone(), clock, PlegConfig::default());
        let images = ImagesConfig {
            limits: PullLimits { parallel: None, per_second: 0.0, burst: 1 },
            node_config_files: Vec::new(),
            node_status_max: None,
        };
        let runtime = RuntimeParts {
            cri: cri.clone(),
            clock,
            events: events.clone(),
            api: None,
            objects: None,
            services: Services::none(),
        };
        let cgroups = cgroups::Config { per_qos: false, ..cgroups::Config::default() };
        let parts = Parts {
            clock,
            events: events.clone(),
            pleg: pleg.clone(),
            runtime: Runtime::new(runtime, RuntimeConfig::new(self.root())),
            images: Images::new(cri.clone(), clock, events.clone(), None, images, CredentialProviders::default()),
            volumes: Volumes::new(VolumesConfig {
                root: self.root(),
                clock,
                api: None,
                node_allocatable: Arc::new(Default::default),
            }),
            cgroups: Arc::new(cgroups::Cgroups::new(cgroups).unwrap()),
            prober: Prober::new(cri, clock, events),
            status: StatusManager::spawn(Some(api.clone()), clock),
            node,
            view: PodsView::default(),
            allocated: ResourceRecords::in_memory(),
            actuated: ResourceRecords::in_memory(),
        };
        pleg.synced().await;
        sleep(s(2)).await; // the event stream stands
        let config = DispatcherConfig {
            backoff: BackoffLimits::default(),
            needs_node,
            sysctls: SysctlPolicy::new((6, 1), &[]).unwrap(),
            app_armor: false,
            limited_swap: false,
            declared_features: Vec::new(),
        };
        let (commands, orders) = mpsc::channel(16);
        let asks_node = move || -> BoxFuture<'static, Option<Node>> {
            let api = api.clone();
            Box::pin(async move { api.get_node("node-a").await.ok() })
        };
        let (shutting_down, shuts) = watch::channel(false);
        let dispatcher = Dispatcher::new(parts.clone(), config).asks_node(asks_node).refuses_while(shuts);
        let dispatcher = tokio::spawn(dispatcher.run(orders));
        Agent { parts, facts, shutting_down, commands, dispatcher }
    }

    /// Creates the pod in the API.
    pub fn create(&self, pod: PodBuilder) -> DesiredPod {
        desired(self.api.put(serde_json::to_value(&*pod.api()).unwrap()))
    }
    pub fn object(&self, pod: &DesiredPod) -> Option<Value> {
        self.api.object(&path(pod))
    }
    /// The pod as a user's graceful deletion leaves it in the API.
    pub fn deleted(&self, pod: &DesiredPod, grace: i64) -> DesiredPod {
        self.changed(pod, |object| {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        })
    }
    /// The pod as somebody has changed it in the API.
    pub fn changed(&self, pod: &DesiredPod, change: impl FnOnce(&mut Value)) -> DesiredPod {
        let mut object = self.object(pod).expect("it exists");
        change(&mut object);
        desired(self.api.put(object))
    }
    pub fn phase(&self, pod: &DesiredPod) -> Value {
        self.object(pod).expect("it exists")["status"]["phase"].clone()
    }
}

fn path(pod: &DesiredPod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.key.namespace, pod.key.name)
}

fn desired(object: Value) -> DesiredPod {
    let pod: Pod = serde_json::from_value(object).unwrap();
    DesiredPod::new(Source::Api, Arc::new(pod)).unwrap()
}

impl Agent {
    pub async fn tell(&self, command: PodCommand) {
        self.commands.send(command).await.unwrap();
    }
    pub async fn set(&self, pod: &DesiredPod) {
        self.tell(PodCommand::Set(pod.clone())).await;
    }
    pub async fn removed(&self, pod: &DesiredPod) {
        self.tell(PodCommand::Removed(pod.uid.clone())).await;
    }
    /// As the process ends: containers run on.
    pub async fn stop(self) {
        self.dispatcher.abort();
        _ = self.dispatcher.await;
    }

    pub fn status(&self, pod: &DesiredPod) -> Option<Arc<PodStatus>> {
        self.parts.view.get(&pod.uid).map(|v| v.status.clone())
    }
    pub fn life(&self, pod: &DesiredPod) -> Option<Life> {
        self.parts.view.get(&pod.uid).map(|v| v.life.clone())
    }
    pub fn is_in(&self, pod: &DesiredPod, phase: &str) -> bool {
        self.status(pod).is_some_and(|s| s.phase.as_deref() == Some(phase))
    }
    pub fn is_running(&self, pod: &DesiredPod) -> bool {
        self.is_in(pod, "Running")
    }
    pub fn container(&self, pod: &DesiredPod) -> Option<ContainerState> {
        self.status(pod)?.container_statuses.as_ref()?.first()?.state.clone()
    }
    pub fn waits_for(&self, pod: &DesiredPod) -> Option<String> {
        self.container(pod)?.waiting?.reason
    }
    pub fn now(&self) -> Mono {
        self.parts.clock.mono()
    }

    /// How long it took.
    pub async fn until(&self, what: &str, is: impl Fn() -> bool) -> Duration {
        let began = self.now();
        while !is() {
            let waited = self.now().since(began);
            assert!(waited < STUCK, "{what}: did not come to pass; the pods are {:#?}", self.parts.view.list());
            sleep(Duration::from_millis(50)).await;
        }
        self.now().since(began)
    }
    pub async fn until_running(&self, pod: &DesiredPod) -> Duration {
        self.until("it runs", || self.is_running(pod)).await
    }
    /// Nothing of the pod is left in the agent's memory.
    pub async fn until_forgotten(&self, pod: &DesiredPod) -> Duration {
        self.until("it is forgotten", || self.life(pod).is_none()).await
    }
}
