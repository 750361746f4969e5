//! Whether a pod could have been created at an API server: for pods that never pass by one (static pods).
//!
//! Problems read as the API server's: `spec.containers[0].name: Required value`.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration, Volume};

use crate::names;

mod container;
mod volume;

pub use volume::{api_reference, volume_sources};

/// One thing wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub field: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Required(String),
    Invalid { value: String, why: String },
    Unsupported { value: String, supported: Vec<&'static str> },
    Duplicate(String),
    NotFound(String),
    Forbidden(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        match &self.what {
            What::Required(detail) if detail.is_empty() => f.write_str("Required value"),
            What::Required(detail) => write!(f, "Required value: {detail}"),
            What::Invalid { value, why } => write!(f, "Invalid value: {value}: {why}"),
            What::Unsupported { value, supported } => {
                let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
                write!(f, "Unsupported value: {value:?}: supported values: {}", quoted.join(", "))
            }
            What::Duplicate(value) => write!(f, "Duplicate value: {value:?}"),
            What::NotFound(value) => write!(f, "Not found: {value:?}"),
            What::Forbidden(why) => write!(f, "Forbidden: {why}"),
        }
    }
}

/// All problems of a pod; reads `[a, b]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPod(pub Vec<Problem>);

impl fmt::Display for InvalidPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        match texts.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl std::error::Error for InvalidPod {}

/// Collects problems; `at` is the path of the field looked at.
#[derive(Default)]
pub(crate) struct Findings(Vec<Problem>);

impl Findings {
    pub fn add(&mut self, at: impl Into<String>, what: What) {
        self.0.push(Problem { field: at.into(), what });
    }
    pub fn required(&mut self, at: impl Into<String>) {
        self.add(at, What::Required(String::new()));
    }
    pub fn invalid(&mut self, at: impl Into<String>, value: impl fmt::Debug, why: impl Into<String>) {
        self.add(at, What::Invalid { value: format!("{value:?}"), why: why.into() });
    }
    pub fn forbidden(&mut self, at: impl Into<String>, why: &str) {
        self.add(at, What::Forbidden(why.to_owned()));
    }
    /// A name that must be there and have that form.
    pub fn name(&mut self, at: &str, name: &str, form: fn(&str) -> Result<(), String>) {
        if name.is_empty() {
            self.required(at);
        } else if let Err(why) = form(name) {
            self.invalid(at, name, why);
        }
    }
    /// An unset value is fine.
    pub fn one_of(&mut self, at: &str, value: Option<&str>, supported: &[&'static str]) {
        if let Some(value) = value.filter(|v| !supported.contains(v)) {
            self.add(at, What::Unsupported { value: value.to_owned(), supported: supported.to_vec() });
        }
    }
    pub fn unique<'a>(&mut self, at: &str, value: &'a str, seen: &mut BTreeSet<&'a str>) {
        if !value.is_empty() && !seen.insert(value) {
            self.add(at, What::Duplicate(value.to_owned()));
        }
    }
    pub fn at_least(&mut self, at: impl Into<String>, value: Option<i64>, least: i64) {
        if let Some(value) = value.filter(|v| *v < least) {
            self.invalid(at, value, format!("must be greater than or equal to {least}"));
        }
    }
}

/// Every rule that matters on a node. The pod has its defaults already.
pub fn validate(pod: &Pod) -> Result<(), InvalidPod> {
    let mut findings = Findings::default();
    metadata(pod, &mut findings);
    match &pod.spec {
        None => findings.required("spec"),
        Some(spec) => pod_spec(spec, &mut findings),
    }
    if findings.0.is_empty() { Ok(()) } else { Err(InvalidPod(findings.0)) }
}

fn metadata(pod: &Pod, f: &mut Findings) {
    let meta = &pod.metadata;
    f.name("metadata.name", meta.name.as_deref().unwrap_or_default(), names::dns_subdomain);
    f.name("metadata.namespace", meta.namespace.as_deref().unwrap_or_default(), names::dns_label);
    for (key, value) in meta.labels.iter().flatten() {
        if let Err(why) = names::qualified_name(key) {
            f.invalid("metadata.labels", key, why);
        }
        if let Err(why) = names::label_value(value) {
            f.invalid("metadata.labels", value, why);
        }
    }
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        size += key.len() + value.len();
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            f.invalid("metadata.annotations", key, why);
        }
    }
    if size > 256 * 1024 {
        f.invalid("metadata.annotations", "", "annotations size is larger than limit 262144");
    }
}

