//! A node that joins, by `bootstrap` or as a k3s worker: node endpoints as k3s' are, before the real API server, with its CAs. The agent is
//! started with what `kubelet join k3s` wrote and said, and tells a collector what it does.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use bed::{Runtime, kubectl::is_ready, process, wait};
use serde_json::{Value, json};
use testing::{Ca, FakeCollector, FakeK3s, K3s, attribute};

use crate::{
    bootstrap,
    world::{Group, World, expect, kubelet, shell_pod, uid},
};

/// Another than the API server's, as k3s has it when the two are apart.
const PORT: u16 = 9345;

pub fn group() -> Group {
    Group {
        name: "join",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("the_agent_runs_on_what_a_k3s_join_wrote", runs_on_a_join as crate::world::Test),
            ("a_pods_start_is_seen_by_a_collector", pods_start_is_traced),
            ("static_pods_run_before_the_first_certificate", bootstrap::static_pods_run_before_the_node_is_known),
            ("a_serving_certificate_is_signed_by_the_cluster", bootstrap::serving_certificate_is_signed),
            ("a_client_certificate_is_replaced_before_it_expires", bootstrap::client_certificate_is_rotated),
        ],
    }
}

/// What the program is when it is started with these words: `serve-k3s ADDRESS PKI`, until it is ended.
pub fn serve_k3s(address: &str, pki: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let read = |name: &str| fs::read_to_string(Path::new(pki).join(name)).with_context(|| format!("{pki}/{name}"));
    let ca = Ca { certificate: read("ca.crt")?, key: read("ca.pkcs8")? };
    let mut k3s = K3s::new(ca.clone(), ca.clone());
    k3s.config["SupervisorPort"] = json!(PORT);
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let _server = FakeK3s::start(address, k3s, &ca, &[address.ip()]).await;
        std::future::pending::<Result<()>>().await
    })
}

fn runs_on_a_join(w: &mut World) -> Result<()> {
    let (pki, node_dir) = (w.cluster.dir.join("pki"), w.node().dir.clone());
    let mut openssl = Command::new("openssl");
    openssl.args(["pkcs8", "-topk8", "-nocrypt", "-in"]).arg(pki.join("ca.key"));
    process::run(openssl.arg("-out").arg(pki.join("ca.pkcs8")))?;
    let mut server = process::in_netns(Some(&w.cluster.netns), &std::env::current_exe()?);
    let address = format!("{}:{PORT}", w.cluster.ip);
    server.args(["serve-k3s", &address]).arg(&pki);
    w.cluster.daemons.start("k3s", server)?;

    let hash = process::run(Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(pki.join("ca.crt")))?;
    let hash = hash.split_whitespace().next().context("a hash")?;
    let token = node_dir.join("token");
    fs::write(&token, format!("K10{hash}::server:agents-password\n"))?;
    let (name, ip) = (w.node_name().to_owned(), w.node().ip.clone());
    let join = || {
        let mut join = process::in_netns(Some(&w.node().netns), &kubelet()?);
        join.args(["join", "k3s", "--server", &format!("https://{address}"), "--token-file"]).arg(&token);
        join.args(["--node-name", &name, "--node-ip", &ip, "--data-dir"]).arg(node_dir.join("k3s"));
        join.arg("--node-dir").arg(node_dir.join("rancher")).arg("--root-dir").arg(w.node().root_dir());
        process::run(join.arg("--container-runtime-endpoint").arg(w.node().socket()))
    };
    let mut said = String::new();
    wait::until("the node endpoints", Duration::from_secs(60), || {
        said = join()?;
        Ok(true)
    })?;

    let before = w.kubectl().json(&["get", "lease", "-n", "kube-node-lease", &name])?;
    start_with(w, &said, None)?;
    wait::until("the joined agent renews the lease", wait::LONG, || {
        let lease = w.kubectl().json(&["get", "lease", "-n", "kube-node-lease", &name])?;
        Ok(lease["spec"]["renewTime"] != before["spec"]["renewTime"])
    })?;
    w.kubectl().until_node_ready(&name)?;
    w.kubectl().apply(&shell_pod("joined", &[("app", "echo hello from here; sleep 100000")]).to_string())?;
    w.kubectl().until_ready("joined")?;
    // The server that serves this has the certificate of the join, and believes clients of its CA.
    let log = w.kubectl().run(&["logs", "joined"])?;
    expect(log.contains("hello from here"), format!("kubectl logs says {log:?}"))?;

    let client = node_dir.join("k3s/agent/client-kubelet.pem");
    let old = fs::read(&client)?;
    let reloads = || -> Result<usize> {
        let log = fs::read_to_string(w.node().daemons.log("kubelet"))?;
        Ok(log.matches("API client reloaded").count())
    };
    let reloaded = reloads()?;
    join()?;
    expect(fs::read(&client)? != old, "a second join renews")?;
    wait::until("the running agent takes the new certificate", wait::LONG, || Ok(reloads()? > reloaded))?;
    w.delete_pods(&["joined"])
}

