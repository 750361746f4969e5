//! The defaults that the API server fills into a pod, for pods that never pass by one.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, Pod,
    PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, Volume,
};

use crate::quantity::{ApiList, Format, Quantity};

fn or_set<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

fn or_text(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// As a `POST` of the pod would have done.
pub fn apply(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    pod_spec(spec);
    let host_network = spec.host_network == Some(true);
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container(c);
        requests_from_limits(c);
        if host_network {
            host_ports(c);
        }
    }
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral);
    spec.volumes.iter_mut().flatten().for_each(volume);
}

fn pod_spec(spec: &mut PodSpec) {
    let account = spec.service_account_name.clone().filter(|n| !n.is_empty()).or(spec.service_account.clone());
    spec.service_account_name.clone_from(&account);
    spec.service_account = account;
    or_text(&mut spec.dns_policy, "ClusterFirst");
    or_text(&mut spec.restart_policy, "Always");
    or_text(&mut spec.scheduler_name, "default-scheduler");
    or_set(&mut spec.security_context, PodSecurityContext::default());
    or_set(&mut spec.enable_service_links, true);
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    if *grace < 0 {
        *grace = 1;
    }
    for list in [&mut spec.overhead].into_iter().flatten() {
        round(list);
    }
    if let Some(resources) = &mut spec.resources {
        [&mut resources.requests, &mut resources.limits].into_iter().flatten().for_each(round);
    }
}

/// Nothing finer than thousandths.
fn round(list: &mut ApiList) {
    for amount in list.values_mut() {
        let exact = Quantity::of(amount);
        let milli = Quantity::from_milli(exact.milli_value(), exact.format());
        if milli != exact && exact.format() != Format::BinarySi {
            *amount = milli.to_api();
        }
    }
}

/// `latest` where the reference has neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let name = last.split('@').next().unwrap_or_default();
    match name.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !last.contains('@') => "Always",
        _ => "IfNotPresent",
    }
}

fn container(c: &mut Container) {
    or_text(&mut c.image_pull_policy, pull_policy(c.image.as_deref().unwrap_or_default()));
    or_text(&mut c.termination_message_path, "/dev/termination-log");
    or_text(&mut c.termination_message_policy, "File");
    for port in c.ports.iter_mut().flatten() {
        or_text(&mut port.protocol, "TCP");
    }
    c.env.iter_mut().flatten().for_each(env);
    for p in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        probe(p);
    }
    if let Some(lifecycle) = &mut c.lifecycle {
        [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten().for_each(handler);
    }
    if let Some(resources) = &mut c.resources {
        [&mut resources.requests, &mut resources.limits].into_iter().flatten().for_each(round);
    }
}

fn ephemeral(c: &mut EphemeralContainer) {
    or_text(&mut c.image_pull_policy, pull_policy(c.image.as_deref().unwrap_or_default()));
    or_text(&mut c.termination_message_path, "/dev/termination-log");
    or_text(&mut c.termination_message_policy, "File");
    c.env.iter_mut().flatten().for_each(env);
}

fn env(var: &mut EnvVar) {
    if let Some(field) = var.value_from.as_mut().and_then(|v| v.field_ref.as_mut()) {
        or_text(&mut field.api_version, "v1");
    }
}

fn set_number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

fn probe(p: &mut Probe) {
    set_number(&mut p.timeout_seconds, 1);
    set_number(&mut p.period_seconds, 10);
    set_number(&mut p.success_threshold, 1);
    set_number(&mut p.failure_threshold, 3);
    if let Some(get) = &mut p.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut p.grpc {
        or_set(&mut grpc.service, String::new());
    }
}

fn handler(h: &mut LifecycleHandler) {
    if let Some(get) = &mut h.http_get {
        http_get(get);
    }
}

fn http_get(get: &mut HTTPGetAction) {
    or_text(&mut get.path, "/");
    or_text(&mut get.scheme, "HTTP");
}

