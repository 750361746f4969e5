//! A Debian machine is shut down by systemd: logind waits for its pods.

use anyhow::{Context, Result};
use bed::{Runtime, Vm, VmOptions, kubectl::is_ready, wait};
use serde_json::{Value, json};

use crate::world::{Group, Test, World, container_status, expect, expect_eq, kubelet, list, shell_pod};

const NAME: &str = "vm-a";
const INDEX: u8 = 8;
/// Long, since the CPU may be emulated and the host busy.
const CONFIG: &str = "shutdownGracePeriod: 240s\nshutdownGracePeriodCriticalPods: 120s\n";
/// The time a pod takes to end is the time there is for a look at the node.
const GRACE: &str = "trap 'sleep 15; exit 0' TERM; while true; do sleep 1; done";

/// Each test goes on from the one before.
pub fn group() -> Group {
    Group {
        name: "vm-shutdown",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("logind_holds_a_shutdown_up_for_as_long_as_configured", holds_up as Test),
            ("a_reboot_ends_the_pods_first_and_critical_ones_last", reboot),
        ],
    }
}

/// The group's VM; the first test that asks for it boots it.
fn vm(w: &World) -> Result<Vm> {
    if let Some(vm) = Vm::attach(&w.cluster, NAME, INDEX)? {
        return Ok(vm);
    }
    let options = VmOptions { config: CONFIG.to_owned(), ..VmOptions::new(NAME, INDEX, &kubelet()?) };
    let vm = Vm::boot(&w.cluster, &options)?;
    vm.until_ready(&w.cluster)?;
    Ok(vm)
}

fn on_vm(w: &World, test: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
    let vm = vm(w)?;
    test(&vm).with_context(|| format!("the agent's journal ends with {:?}", vm.journal("kubelet", 30)))
}

fn metrics(w: &World) -> Result<Vec<String>> {
    let all = w.kubectl().run(&["get", "--raw", &format!("/api/v1/nodes/{NAME}/proxy/metrics")])?;
    let lines = all.lines().filter(|line| line.starts_with("kubelet_graceful_shutdown_"));
    Ok(lines.map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect())
}

fn holds_up(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let delay = "busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec";
        wait::until("logind's new delay", wait::LONG, || Ok(vm.ssh(&[delay])?.trim() == "t 240000000"))?;
        let file = vm.ssh(&["cat", "/etc/systemd/logind.conf.d/99-kubelet.conf"])?;
        expect_eq(file.as_str(), "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=240\n", "drop-in")?;
        let mut locks = String::new();
        wait::until("the lock", wait::LONG, || {
            locks = vm.ssh(&["systemd-inhibit", "--list", "--no-pager"])?;
            Ok(locks.lines().any(|line| line.starts_with("kubelet ")))
        })?;
        let lock = locks.lines().find(|line| line.starts_with("kubelet ")).unwrap_or_default();
        expect(lock.contains("shutdown") && lock.contains("delay"), lock)?;
        expect_eq(metrics(w)?, vec!["0".to_owned(), "0".to_owned()], "no shutdown yet")
    })
}

fn pod_here(name: &str, script: &str) -> Value {
    let mut pod = shell_pod(name, &[("app", script)]);
    pod["spec"]["nodeName"] = json!(NAME);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(120);
    pod
}

fn reboot(w: &mut World) -> Result<()> {
    on_vm(w, |vm| {
        let k = w.kubectl();
        let mut critical = pod_here("critical", GRACE);
        critical["spec"]["priorityClassName"] = json!("system-node-critical");
        k.apply(&list(&[pod_here("web", GRACE), critical]))?;
        k.until_ready("web")?;
        k.until_ready("critical")?;

        let before = vm.boot_id()?;
        vm.ssh(&["systemctl", "reboot"])?;
        wait::until("the node to say that it shuts down", wait::LONG, || {
            let node = k.json(&["get", "node", NAME])?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
            Ok(ready["status"] == "False"
                && ready["reason"] == "KubeletNotReady"
                && ready["message"].as_str().is_some_and(|m| m.contains("node is shutting down")))
        })?;
        k.apply(&pod_here("late", "sleep 1000").to_string())?;
        let late = k.until_pod("late", "refused", |p| p["status"]["phase"] == "Failed")?;
        expect_eq(late["status"]["reason"].as_str(), Some("NodeShutdown"), "reason of the late pod")?;
        vm.until_rebooted(&before)?;

        let ends = [ended(w, "web")?, ended(w, "critical")?];
        expect(ends[0] < ends[1], format!("critical pods end last: {ends:?}"))?;
        wait::until("the node to be Ready again", wait::LONG, || {
            let node = k.json(&["get", "node", NAME])?;
            Ok(node["status"]["nodeInfo"]["bootID"].as_str() == Some(&vm.boot_id()?) && is_ready(&node))
        })?;
        let times = metrics(w)?;
        let state = vm.ssh(&["cat", "/var/lib/kubelet/graceful_node_shutdown_state"])?;
        let state: Value = serde_json::from_str(&state)?;
        let kept = ["startTime", "endTime"].map(|time| state[time].as_str().unwrap_or("0001").to_owned());
        expect(kept[0] < kept[1] && !kept[0].starts_with("0001"), format!("{kept:?}"))?;
        expect(times.iter().all(|time| time != "0"), format!("metrics after the reboot: {times:?}"))?;
        k.until_event(NAME, "Shutdown")?;
        w.delete_pods(&["web", "critical", "late"])
    })
}

/// When a pod's container ended, which had time to do so by itself.
fn ended(w: &World, name: &str) -> Result<String> {
    let pod = w.kubectl().until_pod(name, "Failed", |p| p["status"]["phase"] == "Failed")?;
    let status = &pod["status"];
    expect_eq(status["reason"].as_str(), Some("Terminated"), name)?;
    let message = "Pod was terminated in response to imminent node shutdown.";
    expect_eq(status["message"].as_str(), Some(message), name)?;
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").cloned().unwrap_or_default();
    expect_eq(target["reason"].as_str(), Some("TerminationByKubelet"), "condition DisruptionTarget")?;
    let end = &container_status(&pod, "app")["state"]["terminated"];
    expect_eq(&end["exitCode"], &json!(0), name)?;
    Ok(end["finishedAt"].as_str().unwrap_or_default().to_owned())
}
