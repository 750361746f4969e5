//! `make demo`: a node with ferrolet from nothing, the examples on it, and how to go on.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    Cache, Cluster, ClusterOptions, Kubectl, Node, NodeOptions, doctor, kubectl,
    process::{self, run},
    wait,
};

/// The run's name; `make demo-down` ends it.
pub const NAME: &str = "demo";
const NODE: &str = "node-a";
/// The pod of docs/examples/two-containers.yaml, and what one of its containers asks the other.
const POD: &str = "two-containers";
const SERVED: &str = "http://localhost:8080";

fn example(file: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Prints a command as a person would type it, then what it answers.
fn show(k: &Kubectl, args: &[&str]) -> Result<()> {
    println!("$ kubectl {}", args.join(" "));
    print!("{}", k.run(args)?);
    Ok(())
}

/// A one-node cluster with the examples applied; left running.
pub fn cluster(cache: &Cache, kubelet: &Path) -> Result<()> {
    doctor::check()?;
    say("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd and ferrolet");
    let options = ClusterOptions { name: NAME.into(), nodes: vec![NodeOptions::new(NODE, kubelet)] };
    let cluster = Cluster::start(cache, options)?.keep();
    let k = cluster.kubectl();
    say("applying docs/examples: a pod of two containers that share a volume and localhost, and a Deployment");
    for file in ["two-containers.yaml", "deployment.yaml"] {
        print!("{}", k.apply(&example(file)?)?);
    }
    k.until_ready(POD)?;
    k.run(&["rollout", "status", "deployment/web", "--timeout=300s"])?;
    show(&k, &["get", "nodes,deployments,pods", "-o", "wide"])?;
    say("kubectl exec: one container asks the other over localhost");
    let ask = ["exec", POD, "-c", "writer", "--", "wget", "-qO-", SERVED];
    wait::until("the server's first answer", wait::LONG, || k.run(&ask).map(|answer| !answer.is_empty()))?;
    show(&k, &ask)?;
    say("kubectl logs: of the pod and of the Deployment");
    show(&k, &["logs", POD, "-c", "writer", "--tail=2"])?;
    show(&k, &["logs", "deployment/web", "--tail=2"])?;
    say("go on");
    println!("kubectl:   alias k='{}'", line(&k.command(&[])));
    println!("           k get pods -A");
    go_on(&cluster.nodes[0]);
    Ok(())
}

/// The same node with no API server: pods come from a directory, and the kubelet's own port answers for them.
pub fn standalone(cache: &Cache, kubelet: &Path) -> Result<()> {
    doctor::check()?;
    say("starting containerd and ferrolet, no API server");
    let mut options = NodeOptions::new(NODE, kubelet);
    options.standalone = true;
    let cluster = Cluster::start_network_only(cache, NAME)?.keep();
    let node = cluster.standalone_node(options)?;
    say("putting docs/examples/two-containers.yaml into the manifest directory");
    let manifest = node.static_pods().join("two-containers.yaml");
    fs::write(&manifest, example("two-containers.yaml")?)?;
    println!("{}", manifest.display());
    let mut pods = Value::Null;
    wait::until("the pod to be Ready", wait::LONG, || {
        pods = serde_json::from_str(&get(&node, "/pods")?)?;
        Ok(items(&pods).any(kubectl::is_ready))
    })?;
    for pod in items(&pods) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        println!("{} {} {}", text("/metadata/name"), text("/status/phase"), text("/status/podIP"));
    }
    // A static pod is named after its node.
    let writer = format!("default/{POD}-{NODE}/writer");
    say("exec: one container asks the other over localhost");
    let exec = format!("/run/{writer}?cmd=wget%20-qO-%20{SERVED}");
    let post = |path: &str| run(command(&node, path).arg("-XPOST"));
    wait::until("the server's first answer", wait::LONG, || post(&exec).map(|answer| !answer.is_empty()))?;
    print!("$ curl -XPOST {exec}\n{}", post(&exec)?);
    say("logs");
    let logs = format!("/containerLogs/{writer}?tailLines=2");
    print!("$ curl {logs}\n{}", get(&node, &logs)?);
    say("go on");
    println!("pods:      {}", line(&command(&node, "/pods")));
    println!("manifests: {} (add, change or remove files)", node.static_pods().display());
    go_on(&node);
    Ok(())
}

/// How to ask the kubelet's own port.
fn command(node: &Node, path: &str) -> Command {
    let mut curl = process::in_netns(Some(&node.netns), Path::new("curl"));
    curl.arg("-sSfk").arg(format!("https://{}:10250{path}", node.ip));
    curl
}

fn get(node: &Node, path: &str) -> Result<String> {
    run(&mut command(node, path))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn go_on(node: &Node) {
    println!("its log:   {}", node.daemons.log("kubelet").display());
    println!("clean up:  make demo-down");
}
