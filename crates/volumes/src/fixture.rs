//! Pods for this crate's tests.

use std::sync::Arc;

use pod::{DesiredPod, Source};
use serde_json::{Value, from_value, json};

/// A pod `ns/web` of UID `uid-1` with this spec.
pub(crate) fn pod(spec: Value) -> DesiredPod {
    let pod =
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "uid-1", "labels": {"app": "web"}}, "spec": spec});
    DesiredPod::new(Source::Api, Arc::new(from_value(pod).unwrap())).unwrap()
}

/// Tests that mount run again in a process with mounts of its own; true in that one. The others, and whoever may not
/// mount, return at once.
pub(crate) fn in_own_mounts(test: &str) -> bool {
    const INSIDE: &str = "FERROLET_TEST_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to mount");
        return false;
    }
    let exe = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(exe).args(["--exact", test, "--nocapture"]);
    match command.env(INSIDE, "1").output() {
        Ok(run) => assert!(
            run.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        ),
        Err(e) => println!("skipped: no unshare ({e})"),
    }
    false
}
