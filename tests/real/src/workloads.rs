//! What the controllers make of pods: Deployment, Job, CronJob, StatefulSet, DaemonSet.

use anyhow::Result;
use bed::{Runtime, images, wait};
use serde_json::{Value, json};

use crate::world::{Group, World, expect_eq};

pub fn group() -> Group {
    Group {
        name: "workloads",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("a_deployment_of_20_rolls_over", deployment_rolls_over),
            ("a_job_and_a_cron_job_complete", jobs_complete),
            ("a_stateful_set_keeps_its_names", stateful_set),
            ("a_daemon_set_runs_here", daemon_set),
            ("the_agent_is_installed_by_a_daemon_set", crate::install::by_daemon_set),
        ],
    }
}

fn template(label: &str, image: &str, command: &[&str], restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": label}},
        "spec": {
            "restartPolicy": restart, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "command": command}],
        },
    })
}

fn workload(kind: &str, name: &str, template: Value, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn deployment_rolls_over(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let pause = template("roll", images::BUSYBOX, &["sleep", "100000"], "Always");
    k.apply(&workload("Deployment", "roll", pause, json!({"replicas": 20})).to_string())?;
    k.run(&["rollout", "status", "deployment/roll", "--timeout=300s"])?;
    k.run(&["set", "image", "deployment/roll", &format!("c={}", images::AGNHOST)])?;
    k.run(&["rollout", "status", "deployment/roll", "--timeout=300s"])?;
    let mut images = Vec::new();
    wait::until("only 20 new pods", wait::LONG, || {
        let pods = k.json(&["get", "pods", "-l", "app=roll"])?;
        images = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| p["spec"]["containers"][0]["image"].clone())
            .collect();
        Ok(images.len() == 20)
    })?;
    expect_eq(images.iter().all(|i| i == images::AGNHOST), true, "every pod has the new image")?;
    k.run(&["delete", "deployment", "roll"])?;
    wait::until("its pods to go", wait::LONG, || {
        Ok(k.run(&["get", "pods", "-l", "app=roll", "-o", "name"])?.is_empty())
    })
}

fn jobs_complete(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let work = template("work", images::BUSYBOX, &["sh", "-c", "echo done"], "Never");
    let spec = json!({"completions": 3, "parallelism": 2, "template": work});
    k.apply(&json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": spec}).to_string())?;
    k.run(&["wait", "--for=condition=Complete", "job/work", "--timeout=300s"])?;
    let cron = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": work}}});
    k.apply(
        &json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": cron}).to_string(),
    )?;
    wait::until("a run of the CronJob to succeed", wait::LONG, || {
        Ok(!k.json(&["get", "cronjob", "tick"])?["status"]["lastSuccessfulTime"].is_null())
    })?;
    k.run(&["delete", "job/work", "cronjob/tick"])?;
    Ok(())
}

fn stateful_set(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let pod = template("db", images::BUSYBOX, &["sh", "-c", "hostname; sleep 100000"], "Always");
    k.apply(&workload("StatefulSet", "db", pod, json!({"replicas": 3, "serviceName": "db"})).to_string())?;
    k.run(&["rollout", "status", "statefulset/db", "--timeout=300s"])?;
    let before = k.pod("db-1")?;
    k.run(&["delete", "pod", "db-1"])?;
    let after = k.until_pod("db-1", "a successor is ready", |p| {
        p["metadata"]["uid"] != before["metadata"]["uid"] && bed::kubectl::is_ready(p)
    })?;
    expect_eq(after["status"]["phase"].as_str(), Some("Running"), "phase")?;
    expect_eq(k.run(&["logs", "db-1"])?, "db-1\n".into(), "host name")?;
    k.run(&["delete", "statefulset", "db"])?;
    for name in ["db-0", "db-1", "db-2"] {
        k.until_gone("pod", name)?;
    }
    Ok(())
}

fn daemon_set(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let pod = template("each", images::BUSYBOX, &["sleep", "100000"], "Always");
    k.apply(&workload("DaemonSet", "each", pod, json!({})).to_string())?;
    k.run(&["rollout", "status", "daemonset/each", "--timeout=300s"])?;
    let pods = k.json(&["get", "pods", "-l", "app=each"])?;
    expect_eq(pods["items"][0]["spec"]["nodeName"].as_str(), Some(w.node_name()), "node")?;
    k.run(&["delete", "daemonset", "each"])?;
    Ok(())
}
