//! Rules on containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, Lifecycle, LifecycleHandler, PodSpec, Probe, ResourceRequirements, VolumeMount,
};

use super::{Findings, Volumes, What};
use crate::{Containers, desired::init_kind, names, quantity::Quantity};

pub(super) fn containers(spec: &PodSpec, volumes: &Volumes<'_>, f: &mut Findings) {
    if spec.containers.is_empty() {
        f.required("spec.containers");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (i, c) in spec.containers.iter().enumerate() {
        let at = format!("spec.containers[{i}]");
        f.unique(&format!("{at}.name"), &c.name, &mut seen);
        container(&at, c, volumes, f);
        probes(&at, c, f);
        ports(&at, c, spec.host_network == Some(true), &mut host_ports, f);
        f.one_of(&format!("{at}.restartPolicy"), c.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    }
    for (i, c) in spec.init_containers.iter().flatten().enumerate() {
        let at = format!("spec.initContainers[{i}]");
        f.unique(&format!("{at}.name"), &c.name, &mut seen);
        container(&at, c, volumes, f);
        if init_kind(c) == Containers::Sidecar {
            probes(&at, c, f);
            ports(&at, c, spec.host_network == Some(true), &mut host_ports, f);
        } else {
            no_probes(&at, c, f);
            ports(&at, c, spec.host_network == Some(true), &mut BTreeSet::new(), f);
        }
    }
}

fn container(at: &str, c: &Container, volumes: &Volumes<'_>, f: &mut Findings) {
    f.name(&format!("{at}.name"), &c.name, names::dns_label);
    let image = c.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        f.required(format!("{at}.image"));
    } else if image.trim() != image {
        f.invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace");
    }
    f.one_of(&format!("{at}.imagePullPolicy"), c.image_pull_policy.as_deref(), &["Always", "IfNotPresent", "Never"]);
    f.one_of(
        &format!("{at}.terminationMessagePolicy"),
        c.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    );
    for (i, var) in c.env.iter().flatten().enumerate() {
        env(&format!("{at}.env[{i}]"), var, f);
    }
    mounts(at, c, volumes, f);
    if let Some(resources) = &c.resources {
        requirements(&format!("{at}.resources"), resources, f);
    }
    let context = c.security_context.as_ref();
    if context.is_some_and(|s| s.privileged == Some(true) && s.allow_privilege_escalation == Some(false)) {
        f.invalid(
            format!("{at}.securityContext"),
            "",
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
    let rules = c.restart_policy_rules.as_deref().unwrap_or_default();
    if !rules.is_empty() && c.restart_policy.is_none() {
        let why = "must specify restartPolicy when restart rules are used";
        f.add(format!("{at}.restartPolicy"), What::Required(why.into()));
    }
    if rules.len() > 20 {
        f.invalid(format!("{at}.restartPolicyRules"), rules.len(), "must have at most 20 items");
    }
}

fn env(at: &str, var: &EnvVar, f: &mut Findings) {
    f.name(&format!("{at}.name"), &var.name, names::env_name);
    let Some(from) = &var.value_from else { return };
    let sources = [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    match sources.iter().filter(|s| **s).count() {
        0 => f.invalid(
            format!("{at}.valueFrom"),
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 => {}
        _ => f.invalid(format!("{at}.valueFrom"), "", "may not have more than one field specified at a time"),
    }
    if var.value.as_deref().is_some_and(|v| !v.is_empty()) {
        f.invalid(format!("{at}.valueFrom"), "", "may not be specified when `value` is not empty");
    }
    if let Some(field) = &from.field_ref {
        field_path(&format!("{at}.valueFrom.fieldRef.fieldPath"), &field.field_path, f);
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn field_path(at: &str, path: &str, f: &mut Findings) {
    if path.is_empty() {
        return f.required(at);
    }
    let subscripted = path.strip_suffix("']").and_then(|p| p.split_once("['"));
    if let Some((map, key)) = subscripted {
        if map != "metadata.labels" && map != "metadata.annotations" {
            return f.invalid(at, path, "does not support subscript");
        }
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            f.invalid(at, key, why);
        }
        return;
    }
    f.one_of(at, Some(path), ENV_FIELDS);
}

fn mounts(at: &str, c: &Container, volumes: &Volumes<'_>, f: &mut Findings) {
    let mut paths = BTreeSet::new();
    for (i, mount) in c.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        if mount.name.is_empty() {
            f.required(format!("{at}.name"));
        } else if !volumes.contains_key(mount.name.as_str()) {
            f.add(format!("{at}.name"), What::NotFound(mount.name.clone()));
        }
        if mount.mount_path.is_empty() {
            f.required(format!("{at}.mountPath"));
        } else if !paths.insert(mount.mount_path.as_str()) {
            f.invalid(format!("{at}.mountPath"), &mount.mount_path, "must be unique");
        }
        mount_options(&at, c, mount, f);
    }
    for (i, device) in c.volume_devices.iter().flatten().enumerate() {
        let at = format!("{at}.volumeDevices[{i}]");
        match volumes.get(device.name.as_str()) {
            None => f.add(format!("{at}.name"), What::NotFound(device.name.clone())),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                f.invalid(
                    format!("{at}.name"),
                    &device.name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            f.required(format!("{at}.devicePath"));
        }
    }
}

fn mount_options(at: &str, c: &Container, mount: &VolumeMount, f: &mut Findings) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expr = mount.sub_path_expr.as_deref().unwrap_or_default();
    if !sub_path.is_empty() && !expr.is_empty() {
        f.invalid(format!("{at}.subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive");
    }
    for (field, path) in [("subPath", sub_path), ("subPathExpr", expr)] {
        if path.starts_with('/') {
            f.invalid(format!("{at}.{field}"), path, "must be a relative path");
        }
        if path.split('/').any(|part| part == "..") {
            f.invalid(format!("{at}.{field}"), path, "must not contain '..'");
        }
    }
    let propagation = mount.mount_propagation.as_deref();
    f.one_of(&format!("{at}.mountPropagation"), propagation, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    if propagation == Some("Bidirectional") && !privileged {
        f.forbidden(
            format!("{at}.mountPropagation"),
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
    let recursive = mount.recursive_read_only.as_deref();
    f.one_of(&format!("{at}.recursiveReadOnly"), recursive, &["Disabled", "IfPossible", "Enabled"]);
    if matches!(recursive, Some("Enabled" | "IfPossible")) && mount.read_only != Some(true) {
        f.forbidden(format!("{at}.recursiveReadOnly"), "may only be specified when readOnly is true");
    }
}

/// Only the port range is checked for all; the host's ports may be given away once.
fn ports(at: &str, c: &Container, host_network: bool, taken: &mut BTreeSet<String>, f: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (i, port) in c.ports.iter().flatten().enumerate() {
        let at = format!("{at}.ports[{i}]");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            f.name(&format!("{at}.name"), name, names::port_name);
            f.unique(&format!("{at}.name"), name, &mut seen);
        }
        let range = 1..=65535;
        if port.container_port == 0 {
            f.required(format!("{at}.containerPort"));
        } else if !range.contains(&port.container_port) {
            f.invalid(format!("{at}.containerPort"), port.container_port, "must be between 1 and 65535, inclusive");
        }
        f.one_of(&format!("{at}.protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
        let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
        if !range.contains(&host_port) {
            f.invalid(format!("{at}.hostPort"), host_port, "must be between 1 and 65535, inclusive");
        }
        if host_network && host_port != port.container_port {
            f.invalid(format!("{at}.hostPort"), host_port, "must match `containerPort` when `hostNetwork` is true");
        }
        let key = format!(
            "{}/{}/{host_port}",
            port.protocol.as_deref().unwrap_or("TCP"),
            port.host_ip.as_deref().unwrap_or_default()
        );
        if !taken.insert(key.clone()) {
            f.add(format!("{at}.hostPort"), What::Duplicate(key));
        }
    }
}

fn requirements(at: &str, resources: &ResourceRequirements, f: &mut Findings) {
    for (side, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, amount) in list.iter().flatten() {
            let at = format!("{at}.{side}[{name}]");
            match amount.0.parse::<Quantity>() {
                Err(why) => f.invalid(at, &amount.0, why.to_string()),
                Ok(q) if q.is_negative() => f.invalid(at, &amount.0, "must be greater than or equal to 0"),
                Ok(_) => {}
            }
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources.limits.as_ref().and_then(|l| l.get(name));
        let at = format!("{at}.requests");
        match limit {
            Some(limit) if Quantity::of(request) > Quantity::of(limit) => {
                f.invalid(at, &request.0, format!("must be less than or equal to {name} limit of {}", limit.0));
            }
            None if name.contains('/') && !name.contains("kubernetes.io/") => {
                f.add(
                    format!("{at}.limits"),
                    What::Required("Limit must be set for non overcommitable resources".into()),
                );
            }
            _ => {}
        }
    }
}

fn no_probes(at: &str, c: &Container, f: &mut Findings) {
    let set = [
        ("lifecycle", c.lifecycle.is_some()),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
    ];
    for (name, _) in set.iter().filter(|(_, set)| *set) {
        f.forbidden(format!("{at}.{name}"), "may not be set for init containers without restartPolicy=Always");
    }
}

fn probes(at: &str, c: &Container, f: &mut Findings) {
    let all = [
        ("livenessProbe", &c.liveness_probe),
        ("readinessProbe", &c.readiness_probe),
        ("startupProbe", &c.startup_probe),
    ];
    for (name, probe) in all {
        if let Some(p) = probe {
            let at = format!("{at}.{name}");
            check_probe(&at, p, f);
            if name != "readinessProbe" && p.success_threshold.is_some_and(|t| t != 1) {
                f.invalid(format!("{at}.successThreshold"), p.success_threshold.unwrap_or_default(), "must be 1");
            }
            if name == "readinessProbe" && p.termination_grace_period_seconds.is_some() {
                f.invalid(
                    format!("{at}.terminationGracePeriodSeconds"),
                    p.termination_grace_period_seconds.unwrap_or_default(),
                    "must not be set for readinessProbes",
                );
            }
        }
    }
    if let Some(lifecycle) = &c.lifecycle {
        hooks(&format!("{at}.lifecycle"), lifecycle, f);
    }
}

fn check_probe(at: &str, p: &Probe, f: &mut Findings) {
    let handlers = [p.exec.is_some(), p.http_get.is_some(), p.tcp_socket.is_some(), p.grpc.is_some()];
    one_handler(at, &handlers, f);
    let numbers = [
        ("initialDelaySeconds", p.initial_delay_seconds),
        ("timeoutSeconds", p.timeout_seconds),
        ("periodSeconds", p.period_seconds),
        ("successThreshold", p.success_threshold),
        ("failureThreshold", p.failure_threshold),
    ];
    for (name, value) in numbers {
        f.at_least(format!("{at}.{name}"), value.map(i64::from), 0);
    }
    if let Some(grace) = p.termination_grace_period_seconds.filter(|g| *g <= 0) {
        f.invalid(format!("{at}.terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
    if p.exec.as_ref().is_some_and(|e| e.command.as_deref().unwrap_or_default().is_empty()) {
        f.required(format!("{at}.exec.command"));
    }
}

fn one_handler(at: &str, handlers: &[bool], f: &mut Findings) {
    match handlers.iter().filter(|h| **h).count() {
        0 => f.add(at, What::Required("must specify a handler type".into())),
        1 => {}
        _ => f.forbidden(at, "may not specify more than 1 handler type"),
    }
}

fn hooks(at: &str, lifecycle: &Lifecycle, f: &mut Findings) {
    let handler = |at: String, h: &LifecycleHandler, f: &mut Findings| {
        one_handler(&at, &[h.exec.is_some(), h.http_get.is_some(), h.tcp_socket.is_some(), h.sleep.is_some()], f);
    };
    if let Some(h) = &lifecycle.post_start {
        handler(format!("{at}.postStart"), h, f);
    }
    if let Some(h) = &lifecycle.pre_stop {
        handler(format!("{at}.preStop"), h, f);
    }
}
