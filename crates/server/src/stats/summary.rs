//! `/stats/summary`, in the types of the stats API.

use std::{sync::Arc, time::Duration};

use cgroups::{MemoryUsage, Pressure, Stall, Usage};
use pod::time::Timestamp;
use serde::Serialize;

use super::{
    network::Interface,
    sample::{ContainerSample, PodSample, Sample},
    storage::{self, PodStorage, Storage},
};
use crate::dispatch::Context;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary<'a> {
    node: Node<'a>,
    pods: Vec<Pod<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node<'a> {
    node_name: &'a str,
    system_containers: Vec<Container<'a>>,
    start_time: String,
    cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Io>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<Runtime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<Rlimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod<'a> {
    pod_ref: PodRef<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    containers: Vec<Container<'a>>,
    cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Io>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volume: Vec<Volume<'a>>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<Fs>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    process_stats: Option<Processes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Volume<'a> {
    #[serde(flatten)]
    fs: Fs,
    name: &'a str,
}

#[derive(Serialize)]
struct Network<'a> {
    time: String,
    /// The main interface once more.
    #[serde(flatten)]
    main: Option<Traffic<'a>>,
    interfaces: Vec<Traffic<'a>>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Traffic<'a> {
    name: &'a str,
    rx_bytes: u64,
    rx_errors: u64,
    tx_bytes: u64,
    tx_errors: u64,
}

#[derive(Serialize)]
struct PodRef<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Io>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_core_nano_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    rss_bytes: u64,
    page_faults: u64,
    major_page_faults: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Serialize)]
struct Io {
    time: String,
    psi: Psi,
}

#[derive(Serialize)]
struct Psi {
    full: PsiData,
    some: PsiData,
}

#[derive(Serialize)]
struct PsiData {
    total: u64,
    avg10: f64,
    avg60: f64,
    avg300: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Swap {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_available_bytes: Option<u64>,
    swap_usage_bytes: u64,
}

#[derive(Serialize)]
struct Processes {
    process_count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_fs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_fs: Option<Fs>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fs {
    time: String,
    available_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    inodes_free: u64,
    inodes: u64,
    inodes_used: u64,
}

#[derive(Serialize)]
struct Rlimit {
    time: String,
    maxpid: i64,
    curproc: i64,
}

/// File systems, and what pods have on them.
#[derive(Default)]
pub struct FileSystems {
    node: Option<Fs>,
    images: Option<Fs>,
    containers: Option<Fs>,
    storage: Storage,
}

pub async fn file_systems(context: &Arc<Context>) -> FileSystems {
    let storage = storage::read(context).await;
    FileSystems { storage, ..of_node(context).await }
}

async fn of_node(context: &Context) -> FileSystems {
    let time = shown(context.deps.clock.wall());
    let images = context.deps.cri.image_fs_info().await.ok();
    let usage = |list: fn(&cri::ImageFilesystems) -> &Vec<cri::FilesystemUsage>| {
        images.as_ref().and_then(|images| list(images).first()).cloned()
    };
    let (image_fs, container_fs) = (usage(|all| &all.images), usage(|all| &all.containers));
    let root = context.config.root_dir.clone();
    let read = tokio::task::spawn_blocking(move || {
        let of = |usage: Option<cri::FilesystemUsage>| {
            let usage = usage?;
            let stats = host::fs_stats::fs_stats(usage.mountpoint.as_ref()).ok()?;
            Some(Fs { used_bytes: usage.used_bytes, inodes_used: usage.inodes_used, ..fs(&time, &stats) })
        };
        let node = host::fs_stats::fs_stats(&root).ok().map(|stats| fs(&time, &stats));
        let images = of(image_fs);
        // The one file system of a runtime that does not tell them apart.
        let containers = of(container_fs).or_else(|| images.clone());
        FileSystems { node, images, containers, storage: Storage::default() }
    });
    read.await.unwrap_or_default()
}

fn fs(time: &str, stats: &host::fs_stats::FsStats) -> Fs {
    Fs {
        time: time.to_owned(),
        available_bytes: stats.available,
        capacity_bytes: stats.capacity,
        used_bytes: stats.used,
        inodes_free: stats.inodes_free,
        inodes: stats.inodes,
        inodes_used: stats.inodes_used,
    }
}

/// `before` gives rates; `file_systems` is None where only CPU and memory are wanted.
pub fn summary<'a>(
    node_name: &'a str,
    now: &'a Sample,
    before: Option<&Sample>,
    file_systems: Option<&'a FileSystems>,
) -> Summary<'a> {
    let elapsed = before.map_or(Duration::ZERO, |before| now.mono.since(before.mono));
    let reading = Reading { time: shown(now.at), elapsed, all: file_systems.is_some() };
    let booted = now.at.checked_sub(jiff::SignedDuration::try_from(now.mono.0).unwrap_or_default()).unwrap_or(now.at);
    let capacity = now.machine.memory_bytes;
    // Only the pods are bounded by what the node has for them.
    let system = |name, since: Option<Timestamp>, now, before, most| Container {
        name,
        start_time: since.map(shown),
        cpu: reading.cpu(now, before),
        memory: reading.memory(now, most),
        io: reading.io(now),
        rootfs: None,
        logs: None,
        swap: reading.swap(now, None),
    };
    let all_pods = before.map(|before| &before.all_pods);
    let kubepods = system("pods", now.all_pods_since, &now.all_pods, all_pods, Some(capacity));
    let others = now.systems.iter().map(|now| {
        let earlier = before.and_then(|before| before.systems.iter().find(|before| before.name == now.name));
        system(now.name, now.since, &now.usage, earlier.map(|earlier| &earlier.usage), None)
    });
    let node = Node {
        node_name,
        system_containers: std::iter::once(kubepods).chain(others).collect(),
        start_time: shown(booted),
        cpu: reading.cpu(&now.node, before.map(|before| &before.node)),
        memory: reading.memory(&now.node, Some(capacity)),
        io: reading.io(&now.node),
        network: reading.network(&now.network),
        rlimit: file_systems.and_then(|_| rlimit(&reading.time)),
        swap: reading.swap(&now.node, Some(now.machine.swap_bytes)),
        fs: None,
        runtime: None,
    };
    let node = match file_systems {
        None => node,
        Some(all) => Node {
            fs: all.node.clone(),
            runtime: (all.images.is_some() || all.containers.is_some())
                .then(|| Runtime { image_fs: all.images.clone(), container_fs: all.containers.clone() }),
            ..node
        },
    };
    let pods = now.pods.iter().map(|pod| {
        let earlier = before.and_then(|before| before.pod(&pod.uid));
        pod_stats(&reading, pod, earlier, file_systems)
    });
    Summary { node, pods: pods.collect() }
}

