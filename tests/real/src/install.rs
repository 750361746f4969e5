//! The image, the DaemonSet and the Debian package of deploy/, on the real stack: the agent comes to a node's place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use bed::{Vm, process::run, wait};
use serde_json::{Value, json};

use crate::world::{World, expect, expect_eq, kubelet, shell_pod};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

pub fn by_daemon_set(w: &mut World) -> Result<()> {
    let (k, program) = (w.kubectl(), kubelet()?);
    let host = w.cluster.dir.join("host");
    let place = host.join("usr/bin/kubelet");
    fs::create_dir_all(place.parent().context("a parent")?)?;
    fs::write(&place, "the agent before")?;
    w.node().ctr(&["images", "import", &image(w)?])?;

    k.apply(&set_for(&host, &["install", "--root", "/host", "--stay"])?.to_string())?;
    k.run(&["label", "node", w.node_name(), "ferrolet/install=true"])?;
    let pods = ["-n", "kube-system", "-l", "app.kubernetes.io/name=ferrolet-install"];
    wait::until("the program to be in place", wait::LONG, || Ok(same_file(&place, &program)))?;
    k.run(&["-n", "kube-system", "rollout", "status", "daemonset/ferrolet-install", "--timeout=300s"])?;
    expect_eq(fs::read_to_string(place.with_extension("previous"))?.as_str(), "the agent before", "what is kept")?;
    let before = fs::metadata(&place)?.modified()?;

    k.run(&[&["delete", "pod"][..], &pods].concat())?;
    wait::until("the next pod to find all done", wait::LONG, || {
        Ok(k.run(&[&["logs"][..], &pods].concat()).is_ok_and(|said| said.contains("is this program already")))
    })?;
    expect_eq(fs::metadata(&place)?.modified()?, before, "the program's time after a second installation")?;
    k.run(&["-n", "kube-system", "delete", "daemonset", "ferrolet-install"])?;
    k.run(&["label", "node", w.node_name(), "ferrolet/install-"])?;
    Ok(())
}

/// The archive that image.sh makes of the program under test.
fn image(w: &World) -> Result<String> {
    let mut make = Command::new(format!("{DEPLOY}/image.sh"));
    let made = run(make.arg(kubelet()?).arg("amd64").arg(w.cluster.dir.join("image")))?;
    Ok(made.trim().rsplit(' ').next().context("image.sh names what it made")?.to_owned())
}

/// The DaemonSet takes a machine over that runs the upstream kubelet; the way back is by hand.
pub fn by_daemon_set_with_restart(w: &World, vm: &Vm) -> Result<()> {
    let k = w.kubectl();
    // As a package puts it: a file, where the seed disk has a link.
    let place = "systemctl stop kubelet && rm /usr/bin/kubelet && cp /usr/local/bin/kubelet.upstream /usr/bin/kubelet";
    vm.ssh(&[&format!("{place} && systemctl start kubelet")])?;
    let mut keep = shell_pod("keep", &[("app", "sleep 100000")]);
    keep["spec"]["nodeName"] = json!(vm.name);
    k.apply(&keep.to_string())?;
    let before = k.until_ready("keep")?;
    let runs = |program: &str| {
        let compare =
            format!("cmp -s /proc/$(systemctl show -P MainPID kubelet)/exe /usr/local/bin/{program}; echo $?");
        Ok(vm.ssh(&[&compare])?.trim() == "0")
    };
    expect(runs("kubelet.upstream")?, "the node runs the upstream kubelet first")?;

    let elsewhere = "/usr/local/bin/kubelet install --path /opt/kubelet --restart kubelet.service";
    let refused = vm.ssh_command().arg(elsewhere).output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    expect(!refused.status.success() && said.contains("starts /usr/bin/kubelet, not /opt/kubelet"), said)?;
    let import = vm.ssh_command().arg("ctr -n k8s.io images import -").stdin(fs::File::open(image(w)?)?).output()?;
    expect(import.status.success(), String::from_utf8_lossy(&import.stderr))?;
    let args = ["install", "--root", "/host", "--restart", "kubelet.service", "--stay"];
    k.apply(&set_for(Path::new("/"), &args)?.to_string())?;
    k.run(&["label", "node", &vm.name, "ferrolet/install=true"])?;
    wait::until("the unit to run the program", wait::LONG, || runs("kubelet"))?;
    k.run(&["-n", "kube-system", "rollout", "status", "daemonset/ferrolet-install", "--timeout=600s"])?;
    let untouched = |how: &str| {
        k.until_node_ready(&vm.name)?;
        let now = k.until_ready("keep")?;
        expect_eq(&now["status"]["containerStatuses"], &before["status"]["containerStatuses"], how)
    };
    untouched("a pod under the new agent")?;
    let pods = k.json(&["-n", "kube-system", "get", "pod", "-l", "app.kubernetes.io/name=ferrolet-install"])?;
    let restarts = &pods["items"][0]["status"]["containerStatuses"][0]["restartCount"];
    expect_eq(restarts, &json!(0), "restarts of the container that installed the agent")?;

    k.run(&["-n", "kube-system", "delete", "daemonset", "ferrolet-install"])?;
    k.run(&["label", "node", &vm.name, "ferrolet/install-"])?;
    vm.ssh(&["/usr/bin/kubelet install --restore --restart kubelet.service"])?;
    wait::until("the unit to run what it ran before", wait::LONG, || runs("kubelet.upstream"))?;
    untouched("a pod under the agent of before")?;
    w.delete_pods(&["keep"])?;
    vm.swap_kubelet(false)
}

