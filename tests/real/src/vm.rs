//! A Debian node in a VM: systemd makes the cgroups, version 2, and the agent runs as a unit of stock form.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bed::{Runtime, Vm, VmOptions, images, kubectl::is_ready, wait};
use serde_json::{Value, json};

use crate::checkpoint;
use crate::world::{Group, Test, World, container_status, expect, expect_eq, kubelet, list, shell_pod, uid};

const NAME: &str = "vm-a";
const INDEX: u8 = 8;

pub fn group() -> Group {
    Group {
        name: "vm",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("a_debian_node_becomes_ready", becomes_ready as Test),
            ("a_pod_lives_in_a_slice_with_its_limits", pod_in_slice),
            ("a_daemon_reload_of_systemd_keeps_the_limits", daemon_reload),
            ("exec_logs_and_the_pod_network_reach_the_vm", reached),
            ("memory_beyond_the_limit_is_oomkilled", oom_killed),
            ("a_checkpoint_holds_a_container_that_goes_on", checkpointed),
            ("kill_9_and_restart_of_the_unit_adopt_what_runs", restarts_adopt),
            ("the_upstream_kubelet_and_back_touches_nothing", swap_with_upstream),
            ("a_daemon_set_takes_the_node_over_and_install_restores_it", installed),
            ("limits_are_those_that_the_upstream_kubelet_sets", limits_as_upstream),
            ("systemds_watchdog_is_fed_and_restarts_a_hung_agent", watchdog),
            ("after_a_power_cut_pods_come_up_once", power_cut),
            ("a_deleted_pod_leaves_no_slice_mount_or_directory", leaves_nothing),
        ],
    }
}

/// Debian's own containerd and runc.
pub fn old_runtime_group() -> Group {
    Group {
        name: "vm-1-6",
        runtime: Runtime::Debian,
        services: false,
        bare: false,
        tests: vec![
            ("a_debian_node_becomes_ready", becomes_ready as Test),
            ("a_pod_lives_in_a_slice_with_its_limits", pod_in_slice),
            ("memory_beyond_the_limit_is_oomkilled", oom_killed),
            ("kill_9_and_restart_of_the_unit_adopt_what_runs", restarts_adopt),
            ("after_a_power_cut_pods_come_up_once", power_cut),
            ("a_deleted_pod_leaves_no_slice_mount_or_directory", leaves_nothing),
        ],
    }
}

/// The group's VM; the first test that asks for it boots it.
fn vm(w: &World) -> Result<Vm> {
    if let Some(vm) = Vm::attach(&w.cluster, NAME, INDEX)? {
        return Ok(vm);
    }
    let runtime = w.node().options.runtime;
    let vm = Vm::boot(&w.cluster, &VmOptions { runtime, ..VmOptions::new(NAME, INDEX, &kubelet()?) })?;
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

fn checkpointed(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let counts = "i=0; while true; do i=$((i+1)); echo $i >/count; sleep 0.2; done";
        let pods = start(w, &[vm_pod("counting", &[("app", counts)])])?;
        let before = container_status(&pods[0], "app").clone();
        let (code, answer) = checkpoint::ask(w, vm, "default/counting/app")?;
        expect_eq((code.as_str(), answer["items"].as_array().map(Vec::len)), ("200", Some(1)), &answer.to_string())?;
        let archive = answer["items"][0].as_str().unwrap_or_default();
        expect(archive.starts_with("/var/lib/kubelet/checkpoints/checkpoint-counting_default-app-"), archive)?;
        let mode = vm.ssh(&["stat", "-c", "%a", archive])?;
        expect_eq(mode.trim(), "600", "whose memory it is nobody else may read")?;
        let held = vm.ssh(&["tar", "-tf", archive])?;
        for file in ["spec.dump", "config.dump", "checkpoint/inventory.img"] {
            expect(held.lines().any(|line| line.trim_start_matches("./") == file), format!("{file} is in {held}"))?;
        }
        let count = || w.kubectl().run(&["exec", "counting", "--", "cat", "/count"]);
        let counted = count()?;
        wait::until("the container to go on counting", wait::LONG, || Ok(count()? != counted))?;
        expect_eq(container_status(&w.kubectl().pod("counting")?, "app"), &before, "the container")?;
        expect_eq(checkpoint::ask(w, vm, "default/counting/none")?.0.as_str(), "404", "no such container")?;
        w.delete_pods(&["counting"])
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

/// Starts and ends a pod: the agent, just restarted, has taken the node over and looked at every pod.
fn until_agent_works(w: &World, probe: &str) -> Result<()> {
    start(w, &[vm_pod(probe, &[("app", "sleep 100000")])])?;
    w.delete_pods(&[probe])
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
            until_agent_works(w, probe)?;
            expect_eq(picture(w, &names)?, before.clone(), how)?;
            expect_eq(pids()?, processes.clone(), how)?;
        }
        expect(is_ready(&w.kubectl().json(&["get", "node", NAME])?), "the node is Ready")?;
        w.delete_pods(&names)
    })
}

