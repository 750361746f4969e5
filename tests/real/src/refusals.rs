//! Pods that cannot run: each says why as upstream does, and the others do not notice.

use anyhow::Result;
use bed::Runtime;
use serde_json::json;

use crate::world::{
    Group, World, container_status, expect, expect_eq, list, mount_everywhere, shell_pod, waiting_reason,
};

pub fn group() -> Group {
    Group {
        name: "refusals",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("a_wrong_image_says_so", wrong_image),
            ("a_wrong_command_says_so", wrong_command),
            ("a_missing_config_map_says_so_and_heals", missing_config_map),
            ("a_failing_volume_says_so", failing_volume),
            ("a_pod_beyond_its_local_storage_is_evicted", beyond_local_storage),
            ("a_pod_too_big_for_the_node_is_rejected", too_big),
        ],
    }
}

/// A healthy pod beside the broken one: same container, no restart, before and after.
fn untouched(w: &World, broken: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let k = w.kubectl();
    k.apply(&shell_pod("healthy", &[("app", "sleep 100000")]).to_string())?;
    let before = container_status(&k.until_ready("healthy")?, "app").clone();
    broken(w)?;
    expect_eq(container_status(&k.pod("healthy")?, "app").clone(), before, "the healthy pod")
}

fn wrong_image(w: &mut World) -> Result<()> {
    untouched(w, |w| {
        let k = w.kubectl();
        let mut pod = shell_pod("no-image", &[("app", "true")]);
        pod["spec"]["containers"][0]["image"] = json!("registry.k8s.io/e2e-test-images/no-such:1");
        k.apply(&pod.to_string())?;
        k.until_pod("no-image", "ErrImagePull or ImagePullBackOff", |p| {
            ["ErrImagePull", "ImagePullBackOff"].contains(&waiting_reason(p, "app").as_str())
        })?;
        k.until_pod("no-image", "ImagePullBackOff", |p| waiting_reason(p, "app") == "ImagePullBackOff")?;
        let events = k.until_event("no-image", "Failed")?;
        expect(events.iter().any(|m| m.contains("Failed to pull image")), format!("events {events:?}"))?;
        w.delete_pods(&["no-image"])
    })
}

fn wrong_command(w: &mut World) -> Result<()> {
    untouched(w, |w| {
        let k = w.kubectl();
        let mut pod = shell_pod("no-command", &[("app", "true")]);
        pod["spec"]["containers"][0]["command"] = json!(["/no/such/program"]);
        k.apply(&pod.to_string())?;
        let seen = k.until_pod("no-command", "RunContainerError or its back-off", |p| {
            ["RunContainerError", "CrashLoopBackOff"].contains(&waiting_reason(p, "app").as_str())
        })?;
        expect(
            container_status(&seen, "app").to_string().contains("/no/such/program"),
            "the message names the program",
        )?;
        w.delete_pods(&["no-command"])
    })
}

fn missing_config_map(w: &mut World) -> Result<()> {
    untouched(w, |w| {
        let k = w.kubectl();
        let mut pod = shell_pod("no-config", &[("app", "sleep 100000")]);
        pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "absent"}}]);
        k.apply(&pod.to_string())?;
        let seen = k.until_pod("no-config", "CreateContainerConfigError", |p| {
            waiting_reason(p, "app") == "CreateContainerConfigError"
        })?;
        let message = container_status(&seen, "app")["state"]["waiting"]["message"].clone();
        expect_eq(message.as_str(), Some("configmap \"absent\" not found"), "message")?;
        k.run(&["create", "configmap", "absent", "--from-literal=a=b"])?;
        k.until_ready("no-config")?;
        w.delete_pods(&["no-config"])
    })
}

fn failing_volume(w: &mut World) -> Result<()> {
    untouched(w, |w| {
        let k = w.kubectl();
        let mut pod = shell_pod("no-volume", &[("app", "sleep 100000")]);
        mount_everywhere(&mut pod, "v", json!({"hostPath": {"path": "/no/such/dir", "type": "Directory"}}), "/v");
        k.apply(&pod.to_string())?;
        let events = k.until_event("no-volume", "FailedMount")?;
        expect(events.iter().any(|m| m.contains("hostPath type check failed")), format!("events {events:?}"))?;
        expect_eq(waiting_reason(&k.pod("no-volume")?, "app"), "ContainerCreating".into(), "waiting reason")?;
        w.delete_pods(&["no-volume"])
    })
}

fn beyond_local_storage(w: &mut World) -> Result<()> {
    untouched(w, |w| {
        let k = w.kubectl();
        let write = |path: &str| format!("dd if=/dev/zero of={path} bs=1M count=8; sleep 100000");
        let mut volume = shell_pod("full-volume", &[("app", &write("/data/file"))]);
        mount_everywhere(&mut volume, "cache", json!({"emptyDir": {"sizeLimit": "1Mi"}}), "/data");
        let mut layer = shell_pod("full-layer", &[("app", &write("/file"))]);
        layer["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "2Mi"}});
        let mut within = shell_pod("within", &[("app", &write("/data/file"))]);
        mount_everywhere(&mut within, "cache", json!({"emptyDir": {"sizeLimit": "64Mi"}}), "/data");
        k.apply(&list(&[within, volume, layer]))?;
        for (name, message) in [
            ("full-volume", "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "),
            ("full-layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
        ] {
            let seen = k.until_pod(name, "Failed", |p| p["status"]["phase"] == "Failed")?;
            let told = (seen["status"]["reason"].as_str(), seen["status"]["message"].as_str());
            expect_eq(told, (Some("Evicted"), Some(message)), name)?;
            let events = k.until_event(name, "Evicted")?;
            expect_eq(events, vec![message.to_owned()], "events")?;
        }
        expect_eq(k.pod("within")?["status"]["phase"].as_str(), Some("Running"), "the pod within its limit")?;
        w.delete_pods(&["full-volume", "full-layer", "within"])
    })
}

fn too_big(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let mut pod = shell_pod("too-big", &[("app", "sleep 100000")]);
    pod["spec"]["nodeName"] = json!(w.node_name());
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
    k.apply(&pod.to_string())?;
    let seen = k.until_pod("too-big", "Failed", |p| p["status"]["phase"] == "Failed")?;
    expect_eq(seen["status"]["reason"].as_str(), Some("OutOfcpu"), "reason")?;
    w.delete_pods(&["too-big", "healthy"])
}
