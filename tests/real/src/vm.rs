//! A Debian node in a VM: systemd makes the cgroups, version 2, and the agent runs as a unit of stock form.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bed::{Runtime, Vm, VmOptions, images, kubectl::is_ready, wait};
use serde_json::{Value, json};

use crate::world::{Group, Test, World, container_status, expect, expect_eq, kubelet, list, shell_pod, uid};

const NAME: &str = "vm-a";
const INDEX: u8 = 8;

pub fn group() -> Group {
    Group {
        name: "vm",
        runtime: Runtime::Containerd2,
        tests: vec![
            ("a_debian_node_becomes_ready", becomes_ready as Test),
            ("a_pod_lives_in_a_slice_with_its_limits", pod_in_slice),
            ("a_daemon_reload_of_systemd_keeps_the_limits", daemon_reload),
            ("exec_logs_and_the_pod_network_reach_the_vm", reached),
            ("memory_beyond_the_limit_is_oomkilled", oom_killed),
            ("kill_9_and_restart_of_the_unit_adopt_what_runs", restarts_adopt),
            ("a_deleted_pod_leaves_no_slice_mount_or_directory", leaves_nothing),
        ],
    }
}

/// The group's VM; the first test that asks for it boots it.
fn vm(w: &World) -> Result<Vm> {
    if let Some(vm) = Vm::attach(&w.cluster, NAME, INDEX)? {
        return Ok(vm);
    }
    let vm = Vm::boot(&w.cluster, &VmOptions::new(NAME, INDEX, &kubelet()?))?;
    vm.until_ready(&w.cluster)?;
    Ok(vm)
}

/// Runs the test, and takes the agent's journal out of the VM when it fails: the VM will be gone.
fn on_vm(w: &World, test: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
    let vm = vm(w)?;
    test(&vm).with_context(|| {
        let kept = w.cluster.cache().reports().join("vm-kubelet.log");
        let journal = vm.journal("kubelet", 100_000).unwrap_or_else(|error| format!("{error:#}"));
        let _ = std::fs::write(&kept, journal);
        format!("the agent's journal is in {}", kept.display())
    })
}

fn vm_pod(name: &str, containers: &[(&str, &str)]) -> Value {
    let mut pod = shell_pod(name, containers);
    pod["spec"]["nodeName"] = json!(NAME);
    pod
}

/// A pod whose only container has these resources.
fn sized_pod(name: &str, resources: Value) -> Value {
    let mut pod = vm_pod(name, &[("app", "sleep 100000")]);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

fn start(w: &World, pods: &[Value]) -> Result<Vec<Value>> {
    w.kubectl().apply(&list(pods))?;
    pods.iter().map(|p| w.kubectl().until_ready(p["metadata"]["name"].as_str().unwrap_or_default())).collect()
}

/// systemd nests slices by the dashes of their names, so those of the UID become underscores.
fn slice(tier: &str, pod: &Value) -> PathBuf {
    let unit = format!("kubepods-{tier}pod{}.slice", uid(pod).replace('-', "_"));
    let tier = tier.trim_end_matches('-');
    let folder = if tier.is_empty() { String::new() } else { format!("kubepods-{tier}.slice") };
    PathBuf::from("/sys/fs/cgroup/kubepods.slice").join(folder).join(unit)
}

fn scope(slice: &std::path::Path, pod: &Value) -> PathBuf {
    let id = container_status(pod, "app")["containerID"].as_str().unwrap_or_default().replace("containerd://", "");
    slice.join(format!("cri-containerd-{id}.scope"))
}

/// Files of one cgroup, in the order asked for.
fn read(vm: &Vm, group: &std::path::Path, files: &[&str]) -> Result<Vec<String>> {
    let paths: Vec<String> = files.iter().map(|f| group.join(f).display().to_string()).collect();
    let text = vm.ssh(&["cat", &paths.join(" ")])?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn becomes_ready(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        expect_eq(vm.ssh(&["stat", "-fc", "%T", "/sys/fs/cgroup"])?.trim(), "cgroup2fs", "cgroup file system")?;
        expect_eq(vm.ssh(&["systemctl", "is-active", "kubelet"])?.trim(), "active", "unit")?;
        let node = w.kubectl().json(&["get", "node", NAME])?;
        let info = &node["status"]["nodeInfo"];
        expect(info["osImage"].as_str().is_some_and(|o| o.contains("Debian")), &info["osImage"])?;
        expect_eq(
            info["bootID"].as_str(),
            Some(vm.ssh(&["cat", "/proc/sys/kernel/random/boot_id"])?.trim()),
            "boot id",
        )?;
        expect_eq(node["status"]["addresses"][0]["address"].as_str(), Some(vm.ip.as_str()), "address")
    })
}

