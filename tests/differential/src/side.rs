//! One of the two kubelets: its node, its namespace, its proxy; makes pods there and captures what became of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bed::{Cluster, Kubectl, Node};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::{
    corpus::{self, Case, Then},
    files,
    normal::Normal,
    proxy::{Call, Proxy},
};

pub struct Side {
    pub node: Node,
    proxy: Proxy,
    kubectl: Kubectl,
    normal: Normal,
    chance: Regex,
    namespace: String,
}

/// Events that tell of a race with a container's start or end, or of a slow machine.
const CHANCE: &str = concat!(
    "probe errored and resulted in unknown state: rpc error: code = (NotFound|Unknown) desc = failed to exec in ",
    "container: (container is in CONTAINER_EXITED state|failed to load task: |failed to create exec .*: ",
    "(container not created|cannot exec in a (stopped|deleted) state|ttrpc: closed))",
    "|Startup probe failed: dial tcp .*: connect: connection refused",
    "|probe failed: $|probe failed: Get .*: context deadline exceeded",
    // The server that the corpus has there was not up, or no longer.
    "|probe failed: Get .*:8080/.*: connection refused|failed to connect service .*:5000",
);

impl Side {
    pub fn new(cluster: &Cluster, node: Node, proxy: Proxy) -> Result<Self> {
        let name = node.options.name.clone();
        // Folders first: they contain the name.
        let words = [
            (node.dir.display().to_string(), "NODE-DIR"),
            (cluster.dir.display().to_string(), "RUN-DIR"),
            (cluster.cache().root().display().to_string(), "CACHE"),
            (node.cgroup(), "CGROUP"),
            (name.clone(), "NODE"),
        ];
        let namespace = format!("on-{name}");
        let (normal, chance) = (Normal::new(&words), Regex::new(CHANCE)?);
        Ok(Self { node, proxy, kubectl: cluster.kubectl(), normal, chance, namespace })
    }

    pub fn name(&self) -> &str {
        &self.node.options.name
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(args);
        self.kubectl.run(&all)
    }

    /// A namespace with what the cases refer to.
    pub fn prepare(&self) -> Result<()> {
        let _ = self.kubectl.run(&["delete", "namespace", &self.namespace, "--ignore-not-found"]);
        self.kubectl.run(&["create", "namespace", &self.namespace])?;
        files::make_scratch(&self.node.dir)?;
        self.feed(&["apply"], &corpus::objects()?)?;
        bed::wait::until("the default service account", bed::wait::LONG, || {
            Ok(self.kubectl(&["get", "serviceaccount", "default"]).is_ok()
                && self.kubectl(&["get", "configmap", "kube-root-ca.crt"]).is_ok())
        })
    }

    fn feed(&self, verb: &[&str], manifest: &str) -> Result<()> {
        let file = self.node.dir.join("feed.yml");
        fs::write(&file, manifest)?;
        self.kubectl(&[verb, &["-f", &file.display().to_string()]].concat())?;
        Ok(())
    }

    /// Pods that the API server would refuse are faults of the corpus and end the run before it starts.
    pub fn check(&self, cases: &[Case]) -> Result<()> {
        self.feed(&["create", "--dry-run=server"], &self.list(cases))
    }

    pub fn create(&self, cases: &[&Case]) -> Result<()> {
        self.feed(&["create"], &self.list(cases.iter().copied()))
    }

