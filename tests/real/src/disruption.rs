//! What goes away and comes back: the agent, the API server, containerd.

use std::{thread::sleep, time::Duration};

use anyhow::Result;
use bed::{
    Runtime,
    bad_line::{BadLine, Faults},
    wait,
};
use serde_json::{Value, json};

use crate::world::{Group, World, container_status, expect, expect_eq, list, shell_pod};

pub fn group() -> Group {
    Group {
        name: "disruption",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("a_restarted_agent_adopts_what_runs", restart_adopts),
            ("three_minutes_without_api_server_lose_nothing", api_server_away),
            ("a_restarted_containerd_restarts_no_container", containerd_restart),
            ("a_burst_over_a_bad_line_loses_no_status", burst_over_bad_line),
        ],
    }
}

fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{prefix}-{i}")).collect()
}

fn start_pods(w: &World, prefix: &str, n: usize) -> Result<Vec<String>> {
    let names = names(prefix, n);
    let pods: Vec<Value> = names.iter().map(|n| shell_pod(n, &[("app", "sleep 100000")])).collect();
    w.kubectl().apply(&list(&pods))?;
    for name in &names {
        w.kubectl().until_ready(name)?;
    }
    Ok(names)
}

/// Status of the container and since when the pod is Ready: what must not move.
type Picture = (Value, Value);

fn picture(w: &World, names: &[String]) -> Result<Vec<Picture>> {
    names
        .iter()
        .map(|n| {
            let pod = w.kubectl().pod(n)?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
            Ok((container_status(&pod, "app").clone(), ready["lastTransitionTime"].clone()))
        })
        .collect()
}

fn delete(w: &World, names: &[String]) -> Result<()> {
    w.delete_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The node has reported since the agent (re)started.
fn until_agent_works(w: &World, probe: &str) -> Result<()> {
    let k = w.kubectl();
    k.apply(&shell_pod(probe, &[("app", "sleep 100000")]).to_string())?;
    k.until_ready(probe)?;
    w.delete_pods(&[probe])
}

fn restart_adopts(w: &mut World) -> Result<()> {
    let names = start_pods(w, "keep", 10)?;
    let (before, running) = (picture(w, &names)?, w.running()?);
    w.node().kill_kubelet();
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    until_agent_works(w, "after-restart")?;
    expect_eq(picture(w, &names)?, before, "pods after kill -9 and restart")?;
    expect_eq(w.running()?, running, "running containers")?;
    delete(w, &names)
}

fn api_server_away(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let names = start_pods(w, "offline", 5)?;
    k.apply(&shell_pod("crasher", &[("app", "sleep 60; exit 1")]).to_string())?;
    let crasher = k.until_ready("crasher")?;
    let before = picture(w, &names)?;
    let running = w.running()?;
    w.cluster.stop_apiserver();
    sleep(Duration::from_secs(90));
    // The agent itself is replaced while nobody can tell it what to run.
    w.node().kill_kubelet();
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    sleep(Duration::from_secs(90));
    let now = w.running()?;
    let crashed =
        container_status(&crasher, "app")["containerID"].as_str().unwrap_or_default().replace("containerd://", "");
    let healthy = running.iter().filter(|id| **id != crashed);
    expect(healthy.clone().all(|id| now.contains(id)), "every healthy container still runs")?;
    w.cluster.start_apiserver()?;
    k.until_node_ready(w.node_name())?;
    k.until_pod("crasher", "its restart is reported", |p| {
        container_status(p, "app")["restartCount"].as_i64() >= Some(1)
    })?;
    until_agent_works(w, "after-outage")?;
    let after = picture(w, &names)?;
    let containers = |p: &[(Value, Value)]| p.iter().map(|(c, _)| c.clone()).collect::<Vec<_>>();
    expect_eq(containers(&after), containers(&before), "container statuses after the outage")?;
    wait::until("the pods to be Ready", wait::LONG, || {
        Ok(names.iter().all(|n| k.pod(n).is_ok_and(|p| bed::kubectl::is_ready(&p))))
    })?;
    w.delete_pods(&["crasher"])?;
    delete(w, &names)
}

fn containerd_restart(w: &mut World) -> Result<()> {
    let names = start_pods(w, "runtime", 30)?;
    let (before, running) = (picture(w, &names)?, w.running()?);
    w.node().daemons.kill("containerd");
    sleep(Duration::from_secs(3));
    w.node().run_containerd()?;
    until_agent_works(w, "after-containerd")?;
    expect_eq(w.running()?, running, "running containers")?;
    let containers = |p: Vec<(Value, Value)>| p.into_iter().map(|(c, _)| c).collect::<Vec<_>>();
    expect_eq(containers(picture(w, &names)?), containers(before), "container statuses")?;
    delete(w, &names)
}

/// Every watch is cut again and again, and every answer trickles, while pods start, end, fail and go.
fn burst_over_bad_line(w: &mut World) -> Result<()> {
    let faults = Faults { chunk: 4096, pause: Duration::from_millis(20), cut_every: Duration::from_secs(3) };
    let line = BadLine::start(&w.node().netns, format!("{}:6443", w.cluster.ip).parse()?, faults)?;
    let kubeconfig = w.node().dir.join("etc/kubelet.conf");
    let straight = std::fs::read_to_string(&kubeconfig)?;
    let server = format!("server: https://{}:6443", w.cluster.ip);
    expect(straight.contains(&server), "the kubeconfig names the server")?;
    let bent = format!("server: https://{}\n    tls-server-name: kubernetes", line.address);
    std::fs::write(&kubeconfig, straight.replace(&server, &bent))?;
    w.node().stop_kubelet();
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    let outcome = burst(w);
    std::fs::write(&kubeconfig, straight)?;
    w.node().stop_kubelet();
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    outcome
}

fn burst(w: &World) -> Result<()> {
    let k = w.kubectl();
    let kinds = [("stays", "sleep 100000"), ("ends", "sleep 1"), ("fails", "sleep 1; exit 3")];
    let pods: Vec<Value> = kinds
        .iter()
        .flat_map(|(kind, script)| names(kind, 12).into_iter().map(|name| ending_pod(&name, script)))
        .collect();
    k.apply(&list(&pods))?;
    for name in names("stays", 12) {
        let pod = k.until_ready(&name)?;
        expect_eq(container_status(&pod, "app")["restartCount"].as_i64(), Some(0), &format!("restarts of {name}"))?;
    }
    for (kind, phase, code) in [("ends", "Succeeded", 0), ("fails", "Failed", 3)] {
        for name in names(kind, 12) {
            let pod = k.until_pod(&name, phase, |pod| pod["status"]["phase"] == phase)?;
            let app = container_status(&pod, "app");
            expect_eq(app["state"]["terminated"]["exitCode"].as_i64(), Some(code), &format!("exit code of {name}"))?;
            expect_eq(k.run(&["logs", &name])?, "begun\n".into(), &format!("what {name} printed"))?;
        }
    }
    for (kind, _) in kinds {
        delete(w, &names(kind, 12))?;
    }
    Ok(())
}

fn ending_pod(name: &str, script: &str) -> Value {
    let mut pod = shell_pod(name, &[("app", &format!("echo begun; {script}"))]);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}