fn pod_spec(spec: &PodSpec, f: &mut Findings) {
    let volumes = volume::volumes(spec, f);
    container::containers(spec, &volumes, f);
    f.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    f.one_of(
        "spec.dnsPolicy",
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    dns(spec, f);
    f.at_least("spec.terminationGracePeriodSeconds", spec.termination_grace_period_seconds, 0);
    if let Some(deadline) = spec.active_deadline_seconds.filter(|d| !(1..=i64::from(i32::MAX)).contains(d)) {
        f.invalid("spec.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive");
    }
    for (at, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            f.name(at, name, names::dns_label);
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            f.invalid(
                format!("spec.hostAliases[{i}].ip"),
                &alias.ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    }
    for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
        tolerate(&format!("spec.tolerations[{i}]"), toleration, f);
    }
    for (key, value) in spec.node_selector.iter().flatten() {
        if let Err(why) = names::qualified_name(key).and_then(|()| names::label_value(value)) {
            f.invalid("spec.nodeSelector", key, why);
        }
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        f.name(&format!("spec.readinessGates[{i}].conditionType"), &gate.condition_type, names::qualified_name);
    }
    security(spec, f);
    if !spec.ephemeral_containers.as_deref().unwrap_or_default().is_empty() {
        f.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if spec.scheduling_gates.as_deref().is_some_and(|g| !g.is_empty()) && spec.node_name.is_some() {
        f.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

fn dns(spec: &PodSpec, f: &mut Findings) {
    let servers = spec.dns_config.as_ref().and_then(|d| d.nameservers.as_deref()).unwrap_or_default();
    if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        f.add("spec.dnsConfig.nameservers", What::Required(why.into()));
    }
    if servers.len() > 3 {
        f.invalid("spec.dnsConfig.nameservers", servers, "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            let at = format!("spec.dnsConfig.nameservers[{i}]");
            f.invalid(at, server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}

fn tolerate(at: &str, t: &Toleration, f: &mut Findings) {
    let set = |field: &Option<String>| field.clone().filter(|v| !v.is_empty());
    let operator = set(&t.operator);
    f.one_of(&format!("{at}.operator"), operator.as_deref(), &["Equal", "Exists"]);
    let effect = set(&t.effect);
    f.one_of(&format!("{at}.effect"), effect.as_deref(), &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    match set(&t.key) {
        Some(key) => f.name(&format!("{at}.key"), &key, names::qualified_name),
        None if operator.as_deref() != Some("Exists") => {
            f.invalid(
                format!("{at}.operator"),
                operator.unwrap_or_default(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        None => {}
    }
    if t.toleration_seconds.is_some() && effect.as_deref() != Some("NoExecute") {
        f.invalid(
            format!("{at}.effect"),
            effect.unwrap_or_default(),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
}

fn security(spec: &PodSpec, f: &mut Findings) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        f.invalid("spec.shareProcessNamespace", true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if spec.host_users == Some(false) {
        let shared = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        for (name, _) in shared.iter().filter(|(_, on)| *on == Some(true)) {
            f.forbidden(format!("spec.{name}"), "when `hostUsers` is false");
        }
    }
    let Some(context) = &spec.security_context else { return };
    let ids = [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group), ("fsGroup", context.fs_group)];
    for (name, id) in ids {
        if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            f.invalid(format!("spec.securityContext.{name}"), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    let mut seen = BTreeSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let at = format!("spec.securityContext.sysctls[{i}].name");
        if sysctl.name.is_empty() {
            f.required(at);
        } else {
            f.unique(&at, &sysctl.name, &mut seen);
        }
    }
}

pub(crate) type Volumes<'a> = std::collections::BTreeMap<&'a str, &'a Volume>;

#[cfg(test)]
mod tests;