/// Swaps the kubelets, and swaps them back whatever happens between.
fn under_upstream<T>(vm: &Vm, test: impl FnOnce() -> Result<T>) -> Result<T> {
    vm.swap_kubelet(true)?;
    let program = || vm.ssh(&["readlink /proc/$(systemctl show -P MainPID kubelet)/exe"]);
    let outcome = program().and_then(|p| expect(p.trim().ends_with("upstream"), p.trim())).and_then(|()| test());
    vm.swap_kubelet(false)?;
    let outcome = outcome?;
    let now = program()?;
    expect(now.trim().ends_with("/kubelet"), now.trim())?;
    Ok(outcome)
}

fn swap_with_upstream(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let names = ["swap-0", "swap-1", "swap-2"];
        let limits = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
        let pods = start(
            w,
            &[
                sized_pod(names[0], limits),
                sized_pod(names[1], json!({"requests": {"cpu": "50m"}})),
                sized_pod(names[2], json!({})),
            ],
        )?;
        let before = picture(w, &names)?;
        let group = slice("", &pods[0]);
        let limits = || read(vm, &group, &["memory.max", "cpu.max", "cpu.weight", "pids.max"]);
        let set = limits()?;
        let untouched = |probe: &str| {
            until_agent_works(w, probe)?;
            expect_eq(picture(w, &names)?, before.clone(), probe)?;
            expect_eq(limits()?, set.clone(), probe)
        };
        under_upstream(vm, || untouched("under-upstream"))?;
        untouched("under-ferrolet-again")?;
        w.delete_pods(&names)
    })
}

fn installed(w: &mut World) -> Result<()> {
    on_vm(w, |vm| crate::install::by_daemon_set_with_restart(w, vm))
}

/// Every limit that the kernel and systemd hold for the QoS classes, for a pod of each, and for its container.
fn all_limits(w: &World, vm: &Vm) -> Result<Vec<(String, String)>> {
    let both = json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "333m", "memory": "48Mi"}});
    let pods = start(
        w,
        &[
            sized_pod("guaranteed", json!({"limits": {"cpu": "250m", "memory": "64Mi"}})),
            sized_pod("burstable", both),
            sized_pod("besteffort", json!({})),
        ],
    )?;
    let slices = [slice("", &pods[0]), slice("burstable-", &pods[1]), slice("besteffort-", &pods[2])];
    let kubepods = PathBuf::from("/sys/fs/cgroup/kubepods.slice");
    let mut groups = vec![
        ("kubepods".to_owned(), kubepods.clone()),
        ("burstable tier".to_owned(), kubepods.join("kubepods-burstable.slice")),
        ("besteffort tier".to_owned(), kubepods.join("kubepods-besteffort.slice")),
    ];
    for (pod, slice) in pods.iter().zip(&slices) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        groups.push((format!("pod {name}"), slice.clone()));
        groups.push((format!("container of {name}"), scope(slice, pod)));
    }
    let limits = |(name, group): (String, PathBuf)| {
        let unit = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = vm.ssh(&[&format!(
            "cd {} && grep -H . memory.max memory.high memory.low memory.min memory.swap.max memory.oom.group cpu.max \
             cpu.weight cpuset.cpus pids.max hugetlb.*.max; systemctl show {unit} -p MemoryMax -p MemoryLow -p MemoryMin \
             -p CPUWeight -p CPUQuotaPerSecUSec -p CPUQuotaPeriodUSec -p TasksMax -p AllowedCPUs -p MemoryAccounting \
             -p CPUAccounting -p TasksAccounting -p IOAccounting -p DefaultDependencies",
            group.display()
        )])?;
        Ok((name, shown))
    };
    let all = groups.into_iter().map(limits).collect();
    w.delete_pods(&["guaranteed", "burstable", "besteffort"])?;
    all
}

fn limits_as_upstream(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let own = all_limits(w, vm)?;
        let upstream = under_upstream(vm, || all_limits(w, vm))?;
        let mut differ = Vec::new();
        for ((name, own), (_, upstream)) in own.iter().zip(&upstream) {
            expect_eq(own.lines().count(), upstream.lines().count(), name)?;
            let lines = own.lines().zip(upstream.lines()).filter(|(own, upstream)| own != upstream);
            differ.extend(lines.map(|(own, upstream)| format!("{name}: {own}, upstream {upstream}")));
        }
        expect(differ.is_empty(), differ.join("; "))?;
        Ok(())
    })
}

/// A property of the agent's unit.
fn unit(vm: &Vm, property: &str) -> Result<String> {
    Ok(vm.ssh(&["systemctl", "show", "kubelet", "-P", property])?.trim().to_owned())
}