/// Threads of the machine against the most there may be.
fn rlimit(time: &str) -> Option<Rlimit> {
    let maximum = i64::try_from(host::facts::most_processes()?).ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let current = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Rlimit { time: time.to_owned(), maxpid: maximum, curproc: current })
}

fn pod_stats<'a>(
    reading: &Reading,
    pod: &'a PodSample,
    before: Option<&PodSample>,
    file_systems: Option<&'a FileSystems>,
) -> Pod<'a> {
    let stored = file_systems.and_then(|all| all.storage.pods.get(&pod.uid));
    let containers = pod.containers.iter().map(|container| {
        let earlier = before.and_then(|pod| pod.containers.iter().find(|c| c.id == container.id));
        container_stats(reading, container, earlier).with_files(file_systems, stored, &container.id)
    });
    Pod {
        pod_ref: PodRef { name: &pod.key.name, namespace: &pod.key.namespace, uid: pod.shown_uid.as_str() },
        start_time: pod.started.map(shown),
        containers: containers.collect(),
        cpu: reading.cpu(&pod.usage, before.map(|pod| &pod.usage)),
        memory: reading.memory(&pod.usage, None),
        io: reading.io(&pod.usage),
        network: reading.network(&pod.network),
        volume: stored.map(|stored| reading.volumes(stored)).unwrap_or_default(),
        ephemeral_storage: stored.and_then(|stored| ephemeral_storage(file_systems?, stored, pod)),
        process_stats: processes(pod).filter(|_| reading.all),
        swap: reading.swap(&pod.usage, None),
    }
}

/// Without the sandbox's, and none of a pod in which nothing runs.
fn processes(pod: &PodSample) -> Option<Processes> {
    let process_count = pod.containers.iter().map(|container| container.processes).sum();
    (!pod.containers.is_empty()).then_some(Processes { process_count })
}

