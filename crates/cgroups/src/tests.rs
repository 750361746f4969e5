//! Pods' limits, and the real thing: cgroups of this machine below a root of our own.

use std::{fs, path::Path, process::Command, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use pod::{DesiredPod, Source};

use crate::{Amount, Cgroups, Config, Driver, NodeResources, Version, Who, hierarchy::Hierarchies};

pub fn pod(uid: &str, resources: &str) -> DesiredPod {
    let text = format!(
        r#"{{"metadata":{{"name":"{uid}","namespace":"ns","uid":"{uid}"}},
            "spec":{{"containers":[{{"name":"app","image":"x","resources":{resources}}}]}}}}"#
    );
    let object: Pod = serde_json::from_str(&text).unwrap();
    DesiredPod::new(Source::Api, Arc::new(object)).unwrap()
}

pub fn cgroups(config: Config) -> Cgroups {
    Cgroups::on(config, Hierarchies::V1(Default::default())).unwrap()
}

#[test]
fn a_burstable_pod_without_limits_gets_weight_only() {
    let limits = cgroups(Config::default()).pod_limits(&pod("a", r#"{"requests":{"cpu":"250m","memory":"1Gi"}}"#));
    assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.memory, limits.pids), (Some(256), None, None, None));
}

#[test]
fn limits_of_all_containers_limit_the_pod() {
    let config = Config { pod_pids_limit: 100, ..Config::default() };
    let limits = cgroups(config).pod_limits(&pod("a", r#"{"limits":{"cpu":"500m","memory":"64Mi"}}"#));
    assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(50_000), Some(100_000)));
    assert_eq!((limits.memory, limits.pids), (Some(64 << 20), Some(100)));
}

#[test]
fn without_quota_enforcement_the_quota_is_lifted() {
    let config = Config { cpu_cfs_quota: false, ..Config::default() };
    let limits = cgroups(config).pod_limits(&pod("a", r#"{"limits":{"cpu":"500m","memory":"64Mi"}}"#));
    assert_eq!(limits.cpu_quota, Some(-1));
}

#[test]
fn the_runtime_is_told_the_parent_as_its_driver_wants_it() {
    let guaranteed = pod("u-1", r#"{"limits":{"cpu":"1","memory":"64Mi"},"requests":{"cpu":"1","memory":"64Mi"}}"#);
    let best_effort = pod("u-2", "{}");
    let parent = |driver, pod: &DesiredPod| cgroups(Config { driver, ..Config::default() }).cgroup_parent(pod);
    assert_eq!(parent(Driver::Cgroupfs, &guaranteed), "/kubepods/podu-1");
    assert_eq!(parent(Driver::Cgroupfs, &best_effort), "/kubepods/besteffort/podu-2");
    assert_eq!(parent(Driver::Systemd, &best_effort), "kubepods-besteffort-podu_2.slice");
    let without = cgroups(Config { per_qos: false, ..Config::default() });
    assert_eq!(without.cgroup_parent(&guaranteed), "");
}

#[test]
fn a_sandbox_has_a_process_though_no_container_runs() {
    let root = tempfile::tempdir().unwrap();
    let sandbox = root.path().join("kubepods/podu-1/cri-containerd-s-1.scope");
    fs::create_dir_all(&sandbox).unwrap();
    fs::write(sandbox.join("cgroup.procs"), "77\n").unwrap();
    let hierarchies = Hierarchies::V2 { root: root.path().to_owned(), controllers: Default::default() };
    let cgroups = Cgroups::on(Config::default(), hierarchies).unwrap();
    let path = cgroups.sandbox_path(&"u-1".into(), &"s-1".into()).unwrap();
    assert_eq!(cgroups.process(&path), Some(77));
    assert!(cgroups.sandbox_path(&"u-1".into(), &"s-2".into()).is_err());
}

fn node() -> NodeResources {
    let capacity = Amount { milli_cpu: 2000, memory: 4 << 30, pids: Some(4096) };
    NodeResources { capacity, reserved: Amount { milli_cpu: 1000, memory: 1 << 30, ..Amount::default() } }
}

/// Real cgroups below a root that only this test has; None where the machine does not let us make any.
fn real() -> Option<(Cgroups, String)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let root = format!("/ferrolet-test-{}", std::process::id());
    let cgroups = Cgroups::new(Config { root: root.clone(), ..Config::default() }).ok()?;
    // A container may show cgroups read-only.
    crate::files::create(&cgroups.shared.hierarchies, &root).ok()?;
    Some((cgroups, root))
}

fn value(cgroups: &Cgroups, controller: &'static str, path: &str, file: &str) -> String {
    let dir = crate::hierarchy::below(cgroups.shared.hierarchies.of(controller).unwrap(), path);
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

#[tokio::test]
async fn real_cgroups_are_made_limited_measured_and_removed() {
    let Some((cgroups, root)) = real() else { return };
    let desired = pod("1234-abcd", r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"500m","memory":"64Mi"}}"#);

    cgroups.ensure_node(&node()).await.unwrap();
    cgroups.enforce_node(&node()).await.unwrap();
    cgroups.update_qos(std::slice::from_ref(&desired)).await.unwrap();
    let parent = cgroups.ensure_pod(&desired).await.unwrap();
    let again = cgroups.ensure_pod(&desired).await.unwrap();
    assert_eq!((&parent, &again), (&format!("{root}/kubepods/burstable/pod1234-abcd"), &parent));
    assert!(cgroups.pod_exists(&desired));
    assert_eq!(cgroups.pods(), std::slice::from_ref(&desired.uid));

    if cgroups.version() == Version::V1 {
        assert_eq!(value(&cgroups, "memory", &parent, "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(value(&cgroups, "cpu", &format!("{root}/kubepods"), "cpu.shares"), "1024");
        assert_eq!(value(&cgroups, "cpu", &format!("{root}/kubepods/burstable"), "cpu.shares"), "102");
        assert_eq!(value(&cgroups, "cpu", &format!("{root}/kubepods/besteffort"), "cpu.shares"), "2");
        assert!(!value(&cgroups, "cpuset", &parent, "cpuset.cpus").is_empty());
    }
    let enforced = cgroups.enforced_limits(&desired.uid).unwrap();
    assert_eq!(
        (enforced.cpu_quota, enforced.cpu_period, enforced.memory),
        (Some(50_000), Some(100_000), Some(64 << 20))
    );

    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    enter(&cgroups, &parent, child.id());
    let usage = cgroups.usage(Who::Pod(&desired.uid)).unwrap();
    assert_eq!(usage.memory.unwrap().limit, Some(64 << 20));
    assert!(cgroups.usage(Who::Node).unwrap().cpu_ns.unwrap() > 0);

    let reaper = std::thread::spawn(move || child.wait());
    cgroups.remove_pod(&desired.uid).await.unwrap();
    assert!(!reaper.join().unwrap().unwrap().success());
    assert!(!cgroups.pod_exists(&desired) && cgroups.pods().is_empty());
    cgroups.remove_pod(&desired.uid).await.unwrap();

    crate::files::remove(&cgroups.shared.hierarchies, &root).unwrap();
}

/// Moves the process in every hierarchy, as a runtime does, with a directory below for a container.
fn enter(cgroups: &Cgroups, pod: &str, pid: u32) {
    let container = format!("{pod}/container");
    crate::files::create(&cgroups.shared.hierarchies, &container).unwrap();
    for mount in cgroups.shared.hierarchies.mount_points() {
        let procs = crate::hierarchy::below(mount, &container).join("cgroup.procs");
        fs::write(Path::new(&procs), pid.to_string()).unwrap();
    }
}