/// A machine without a kubelet gets ours by the package alone: unit, drop-in and defaults are the package's.
pub fn by_package(vm: &Vm) -> Result<()> {
    let folder =
        std::env::var("FERROLET_PACKAGES").context("FERROLET_PACKAGES names no folder; `make test-vm` does")?;
    let is_package = |path: &PathBuf| path.to_string_lossy().ends_with("_amd64.deb");
    let mut found = fs::read_dir(&folder).with_context(|| folder.clone())?.flatten().map(|file| file.path());
    let package = found.find(is_package).with_context(|| format!("no package in {folder}"))?;
    // What the seed disk has in the places of a package, or before them.
    vm.ssh(&["systemctl disable --now kubelet; rm -r /etc/systemd/system/kubelet.service* /usr/bin/kubelet"])?;
    let copy = vm.ssh_command().arg("cat >/root/kubelet.deb").stdin(fs::File::open(&package)?).output()?;
    expect(copy.status.success(), String::from_utf8_lossy(&copy.stderr))?;
    // Also after a removal that left the package's configuration.
    vm.ssh(&["dpkg -i /root/kubelet.deb && dpkg -r ferrolet-kubelet && dpkg -i /root/kubelet.deb"])?;
    expect_eq(vm.ssh(&["dpkg -S /usr/bin/kubelet"])?.trim(), "ferrolet-kubelet: /usr/bin/kubelet", "owner")?;
    expect_eq(vm.ssh(&["systemctl is-enabled kubelet"])?.trim(), "enabled", "unit")?;
    let from = vm.ssh(&["systemctl", "show", "-P", "FragmentPath", "kubelet"])?;
    expect_eq(from.trim().trim_start_matches("/usr"), "/lib/systemd/system/kubelet.service", "the unit's file")
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// The DaemonSet as it is, but for root and arguments, and the machine's libraries, since the program under test need not
/// be static.
fn set_for(host: &Path, args: &[&str]) -> Result<Value> {
    let mut set: Value = serde_yaml_ng::from_str(&fs::read_to_string(PathBuf::from(DEPLOY).join("daemonset.yaml"))?)?;
    set["spec"]["minReadySeconds"] = json!(0);
    let pod = &mut set["spec"]["template"]["spec"];
    expect_eq(&pod["volumes"][0]["hostPath"]["path"], &json!("/"), "what the DaemonSet mounts")?;
    pod["volumes"][0]["hostPath"]["path"] = json!(host);
    pod["containers"][0]["args"] = json!(args);
    for (name, path) in [("usr-lib", "/usr/lib"), ("lib", "/lib"), ("lib64", "/lib64")] {
        pod["volumes"].as_array_mut().context("volumes")?.push(json!({"name": name, "hostPath": {"path": path}}));
        let mounts = pod["containers"][0]["volumeMounts"].as_array_mut().context("mounts")?;
        mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
    }
    Ok(set)
}