/// On the node's own file system: the layers of what runs, logs, volumes.
fn ephemeral_storage(all: &FileSystems, stored: &PodStorage, pod: &PodSample) -> Option<Fs> {
    let node = all.node.as_ref()?;
    let own = stored.on_node();
    let layers = pod.containers.iter().filter_map(|container| all.storage.layers.get(&container.id));
    let (bytes, inodes) = layers
        .fold((own.bytes, own.inodes), |(bytes, inodes), layer| (bytes + layer.used_bytes, inodes + layer.inodes_used));
    Some(Fs { used_bytes: bytes, inodes_used: inodes, ..node.clone() })
}

impl Container<'_> {
    fn with_files(self, all: Option<&FileSystems>, stored: Option<&PodStorage>, id: &str) -> Self {
        let Some(all) = all else { return self };
        let on = |fs: &Option<Fs>, used_bytes, inodes_used| Some(Fs { used_bytes, inodes_used, ..fs.clone()? });
        let layer = all.storage.layers.get(id);
        let logs = stored.and_then(|stored| stored.logs.get(self.name));
        Self {
            rootfs: layer.and_then(|layer| on(&all.containers, layer.used_bytes, layer.inodes_used)),
            logs: logs.and_then(|logs| on(&all.node, logs.bytes, logs.inodes)),
            ..self
        }
    }
}

fn container_stats<'a>(
    reading: &Reading,
    container: &'a ContainerSample,
    before: Option<&ContainerSample>,
) -> Container<'a> {
    Container {
        name: &container.name,
        start_time: container.started.map(shown),
        cpu: reading.cpu(&container.usage, before.map(|container| &container.usage)),
        memory: reading.memory(&container.usage, None),
        io: reading.io(&container.usage),
        rootfs: None,
        logs: None,
        swap: reading.swap(&container.usage, container.usage.memory.as_ref().and_then(|memory| memory.swap_limit)),
    }
}

/// What all parts of one summary share.
struct Reading {
    time: String,
    /// Since the earlier sample.
    elapsed: Duration,
    /// More than CPU and memory.
    all: bool,
}

impl Reading {
    fn cpu(&self, now: &Usage, before: Option<&Usage>) -> Cpu {
        let earlier = before.and_then(|before| before.cpu_ns);
        Cpu {
            time: self.time.clone(),
            usage_nano_cores: rate(now.cpu_ns, earlier, self.elapsed),
            usage_core_nano_seconds: now.cpu_ns,
            psi: now.cpu_pressure.as_ref().map(psi),
        }
    }

    /// `most` bounds what is available where the cgroup itself has no limit.
    fn memory(&self, now: &Usage, most: Option<u64>) -> Option<Memory> {
        let memory: &MemoryUsage = now.memory.as_ref()?;
        Some(Memory {
            time: self.time.clone(),
            available_bytes: memory.limit.or(most).map(|limit| limit.saturating_sub(memory.working_set)),
            usage_bytes: memory.usage,
            working_set_bytes: memory.working_set,
            rss_bytes: memory.rss,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
            psi: now.memory_pressure.as_ref().map(psi),
        })
    }

    fn io(&self, now: &Usage) -> Option<Io> {
        let pressure = now.io_pressure.as_ref().filter(|_| self.all)?;
        Some(Io { time: self.time.clone(), psi: psi(pressure) })
    }

    /// None where no interface is known.
    fn network<'a>(&self, interfaces: &'a [Interface]) -> Option<Network<'a>> {
        if !self.all || interfaces.is_empty() {
            return None;
        }
        let interfaces: Vec<_> = interfaces.iter().map(traffic).collect();
        let main = interfaces.iter().find(|interface| interface.name == MAIN_INTERFACE).cloned();
        Some(Network { time: self.time.clone(), main, interfaces })
    }

    fn volumes<'a>(&self, stored: &'a PodStorage) -> Vec<Volume<'a>> {
        let shown = |volume: &'a storage::Volume| Volume {
            fs: Fs { used_bytes: volume.used.bytes, inodes_used: volume.used.inodes, ..fs(&self.time, &volume.fs) },
            name: &volume.name,
        };
        stored.volumes.iter().map(shown).collect()
    }

    fn swap(&self, now: &Usage, most: Option<u64>) -> Option<Swap> {
        let used = now.memory.as_ref()?.swap;
        Some(Swap {
            time: self.time.clone(),
            swap_available_bytes: most.map(|most| most.saturating_sub(used)),
            swap_usage_bytes: used,
        })
    }
}