fn requests_from_limits(c: &mut Container) {
    let Some(resources) = &mut c.resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn host_ports(c: &mut Container) {
    for port in c.ports.iter_mut().flatten() {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

const FILE_MODE: i32 = 0o644;

fn volume(v: &mut Volume) {
    if crate::validate::volume_sources(v).is_empty() {
        v.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(secret) = &mut v.secret {
        or_set(&mut secret.default_mode, FILE_MODE);
    }
    if let Some(config_map) = &mut v.config_map {
        or_set(&mut config_map.default_mode, FILE_MODE);
    }
    if let Some(downward) = &mut v.downward_api {
        or_set(&mut downward.default_mode, FILE_MODE);
        downward
            .items
            .iter_mut()
            .flatten()
            .filter_map(|i| i.field_ref.as_mut())
            .for_each(|f| or_text(&mut f.api_version, "v1"));
    }
    if let Some(projected) = &mut v.projected {
        projected_volume(projected);
    }
    if let Some(host_path) = &mut v.host_path {
        or_set(&mut host_path.type_, String::new());
    }
    if let Some(image) = &mut v.image {
        let policy = pull_policy(image.reference.as_deref().unwrap_or_default());
        or_text(&mut image.pull_policy, policy);
    }
    network_volume(v);
}

/// Kinds that no kubelet mounts by itself any more: their defaults are part of a static pod's identity.
fn network_volume(v: &mut Volume) {
    if let Some(iscsi) = &mut v.iscsi {
        or_text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut v.rbd {
        or_text(&mut rbd.pool, "rbd");
        or_text(&mut rbd.user, "admin");
        or_text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut v.azure_disk {
        or_set(&mut disk.caching_mode, "ReadWrite".to_owned());
        or_set(&mut disk.fs_type, "ext4".to_owned());
        or_set(&mut disk.read_only, false);
        or_set(&mut disk.kind, "Shared".to_owned());
    }
    if let Some(scale_io) = &mut v.scale_io {
        or_text(&mut scale_io.storage_mode, "ThinProvisioned");
        or_text(&mut scale_io.fs_type, "xfs");
    }
    let claim = v.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut());
    if let Some(claim) = claim {
        or_text(&mut claim.spec.volume_mode, "Filesystem");
    }
}

fn projected_volume(projected: &mut ProjectedVolumeSource) {
    or_set(&mut projected.default_mode, FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            or_set(&mut token.expiration_seconds, 3600);
        }
        let items = source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
        items.filter_map(|i| i.field_ref.as_mut()).for_each(|f| or_text(&mut f.api_version, "v1"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        apply(&mut pod);
        serde_json::to_value(pod).unwrap()["spec"].clone()
    }

    #[test]
    fn the_pod_gets_what_the_api_server_would_give() {
        let spec = defaulted(json!({"containers": [{"name": "c", "image": "nginx"}], "serviceAccount": "sa"}));
        assert_eq!(
            spec,
            json!({
            "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "enableServiceLinks": true, "terminationGracePeriodSeconds": 30,
            "serviceAccount": "sa", "serviceAccountName": "sa"})
        );
    }

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("r:5000/a/b", "Always"),
            ("r:5000/a/b:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn requests_follow_limits_and_host_ports_the_container_ports() {
        let spec =
            defaulted(json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]}));
        let c = &spec["containers"][0];
        assert_eq!(c["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(c["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    }

    #[test]
    fn probes_hooks_and_volumes_are_completed() {
        let spec = defaulted(json!({"containers": [{"name": "c", "image": "i:1",
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3}, "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/x"}}, {"name": "c", "projected": {"sources": []}}]}));
        let c = &spec["containers"][0];
        assert_eq!(
            c["livenessProbe"],
            json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 3,
            "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(c["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(c["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(spec["volumes"][0], json!({"name": "a", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["hostPath"]["type"], "");
        assert_eq!(spec["volumes"][2]["projected"]["defaultMode"], 0o644);
    }
}
