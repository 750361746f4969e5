//! A node that gets its certificates from the cluster: the first by a token while its static pods already run, the
//! serving one by an approval, the next before the one before it expires.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bed::{process, wait};
use serde_json::{Value, json};

use crate::{
    static_pods,
    world::{World, expect, expect_eq, shell_pod},
};

const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");
const BOOTSTRAPPERS: &str = "--group=system:bootstrappers";
/// The mirror of the static pod.
const EARLY: &str = "early-node-a";

/// The agent has forgotten whose it is, and is given a token.
fn forget_identity(w: &mut World) -> Result<()> {
    w.node().stop_kubelet();
    let etc = w.node().dir.join("etc");
    let bootstrap = etc.join("bootstrap.conf");
    for gone in [etc.join("kubelet.conf"), client_link(w)] {
        let _ = fs::remove_file(gone);
    }
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {
            "server": format!("https://{}:6443", w.cluster.ip), "certificate-authority": w.cluster.dir.join("pki/ca.crt"),
        }}],
        "users": [{"name": "u", "user": {"token": format!("{}.{}", TOKEN.0, TOKEN.1)}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    });
    fs::write(&bootstrap, kubeconfig.to_string())?;
    w.cluster.nodes[0].options.flags = vec![format!("--bootstrap-kubeconfig={}", bootstrap.display())];
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", TOKEN.0), "namespace": "kube-system"},
        "stringData": {"token-id": TOKEN.0, "token-secret": TOKEN.1, "usage-bootstrap-authentication": "true"},
    });
    w.kubectl().apply(&token.to_string())?;
    bind(w, "bed:bootstrap", "system:node-bootstrapper", BOOTSTRAPPERS)
}

fn bind(w: &World, name: &str, role: &str, whom: &str) -> Result<()> {
    let k = w.kubectl();
    if k.run(&["get", "clusterrolebinding", name]).is_err() {
        k.run(&["create", "clusterrolebinding", name, &format!("--clusterrole={role}"), whom])?;
    }
    Ok(())
}

/// The cluster's own approver may say yes to who has a token, and to nodes about themselves.
fn let_approve(w: &World) -> Result<()> {
    let role = |kind: &str| format!("system:certificates.k8s.io:certificatesigningrequests:{kind}");
    bind(w, "bed:nodeclient", &role("nodeclient"), BOOTSTRAPPERS)?;
    bind(w, "bed:selfnodeclient", &role("selfnodeclient"), "--group=system:nodes")
}

fn client_link(w: &World) -> PathBuf {
    w.node().root_dir().join("pki/kubelet-client-current.pem")
}

fn start(w: &World) -> Result<()> {
    w.node().start_kubelet(None, Some(&w.cluster.dir))
}

/// The name of a request of that user for that signer on which nobody has decided.
fn pending(w: &World, user: &str, signer: &str) -> Result<String> {
    let is_pending = |csr: &&Value| {
        let spec = &csr["spec"];
        spec["username"] == user && spec["signerName"] == signer && csr["status"]["conditions"].is_null()
    };
    let mut name = None;
    wait::until(&format!("a request of {user} for {signer}"), wait::LONG, || {
        let all = w.kubectl().json(&["get", "csr"])?;
        let found = all["items"].as_array().and_then(|all| all.iter().find(is_pending));
        name = found.and_then(|csr| csr["metadata"]["name"].as_str().map(str::to_owned));
        Ok(name.is_some())
    })?;
    name.context("a name")
}

/// The code of the answer to a GET on the node; curl fails where it doesn't believe the certificate.
fn answer(w: &World, arguments: &[&str]) -> Result<String> {
    let mut curl = process::in_netns(Some(&w.node().netns), Path::new("curl"));
    process::run(curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments))
}

