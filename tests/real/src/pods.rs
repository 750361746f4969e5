//! Single pods: apply, look, change, delete; on both runtimes.

use anyhow::Result;
use bed::{Runtime, wait};
use serde_json::{Value, json};

use crate::world::{
    Group, Test, World, container_status, expect, expect_eq, list, mount_everywhere, shell_container, shell_pod, uid,
};

const TESTS: &[(&str, Test)] = &[
    ("a_pod_runs_and_its_deletion_leaves_nothing", runs_and_leaves_nothing),
    ("containers_of_a_pod_share_localhost_and_a_volume", shares_localhost_and_volume),
    ("init_containers_run_in_order_before_the_others", init_order),
    ("a_crashed_container_restarts_and_shows_its_last_state", crash_restarts),
    ("a_changed_image_restarts_only_that_container", image_change),
    ("exec_logs_and_previous_logs_answer", exec_and_logs),
    ("config_maps_and_secrets_are_mounted_and_follow_changes", config_volumes),
    ("a_task_that_cri_has_lost_ends_with_its_pod", lost_task),
];

pub fn group() -> Group {
    Group { name: "pods", runtime: Runtime::Containerd2, services: false, bare: false, tests: TESTS.to_vec() }
}

pub fn old_runtime_group() -> Group {
    Group { name: "pods-1-6", runtime: Runtime::Debian, services: false, bare: false, tests: TESTS.to_vec() }
}

