//! One reading of everything, kept for a second, and the one before it for rates.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cgroups::{Usage, Who};
use pod::{ContainerState, Mono, PodKey, PodUid, SandboxId, time::Timestamp};

use super::{
    machine::Machine,
    network::{self, Interface},
    now,
    sandbox_images::SandboxImages,
    storage::Volumes,
    turns::Turns,
};
use crate::{PodRow, ServerDeps};

const FRESH: Duration = Duration::from_secs(1);
/// A rate over more than that says nothing of now.
const STALE: Duration = Duration::from_secs(30);
/// A rate over less than that says little.
const RATE_WINDOW: Duration = Duration::from_secs(5);

const MOST_NODE_INTERFACES: usize = 4096;
const MOST_POD_INTERFACES: usize = 64;

/// All usage at one moment.
#[derive(Debug)]
pub struct Sample {
    pub at: Timestamp,
    pub mono: Mono,
    pub machine: Machine,
    pub node: Usage,
    pub network: Vec<Interface>,
    pub all_pods: Usage,
    pub all_pods_since: Option<Timestamp>,
    pub kubepods_path: String,
    /// The agent's own cgroup and the runtime's, as far as they are known and can be read.
    pub systems: Vec<System>,
    pub pods: Vec<PodSample>,
}

/// A cgroup beside the pods, under the name that the summary has for it.
#[derive(Debug)]
pub struct System {
    pub name: &'static str,
    pub path: String,
    pub since: Option<Timestamp>,
    pub usage: Usage,
}

#[derive(Debug)]
pub struct PodSample {
    pub uid: PodUid,
    /// The UID that clients of the API know.
    pub shown_uid: PodUid,
    pub key: PodKey,
    pub started: Option<Timestamp>,
    pub path: String,
    pub usage: Usage,
    /// Empty for a pod in the node's own network.
    pub network: Vec<Interface>,
    /// Where it has a cgroup of its own.
    pub sandbox: Option<SandboxSample>,
    pub containers: Vec<ContainerSample>,
}

#[derive(Debug)]
pub struct SandboxSample {
    pub id: SandboxId,
    pub path: String,
    pub started: Timestamp,
}

#[derive(Debug)]
pub struct ContainerSample {
    pub name: String,
    pub id: String,
    pub image: String,
    pub started: Option<Timestamp>,
    pub path: String,
    /// Not threads.
    pub processes: u64,
    pub usage: Usage,
}

impl Sample {
    pub fn pod(&self, uid: &PodUid) -> Option<&PodSample> {
        self.pods.iter().find(|pod| pod.uid == *uid)
    }
}

/// A sample, and the one before it where there is one.
pub type Pair = (Arc<Sample>, Option<Arc<Sample>>);

/// Whether the earlier of the two tells what is used now.
pub fn has_rates(now: Mono, before: Option<Mono>) -> bool {
    before.is_some_and(|before| now.since(before) <= STALE)
}

/// The last samples.
#[derive(Default)]
pub struct Stats {
    kept: Mutex<Kept>,
    pub volumes: Volumes,
    pub samples: Turns,
    pub details: Turns,
    pub storage: Turns,
    pub sandbox_images: SandboxImages,
}

#[derive(Default)]
struct Kept {
    current: Option<Arc<Sample>>,
    /// At least `RATE_WINDOW` before the current one, where there was such a one.
    before: Option<Arc<Sample>>,
}

impl Stats {
    /// Blocking reads, under a lock so that many scrapers cost one reading.
    pub fn current(&self, deps: &ServerDeps) -> Pair {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = deps.clock.mono();
        if let Some(current) = kept.current.as_ref().filter(|current| now.since(current.mono) < FRESH) {
            return (current.clone(), kept.before.clone());
        }
        let sample = Arc::new(read(deps));
        let previous = kept.current.replace(sample.clone());
        if previous.as_ref().is_some_and(|previous| now.since(previous.mono) >= RATE_WINDOW) || kept.before.is_none() {
            kept.before = previous;
        }
        (sample, kept.before.clone())
    }

    /// As `current`, but with a sample made after `first`, against which there are rates at once.
    pub fn after(&self, first: &Arc<Sample>, deps: &ServerDeps) -> Pair {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Who else waited may have read it.
        if let Some(current) = kept.current.as_ref().filter(|current| current.mono > first.mono) {
            return (current.clone(), kept.before.clone());
        }
        let sample = Arc::new(read(deps));
        *kept = Kept { current: Some(sample.clone()), before: Some(first.clone()) };
        (sample, Some(first.clone()))
    }
}

