//! A cluster as people make it: `kubeadm init` and `kubeadm join` on two Debian machines with kubeadm's drop-in, the
//! control plane as static pods, nothing of upstream's changed but the kubelet.

use anyhow::{Context, Result, bail};
use bed::{Provision, Runtime, Vm, VmOptions, build, kubectl::is_ready, wait};
use serde_json::{Value, json};

use crate::world::{Group, Test, World, expect, expect_eq, kubelet, shell_pod};

/// Name and position; the machine of the control plane, and the one that joins.
const CONTROL: (&str, u8) = ("vm-a", 8);
const WORKER: (&str, u8) = ("vm-b", 9);
const CONTROL_PLANE: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Each test goes on from the one before.
pub fn group() -> Group {
    Group {
        name: "kubeadm",
        runtime: Runtime::Containerd2,
        services: false,
        bare: true,
        tests: vec![
            ("init_makes_a_control_plane_of_static_pods", init as Test),
            ("init_turns_the_kubeconfig_to_the_rotated_certificate", kubeconfig_is_turned),
            ("join_brings_a_second_node_by_its_token", join),
            ("a_pod_on_the_second_node_becomes_ready_and_is_reached", pod_on_worker),
            ("upgrade_node_keeps_the_node", upgrade_node),
            ("reset_leaves_a_machine_without_a_node", reset),
            ("the_debian_package_makes_a_node_that_joins_and_leaves", package),
        ],
    }
}

/// The machine, booted by the first test that asks for it.
fn machine(w: &World, (name, index): (&str, u8)) -> Result<Vm> {
    if let Some(vm) = Vm::attach(&w.cluster, name, index)? {
        return Ok(vm);
    }
    let options = VmOptions::new(name, index, &kubelet()?);
    Vm::boot(&w.cluster, &VmOptions { provision: Provision::Kubeadm, memory_mib: 3072, ..options })
}

/// Runs the test on both, and takes the agents' journals out of them when it fails: the machines will be gone.
fn on_machines(w: &World, test: impl FnOnce(&Vm, &Vm) -> Result<()>) -> Result<()> {
    let (control, worker) = (machine(w, CONTROL)?, machine(w, WORKER)?);
    test(&control, &worker).with_context(|| {
        let reports = w.cluster.cache().reports();
        for vm in [&control, &worker] {
            let journal = vm.journal("kubelet", 100_000).unwrap_or_else(|error| format!("{error:#}"));
            let _ = std::fs::write(reports.join(format!("kubeadm-{}-kubelet.log", vm.name)), journal);
        }
        format!("the agents' journals are in {}", reports.display())
    })
}

/// No registry here has these: from the seed disk into the runtime.
fn import_images(vm: &Vm, names: &[&str]) -> Result<()> {
    for name in names {
        let import =
            format!("for a in /seed/images/{name}.tar; do ctr -n k8s.io images import $a >/dev/null || exit 1; done");
        vm.ssh(&[&import]).context("cannot import the images")?;
    }
    Ok(())
}

/// The version is named, or kubeadm asks the internet for the newest. There is one of each program, and where the CPU
/// is emulated and the host is busy, a lease is easily lost, with which they end.
fn configuration() -> Value {
    let alone = json!({"extraArgs": [{"name": "leader-elect", "value": "false"}]});
    json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": format!("v{}", build::KUBERNETES),
        "controllerManager": alone,
        "scheduler": alone,
    })
}

