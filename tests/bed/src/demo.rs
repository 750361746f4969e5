//! `make demo`: a node with ferrolet from nothing, the examples on it, and how to go on.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    Cache, Cluster, ClusterOptions, NodeOptions, cleanup, doctor,
    process::{self, run},
    wait,
};

pub const NAME: &str = "demo";

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples")
}

fn example(file: &str) -> Result<String> {
    let path = examples().join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// A one-node cluster with the examples applied; left running.
pub fn cluster(cache: &Cache, kubelet: &Path) -> Result<()> {
    doctor::check()?;
    say("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd and ferrolet");
    let options = ClusterOptions { name: NAME.into(), nodes: vec![NodeOptions::new("node-a", kubelet)] };
    let cluster = Cluster::start(cache, options)?.keep();
    let k = cluster.kubectl();
    let show = |args: &[&str]| -> Result<()> {
        println!("$ kubectl {}", args.join(" "));
        print!("{}", k.run(args)?);
        Ok(())
    };
    say("applying docs/examples: a pod of two containers that share a volume and localhost, and a Deployment");
    for file in ["two-containers.yaml", "deployment.yaml"] {
        print!("{}", k.apply(&example(file)?)?);
    }
    k.until_ready("two-containers")?;
    k.run(&["rollout", "status", "deployment/web", "--timeout=300s"])?;
    show(&["get", "nodes,pods", "-o", "wide"])?;
    say("one container asks the other over localhost");
    wait::until("the writer's first line", wait::LONG, || {
        Ok(k.run(&["exec", "two-containers", "-c", "writer", "--", "wget", "-qO-", "http://localhost:8080"]).is_ok())
    })?;
    show(&["exec", "two-containers", "-c", "writer", "--", "wget", "-qO-", "http://localhost:8080"])?;
    say("logs of the Deployment");
    show(&["logs", "deployment/web", "--tail=3"])?;
    say("go on");
    println!(
        "kubectl:   nsenter --net=/var/run/netns/{} {} --kubeconfig {}",
        cluster.netns,
        k.program.display(),
        k.kubeconfig.display()
    );
    println!("the agent: {}", cluster.nodes[0].daemons.log("kubelet").display());
    println!("clean up:  make demo-down");
    Ok(())
}

/// The same node with no API server: pods come from a directory.
pub fn standalone(cache: &Cache, kubelet: &Path) -> Result<()> {
    doctor::check()?;
    crate::build::stack(cache)?;
    let dir = cache.runs().join(NAME);
    cleanup::end_run(&dir)?;
    say("starting containerd and ferrolet, no API server");
    let mut options = NodeOptions::new("node-a", kubelet);
    options.standalone = true;
    let cluster = Cluster::start_network_only(cache, NAME)?.keep();
    let node = cluster.standalone_node(options)?;
    say("putting docs/examples/two-containers.yaml into the manifest directory");
    fs::write(node.static_pods().join("two-containers.yaml"), example("two-containers.yaml")?)?;
    let ask = |path: &str| -> Result<String> {
        let url = format!("https://{}:10250{path}", node.ip);
        run(process::in_netns(Some(&node.netns), Path::new("curl")).args(["-sSfk", &url]))
    };
    wait::until("the pod to run", wait::LONG, || {
        let pods: serde_json::Value = serde_json::from_str(&ask("/pods")?)?;
        Ok(pods["items"].as_array().is_some_and(|p| p.iter().any(crate::kubectl::is_ready)))
    })?;
    let pods: serde_json::Value = serde_json::from_str(&ask("/pods")?)?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        println!("{} {} {}", pod["metadata"]["name"], pod["status"]["phase"], pod["status"]["podIP"]);
        let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
        let url = format!("http://{ip}:8080/");
        print!(
            "{url} says {}",
            run(process::in_netns(Some(&node.netns), Path::new("curl")).args([
                "-sS",
                "--retry",
                "10",
                "--retry-all-errors",
                "--retry-delay",
                "1",
                &url
            ]))?
        );
    }
    say("go on");
    println!("manifests: {}", node.static_pods().display());
    println!("the agent: {}", node.daemons.log("kubelet").display());
    println!("pods:      nsenter --net=/var/run/netns/{} curl -sk https://{}:10250/pods", node.netns, node.ip);
    println!("clean up:  make demo-down");
    Ok(())
}