/// The one that the summary shows by itself.
const MAIN_INTERFACE: &str = "eth0";

fn traffic(interface: &Interface) -> Traffic<'_> {
    Traffic {
        name: &interface.name,
        rx_bytes: interface.received.bytes,
        rx_errors: interface.received.errors,
        tx_bytes: interface.sent.bytes,
        tx_errors: interface.sent.errors,
    }
}

fn psi(pressure: &Pressure) -> Psi {
    // The API's documentation says nanoseconds; upstream passes the kernel's microseconds on as they are.
    let data =
        |stall: &Stall| PsiData { total: stall.total, avg10: stall.avg10, avg60: stall.avg60, avg300: stall.avg300 };
    Psi { full: data(&pressure.full), some: data(&pressure.some) }
}

/// Nanoseconds of CPU per second.
fn rate(now: Option<u64>, before: Option<u64>, elapsed: Duration) -> Option<u64> {
    let used = now?.checked_sub(before?)?;
    let elapsed = elapsed.as_nanos();
    (elapsed > 0).then(|| (u128::from(used) * 1_000_000_000 / elapsed) as u64)
}

fn shown(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{machine::Machine, sample::System},
        *,
    };

    fn sample() -> Sample {
        Sample {
            at: Timestamp::from_second(100).unwrap(),
            mono: pod::Mono(Duration::from_secs(50)),
            machine: Machine { memory_bytes: 1000, ..Machine::default() },
            node: Usage::default(),
            network: Vec::new(),
            all_pods: Usage { memory: Some(MemoryUsage::default()), ..Usage::default() },
            all_pods_since: Timestamp::from_second(60).ok(),
            kubepods_path: "/kubepods".to_owned(),
            systems: Vec::new(),
            pods: Vec::new(),
        }
    }

    #[test]
    fn system_containers_have_a_start_and_only_the_pods_a_bound() {
        let system = |name| System {
            name,
            path: String::new(),
            since: Timestamp::from_second(70).ok(),
            usage: Usage { memory: Some(MemoryUsage::default()), ..Usage::default() },
        };
        let now = Sample { systems: vec![system("kubelet"), system("runtime")], ..sample() };
        let shown = serde_json::to_value(summary("n", &now, None, None)).unwrap();
        let shown: Vec<_> = shown["node"]["systemContainers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|system| {
                let available = system["memory"].get("availableBytes").and_then(serde_json::Value::as_u64);
                (system["name"].as_str().unwrap(), system["startTime"].as_str().unwrap(), available)
            })
            .collect();
        let at = "1970-01-01T00:01:10Z";
        let expected = [("pods", "1970-01-01T00:01:00Z", Some(1000)), ("kubelet", at, None), ("runtime", at, None)];
        assert_eq!(shown, expected);
    }

    #[test]
    fn pressure_is_counted_in_microseconds_as_upstream() {
        let pressure = Pressure { some: Stall { total: 1234, ..Stall::default() }, ..Pressure::default() };
        assert_eq!((psi(&pressure).some.total, psi(&pressure).full.total), (1234, 0));
    }

    #[test]
    fn a_pod_has_the_processes_of_its_containers_without_the_sandbox() {
        let container = |processes| ContainerSample {
            name: "c".to_owned(),
            id: "id".to_owned(),
            image: String::new(),
            started: None,
            path: String::new(),
            processes,
            usage: Usage::default(),
        };
        let mut pod = PodSample {
            uid: "u".into(),
            shown_uid: "u".into(),
            key: pod::PodKey::new("ns", "pod"),
            started: None,
            path: String::new(),
            usage: Usage { pids: Some(40), ..Usage::default() },
            network: Vec::new(),
            sandbox: None,
            containers: vec![container(2), container(1)],
        };
        assert_eq!(processes(&pod).map(|processes| processes.process_count), Some(3));
        pod.containers.clear();
        assert!(processes(&pod).is_none());
    }

    #[test]
    fn a_rate_needs_two_readings_and_never_goes_back() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(Some(2_500_000_000), Some(500_000_000), second * 2), Some(1_000_000_000));
        assert_eq!(rate(Some(1), None, second), None);
        assert_eq!(rate(Some(1), Some(2), second), None, "another container took the name");
        assert_eq!(rate(Some(2), Some(1), Duration::ZERO), None);
    }
}