fn init(w: &mut World) -> Result<()> {
    on_machines(w, |control, worker| {
        // Dear where the CPU is emulated: both at once.
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| import_images(worker, &["*kube-proxy*", "*pause*"]));
            import_images(control, &["*"])?;
            worker.join().unwrap_or_else(|_| bail!("the import panicked"))
        })?;
        control.ssh(&[&format!("echo '{}' >/root/kubeadm.json", configuration())])?;
        control.ssh(&["kubeadm", "init", "--config=/root/kubeadm.json"])?;
        let admin = control.ssh(&["cat", "/etc/kubernetes/admin.conf"])?;
        std::fs::write(w.kubectl().kubeconfig, admin)?;
        let k = w.kubectl();
        k.until_node_ready(CONTROL.0)?;
        for program in CONTROL_PLANE {
            let mirror = format!("{program}-{}", CONTROL.0);
            wait::until(&format!("{mirror} to be Ready"), wait::LONG, || {
                Ok(is_ready(&k.json(&["-n", "kube-system", "get", "pod", &mirror])?))
            })?;
        }
        let node = k.json(&["get", "node", CONTROL.0])?;
        expect(
            node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_some(),
            &node["metadata"]["labels"],
        )?;
        k.run(&["-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=300s"])?;
        k.run(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=300s"])?;
        Ok(())
    })
}

fn kubeconfig_is_turned(w: &mut World) -> Result<()> {
    on_machines(w, |control, _| {
        let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
        let config = control.ssh(&["cat", "/etc/kubernetes/kubelet.conf"])?;
        expect(
            config.contains(&format!("client-certificate: {current}")),
            "kubelet.conf names the rotated certificate",
        )?;
        expect(!config.contains("client-key-data"), "kubelet.conf holds no key")?;
        let subject = control.ssh(&["openssl", "x509", "-noout", "-subject", "-in", current])?;
        expect(subject.contains(&format!("system:node:{}", CONTROL.0)), subject)
    })
}

