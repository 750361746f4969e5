//! The upstream kubelet takes a node over, and we take it back: pods of every kind, none of which may notice.

use std::{collections::BTreeMap, fs, path::Path, thread::sleep, time::Duration};

use anyhow::{Context, Result};
use bed::{Runtime, wait};
use serde_json::{Value, json};

use crate::{
    static_pods,
    world::{Group, World, expect_eq, list, mount_everywhere, shell_container, shell_pod, uid},
};

pub fn group() -> Group {
    Group {
        name: "swap",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![("thirty_pods_of_every_kind_do_not_notice_upstream_and_back", there_and_back)],
    }
}

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 1; done";

/// Upstream takes a container that began less than 10 s before itself for a new one, of which no probe has spoken yet.
const OF_AGE: Duration = Duration::from_secs(12);
const NO_LIMIT: &str = "9007199254740988Ki";

type Change = fn(&mut Value);

/// What makes a pod of its kind; each runs one container `app` to begin with.
const KINDS: &[(&str, Change)] = &[
    ("plain", |_| ()),
    ("guaranteed", |p| resources(p, &json!({"limits": {"cpu": "50m", "memory": "32Mi"}}))),
    ("burstable", |p| {
        resources(p, &json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}));
    }),
    ("of-pod-resources", |p| {
        p["spec"]["resources"] = json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "100m", "memory": "64Mi"}});
    }),
    ("initialised", |p| p["spec"]["initContainers"] = json!([shell_container("init", "true")])),
    ("with-sidecar", |p| {
        let mut sidecar = shell_container("sidecar", SLEEP);
        sidecar["restartPolicy"] = json!("Always");
        p["spec"]["initContainers"] = json!([sidecar]);
    }),
    ("of-two", second),
    ("one-pid-space", |p| p["spec"]["shareProcessNamespace"] = json!(true)),
    ("host-network", |p| p["spec"]["hostNetwork"] = json!(true)),
    ("host-pid-and-ipc", |p| (p["spec"]["hostPID"], p["spec"]["hostIPC"]) = (json!(true), json!(true))),
    ("ready-by-probe", |p| {
        app(p)["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    }),
    ("of-three-probes", |p| {
        let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
            app(p)[kind] = probe.clone();
        }
    }),
    ("with-hooks", |p| {
        app(p)["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["true"]}}, "preStop": {"exec": {"command": ["true"]}}});
    }),
    ("on-disk", |p| mount_everywhere(p, "data", json!({"emptyDir": {"sizeLimit": "1Mi"}}), "/data")),
    ("in-memory", |p| mount_everywhere(p, "data", json!({"emptyDir": {"medium": "Memory"}}), "/data")),
    ("with-config", |p| mount_everywhere(p, "data", json!({"configMap": {"name": "swap"}}), "/data")),
    ("with-secret", |p| mount_everywhere(p, "data", json!({"secret": {"secretName": "swap"}}), "/data")),
    ("with-part-of-a-secret", |p| {
        mount_everywhere(p, "data", json!({"secret": {"secretName": "swap"}}), "/data/key");
        app(p)["volumeMounts"][0]["subPath"] = json!("key");
    }),
    ("that-knows-itself", |p| {
        let itself = json!({"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}});
        mount_everywhere(p, "data", itself, "/data");
    }),
    ("with-token", |p| {
        let token = json!({"serviceAccountToken": {"path": "token", "audience": "swap"}});
        mount_everywhere(p, "data", json!({"projected": {"sources": [token]}}), "/data");
    }),
    ("on-the-host", |p| {
        mount_everywhere(p, "data", json!({"hostPath": {"path": "/etc"}}), "/data");
        app(p)["volumeMounts"][0]["readOnly"] = json!(true);
    }),
    ("with-variables", |p| {
        app(p)["envFrom"] = json!([{"configMapRef": {"name": "swap"}}, {"secretRef": {"name": "swap"}}]);
        app(p)["env"] = json!([{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
    }),
    ("of-a-user", |p| {
        p["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000});
        mount_everywhere(p, "data", json!({"emptyDir": {}}), "/data");
    }),
    ("read-only", |p| {
        app(p)["securityContext"] = json!({"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    }),
    ("named", |p| {
        (p["spec"]["hostname"], p["spec"]["subdomain"]) = (json!("named"), json!("swap"));
        p["spec"]["hostAliases"] = json!([{"ip": "10.0.0.1", "hostnames": ["other"]}]);
    }),
    ("with-own-dns", |p| {
        p["spec"]["dnsPolicy"] = json!("None");
        p["spec"]["dnsConfig"] = json!({"nameservers": ["10.0.0.2"], "searches": ["swap.example"]});
    }),
    ("on-a-terminal", |p| (app(p)["tty"], app(p)["stdin"]) = (json!(true), json!(true))),
    ("with-a-port", |p| app(p)["ports"] = json!([{"containerPort": 8080}])),
    ("with-a-deadline", |p| p["spec"]["activeDeadlineSeconds"] = json!(86400)),
    ("never-again", |p| p["spec"]["restartPolicy"] = json!("Never")),
    ("succeeded", |p| ends(p, "exit 0")),
    ("failed", |p| ends(p, "exit 3")),
    ("half-ended", |p| {
        ends(p, "exit 0");
        second(p);
    }),
];

fn app(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["containers"][0]
}

fn second(pod: &mut Value) {
    pod["spec"]["containers"] = json!([app(pod).clone(), shell_container("second", SLEEP)]);
}

fn resources(pod: &mut Value, resources: &Value) {
    app(pod)["resources"] = resources.clone();
}

fn ends(pod: &mut Value, script: &str) {
    pod["spec"]["restartPolicy"] = json!("Never");
    app(pod)["command"] = json!(["sh", "-c", script]);
}

fn pod_of((kind, change): &(&str, Change)) -> Value {
    let mut pod = shell_pod(kind, &[("app", SLEEP)]);
    pod["metadata"]["labels"]["group"] = json!("swap");
    change(&mut pod);
    pod
}

fn there_and_back(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let kind = |kind: &str, key: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "swap"}, key: {"key": "dmFsdWU="}});
    k.apply(&list(&[kind("ConfigMap", "data"), kind("Secret", "data")]))?;
    k.apply(&list(&KINDS.iter().map(pod_of).collect::<Vec<_>>()))?;
    static_pods::put(w, "fixed.json", &pod_of(&("fixed", |_| ())))?;
    until_settled(w)?;
    sleep(OF_AGE);
    let (before, at_runtime) = (pods(w)?, AtRuntime::of(w)?);
    let upstream = w.cluster.cache().bin("kubelet");
    take_over(w, Some(&upstream), "under-upstream")?;
    let under_upstream = pods(w)?;
    expect_same(&under_upstream, &before, "under upstream")?;
    expect_eq(AtRuntime::of(w)?, at_runtime.clone(), "the runtime under upstream")?;
    take_over(w, None, "under-ferrolet-again")?;
    let after = pods(w)?;
    expect_same(&after, &under_upstream, "under ferrolet again")?;
    expect_eq(AtRuntime::of(w)?, at_runtime.clone(), "the runtime under ferrolet again")?;
    w.node().kill_kubelet();
    take_over(w, None, "after-a-kill")?;
    expect_same(&pods(w)?, &after, "after a kill")?;
    expect_eq(AtRuntime::of(w)?, at_runtime, "the runtime after a kill")?;
    nothing_stays(w, &after)
}

fn until_settled(w: &World) -> Result<()> {
    let mut moving = Vec::new();
    wait::until("all pods to be as they will stay", wait::LONG, || {
        let pods = pods(w)?;
        moving = pods.iter().filter(|(_, pod)| !is_settled(pod)).map(|(name, _)| name.clone()).collect();
        Ok(pods.len() == KINDS.len() + 1 && moving.is_empty())
    })
    .with_context(|| format!("not settled: {moving:?}"))
}

/// The other agent has worked through its pods when one that comes after them has come and gone.
fn take_over(w: &World, program: Option<&Path>, probe: &str) -> Result<()> {
    w.node().stop_kubelet();
    w.node().start_kubelet(program, Some(&w.cluster.dir))?;
    let k = w.kubectl();
    k.apply(&shell_pod(probe, &[("app", SLEEP)]).to_string())?;
    k.until_ready(probe)?;
    w.delete_pods(&[probe])?;
    until_settled(w)
}

fn pods(w: &World) -> Result<BTreeMap<String, Value>> {
    let all = w.kubectl().json(&["get", "pods", "-l", "group=swap"])?;
    let pods = all["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.into_iter().map(|pod| (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), pod)).collect())
}

fn is_settled(pod: &Value) -> bool {
    let ended = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default());
    let half = pod["metadata"]["name"] == "half-ended"
        && pod["status"]["containerStatuses"]
            .as_array()
            .is_some_and(|all| all[0]["state"]["terminated"].is_object() && all[1]["state"]["running"].is_object());
    ended || half || bed::kubectl::is_ready(pod)
}

/// Of a pod's status what must not move: all but what tells when it was last looked at.
fn picture(pod: &Value) -> Value {
    let mut status = pod["status"].clone();
    // Upstream forgets the address of a pod that ended before it started.
    if let (Some("Succeeded" | "Failed"), Some(status)) = (pod["status"]["phase"].as_str(), status.as_object_mut()) {
        status.retain(|field, _| !["podIP", "podIPs"].contains(&field.as_str()));
    }
    // Upstream takes what a cgroup of version 1 without a limit says for the pod's limit.
    if status["resources"]["limits"]["memory"] == NO_LIMIT {
        status["resources"] = json!({});
    }
    // Upstream dates a static pod and its conditions anew whenever it starts, after itself as after us.
    let is_static = pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string();
    if let (true, Some(status)) = (is_static, status.as_object_mut()) {
        status.remove("startTime");
    }
    for condition in status["conditions"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastProbeTime");
        if is_static {
            condition.remove("lastTransitionTime");
        }
    }
    status
}

fn expect_same(got: &BTreeMap<String, Value>, want: &BTreeMap<String, Value>, when: &str) -> Result<()> {
    for (name, want) in want {
        let got = got.get(name).map(picture);
        expect_eq(got, Some(picture(want)), &format!("pod {name} {when}"))?;
    }
    expect_eq(got.len(), want.len(), when)
}

/// What runs, and what is mounted for it.
#[derive(Clone, Debug, PartialEq)]
struct AtRuntime {
    running: Vec<String>,
    mounts: Vec<String>,
}

impl AtRuntime {
    fn of(w: &World) -> Result<Self> {
        let pods = w.node().root_dir().join("pods").display().to_string();
        let all = fs::read_to_string("/proc/self/mounts")?;
        let mut mounts: Vec<String> = all.lines().filter(|line| line.contains(&pods)).map(str::to_owned).collect();
        mounts.sort();
        Ok(Self { running: w.running()?, mounts })
    }
}

fn nothing_stays(w: &World, pods: &BTreeMap<String, Value>) -> Result<()> {
    fs::remove_file(w.node().static_pods().join("fixed.json"))?;
    w.kubectl().run(&["delete", "pods", "-l", "group=swap", "--wait=false"])?;
    for (name, pod) in pods {
        w.kubectl().until_gone("pod", name)?;
        expect_eq(w.leftovers(&uid(pod))?, Vec::new(), &format!("what {name} left"))?;
    }
    Ok(())
}