fn runs_and_leaves_nothing(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let mut manifest = shell_pod("one", &[("app", "touch /data/x; sleep 100000")]);
    mount_everywhere(&mut manifest, "v", json!({"emptyDir": {"medium": "Memory"}}), "/data");
    k.apply(&manifest.to_string())?;
    let pod = k.until_ready("one")?;
    expect_eq(pod["status"]["phase"].as_str(), Some("Running"), "phase")?;
    expect(pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.77.")), "the pod has an address")?;
    let id = container_status(&pod, "app")["containerID"].as_str().unwrap_or_default().to_owned();
    expect(id.starts_with("containerd://"), format!("containerID {id}"))?;
    w.delete_pods(&["one"])?;
    expect_eq(w.leftovers(&uid(&pod))?, Vec::new(), "leftovers")
}

fn shares_localhost_and_volume(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let server = "echo hello >/shared/index.html; httpd -f -p 8080 -h /shared";
    let client =
        "until wget -qO- http://localhost:8080/index.html; do sleep 0.2; done; cat /shared/index.html; sleep 100000";
    let mut manifest = shell_pod("two", &[("server", server), ("client", client)]);
    mount_everywhere(&mut manifest, "s", json!({"emptyDir": {}}), "/shared");
    k.apply(&manifest.to_string())?;
    k.until_ready("two")?;
    let printed = || k.run(&["logs", "two", "-c", "client"]);
    wait::until("the client to print", wait::LONG, || Ok(printed()?.ends_with("hello\nhello\n")))?;
    w.delete_pods(&["two"])
}

fn init_order(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let mut manifest = shell_pod("init", &[("app", "cat /s/log; sleep 100000")]);
    let init = ["first", "second"].map(|n| shell_container(n, &format!("echo {n} >>/s/log")));
    manifest["spec"]["initContainers"] = json!(init);
    mount_everywhere(&mut manifest, "s", json!({"emptyDir": {}}), "/s");
    k.apply(&manifest.to_string())?;
    let pod = k.until_ready("init")?;
    expect_eq(k.run(&["logs", "init", "-c", "app"])?, "first\nsecond\n".into(), "what the app found")?;
    for name in ["first", "second"] {
        let state = &container_status(&pod, name)["state"]["terminated"];
        expect_eq(state["reason"].as_str(), Some("Completed"), name)?;
    }
    w.delete_pods(&["init"])
}

fn crash_restarts(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let manifest = shell_pod("crash", &[("bad", "echo ran; sleep 1; exit 7"), ("good", "sleep 100000")]);
    k.apply(&manifest.to_string())?;
    let pod = k.until_pod("crash", "bad restarted, now held back", |p| {
        let s = container_status(p, "bad");
        s["restartCount"].as_i64() >= Some(1) && s["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let last = &container_status(&pod, "bad")["lastState"]["terminated"];
    expect_eq(last["exitCode"].as_i64(), Some(7), "last exit code")?;
    expect_eq(container_status(&pod, "good")["restartCount"].as_i64(), Some(0), "restarts of the healthy one")?;
    w.delete_pods(&["crash"])
}

fn image_change(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let manifest = shell_pod("image", &[("app", "sleep 100000"), ("other", "sleep 100000")]);
    k.apply(&manifest.to_string())?;
    let before = k.until_ready("image")?;
    let image = bed::images::AGNHOST;
    k.run(&["set", "image", "pod/image", &format!("app={image}")])?;
    let after = k.until_pod("image", "the new image runs", |p| {
        let s = container_status(p, "app");
        s["restartCount"] == 1 && s["image"] == image && s["ready"] == true
    })?;
    let id = |p: &Value| container_status(p, "other")["containerID"].clone();
    expect_eq(id(&after), id(&before), "the other container")?;
    w.delete_pods(&["image"])
}

fn exec_and_logs(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let script = "echo begun; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    k.apply(&shell_pod("talk", &[("app", script)]).to_string())?;
    k.until_ready("talk")?;
    let out = k.run(&["exec", "talk", "--", "sh", "-c", "echo out; echo err >&2"])?;
    expect_eq(out, "out\n".into(), "exec output")?;
    let failed = k.run(&["exec", "talk", "--", "sh", "-c", "exit 5"]);
    expect(failed.is_err_and(|e| format!("{e}").contains("code 5")), "exec hands on the exit code")?;
    expect_eq(k.run(&["logs", "talk"])?, "begun\n".into(), "logs")?;
    k.run(&["exec", "talk", "--", "kill", "1"])?;
    k.until_pod("talk", "restarted", |p| {
        let s = container_status(p, "app");
        s["restartCount"] == 1 && s["ready"] == true
    })?;
    expect_eq(k.run(&["logs", "talk", "-p"])?, "begun\n".into(), "previous logs")?;
    w.delete_pods(&["talk"])
}

fn config_volumes(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let objects = |value: &str| {
        list(&[
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"key": value}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec"}, "stringData": {"key": value}}),
        ])
    };
    k.apply(&objects("first"))?;
    let mut manifest = shell_pod("config", &[("app", "echo $K; sleep 100000")]);
    mount_everywhere(&mut manifest, "c", json!({"configMap": {"name": "cm"}}), "/c");
    mount_everywhere(&mut manifest, "s", json!({"secret": {"secretName": "sec"}}), "/s");
    manifest["spec"]["containers"][0]["env"] =
        json!([{"name": "K", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "key"}}}]);
    k.apply(&manifest.to_string())?;
    k.until_ready("config")?;
    expect_eq(k.run(&["logs", "config"])?, "first\n".into(), "env from the secret")?;
    let read = || k.run(&["exec", "config", "--", "cat", "/c/key", "/s/key"]);
    expect_eq(read()?, "firstfirst".into(), "mounted files")?;
    k.apply(&objects("second"))?;
    wait::until("both files to change", wait::LONG, || Ok(read()? == "secondsecond"))?;
    w.delete_pods(&["config"])
}

/// A start that is cut off at the wrong moment leaves a task that CRI shows as an exited container and refuses to
/// remove: made here by starting it anew behind CRI's back.
fn lost_task(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let once = "[ -e /data/again ] && exec sleep 100000; touch /data/again";
    let mut manifest = shell_pod("lost", &[("app", "sleep 100000"), ("once", once)]);
    manifest["spec"]["restartPolicy"] = "Never".into();
    mount_everywhere(&mut manifest, "v", json!({"emptyDir": {}}), "/data");
    k.apply(&manifest.to_string())?;
    let mut id = String::new();
    wait::until("the container to end", wait::LONG, || {
        let terminated = container_status(&k.pod("lost")?, "once")["state"]["terminated"].clone();
        id = terminated["containerID"].as_str().unwrap_or_default().trim_start_matches("containerd://").to_owned();
        Ok(!id.is_empty())
    })?;
    w.node().ctr(&["tasks", "start", "-d", "--null-io", &id])?;
    expect(w.running()?.contains(&id), "the task runs")?;
    let uid = uid(&k.pod("lost")?);
    w.delete_pods(&["lost"])?;
    expect_eq(w.leftovers(&uid)?, Vec::new(), "leftovers")?;
    expect(!w.running()?.contains(&id), "the task has ended")?;
    expect_eq(w.pods_of_runtime()?, Vec::new(), "what the runtime knows")
}