pub fn static_pods_run_before_the_node_is_known(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    forget_identity(w)?;
    k.run(&["delete", "node", w.node_name()])?;
    static_pods::put(w, "early.json", &shell_pod("early", &[("app", "echo early; sleep 100000")]))?;
    let log = w.node().daemons.log("kubelet");
    let before = fs::read_to_string(&log)?.len();
    start(w)?;
    wait::until("the static pod's output", wait::LONG, || {
        let pods = fs::read_dir(w.node().pod_logs())?.flatten();
        let mut pods = pods.filter(|dir| dir.file_name().to_string_lossy().contains(EARLY));
        Ok(pods.any(|dir| fs::read_to_string(dir.path().join("app/0.log")).is_ok_and(|log| log.contains("early"))))
    })?;
    let user = format!("system:bootstrap:{}", TOKEN.0);
    let name = pending(w, &user, "kubernetes.io/kube-apiserver-client-kubelet")?;
    expect(name.starts_with("csr-"), name)?;
    expect(k.run(&["get", "node", w.node_name()]).is_err(), "there is no Node without a certificate")?;
    wait::until("healthz", wait::LONG, || Ok(answer(w, &["http://127.0.0.1:10248/healthz"])? == "200"))?;
    expect_eq(answer(w, &["-k", "https://127.0.0.1:10250/healthz"])?.as_str(), "401", "the server is up")?;
    let said = fs::read_to_string(&log)?[before..].to_owned();
    expect_eq(said.matches("no certificate yet").count(), 1, "said once")?;
    for complaint in ["following broke off", "can't be registered", "can't be reached"] {
        expect(!said.contains(complaint), format!("{complaint:?} while the certificate is waited for"))?;
    }

    let_approve(w)?;
    k.until_node_ready(w.node_name())?;
    k.until_ready(EARLY)?;
    expect(client_link(w).is_symlink(), "the certificate is stored")
}

pub fn serving_certificate_is_signed(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    w.node().stop_kubelet();
    let_approve(w)?;
    w.cluster.nodes[0].options.config = "serverTLSBootstrap: true\n".to_owned();
    start(w)?;
    static_pods::put(w, "early.json", &shell_pod("early", &[("app", "echo early; sleep 100000")]))?;
    let name = pending(w, &format!("system:node:{}", w.node_name()), "kubernetes.io/kubelet-serving")?;
    k.run(&["certificate", "approve", &name])?;
    let (ca, ip, node) = (w.cluster.dir.join("pki/ca.crt"), w.node().ip.clone(), w.node_name());
    let ca = ca.display().to_string();
    let by_ip = format!("https://{ip}:10250/healthz");
    wait::until("a serving certificate of the cluster's CA with the node's address", wait::LONG, || {
        Ok(answer(w, &["--cacert", &ca, &by_ip])? == "401")
    })?;
    let (resolve, by_name) = (format!("{node}:10250:{ip}"), format!("https://{node}:10250/healthz"));
    let code = answer(w, &["--cacert", &ca, "--resolve", &resolve, &by_name])?;
    expect_eq(code.as_str(), "401", "the certificate has the node's name")?;
    k.until_ready(EARLY)?;
    let log = k.run(&["logs", EARLY])?;
    expect(log.contains("early"), format!("kubectl logs says {log:?}"))
}

pub fn client_certificate_is_rotated(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    forget_identity(w)?;
    w.cluster.nodes[0].options.config.clear();
    let_approve(w)?;
    static_pods::put(w, "early.json", &shell_pod("early", &[("app", "echo early; sleep 100000")]))?;
    // The signer dates certificates back by five minutes: renewed after 36 s to 132 s.
    w.cluster.daemons.stop("kube-controller-manager");
    w.cluster.start_controller_manager(&["--cluster-signing-duration=3m".to_owned()])?;
    start(w)?;
    wait::until("the first certificate", wait::LONG, || Ok(client_link(w).exists()))?;
    let first = fs::read_link(client_link(w))?;
    let node = w.node_name().to_owned();
    k.until_node_ready(&node)?;
    let before = k.until_ready(EARLY)?;
    wait::until("another certificate", wait::LONG, || Ok(fs::read_link(client_link(w))? != first))?;

    let lease = || k.json(&["get", "lease", "-n", "kube-node-lease", &node]);
    let old = lease()?;
    wait::until("a lease renewed with it", wait::LONG, || {
        Ok(lease()?["spec"]["renewTime"] != old["spec"]["renewTime"])
    })?;
    let ready = k.json(&["get", "node", &node])?;
    expect(bed::kubectl::is_ready(&ready), &ready["status"]["conditions"])?;
    let after = k.until_ready(EARLY)?;
    expect_eq(&after["status"]["containerStatuses"], &before["status"]["containerStatuses"], "containers")?;
    k.apply(&shell_pod("rotated", &[("app", "sleep 100000")]).to_string())?;
    k.until_ready("rotated")?;
    w.delete_pods(&["rotated"])
}