fn join(w: &mut World) -> Result<()> {
    on_machines(w, |control, worker| {
        let command = control.ssh(&["kubeadm", "token", "create", "--print-join-command"])?;
        worker.ssh(&[command.trim()])?;
        let k = w.kubectl();
        k.until_node_ready(WORKER.0)?;
        let requests = k.json(&["get", "csr"])?;
        let bootstrap = |c: &Value| {
            c["spec"]["username"].as_str().is_some_and(|u| u.starts_with("system:bootstrap:"))
                && c["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("csr-"))
        };
        expect(requests["items"].as_array().is_some_and(|all| all.iter().any(bootstrap)), &requests)?;
        let left = worker.ssh(&["ls", "/etc/kubernetes", "/var/lib/kubelet/pki"])?;
        expect(!left.contains("bootstrap-kubelet.conf"), format!("the token is gone: {left}"))?;
        expect(left.contains("kubelet.conf") && left.contains("kubelet-client-current.pem"), left)
    })
}

fn pod_on_worker(w: &mut World) -> Result<()> {
    on_machines(w, |control, _| {
        let k = w.kubectl();
        wait::until("the default service account", wait::LONG, || {
            Ok(k.run(&["get", "serviceaccount", "default"]).is_ok())
        })?;
        k.apply(&shell_pod("joined", &[("app", "echo hello >/index.html; httpd -f -p 8080 -h /")]).to_string())?;
        let pod = k.until_ready("joined")?;
        expect_eq(pod["spec"]["nodeName"].as_str(), Some(WORKER.0), "the control plane's machine is tainted")?;
        let address = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        let asked = format!("curl -s -m 20 http://{address}:8080/index.html");
        expect_eq(control.ssh(&[&asked])?.trim(), "hello", "the pod from the other machine")?;
        expect_eq(k.run(&["exec", "joined", "--", "hostname"])?.trim(), "joined", "exec")?;
        // The name server that the kubelet writes into pods is the cluster's.
        let resolv = k.run(&["exec", "joined", "--", "cat", "/etc/resolv.conf"])?;
        expect(resolv.contains("nameserver 10.96.0.10"), resolv)
    })
}

fn upgrade_node(w: &mut World) -> Result<()> {
    on_machines(w, |_, worker| {
        let k = w.kubectl();
        let before = k.pod("joined")?;
        let config = worker.ssh(&["cat", "/var/lib/kubelet/config.yaml"])?;
        worker.ssh(&["kubeadm upgrade node && systemctl restart kubelet"])?;
        expect_eq(worker.ssh(&["cat", "/var/lib/kubelet/config.yaml"])?, config, "configuration of the same version")?;
        expect_eq(worker.ssh(&["systemctl", "is-active", "kubelet"])?.trim(), "active", "unit")?;
        expect_eq(worker.ssh(&["curl", "-sf", "http://127.0.0.1:10248/healthz"])?.trim(), "ok", "healthz")?;
        k.until_node_ready(WORKER.0)?;
        let after = k.until_ready("joined")?;
        expect_eq(&after["status"]["containerStatuses"], &before["status"]["containerStatuses"], "containers")
    })
}

fn reset(w: &mut World) -> Result<()> {
    on_machines(w, |_, worker| {
        let k = w.kubectl();
        let drain = ["drain", WORKER.0, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=300s"];
        k.run(&drain)?;
        worker.ssh(&["kubeadm", "reset", "--force"])?;
        k.run(&["delete", "node", WORKER.0])?;
        // What upstream's kubelet leaves here too: an empty folder and empty folders of Kubernetes' files.
        expect_eq(worker.ssh(&["ls", "-A", "/var/lib/kubelet"])?.trim(), "", "/var/lib/kubelet")?;
        expect_eq(worker.ssh(&["find /etc/kubernetes -name '*.conf' -o -name '*.crt'"])?.trim(), "", "credentials")?;
        expect_eq(worker.ssh(&["grep /var/lib/kubelet /proc/mounts; true"])?.trim(), "", "mounts")?;
        let containers = worker.ssh(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"])?;
        expect_eq(containers.trim(), "", "containers")?;
        let scopes = worker.ssh(&["find /sys/fs/cgroup -name 'cri-containerd-*.scope'"])?;
        expect_eq(scopes.trim(), "", "scopes")?;
        let state = worker.ssh(&["systemctl is-active kubelet; true"])?;
        expect_eq(state.trim(), "inactive", "unit")?;
        let nodes = json!(k.json(&["get", "nodes"])?["items"].as_array().map_or(0, Vec::len));
        expect_eq(nodes, json!(1), "nodes")
    })
}

fn package(w: &mut World) -> Result<()> {
    on_machines(w, |control, worker| {
        crate::install::by_package(worker)?;
        let command = control.ssh(&["kubeadm", "token", "create", "--print-join-command"])?;
        worker.ssh(&[command.trim()])?;
        let k = w.kubectl();
        k.until_node_ready(WORKER.0)?;
        let program = worker.ssh(&["readlink /proc/$(systemctl show -P MainPID kubelet)/exe"])?;
        expect_eq(program.trim(), "/usr/bin/kubelet", "the program of the package")?;
        k.apply(&shell_pod("packaged", &[("app", "sleep 100000")]).to_string())?;
        k.until_ready("packaged")?;
        // An upgrade of the package restarts the agent and no container.
        let before = k.pod("packaged")?;
        let pid = worker.ssh(&["systemctl show -P MainPID kubelet"])?;
        worker.ssh(&["dpkg -i /root/kubelet.deb"])?;
        // dpkg does not wait for it.
        wait::until("the agent to be restarted", wait::LONG, || {
            let now = worker.ssh(&["systemctl show -P MainPID kubelet"])?;
            Ok(now != pid && now.trim() != "0")
        })?;
        k.until_node_ready(WORKER.0)?;
        let after = k.until_ready("packaged")?;
        expect_eq(&after["status"]["containerStatuses"], &before["status"]["containerStatuses"], "containers")?;
        worker.ssh(&["dpkg -r ferrolet-kubelet"])?;
        let state = worker.ssh(&["systemctl is-active kubelet; ls /usr/bin/kubelet 2>/dev/null; true"])?;
        expect_eq(state.trim(), "inactive", "unit after the package's removal")
    })
}