    fn list<'a>(&self, cases: impl IntoIterator<Item = &'a Case>) -> String {
        let pods: Vec<Value> = cases.into_iter().map(|case| case.pod(self.name())).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string();
        list.replace("NODE-DIR", &self.node.dir.display().to_string())
    }

    /// What the case wants done once its pod is settled.
    pub fn then(&self, case: &str, then: &Then) -> Result<()> {
        match then {
            Then::Debug(image) => {
                let image = corpus::full_name(image);
                self.kubectl(&["debug", case, "--image", image, "-c", "debugger", "--", "sleep", "3600"])?;
            }
            Then::Resize(spec) => {
                let patch = json!({"spec": spec}).to_string();
                self.kubectl(&["patch", "pod", case, "--subresource=resize", "--type=strategic", "-p", &patch])?;
            }
        }
        Ok(())
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", "pods,events", "-o", "json"])?)?;
        let mut snapshot = Snapshot::default();
        for item in list["items"].as_array().into_iter().flatten() {
            match item["kind"].as_str() {
                Some("Pod") => {
                    let name = item["metadata"]["name"].as_str().unwrap_or_default();
                    snapshot.pods.insert(name.to_owned(), item.clone());
                }
                _ => snapshot.events.push(item.clone()),
            }
        }
        Ok(snapshot)
    }

    /// Everything about one pod that should be the same on both sides.
    pub fn capture(&self, snapshot: &Snapshot, case: &str) -> Value {
        let pod = snapshot.pods.get(case).cloned().unwrap_or_default();
        let calls = self.proxy.calls(pod["metadata"]["uid"].as_str().unwrap_or_default());
        let cri = requests(&calls);
        let view = json!({
            "status": pod["status"],
            "hosts": files::hosts(&cri),
            "volumes": files::volumes(&cri, &self.node.root_dir()),
            "logs": files::logs(&cri),
            "cgroup": cgroup(&cri),
            "cri": cri,
        });
        self.normal.value(&view)
    }

    /// What is known only at the end: the events, and how the containers that stay were stopped.
    pub fn epilogue(&self, events: &[Value], uid: &str, stay: &BTreeSet<String>) -> Value {
        let mut told = Map::new();
        for event in events.iter().filter(|e| e["involvedObject"]["uid"] == uid) {
            let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            if let Some(name) = text(&event["message"]).strip_prefix("Stopping container ")
                && !stay.contains(name)
            {
                continue;
            }
            let line = format!(
                "{} {} [{}] {}",
                text(&event["type"]),
                text(&event["reason"]),
                text(&event["involvedObject"]["fieldPath"]),
                text(&event["message"])
            );
            if !self.chance.is_match(&line) {
                told.insert(self.normal.text(&line), true.into());
            }
        }
        let calls = self.proxy.calls(uid);
        let updates = updates(&calls);
        json!({"events": told, "stops": self.normal.value(&stops(&calls, stay)), "updates": self.normal.value(&updates)})
    }

    /// Without waiting for the end.
    pub fn delete(&self, cases: &[&str]) -> Result<()> {
        let mut args = vec!["delete", "pod", "--ignore-not-found", "--wait=false"];
        args.extend(cases);
        self.kubectl(&args)?;
        Ok(())
    }
}

/// Pods and events at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub pods: BTreeMap<String, Value>,
    pub events: Vec<Value>,
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

/// The last request to change each container's resources.
fn updates(calls: &[Call]) -> Value {
    let updates = calls.iter().filter(|call| call.method == "UpdateContainerResources");
    let named = |call: &Call| call.request["containerId"].as_str().unwrap_or_default().to_owned();
    updates.map(|call| (named(call), call.request["linux"].clone())).collect::<Map<_, _>>().into()
}

fn stops(calls: &[Call], stay: &BTreeSet<String>) -> Value {
    let stops = calls.iter().filter(|call| call.method == "StopContainer");
    let mut first = Map::new();
    for Call { request, .. } in stops {
        let name = request["containerId"].as_str().unwrap_or_default();
        if stay.contains(name) {
            first.entry(name).or_insert_with(|| request["timeout"].clone());
        }
    }
    first.into()
}

/// Containers that ran from the first and still did: whether one that comes and goes is stopped at the end is chance.
pub fn staying(view: &Value) -> BTreeSet<String> {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().flat_map(|list| view["status"][list].as_array().into_iter().flatten());
    let stay = all.filter(|c| c["state"].get("running").is_some() && c["restartCount"] == 0);
    stay.filter_map(|c| Some(c["name"].as_str()?.to_owned())).collect()
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
