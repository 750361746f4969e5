//! One of the two kubelets: its node, its namespace, its proxy; makes pods there and captures what became of them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bed::{Cluster, Kubectl, Node};
use serde_json::{Map, Value, json};

use crate::{
    corpus::{self, Case},
    normal::Normal,
    proxy::{Call, Proxy},
};

pub struct Side {
    pub node: Node,
    proxy: Proxy,
    kubectl: Kubectl,
    normal: Normal,
    namespace: String,
}

impl Side {
    pub fn new(cluster: &Cluster, node: Node, proxy: Proxy) -> Self {
        let name = node.options.name.clone();
        // Folders first: they contain the name.
        let words = [
            (node.dir.display().to_string(), "NODE-DIR"),
            (cluster.dir.display().to_string(), "RUN-DIR"),
            (node.cgroup(), "CGROUP"),
            (name.clone(), "NODE"),
        ];
        let namespace = format!("on-{name}");
        Self { node, proxy, kubectl: cluster.kubectl(), normal: Normal::new(&words), namespace }
    }

    pub fn name(&self) -> &str {
        &self.node.options.name
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(args);
        self.kubectl.run(&all)
    }

    fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// A namespace with what the cases refer to.
    pub fn prepare(&self) -> Result<()> {
        let _ = self.kubectl.run(&["delete", "namespace", &self.namespace, "--ignore-not-found"]);
        self.kubectl.run(&["create", "namespace", &self.namespace])?;
        self.feed("apply", &corpus::objects()?)?;
        bed::wait::until("the default service account", bed::wait::LONG, || {
            Ok(self.kubectl(&["get", "serviceaccount", "default"]).is_ok()
                && self.kubectl(&["get", "configmap", "kube-root-ca.crt"]).is_ok())
        })
    }

    fn feed(&self, verb: &str, manifest: &str) -> Result<()> {
        let file = self.node.dir.join("feed.yml");
        fs::write(&file, manifest)?;
        self.kubectl(&[verb, "-f", &file.display().to_string()])?;
        Ok(())
    }

    /// Pods that the API server refuses are faults of the corpus and end the run.
    pub fn create(&self, cases: &[Case]) -> Result<()> {
        let pods: Vec<Value> = cases.iter().map(|case| case.pod(self.name())).collect();
        self.feed("create", &json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string())
    }

    pub fn debug(&self, case: &Case) -> Result<()> {
        let Some(image) = &case.debug else { return Ok(()) };
        let image = corpus::full_name(image);
        self.kubectl(&["debug", &case.name, "--image", image, "-c", "debugger", "--", "sleep", "3600"])?;
        Ok(())
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot { pods: by_name(self.list("pods")?), events: self.list("events")? })
    }

    /// Everything about one pod that should be the same on both sides.
    pub fn capture(&self, snapshot: &Snapshot, case: &str) -> Value {
        let pod = snapshot.pods.get(case).cloned().unwrap_or_default();
        let calls = self.proxy.calls(pod["metadata"]["uid"].as_str().unwrap_or_default());
        let cri = requests(&calls);
        let view = json!({
            "status": pod["status"],
            "hosts": hosts_file(&cri),
            "cgroup": cgroup(&cri),
            "cri": cri,
        });
        self.normal.value(&view)
    }

    /// What is known only at the end: the events, and how containers were stopped.
    pub fn epilogue(&self, events: &[Value], uid: &str) -> Value {
        let mut told = Map::new();
        for event in events.iter().filter(|e| e["involvedObject"]["uid"] == uid) {
            let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let line = format!(
                "{} {} [{}] {}",
                text(&event["type"]),
                text(&event["reason"]),
                text(&event["involvedObject"]["fieldPath"]),
                text(&event["message"])
            );
            told.insert(self.normal.text(&line), true.into());
        }
        json!({"events": told, "stops": self.normal.value(&stops(&self.proxy.calls(uid)))})
    }

    pub fn delete(&self, cases: &[Case]) -> Result<()> {
        let mut args = vec!["delete", "pod", "--ignore-not-found", "--wait=true", "--timeout=120s"];
        args.extend(cases.iter().map(|case| case.name.as_str()));
        self.kubectl(&args).with_context(|| format!("pods of {} do not go away", self.name()))?;
        Ok(())
    }
}

