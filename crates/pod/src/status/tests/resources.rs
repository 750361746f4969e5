//! Resources and mounts as the status shows them.

use super::*;

#[test]
fn resources_show_what_the_runtime_enforces() {
    let spec = json!({"containers": [{"name": "app", "image": "i", "resources":
        {"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}}]});
    let actual = crate::observed::ObservedResources {
        cpu_shares: 204,
        cpu_quota: 40_000,
        cpu_period: 100_000,
        memory_limit_bytes: 256 << 20,
    };
    let running = ObservedContainer { resources: Some(actual), ..seen("app", "c1", State::Running) };
    let app = container(&case(spec.clone()).with(running).status(), "app");
    assert_eq!(
        serde_json::to_value(app.resources).unwrap(),
        json!({"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "400m", "memory": "256Mi"}})
    );
    assert_eq!(serde_json::to_value(app.allocated_resources).unwrap(), json!({"cpu": "100m", "memory": "64Mi"}));
    let status = case(spec).exited("app", "c1", 0).status();
    assert_eq!(
        serde_json::to_value(container(&status, "app").resources).unwrap()["limits"],
        json!({"cpu": "200m", "memory": "128Mi"})
    );
}

#[test]
fn small_amounts_that_the_kernel_rounds_are_shown_as_given() {
    let spec = json!({"containers": [{"name": "app", "image": "i", "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}}}]});
    let actual = crate::observed::ObservedResources {
        cpu_shares: 2,
        cpu_quota: 1_000,
        cpu_period: 100_000,
        memory_limit_bytes: 0,
    };
    let running = ObservedContainer { resources: Some(actual), ..seen("app", "c1", State::Running) };
    let app = container(&case(spec).with(running).status(), "app");
    assert_eq!(
        serde_json::to_value(app.resources).unwrap(),
        json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}})
    );
}

#[test]
fn the_pods_resources_are_summed() {
    let spec = json!({"containers": [{"name": "app", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}}}]});
    let pending = case(spec.clone()).status();
    assert_eq!(
        serde_json::to_value(pending.resources).unwrap(),
        json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}})
    );
    let running = case(spec).running("app", "c1").status();
    assert_eq!(
        serde_json::to_value(running.resources).unwrap(),
        json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}})
    );
    assert_eq!(serde_json::to_value(running.allocated_resources).unwrap(), json!({"cpu": "100m", "memory": "1Mi"}));
}

#[test]
fn volume_mounts_tell_how_they_are_mounted() {
    let spec = json!({"containers": [{"name": "app", "image": "i", "volumeMounts": [
        {"name": "v", "mountPath": "/rw"}, {"name": "w", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "IfPossible"}]}]});
    let before = case(spec.clone()).nothing_seen().status();
    let mount = |status: &PodStatus, i: usize| {
        serde_json::to_value(&container(status, "app").volume_mounts.unwrap()[i]).unwrap()
    };
    assert_eq!(mount(&before, 0), json!({"name": "v", "mountPath": "/rw"}));
    assert_eq!(
        mount(&before, 1),
        json!({"name": "w", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "Disabled"})
    );
    let seen_mount = ObservedMount {
        container_path: "/ro".into(),
        host_path: "/h".into(),
        readonly: true,
        recursive_read_only: true,
        image: None,
    };
    let running = ObservedContainer { mounts: vec![seen_mount], ..seen("app", "c1", State::Running) };
    assert_eq!(mount(&case(spec).with(running).after(&before).status(), 1)["recursiveReadOnly"], "Enabled");
}
