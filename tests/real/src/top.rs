//! metrics-server beside the API server, with the rights of its own manifest and no more: what `kubectl top` says of a
//! pod and a node that work a known amount.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result};
use bed::{build, process::in_netns, wait};
use serde_json::json;

use crate::world::{World, expect, expect_eq, shell_pod};

const NAME: &str = "metrics-server";
const POD: &str = "working";
const PORT: u16 = 4443;
/// What the pod uses: all of its limit, and a file of this size in memory.
const MILLICORES: u64 = 200;
const MEBIBYTES: u64 = 32;

pub fn shows_usage(w: &mut World) -> Result<()> {
    build::metrics_server(w.cluster.cache())?;
    let script = format!("dd if=/dev/zero of=/memory/file bs=1M count={MEBIBYTES}; while :; do :; done");
    let mut pod = shell_pod(POD, &[("app", &script), ("side", "sleep 100000")]);
    let app = &mut pod["spec"]["containers"][0];
    app["resources"] = json!({"limits": {"cpu": format!("{MILLICORES}m"), "memory": "128Mi"}});
    app["volumeMounts"] = json!([{"name": "memory", "mountPath": "/memory"}]);
    pod["spec"]["volumes"] = json!([{"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    w.kubectl().apply(&pod.to_string())?;
    w.kubectl().until_ready(POD)?;
    start(w)?;
    // Stopped even where it found a fault: the next test of the group has the same namespace.
    let found = plausible(w);
    w.cluster.daemons.stop(NAME);
    let log = fs::read_to_string(w.cluster.daemons.log(NAME)).unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    found.with_context(|| format!("metrics-server's log ends, newest first, with: {}", last.join("\n")))?;
    // An aggregated API without its server would hold up the end of namespaces.
    w.kubectl().run(&["delete", "apiservice", "v1beta1.metrics.k8s.io"])?;
    w.delete_pods(&[POD])
}

fn start(w: &World) -> Result<()> {
    let k = w.kubectl();
    k.run(&["create", "-n", "kube-system", "serviceaccount", NAME])?;
    k.apply(&rights_and_service(&w.cluster.ip).to_string())?;
    let kubeconfig = kubeconfig(w)?;
    let mut command = in_netns(Some(&w.cluster.netns), &w.cluster.cache().bin(NAME));
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command.arg(format!("--cert-dir={}", w.cluster.dir.join(NAME).join("certificates").display()));
    command.arg(format!("--secure-port={PORT}"));
    command.args(["--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP"]);
    // The shortest that it takes; usage shows after two rounds.
    command.args(["--metric-resolution=10s", "--kubelet-request-timeout=5s", "--v=2"]);
    w.cluster.daemons.start(NAME, command)?;
    Ok(())
}

fn kubeconfig(w: &World) -> Result<PathBuf> {
    let dir = w.cluster.dir.join(NAME);
    fs::create_dir_all(&dir)?;
    let token = w.kubectl().run(&["create", "-n", "kube-system", "token", NAME])?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {
            "server": format!("https://{}:6443", w.cluster.ip),
            "certificate-authority": w.cluster.dir.join("pki/ca.crt"),
        }}],
        "users": [{"name": NAME, "user": {"token": token.trim()}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
    });
    let file = dir.join("kubeconfig");
    fs::write(&file, config.to_string())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The Service leads the API server to an address by name, as there is no kube-proxy.
fn rights_and_service(ip: &str) -> serde_json::Value {
    let rbac = "rbac.authorization.k8s.io";
    let version = format!("{rbac}/v1");
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "kube-system"}]);
    let role = |name: &str, kind: &str| json!({"apiGroup": rbac, "kind": kind, "name": name});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
        ]},
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": NAME},
            "roleRef": role(NAME, "ClusterRole"), "subjects": subjects},
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": "metrics-server-delegator"},
            "roleRef": role("system:auth-delegator", "ClusterRole"), "subjects": subjects},
        {"apiVersion": version, "kind": "RoleBinding", "metadata": {"name": NAME, "namespace": "kube-system"},
            "roleRef": role("extension-apiserver-authentication-reader", "Role"), "subjects": subjects},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": "kube-system"},
            "spec": {"type": "ExternalName", "externalName": ip, "ports": [{"port": PORT}]}},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                "versionPriority": 100, "insecureSkipTLSVerify": true,
                "service": {"name": NAME, "namespace": "kube-system", "port": PORT}}},
    ]})
}

fn plausible(w: &World) -> Result<()> {
    let top = |args: &[&str]| -> Result<Vec<Vec<String>>> {
        let text = w.kubectl().run(&[&["top"], args, &["--no-headers"]].concat())?;
        Ok(text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
    };
    wait::until("kubectl top to know the pod", wait::LONG, || Ok(!top(&["pod", POD])?.is_empty()))?;
    wait::until("kubectl top to know the node", wait::LONG, || Ok(!top(&["node"])?.is_empty()))?;
    // The first round may have seen the pod before it used what it uses.
    let mut pods = Vec::new();
    let known = wait::until("the pod to show what it uses", wait::LONG, || {
        pods = top(&["pod", POD])?;
        let (cpu, memory) = usage(&pods, POD, 1)?;
        Ok((MILLICORES / 2..=MILLICORES * 5 / 4).contains(&cpu) && (MEBIBYTES..MEBIBYTES * 3 / 2).contains(&memory))
    });
    known.with_context(|| format!("kubectl top pod: {pods:?}"))?;
    let containers = top(&["pod", POD, "--containers"])?;
    expect_eq(containers.len(), 2, "containers that kubectl top names")?;
    let (app_cpu, app_memory) = usage(&containers, "app", 2)?;
    let (side_cpu, side_memory) = usage(&containers, "side", 2)?;
    expect(app_cpu > MILLICORES / 2 && side_cpu < 10, format!("the one works, the other not: {containers:?}"))?;
    expect(app_memory >= MEBIBYTES && side_memory < 8, format!("the one holds memory: {containers:?}"))?;
    let nodes = top(&["node"])?;
    let (cpu, memory) = usage(&nodes, w.node_name(), 1)?;
    let capacity = w.kubectl().json(&["get", "node", w.node_name()])?["status"]["capacity"].clone();
    let cores: u64 = capacity["cpu"].as_str().context("capacity")?.parse()?;
    let kibibytes: u64 = capacity["memory"].as_str().and_then(|m| m.strip_suffix("Ki")).context("capacity")?.parse()?;
    expect(cpu >= app_cpu / 2 && cpu <= cores * 1100, format!("the node's CPU, of {cores} cores: {nodes:?}"))?;
    expect(memory > app_memory && memory < kibibytes / 1024, format!("the node's memory: {nodes:?}"))?;
    eprint!("pod {} {}, node {} {} ... ", pods[0][1], pods[0][2], nodes[0][1], nodes[0][3]);
    Ok(())
}

/// Millicores and MiB of the line about `name`, from column `at` on; of a node, each is followed by its share in percent.
fn usage(lines: &[Vec<String>], name: &str, at: usize) -> Result<(u64, u64)> {
    let line = lines.iter().find(|line| line.iter().any(|word| word == name));
    let line = line.with_context(|| format!("no line about {name}: {lines:?}"))?;
    let mut words = line.iter().skip(at).filter(|word| !word.ends_with('%'));
    let mut number = |unit: &str| -> Result<u64> {
        let word = words.next().with_context(|| format!("{line:?} is too short"))?;
        let digits = word.strip_suffix(unit).with_context(|| format!("{word} is not in {unit}"))?;
        Ok(digits.parse()?)
    };
    Ok((number("m")?, number("Mi")?))
}