/// Pods and events at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub pods: BTreeMap<String, Value>,
    pub events: Vec<Value>,
}

fn by_name(items: Vec<Value>) -> BTreeMap<String, Value> {
    items.into_iter().map(|item| (item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), item)).collect()
}

/// The first request of each kind: later attempts come at their own times.
fn requests(calls: &[Call]) -> Value {
    let mut sandbox = Value::Null;
    let (mut containers, mut order, mut pulls) = (Map::new(), Vec::new(), Map::new());
    for Call { method, request } in calls {
        match *method {
            "RunPodSandbox" if sandbox.is_null() => sandbox = request.clone(),
            "CreateContainer" => {
                let name = request["config"]["metadata"]["name"].as_str().unwrap_or_default();
                if !containers.contains_key(name) {
                    order.push(name);
                    containers.insert(name.to_owned(), readable(request["config"].clone()));
                }
            }
            "PullImage" => {
                let image = request["image"]["image"].as_str().unwrap_or_default();
                let mut pull = request.clone();
                // The sandbox is compared on its own.
                pull.as_object_mut().map(|pull| pull.remove("sandboxConfig"));
                pulls.insert(image.to_owned(), pull);
            }
            _ => {}
        }
    }
    json!({"sandbox": sandbox, "containers": containers, "order": order.join(" "), "pulls": pulls})
}

/// Values of variables are bytes to CRI, base64 in JSON.
fn readable(mut config: Value) -> Value {
    for env in config["envs"].as_array_mut().into_iter().flatten() {
        let bytes = BASE64_STANDARD.decode(env["value"].as_str().unwrap_or_default()).unwrap_or_default();
        env["value"] = String::from_utf8_lossy(&bytes).into();
    }
    config
}

fn stops(calls: &[Call]) -> Value {
    let stops = calls.iter().filter(|call| call.method == "StopContainer");
    let mut first = Map::new();
    for Call { request, .. } in stops {
        let name = request["containerId"].as_str().unwrap_or_default();
        first.entry(name).or_insert_with(|| request["timeout"].clone());
    }
    first.into()
}

/// Lines of the file that is mounted at /etc/hosts.
fn hosts_file(cri: &Value) -> Value {
    let containers = cri["containers"].as_object().into_iter().flatten();
    let mounts = containers.flat_map(|(_, config)| config["mounts"].as_array().into_iter().flatten());
    let path = mounts.filter(|m| m["containerPath"] == "/etc/hosts").find_map(|m| m["hostPath"].as_str());
    let text = path.and_then(|path| fs::read_to_string(path).ok());
    text.map_or(Value::Null, |text| text.lines().collect())
}

/// Limits of the pod's group, where it is in cgroup v1 hierarchies.
fn cgroup(cri: &Value) -> Value {
    const FILES: [(&str, &str); 4] = [
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("memory", "memory.limit_in_bytes"),
        ("hugetlb", "hugetlb.2MB.limit_in_bytes"),
    ];
    let parent = cri["sandbox"]["config"]["linux"]["cgroupParent"].as_str().unwrap_or_default();
    let read = |controller: &str, file: &str| {
        let path = Path::new("/sys/fs/cgroup").join(controller).join(parent.trim_start_matches('/')).join(file);
        fs::read_to_string(path).map_or(Value::Null, |text| text.trim().into())
    };
    FILES.iter().map(|(controller, file)| ((*file).to_owned(), read(controller, file))).collect::<Map<_, _>>().into()
}