/// Ends the agent and starts it with the arguments of the report; `more` goes to a drop-in.
fn start_with(w: &World, report: &str, more: Option<Value>) -> Result<()> {
    let node = w.node();
    let arguments = report.split_once("  kubelet \\\n").context("a command")?.1;
    let arguments: Vec<&str> = arguments.split_whitespace().filter(|word| *word != "\\").collect();
    // What is of this machine: cgroups of a node's own, of version 1, and its folder of logs.
    let mut dropin = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "failCgroupV1": false,
        "cgroupRoot": format!("/{}", node.cgroup()), "podLogsDir": node.pod_logs(), "cgroupDriver": "cgroupfs",
    });
    if let (Value::Object(dropin), Some(Value::Object(more))) = (&mut dropin, more) {
        dropin.extend(more);
    }
    let dropins = node.dir.join("dropins");
    fs::create_dir_all(&dropins)?;
    fs::write(dropins.join("bed.conf"), dropin.to_string())?;
    fs::write(node.dir.join("join-report"), report)?;
    node.stop_kubelet();
    let mut agent = process::in_netns(Some(&node.netns), &kubelet()?);
    agent.args(arguments).arg(format!("--config-dir={}", dropins.display())).arg("--v=2");
    node.daemons.start("kubelet", agent)?;
    Ok(())
}

fn pods_start_is_traced(w: &mut World) -> Result<()> {
    let report = fs::read_to_string(w.node().dir.join("join-report")).context("the test before joins the node")?;
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let collector = executor.block_on(async { FakeCollector::start() });
    let tracing = json!({ "tracing": { "endpoint": collector.endpoint(), "samplingRatePerMillion": 1_000_000 } });
    start_with(w, &report, Some(tracing))?;
    w.kubectl().until_node_ready(w.node_name())?;
    w.kubectl().apply(&shell_pod("traced", &[("app", "sleep 100000")]).to_string())?;
    let pod = w.kubectl().until_pod("traced", "ready", is_ready)?;
    let uid = uid(&pod);
    let seen = wait::until("the spans of the pod's start", Duration::from_secs(60), || {
        let spans = collector.spans();
        let of_pod = |span: &&api_types::otlp::Span| attribute(&span.attributes, "k8s.pod.uid") == Some(uid.as_str());
        let syncs: Vec<_> = spans.iter().map(|(_, span)| span).filter(of_pod).map(|span| &span.span_id).collect();
        let below =
            |name: &str| spans.iter().any(|(_, span)| span.name == name && syncs.contains(&&span.parent_span_id));
        let calls = ["RunPodSandbox", "CreateContainer", "StartContainer"];
        Ok(calls.iter().all(|call| below(&format!("runtime.v1.RuntimeService/{call}"))))
    });
    w.delete_pods(&["traced"])?;
    seen
}