fn read(deps: &ServerDeps) -> Sample {
    let usage = |who| deps.cgroups.usage(who).unwrap_or_default();
    let since = |path: &str| Timestamp::try_from(deps.cgroups.created(path)?).ok();
    let system = |name, path: &str, since: Option<Timestamp>| {
        Some(System { name, path: path.to_owned(), since, usage: deps.cgroups.usage(Who::Path(path)).ok()? })
    };
    // Upstream shows the agent's own start here, not its cgroup's.
    let kubelet = deps.cgroups.own_path().and_then(|path| system("kubelet", &path, started()));
    let runtime = deps.runtime_cgroup.as_deref().and_then(|path| system("runtime", path, since(path)));
    let kubepods_path = deps.cgroups.kubepods_path();
    Sample {
        at: deps.clock.wall(),
        mono: deps.clock.mono(),
        machine: Machine::read(),
        node: usage(Who::Node),
        network: network::of_process("self", MOST_NODE_INTERFACES),
        all_pods: usage(Who::AllPods),
        all_pods_since: since(&kubepods_path),
        kubepods_path,
        systems: kubelet.into_iter().chain(runtime).collect(),
        pods: deps.pods.list().iter().filter_map(|row| pod(deps, row)).collect(),
    }
}

/// Of this process.
fn started() -> Option<Timestamp> {
    Timestamp::from_second(now::start_seconds() as i64).ok()
}

/// None for a pod that has no cgroup: not started, or over.
fn pod(deps: &ServerDeps, row: &PodRow) -> Option<PodSample> {
    let uid = &row.desired.uid;
    let usage = deps.cgroups.usage(Who::Pod(uid)).ok()?;
    let observed = deps.observed.now(uid);
    let containers = observed.iter().flat_map(|pod| &pod.containers);
    let running = containers.filter(|container| container.state == ContainerState::Running);
    let containers: Vec<_> = running
        .filter_map(|container| {
            let path = deps.cgroups.container_path(uid, &container.id).ok()?;
            Some(ContainerSample {
                name: container.name.clone(),
                id: container.id.to_string(),
                image: container.image.clone(),
                started: container.started_at,
                processes: deps.cgroups.processes(&path),
                usage: deps.cgroups.usage(Who::Path(&path)).ok()?,
                path,
            })
        })
        .collect();
    let own_network = row.desired.spec().host_network != Some(true);
    // The containers of a pod share their sandbox's network, which stays while they come and go; not every runtime has a
    // process in the sandbox.
    let ready = observed.iter().flat_map(|pod| &pod.sandboxes).filter(|sandbox| sandbox.ready);
    let ready = ready.max_by_key(|sandbox| sandbox.attempt);
    let sandbox = ready.and_then(|sandbox| {
        let path = deps.cgroups.sandbox_path(uid, &sandbox.id).ok()?;
        Some(SandboxSample { id: sandbox.id.clone(), path, started: sandbox.created_at })
    });
    let process = ready.filter(|_| own_network).and_then(|_| {
        let of_container = || containers.iter().find_map(|container| deps.cgroups.process(&container.path));
        sandbox.as_ref().and_then(|sandbox| deps.cgroups.process(&sandbox.path)).or_else(of_container)
    });
    let status = row.status.as_deref().or(row.desired.pod.status.as_ref());
    Some(PodSample {
        uid: uid.clone(),
        shown_uid: row.mirror_uid.clone().unwrap_or_else(|| uid.clone()),
        key: row.desired.key.clone(),
        started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
        path: deps.cgroups.pod_path(uid).unwrap_or_default(),
        usage,
        network: process
            .map(|process| network::of_process(&process.to_string(), MOST_POD_INTERFACES))
            .unwrap_or_default(),
        sandbox,
        containers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_now_needs_a_sample_of_the_last_half_minute() {
        let at = |seconds| Mono(Duration::from_secs(seconds));
        assert!(has_rates(at(100), Some(at(70))));
        assert!(!has_rates(at(101), Some(at(70))));
        assert!(!has_rates(at(100), None));
    }
}