fn pod_in_slice(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let pods = start(
            w,
            &[
                sized_pod("guaranteed", json!({"limits": {"cpu": "250m", "memory": "64Mi"}})),
                sized_pod("burstable", json!({"requests": {"cpu": "100m"}, "limits": {"memory": "32Mi"}})),
                sized_pod("besteffort", json!({})),
            ],
        )?;
        // A weight of the container itself is the runtime's business, how it converts shares changes with runc.
        let files = ["memory.max", "cpu.max", "cpu.weight"];
        let guaranteed = slice("", &pods[0]);
        expect_eq(
            read(vm, &guaranteed, &files)?,
            ["67108864", "25000 100000", "10"].map(String::from).to_vec(),
            "guaranteed",
        )?;
        expect_eq(
            read(vm, &scope(&guaranteed, &pods[0]), &files[..2])?,
            ["67108864", "25000 100000"].map(String::from).to_vec(),
            "container",
        )?;
        let burstable = slice("burstable-", &pods[1]);
        expect_eq(
            read(vm, &burstable, &files)?,
            ["33554432", "max 100000", "4"].map(String::from).to_vec(),
            "burstable",
        )?;
        let besteffort = slice("besteffort-", &pods[2]);
        expect_eq(read(vm, &besteffort, &files)?, ["max", "max 100000", "1"].map(String::from).to_vec(), "besteffort")?;
        let tiers = "kubepods.slice kubepods-burstable.slice kubepods-besteffort.slice";
        expect_eq(vm.ssh(&["systemctl", "is-active", tiers])?.trim(), "active\nactive\nactive", "QoS slices")?;
        let adjustment = |group: &std::path::Path| {
            vm.ssh(&[&format!("cat /proc/$(head -1 {}/cgroup.procs)/oom_score_adj", group.display())])
        };
        expect_eq(adjustment(&scope(&guaranteed, &pods[0]))?.trim(), "-997", "oom_score_adj of guaranteed")?;
        expect_eq(adjustment(&scope(&besteffort, &pods[2]))?.trim(), "1000", "oom_score_adj of besteffort")?;
        w.delete_pods(&["guaranteed", "burstable", "besteffort"])
    })
}

/// systemd writes its own idea of a slice anew; only what it was told about survives.
fn daemon_reload(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let pods = start(w, &[sized_pod("reload", json!({"limits": {"cpu": "500m", "memory": "64Mi"}}))])?;
        let group = slice("", &pods[0]);
        vm.ssh(&["systemctl", "daemon-reload"])?;
        // A new sibling makes it apply properties along the tree.
        start(w, &[sized_pod("sibling", json!({}))])?;
        let want = ["67108864", "50000 100000", "20"].map(String::from).to_vec();
        expect_eq(read(vm, &group, &["memory.max", "cpu.max", "cpu.weight"])?, want, "limits")?;
        w.delete_pods(&["reload", "sibling"])
    })
}

