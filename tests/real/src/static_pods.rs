//! Static pods and their mirrors.

use std::{fs, time::Duration};

use anyhow::Result;
use bed::Runtime;
use serde_json::{Value, json};

use crate::world::{Group, World, container_status, expect, expect_eq, shell_pod};

pub fn group() -> Group {
    Group {
        name: "static",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("a_manifest_runs_and_has_a_mirror", runs_with_mirror),
            ("an_edited_manifest_replaces_the_pod", edited),
            ("a_manifest_that_is_put_back_starts_anew", put_back),
            ("a_broken_manifest_harms_no_other", broken),
        ],
    }
}

const NAME: &str = "web-node-a";

pub fn put(w: &World, file: &str, manifest: &Value) -> Result<()> {
    // As an editor would: written beside, then moved into place.
    let dir = w.node().static_pods();
    let temporary = w.node().dir.join("manifest.tmp");
    fs::write(&temporary, manifest.to_string())?;
    Ok(fs::rename(temporary, dir.join(file))?)
}

fn runs_with_mirror(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    put(w, "web.json", &shell_pod("web", &[("app", "sleep 100000")]))?;
    let pod = k.until_ready(NAME)?;
    let annotations = &pod["metadata"]["annotations"];
    expect_eq(annotations["kubernetes.io/config.source"].as_str(), Some("file"), "source")?;
    expect(annotations["kubernetes.io/config.mirror"].is_string(), "the mirror annotation")?;
    expect_eq(pod["metadata"]["ownerReferences"][0]["kind"].as_str(), Some("Node"), "owner")?;
    let id = container_status(&pod, "app")["containerID"].clone();
    k.run(&["delete", "pod", NAME, "--grace-period=0", "--force"])?;
    let again = k.until_pod(NAME, "a new mirror", |p| {
        p["metadata"]["uid"] != pod["metadata"]["uid"] && bed::kubectl::is_ready(p)
    })?;
    expect_eq(container_status(&again, "app")["containerID"].clone(), id, "the container under a new mirror")
}

fn edited(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let before = k.until_ready(NAME)?;
    let mut manifest = shell_pod("web", &[("app", "sleep 200000")]);
    manifest["metadata"]["annotations"] = json!({"edition": "2"});
    put(w, "web.json", &manifest)?;
    let old = container_status(&before, "app")["containerID"].clone();
    let after = k.until_pod(NAME, "the new edition runs", |p| {
        p["metadata"]["annotations"]["edition"] == "2"
            && bed::kubectl::is_ready(p)
            && container_status(p, "app")["containerID"] != old
    })?;
    expect_eq(after["spec"]["containers"][0]["command"][2].as_str(), Some("sleep 200000"), "command")
}

fn put_back(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let old = container_status(&k.until_ready(NAME)?, "app")["containerID"].clone();
    let file = w.node().static_pods().join("web.json");
    let manifest = serde_json::from_str(&fs::read_to_string(&file)?)?;
    fs::remove_file(file)?;
    // Nothing in the API tells that a static pod has begun to end.
    std::thread::sleep(Duration::from_millis(500));
    put(w, "web.json", &manifest)?;
    k.until_pod(NAME, "its mirror tells of the new start", |p| {
        bed::kubectl::is_ready(p) && container_status(p, "app")["containerID"] != old
    })?;
    Ok(())
}

fn broken(w: &mut World) -> Result<()> {
    let k = w.kubectl();
    let before = container_status(&k.until_ready(NAME)?, "app").clone();
    fs::write(w.node().static_pods().join("broken.yaml"), "kind: Pod\nmetadata: {name: [}\n")?;
    put(w, "second.json", &shell_pod("second", &[("app", "sleep 100000")]))?;
    k.until_ready("second-node-a")?;
    expect_eq(container_status(&k.pod(NAME)?, "app").clone(), before, "the first static pod")?;
    for file in ["broken.yaml", "second.json", "web.json"] {
        fs::remove_file(w.node().static_pods().join(file))?;
    }
    k.until_gone("pod", NAME)?;
    k.until_gone("pod", "second-node-a")
}