fn watchdog(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        expect_eq(unit(vm, "Type")?.as_str(), "notify", "type of the unit")?;
        start(w, &[sized_pod("watched", json!({}))])?;
        // While the agent hangs, the cluster takes the node for lost: the Ready condition moves.
        let container = || w.kubectl().pod("watched").map(|pod| container_status(&pod, "app").clone());
        let before = container()?;
        let drop_in = "/etc/systemd/system/kubelet.service.d/20-watchdog.conf";
        let restart = "systemctl daemon-reload; systemctl restart kubelet";
        vm.ssh(&[&format!("printf '[Service]\\nWatchdogSec=30\\n' >{drop_in}; {restart}")])?;
        expect_eq(unit(vm, "ActiveState")?.as_str(), "active", "unit with a watchdog")?;
        let fed = unit(vm, "WatchdogTimestampMonotonic")?;
        wait::until("the watchdog to be fed", wait::LONG, || Ok(unit(vm, "WatchdogTimestampMonotonic")? != fed))?;
        let restarts = unit(vm, "NRestarts")?;
        vm.ssh(&["systemctl", "kill", "-s", "STOP", "kubelet"])?;
        wait::until("systemd to restart the hung agent", wait::LONG, || {
            Ok(unit(vm, "NRestarts")? != restarts && unit(vm, "ActiveState")? == "active")
        })?;
        vm.ssh(&[&format!("rm {drop_in}; {restart}")])?;
        until_agent_works(w, "after-watchdog")?;
        expect_eq(container()?, before, "the container")?;
        w.kubectl().until_ready("watched")?;
        w.delete_pods(&["watched"])
    })
}

fn power_cut(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let k = w.kubectl();
        let mut once = sized_pod("once", json!({}));
        once["spec"]["restartPolicy"] = json!("Never");
        let mut done = vm_pod("done", &[("app", "true")]);
        done["spec"]["restartPolicy"] = json!("Never");
        k.apply(&done.to_string())?;
        let limits = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
        let before = start(w, &[sized_pod("back-0", limits), sized_pod("back-1", json!({})), once])?;
        let done = k.until_pod("done", "Succeeded", |p| p["status"]["phase"] == "Succeeded")?;

        vm.cut_power()?;
        let boot_id = vm.ssh(&["cat", "/proc/sys/kernel/random/boot_id"])?;
        wait::until("the node to tell its new boot id", wait::LONG, || {
            let node = k.json(&["get", "node", NAME])?;
            Ok(node["status"]["nodeInfo"]["bootID"].as_str() == Some(boot_id.trim()) && is_ready(&node))
        })?;
        k.until_event(NAME, "Rebooted")?;

        for (name, old) in ["back-0", "back-1"].into_iter().zip(&before) {
            let old = container_status(old, "app");
            k.until_pod(name, "Ready after the power cut", |p| {
                is_ready(p) && container_status(p, "app")["containerID"] != old["containerID"]
            })?;
            let ip = k.pod(name)?["status"]["podIP"].as_str().unwrap_or_default().to_owned();
            expect_eq(k.run(&["exec", name, "--", "hostname", "-i"])?.trim(), ip.as_str(), "address")?;
        }
        k.until_pod("once", "Failed", |p| p["status"]["phase"] == "Failed")?;
        until_agent_works(w, "after-power-cut")?;

        // By now everything has been looked at more than once.
        for (name, old) in ["back-0", "back-1"].into_iter().zip(&before) {
            let now = k.pod(name)?;
            let app = container_status(&now, "app");
            expect_eq(&app["restartCount"], &json!(1), name)?;
            let last = &app["lastState"]["terminated"]["containerID"];
            expect_eq(last, &container_status(old, "app")["containerID"], "the container before")?;
        }
        let first = container_status(&before[2], "app");
        let once = k.pod("once")?;
        let once = container_status(&once, "app");
        expect_eq(&once["containerID"], &first["containerID"], "a pod that runs once")?;
        expect_eq(&k.pod("done")?["status"]["containerStatuses"], &done["status"]["containerStatuses"], "done")?;
        // Sandbox and container of each pod that came back, and nothing of the one that may run only once.
        for (pod, want) in before.iter().zip(["2", "2", "0"]) {
            let find = format!(
                "find /sys/fs/cgroup/kubepods.slice -path '*{}*' -name 'cri-containerd-*.scope'",
                uid(pod).replace('-', "_")
            );
            let scopes = vm.ssh(&[&format!("{find} | wc -l")])?;
            expect_eq(scopes.trim(), want, "scopes")?;
        }
        w.delete_pods(&["back-0", "back-1", "once", "done"])
    })
}

fn leaves_nothing(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let mut pod = sized_pod("gone", json!({"limits": {"cpu": "100m", "memory": "32Mi"}}));
        pod["spec"]["volumes"] = json!([{"name": "m", "emptyDir": {"medium": "Memory"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "m", "mountPath": "/m"}]);
        let containers = || vm.ssh(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"]);
        let before = containers()?;
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
        let left = containers()?;
        let new: Vec<_> = left.lines().filter(|id| !before.contains(*id)).collect();
        expect(new.is_empty(), format!("containers left of {}: {new:?}", images::BUSYBOX))
    })
}