fn reached(w: &mut World) -> Result<()> {
    on_vm(w, |_| {
        let k = w.kubectl();
        let pods = start(
            w,
            &[vm_pod(
                "server",
                &[("app", "echo begun; mkdir /www; echo hello >/www/index.html; httpd -f -p 8080 -h /www")],
            )],
        )?;
        expect_eq(k.run(&["logs", "server"])?, "begun\n".into(), "logs")?;
        expect_eq(k.run(&["exec", "server", "--", "echo", "out"])?, "out\n".into(), "exec")?;
        let url = format!("http://{}:8080/", pods[0]["status"]["podIP"].as_str().unwrap_or_default());
        let mut client = shell_pod("client", &[("app", &format!("wget -qO- {url} && sleep 100000"))]);
        client["spec"]["nodeName"] = json!(w.node_name());
        start(w, &[client])?;
        wait::until(
            "the other node's pod to be answered",
            wait::LONG,
            || Ok(k.run(&["logs", "client"])? == "hello\n"),
        )?;
        w.delete_pods(&["server", "client"])
    })
}

fn oom_killed(w: &mut World) -> Result<()> {
    on_vm(w, |_| {
        let mut pod = sized_pod("hungry", json!({"limits": {"memory": "24Mi"}}));
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", "exec tail /dev/zero"]);
        w.kubectl().apply(&pod.to_string())?;
        w.kubectl().until_pod("hungry", "OOMKilled", |p| {
            let ended = &container_status(p, "app")["state"]["terminated"];
            ended["reason"] == "OOMKilled" && ended["exitCode"] == 137
        })?;
        w.delete_pods(&["hungry"])
    })
}

/// Container statuses and the Ready condition with its transition time: what must not move.
fn picture(w: &World, names: &[&str]) -> Result<Vec<(Value, Value)>> {
    let one = |name: &&str| {
        let pod = w.kubectl().pod(name)?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
        Ok((container_status(&pod, "app").clone(), ready["lastTransitionTime"].clone()))
    };
    names.iter().map(one).collect()
}

fn restarts_adopt(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let names = ["keep-0", "keep-1", "keep-2"];
        let limits = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
        let pods = start(w, &names.map(|n| sized_pod(n, limits.clone())))?;
        let before = picture(w, &names)?;
        let pids = || vm.ssh(&[&format!("cat {}/cri-containerd-*.scope/cgroup.procs", slice("", &pods[0]).display())]);
        let processes = pids()?;
        for (how, probe) in [
            ("systemctl kill -s KILL kubelet; sleep 1; systemctl restart kubelet", "after-kill"),
            ("systemctl restart kubelet", "after-restart"),
        ] {
            vm.ssh(&[how])?;
            start(w, &[vm_pod(probe, &[("app", "sleep 100000")])])?;
            w.delete_pods(&[probe])?;
            expect_eq(picture(w, &names)?, before.clone(), how)?;
            expect_eq(pids()?, processes.clone(), how)?;
        }
        expect(is_ready(&w.kubectl().json(&["get", "node", NAME])?), "the node is Ready")?;
        w.delete_pods(&names)
    })
}

fn leaves_nothing(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let mut pod = sized_pod("gone", json!({"limits": {"cpu": "100m", "memory": "32Mi"}}));
        pod["spec"]["volumes"] = json!([{"name": "m", "emptyDir": {"medium": "Memory"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "m", "mountPath": "/m"}]);
        let pods = start(w, &[pod])?;
        let id = uid(&pods[0]);
        let underscored = id.replace('-', "_");
        let look = format!(
            "find /sys/fs/cgroup/kubepods.slice -name '*{underscored}*'; systemctl list-units --all --no-legend '*{underscored}*'; \
             ls -d /var/lib/kubelet/pods/{id} /var/log/pods/*{id}* 2>/dev/null; grep {id} /proc/mounts; true"
        );
        expect(vm.ssh(&[&look])?.lines().count() >= 5, "the pod's traces are found while it lives")?;
        w.delete_pods(&["gone"])?;
        let mut left = String::new();
        wait::until("the pod's traces to go", wait::LONG, || {
            left = vm.ssh(&[&look])?;
            Ok(left.trim().is_empty())
        })
        .with_context(|| format!("left: {left}"))?;
        let tasks = vm.ssh(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"])?;
        expect(tasks.trim().is_empty(), format!("containers left of {}: {tasks}", images::BUSYBOX))
    })
}
