//! The image and the DaemonSet of deploy/, on the real stack: the agent comes to a node's place through a pod.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use bed::process::run;
use serde_json::{Value, json};

use crate::world::{World, expect_eq, kubelet};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

pub fn by_daemon_set(w: &mut World) -> Result<()> {
    let (k, program) = (w.kubectl(), kubelet()?);
    let host = w.cluster.dir.join("host");
    let place = host.join("usr/bin/kubelet");
    fs::create_dir_all(place.parent().context("a parent")?)?;
    fs::write(&place, "the agent before")?;
    let out = w.cluster.dir.join("image");
    let made = run(Command::new(format!("{DEPLOY}/image.sh")).arg(&program).arg("amd64").arg(&out))?;
    let archive = made.trim().rsplit(' ').next().context("image.sh names what it made")?;
    w.node().ctr(&["images", "import", archive])?;

    k.apply(&set_for(&host)?.to_string())?;
    k.run(&["label", "node", w.node_name(), "ferrolet/install=true"])?;
    let pods = ["-n", "kube-system", "-l", "app.kubernetes.io/name=ferrolet-install"];
    bed::wait::until("the program to be in place", bed::wait::LONG, || Ok(same_file(&place, &program)))?;
    k.run(&["-n", "kube-system", "rollout", "status", "daemonset/ferrolet-install", "--timeout=300s"])?;
    expect_eq(fs::read_to_string(place.with_extension("previous"))?.as_str(), "the agent before", "what is kept")?;
    let before = fs::metadata(&place)?.modified()?;

    k.run(&[&["delete", "pod"][..], &pods].concat())?;
    bed::wait::until("the next pod to find all done", bed::wait::LONG, || {
        Ok(k.run(&[&["logs"][..], &pods].concat()).is_ok_and(|said| said.contains("is this program already")))
    })?;
    expect_eq(fs::metadata(&place)?.modified()?, before, "the program's time after a second installation")?;
    k.run(&["-n", "kube-system", "delete", "daemonset", "ferrolet-install"])?;
    k.run(&["label", "node", w.node_name(), "ferrolet/install-"])?;
    Ok(())
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// The DaemonSet as it is, but for another root than the machine's, no restart, and the machine's libraries, since the
/// program under test need not be static.
fn set_for(host: &Path) -> Result<Value> {
    let mut set: Value = serde_yaml_ng::from_str(&fs::read_to_string(PathBuf::from(DEPLOY).join("daemonset.yaml"))?)?;
    set["spec"]["minReadySeconds"] = json!(0);
    let pod = &mut set["spec"]["template"]["spec"];
    expect_eq(&pod["volumes"][0]["hostPath"]["path"], &json!("/"), "what the DaemonSet mounts")?;
    pod["volumes"][0]["hostPath"]["path"] = json!(host);
    pod["containers"][0]["args"] = json!(["install", "--root", "/host", "--stay"]);
    for (name, path) in [("usr-lib", "/usr/lib"), ("lib", "/lib"), ("lib64", "/lib64")] {
        pod["volumes"].as_array_mut().context("volumes")?.push(json!({"name": name, "hostPath": {"path": path}}));
        let mounts = pod["containers"][0]["volumeMounts"].as_array_mut().context("mounts")?;
        mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
    }
    Ok(set)
}
