//! What every real-stack test stands on: a cluster with the kubelet under test, and a few ways to look at it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use bed::{Cache, Cluster, ClusterOptions, Kubectl, Node, NodeOptions, Runtime, images};
use serde_json::{Value, json};

pub type Test = fn(&mut World) -> Result<()>;

/// Tests that share a cluster.
pub struct Group {
    pub name: &'static str,
    pub runtime: Runtime,
    /// With kube-proxy and DNS.
    pub services: bool,
    /// A network and a registry, no control plane and no node: the tests make what they want.
    pub bare: bool,
    pub tests: Vec<(&'static str, Test)>,
}

#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    /// Name and cause of each.
    pub failed: Vec<String>,
}

pub struct World {
    pub cluster: Cluster,
}

impl World {
    pub fn kubectl(&self) -> Kubectl {
        self.cluster.kubectl()
    }
    pub fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }
    pub fn node_name(&self) -> &str {
        &self.node().options.name
    }

    /// Deletes the pods named and waits until they are gone.
    pub fn delete_pods(&self, names: &[&str]) -> Result<()> {
        let mut args = vec!["delete", "pod", "--ignore-not-found", "--wait=true", "--timeout=300s"];
        args.extend(names);
        self.kubectl().run(&args)?;
        Ok(())
    }

    /// Ids of running containers by container name, as the runtime sees them now (sandboxes left out).
    pub fn running(&self) -> Result<Vec<String>> {
        let mut ids: Vec<String> = self
            .node()
            .ctr(&["task", "ls"])?
            .lines()
            .skip(1)
            .filter(|l| l.contains("RUNNING"))
            .filter_map(|l| l.split_whitespace().next().map(str::to_owned))
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Pods of which the runtime has a sandbox or a container, by CRI.
    pub fn pods_of_runtime(&self) -> Result<Vec<String>> {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        executor.block_on(async {
            let cri = cri::Cri::connect(&self.node().socket().display().to_string(), "", Duration::from_secs(60))?;
            let observed = cri.observe_all().await?;
            Ok(observed.pods.iter().map(|pod| pod.key.to_string()).collect())
        })
    }

    /// What a pod's end must not leave: mounts, cgroups, directories of its UID.
    pub fn leftovers(&self, uid: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        found.extend(mounts.lines().filter(|l| l.contains(uid)).map(|l| format!("mount {l}")));
        let dir = self.node().root_dir().join("pods").join(uid);
        if dir.exists() {
            found.push(format!("directory {}", dir.display()));
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let root = hierarchy.path().join(self.node().cgroup()).join("kubepods");
            for tier in ["", "burstable", "besteffort"] {
                let group = root.join(tier).join(format!("pod{uid}"));
                if group.exists() {
                    found.push(format!("cgroup {}", group.display()));
                }
            }
        }
        Ok(found)
    }
}

/// The binary under test.
pub fn kubelet() -> Result<PathBuf> {
    let path =
        std::env::var_os("FERROLET_KUBELET").context("FERROLET_KUBELET names no kubelet (`make test-real` sets it)")?;
    PathBuf::from(&path).canonicalize().with_context(|| format!("no kubelet at {}", path.display()))
}

pub fn run(group: &Group, wanted: &[String], tally: &mut Tally) -> Result<()> {
    let selected: Vec<_> = group
        .tests
        .iter()
        .filter(|(name, _)| {
            let full = format!("{}/{name}", group.name);
            wanted.is_empty() || wanted.iter().any(|w| *w == group.name || *w == full)
        })
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let cache = Cache::of_user()?;
    let mut node = NodeOptions::new("node-a", &kubelet()?);
    (node.runtime, node.services) = (group.runtime, group.services);
    let started = match group.bare {
        true => Cluster::start_network_only(&cache, group.name),
        false => Cluster::start(&cache, ClusterOptions { name: group.name.into(), nodes: vec![node] }),
    };
    let cluster = started.with_context(|| format!("cluster of group {}", group.name))?.keep();
    let mut world = World { cluster };
    let before = tally.failed.len();
    for (name, test) in selected {
        eprint!("{}/{name} ... ", group.name);
        match test(&mut world) {
            Ok(()) => {
                eprintln!("ok");
                tally.passed += 1;
            }
            Err(error) => {
                eprintln!("FAILED: {error:#}");
                tally.failed.push(format!("{}/{name}: {error:#}", group.name));
            }
        }
    }
    if tally.failed.len() == before {
        world.cluster.down()?;
    } else {
        world.cluster.nodes.iter().for_each(bed::Node::stop_kubelet);
        keep_logs_and_end(world)?;
    }
    Ok(())
}

/// The logs outlive the cluster; everything that runs does not.
fn keep_logs_and_end(world: World) -> Result<()> {
    let name = world.cluster.dir.file_name().context("run folder")?.to_owned();
    let kept = world.cluster.cache().reports().join("failed").join(name);
    let _ = std::fs::remove_dir_all(&kept);
    std::fs::create_dir_all(&kept)?;
    for node in &world.cluster.nodes {
        for log in ["kubelet", "containerd"] {
            let _ = std::fs::copy(node.daemons.log(log), kept.join(format!("{}-{log}.log", node.options.name)));
        }
    }
    eprintln!("logs are in {}", kept.display());
    world.cluster.down()
}

/// A pod of busybox shells, (container name, script) each; tests add to it what they are about.
pub fn shell_pod(name: &str, containers: &[(&str, &str)]) -> Value {
    let containers: Vec<Value> = containers.iter().map(|(c, script)| shell_container(c, script)).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"test": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": containers},
    })
}

pub fn shell_container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": images::BUSYBOX, "command": ["sh", "-c", script]})
}

/// Mounts `volume` at `path` in every container of the pod (init containers included).
pub fn mount_everywhere(pod: &mut Value, name: &str, source: Value, path: &str) {
    let mut volume = source;
    volume["name"] = json!(name);
    push(&mut pod["spec"]["volumes"], volume);
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            push(&mut container["volumeMounts"], json!({"name": name, "mountPath": path}));
        }
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        _ => *list = json!([item]),
    }
}

pub fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

pub fn container_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    lists
        .iter()
        .filter_map(|l| pod["status"][l].as_array())
        .flatten()
        .find(|c| c["name"] == name)
        .unwrap_or(&Value::Null)
}

pub fn waiting_reason(pod: &Value, container: &str) -> String {
    container_status(pod, container)["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned()
}

pub fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

pub fn expect(holds: bool, what: impl std::fmt::Display) -> Result<()> {
    if !holds {
        bail!("{what}");
    }
    Ok(())
}

pub fn expect_eq<T: PartialEq + std::fmt::Debug>(got: T, want: T, what: &str) -> Result<()> {
    if got != want {
        let (got, want) = (format!("{got:?}"), format!("{want:?}"));
        let same = got.chars().zip(want.chars()).take_while(|(g, w)| g == w).count();
        bail!("{what}: got {}, want {}", around(&got, same), around(&want, same));
    }
    Ok(())
}

/// Statuses are long: what stands about the first difference, not all of them.
fn around(text: &str, at: usize) -> String {
    let (begin, window) = (at.saturating_sub(200), 400);
    let ellipsis = |cut: bool| if cut { "…" } else { "" };
    let shown: String = text.chars().skip(begin).take(window).collect();
    format!("{}{shown}{}", ellipsis(begin > 0), ellipsis(text.chars().count() > begin + window))
}
