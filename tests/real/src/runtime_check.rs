//! `kubelet doctor --runtime` on both runtimes: what they can, what the old one lacks, and that nothing is left.

use std::fs;

use anyhow::{Context, Result};
use bed::{Runtime, images, process};

use crate::world::{self, Group, Test, World, expect, expect_eq};

pub fn group() -> Group {
    let tests: [(_, Test); 2] = [
        ("a_new_runtime_fits_and_is_left_as_it_was", new_runtime),
        ("an_image_without_a_shell_is_told", without_shell),
    ];
    Group { name: "runtime-check", runtime: Runtime::Containerd2, services: false, bare: false, tests: tests.into() }
}

pub fn old_runtime_group() -> Group {
    let tests: [(_, Test); 1] = [("an_old_runtime_fits_and_what_it_lacks_is_named", old_runtime)];
    Group { name: "runtime-check-1-6", runtime: Runtime::Debian, services: false, bare: false, tests: tests.into() }
}

struct Told {
    fits: bool,
    table: String,
}

impl Told {
    fn lacks(&self) -> Vec<&str> {
        let rows = self.table.lines().filter_map(|line| line.split_once("lacks: Unimplemented"));
        rows.map(|(call, _)| call.trim()).collect()
    }
}

/// As an administrator would, with the agent stopped and its own configuration.
fn check(w: &World, more: &[&str]) -> Result<Told> {
    let node = w.node();
    node.stop_kubelet();
    let output = process::in_netns(Some(&node.netns), &world::kubelet()?)
        .args(["doctor", "--runtime"])
        .args(more)
        .arg(format!("--config={}", node.dir.join("etc/kubelet.yml").display()))
        .arg(format!("--root-dir={}", node.root_dir().display()))
        .output()
        .context("kubelet doctor")?;
    let table = String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr);
    Ok(Told { fits: output.status.success(), table })
}

/// What the check makes is named after it: pods, logs, cgroups.
fn nothing_left(w: &World) -> Result<()> {
    let pods = w.pods_of_runtime()?;
    expect(!pods.iter().any(|pod| pod.contains("ferrolet-doctor")), format!("pods {pods:?}"))?;
    let logs = fs::read_dir(w.node().pod_logs())?.flatten().map(|entry| entry.path());
    let mut left: Vec<_> = logs.filter(|path| path.to_string_lossy().contains("ferrolet-doctor")).collect();
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        left.push(hierarchy.path().join(w.node().cgroup()).join("ferrolet-doctor"));
    }
    left.retain(|path| path.exists());
    expect_eq(left, Vec::new(), "leftovers")
}

fn fits(w: &World) -> Result<Told> {
    let refused = refused_beside_an_agent(w)?;
    expect(refused, "beside a running agent it does not begin".to_owned())?;
    let told = check(w, &["--image", images::BUSYBOX])?;
    expect(told.fits && !told.table.contains("FAILED"), format!("it does not fit:\n{}", told.table))?;
    nothing_left(w)?;
    for call in ["PullImage", "RemoveImage"] {
        let tried = told.table.lines().any(|line| line.starts_with(call) && line.contains(" ok "));
        expect(tried, format!("{call} is tried:\n{}", told.table))?;
    }
    // Once more, with an image that it finds by itself, since a pod has brought it.
    w.node().start_kubelet(None, Some(&w.cluster.dir))?;
    w.kubectl().apply(&world::shell_pod("bringer", &[("app", "sleep 100000")]).to_string())?;
    w.kubectl().until_ready("bringer")?;
    w.delete_pods(&["bringer"])?;
    let again = check(w, &[])?;
    expect(again.fits, format!("the second time it does not fit:\n{}", again.table))?;
    nothing_left(w)?;
    Ok(told)
}

fn refused_beside_an_agent(w: &World) -> Result<bool> {
    let node = w.node();
    let output = process::in_netns(Some(&node.netns), &world::kubelet()?)
        .args(["doctor", "--runtime"])
        .arg(format!("--config={}", node.dir.join("etc/kubelet.yml").display()))
        .output()
        .context("kubelet doctor")?;
    Ok(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("stop it for this check"))
}

fn new_runtime(w: &mut World) -> Result<()> {
    expect_eq(fits(w)?.lacks(), Vec::new(), "lacks")
}

fn old_runtime(w: &mut World) -> Result<()> {
    let lacks = ["RuntimeConfig", "UpdatePodSandboxResources", "CheckpointContainer", "GetContainerEvents"];
    expect_eq(fits(w)?.lacks(), lacks.to_vec(), "lacks")
}

fn without_shell(w: &mut World) -> Result<()> {
    let told = check(w, &["--image", images::PAUSE])?;
    expect(!told.fits && told.table.contains("name one by --image"), told.table.clone())?;
    nothing_left(w)
}
