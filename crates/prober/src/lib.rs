//! Startup, liveness and readiness of running containers.
//!
//! One task per container that declares a probe, for as long as that container (by id) runs; verdicts are published
//! per pod and keyed by container id, so that a replaced container inherits nothing.

mod attempt;
mod thresholds;
mod watcher;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use cri::Cri;
use host::Clock;
use pod::{
    ContainerId, ContainerProbes, ContainerState, Containers, DesiredPod, Mono, ObservedContainer, ObservedPod, PodUid,
    ProbeResults, Verdict, api::Container,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events and metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    fn set(self, probes: &mut ContainerProbes, verdict: Verdict) {
        match self {
            Kind::Startup => probes.startup = Some(verdict),
            Kind::Liveness => probes.liveness = Some(verdict),
            Kind::Readiness => probes.readiness = Some(verdict),
        }
    }
}

/// Cheap to clone. Dropping the last handle ends every probe.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<Shared>,
}

struct Shared {
    cri: Cri,
    clock: Clock,
    events: apiserver::Events,
    /// Probes that begin soon after the agent's own start are spread, so that a restart is no stampede.
    started: Mono,
    pods: Mutex<HashMap<PodUid, PodProbes>>,
}

struct PodProbes {
    results: watch::Sender<Arc<ProbeResults>>,
    containers: HashMap<ContainerId, AbortHandle>,
    terminating: watch::Sender<bool>,
    /// Where the pod is reached; empty while nobody knows.
    address: watch::Sender<String>,
    tasks: JoinSet<()>,
}

impl Default for PodProbes {
    fn default() -> Self {
        Self {
            results: watch::Sender::new(Arc::default()),
            containers: HashMap::new(),
            terminating: watch::Sender::new(false),
            address: watch::Sender::default(),
            tasks: JoinSet::new(),
        }
    }
}

impl Prober {
    pub fn new(cri: Cri, clock: Clock, events: apiserver::Events) -> Self {
        let started = clock.mono();
        Self { shared: Arc::new(Shared { cri, clock, events, started, pods: Mutex::default() }) }
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, PodProbes>> {
        self.shared.pods.lock().expect("a prober call panicked")
    }

    pub fn results(&self, uid: &PodUid) -> watch::Receiver<Arc<ProbeResults>> {
        self.pods().entry(uid.clone()).or_default().results.subscribe()
    }

    /// Begins probing what runs, ends probing what does not. `host_ip` is the address of a host network pod.
    pub fn sync(&self, desired: &DesiredPod, observed: &ObservedPod, host_ip: Option<&str>) {
        let mut pods = self.pods();
        let pod = pods.entry(desired.uid.clone()).or_default();
        while pod.tasks.try_join_next().is_some() {}
        let runs = |id: &ContainerId| observed.container(id).is_some_and(|c| c.state == ContainerState::Running);
        pod.containers.retain(|id, task| {
            let keep = runs(id);
            if !keep {
                task.abort();
            }
            keep
        });
        pod.results.send_if_modified(|results| {
            let stale = results.0.keys().any(|id| observed.container(id).is_none());
            if stale {
                Arc::make_mut(results).0.retain(|id, _| observed.container(id).is_some());
            }
            stale
        });
        let sandbox = observed.ready_sandbox().and_then(|s| s.ips.first().map(String::as_str));
        if let Some(ip) = sandbox.or(host_ip.filter(|_| desired.host_network())) {
            pod.address.send_if_modified(|known| {
                let changed = known != ip;
                if changed {
                    ip.clone_into(known);
                }
                changed
            });
        }
        for spec in probed_containers(desired) {
            let Some(running) = observed.newest(&spec.name).filter(|c| c.state == ContainerState::Running) else {
                continue;
            };
            if pod.containers.contains_key(&running.id) {
                continue;
            }
            self.begin(pod, desired, spec, running);
        }
    }

    fn begin(&self, pod: &mut PodProbes, desired: &DesiredPod, spec: &Container, running: &ObservedContainer) {
        let shared = &self.shared;
        let target = attempt::Target {
            cri: shared.cri.clone(),
            events: shared.events.clone(),
            pod: desired.clone(),
            spec: spec.clone(),
            id: running.id.clone(),
            address: pod.address.subscribe(),
        };
        let results = pod.results.clone();
        let id = running.id.clone();
        let publish = move |probe: Kind, verdict: Verdict| {
            results.send_if_modified(|all| {
                let before = all.of(&id);
                let mut after = before;
                probe.set(&mut after, verdict);
                if before != after {
                    Arc::make_mut(all).0.insert(id.clone(), after);
                }
                before != after
            });
        };
        let watched = watcher::Watched {
            clock: shared.clock,
            agent_started: shared.started,
            started_at: running.started_at.map_or_else(|| shared.clock.mono(), |at| shared.clock.now().mono_of(at)),
            already_started: was_started(desired, running),
            terminating: pod.terminating.subscribe(),
        };
        let handle = pod.tasks.spawn(watcher::watch(target, watched, publish));
        pod.containers.insert(running.id.clone(), handle);
    }

    /// Liveness and startup end; readiness goes on until the container is gone.
    pub fn terminating(&self, uid: &PodUid) {
        if let Some(pod) = self.pods().get(uid) {
            pod.terminating.send_replace(true);
        }
    }

    pub fn remove(&self, uid: &PodUid) {
        self.pods().remove(uid);
    }
}

/// Ephemeral containers and init containers that run to their end have no probes.
fn probed_containers(desired: &DesiredPod) -> impl Iterator<Item = &Container> {
    let sidecars = desired.init_containers().iter().filter(|c| pod::desired::init_kind(c) == Containers::Sidecar);
    sidecars
        .chain(desired.regular_containers())
        .filter(|c| c.startup_probe.is_some() || c.liveness_probe.is_some() || c.readiness_probe.is_some())
}

/// The API already says that this very container has started: an earlier agent has seen its startup probe succeed.
fn was_started(desired: &DesiredPod, running: &ObservedContainer) -> bool {
    let Some(status) = &desired.pod.status else { return false };
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten().any(|c| {
        c.started == Some(true) && c.container_id.as_deref().is_some_and(|id| id.ends_with(running.id.as_str()))
    })
}
