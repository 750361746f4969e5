//! kill -9 of the agent at random moments while pods come and go: nothing is lost, doubled or left behind.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::Result;
use bed::{Runtime, wait};
use serde_json::{Value, json};

use crate::world::{Group, World, container_status, expect, expect_eq, list, mount_everywhere, shell_pod, uid};

const ROUNDS: u64 = 6;
const PODS: usize = 50;

pub fn group() -> Group {
    Group {
        name: "churn",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![("kill_9_while_pods_start_and_stop_loses_nothing", kill_while_churning)],
    }
}

/// Holds a port of the pod's network for as long as it lives: a second instance at the same time would find it taken.
const SCRIPT: &str = "if ! httpd -p 7777 -h /data; then echo TWICE; exit 9; fi; echo up; trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn pods(round: u64) -> Vec<Value> {
    (0..PODS / 2)
        .map(|i| {
            let mut pod = shell_pod(&format!("churn-{round}-{i}"), &[("app", SCRIPT)]);
            mount_everywhere(&mut pod, "data", json!({"emptyDir": {"medium": "Memory"}}), "/data");
            pod
        })
        .collect()
}

fn kill_while_churning(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let steady = shell_pod("steady", &[("app", "sleep 100000")]);
    k.apply(&steady.to_string())?;
    let before = container_status(&k.until_ready("steady")?, "app").clone();
    let mut uids = BTreeMap::new();
    for round in 0..ROUNDS {
        k.apply(&list(&pods(round)))?;
        for pod in k.json(&["get", "pods"])?["items"].as_array().into_iter().flatten() {
            uids.insert(uid(pod), pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
        if round > 0 {
            let old: Vec<String> = (0..PODS / 2).map(|i| format!("churn-{}-{i}", round - 1)).collect();
            let mut args = vec!["delete", "pod", "--wait=false"];
            args.extend(old.iter().map(String::as_str));
            k.run(&args)?;
        }
        // A different moment each round, the same ones each run.
        sleep(Duration::from_millis(400 + round * 1_370 % 4_000));
        w.node().kill_kubelet();
        w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    }
    let last: Vec<String> = (0..PODS / 2).map(|i| format!("churn-{}-{i}", ROUNDS - 1)).collect();
    for name in &last {
        let pod = k.until_ready(name)?;
        let app = container_status(&pod, "app");
        // A start that the kill cut off in the runtime shows as a StartError: that instance never ran.
        let never_ran = app["lastState"]["terminated"]["reason"] == "StartError";
        expect(app["restartCount"] == 0 || never_ran, format!("{name} was restarted: {app}"))?;
        wait::until("it to print something", wait::LONG, || Ok(!k.run(&["logs", name])?.is_empty()))?;
        expect_eq(k.run(&["logs", name])?, "up\n".into(), "what it printed")?;
    }
    wait::until("only the last round's pods to be left", wait::LONG, || {
        Ok(k.json(&["get", "pods"])?["items"].as_array().map(Vec::len) == Some(PODS / 2 + 1))
    })?;
    expect_eq(container_status(&k.pod("steady")?, "app").clone(), before, "the steady pod")?;
    w.delete_pods(&last.iter().map(String::as_str).collect::<Vec<_>>())?;
    w.delete_pods(&["steady"])?;
    wait::until("nothing of them to be left", Duration::from_secs(120), || {
        let mut left = Vec::new();
        for uid in uids.keys() {
            left.extend(w.leftovers(uid)?);
        }
        expect(left.is_empty(), left.join("; "))?;
        Ok(true)
    })?;
    // As the CRI tells: a start that is cut off leaves entries in containerd's own books that no CRI call shows.
    wait::until("no sandbox to be left", Duration::from_secs(120), || {
        let left = w.pods_of_runtime()?;
        expect(left.is_empty(), left.join("; "))?;
        expect(w.running()?.is_empty(), "no process to be left")?;
        Ok(true)
    })
}
