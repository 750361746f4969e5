//! The downward API: what a pod may learn about itself, as environment variables and files.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, PodSpec, ResourceFieldSelector};

use crate::{
    DesiredPod, names,
    quantity::{ApiList, Quantity},
    resources::{container_limit, container_request, is_pod_level},
};

/// Why a field has no value. The text is what the container's waiting message or the mount event shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldError {
    NotSupported(String),
    NoSubscript(String),
    BadSubscript { path: String, problem: String },
    Version(String),
    Resource(String),
    Container(String),
    NoHostIp,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FieldError::NotSupported(path) => write!(f, "field label not supported: {path}"),
            FieldError::NoSubscript(path) => write!(f, "field label does not support subscript: {path}"),
            FieldError::BadSubscript { path, problem } => write!(f, "invalid key subscript in {path}: {problem}"),
            FieldError::Version(version) => write!(f, "unsupported pod version: {version}"),
            FieldError::Resource(name) => write!(f, "unsupported container resource : {name}"),
            FieldError::Container(name) => write!(f, "container {name} not found"),
            FieldError::NoHostIp => f.write_str("the node has no address yet"),
        }
    }
}

impl std::error::Error for FieldError {}

/// What is known of the pod only while it runs. Addresses: primary first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses<'a> {
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
}

/// The value of an environment variable's `fieldRef`.
pub fn env_field(
    desired: &DesiredPod,
    selector: &ObjectFieldSelector,
    addresses: Addresses<'_>,
) -> Result<String, FieldError> {
    if let Some(version) = selector.api_version.as_deref().filter(|v| !v.is_empty() && *v != "v1") {
        return Err(FieldError::Version(version.to_owned()));
    }
    let path = selector.field_path.as_str();
    let (spec, text) = (desired.spec(), |field: &Option<String>| field.clone().unwrap_or_default());
    match path {
        "spec.nodeName" | "spec.host" => Ok(text(&spec.node_name)),
        "spec.serviceAccountName" => Ok(text(&spec.service_account_name)),
        "status.hostIP" => addresses.host_ips.first().cloned().ok_or(FieldError::NoHostIp),
        "status.hostIPs" if addresses.host_ips.is_empty() => Err(FieldError::NoHostIp),
        "status.hostIPs" => Ok(addresses.host_ips.join(",")),
        "status.podIP" => Ok(addresses.pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Ok(addresses.pod_ips.join(",")),
        _ => metadata_field(&desired.pod, path),
    }
}

/// The value of a `fieldRef` in a downward API volume: metadata only.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let (map, checked) = match map {
            "metadata.annotations" => (&meta.annotations, key.to_lowercase()),
            "metadata.labels" => (&meta.labels, key.to_owned()),
            _ => return Err(FieldError::NoSubscript(path.to_owned())),
        };
        names::qualified_name(&checked)
            .map_err(|problem| FieldError::BadSubscript { path: path.to_owned(), problem })?;
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        _ => Err(FieldError::NotSupported(path.to_owned())),
    }
}

/// `metadata.labels['key']` -> (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// A whole map in a file: `key="value"` per line, sorted, values quoted as Go quotes.
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quote(v))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if printable(c) => out.push(c),
            c => push_escape(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn push_escape(out: &mut String, c: char) {
    let code = u32::from(c);
    let written = match code {
        0..=0x7f => write!(out, "\\x{code:02x}"),
        0x80..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a String does not fail");
}

fn printable(c: char) -> bool {
    let invisible = matches!(u32::from(c), 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f
        | 0x202a..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0x0010_ffff);
    !c.is_control() && (c == ' ' || !c.is_whitespace()) && !invisible
}

/// The value of a `resourceFieldRef`. `own`: the container that asks, where the selector names none.
/// `allocatable` stands in for limits that the container does not set (see [`limits_stand_in`]).
pub fn resource_field(
    spec: &PodSpec,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
    allocatable: &ApiList,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().unwrap_or_default();
    let container = match own {
        Some(container) if named.is_empty() => container,
        _ => find(spec, named)?,
    };
    let amount = container_amount(container, &selector.resource, allocatable)?;
    let divisor = selector.divisor.as_ref().map(Quantity::of).filter(|d| !d.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_value(1, crate::quantity::Format::DecimalSi));
    let (amount, divisor) = if selector.resource.ends_with(".cpu") {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    // In floating point, as upstream divides.
    Ok(((amount as f64 / divisor as f64).ceil() as i64).to_string())
}

fn find<'a>(spec: &'a PodSpec, name: &str) -> Result<&'a Container, FieldError> {
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|c| c.name == name).ok_or_else(|| FieldError::Container(name.to_owned()))
}

fn container_amount(container: &Container, field: &str, allocatable: &ApiList) -> Result<Quantity, FieldError> {
    let unsupported = || FieldError::Resource(field.to_owned());
    let (side, name) = field.split_once('.').ok_or_else(unsupported)?;
    let plain = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if !plain && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    match side {
        "requests" => Ok(container_request(container, name)),
        "limits" => {
            let limit = container_limit(container, name);
            let stand_in = allocatable.get(name).map(Quantity::of).filter(|_| plain && limit.is_zero());
            Ok(stand_in.unwrap_or(limit))
        }
        _ => Err(unsupported()),
    }
}

/// For environment variables: the pod's own limits come before what the node can give.
pub fn limits_stand_in(spec: &PodSpec, allocatable: &ApiList) -> ApiList {
    let mut list = allocatable.clone();
    let limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    for (name, limit) in limits.into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        if list.contains_key(name) && !Quantity::of(limit).is_zero() {
            list.insert(name.clone(), limit.clone());
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::Source;

    fn pod() -> DesiredPod {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                "labels": {"b": "2", "a": "x\"y\n"}, "annotations": {"Ex.com/Note": "hi \u{1f600}\u{200b}\u{1}"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
                {"name": "app", "resources": {"requests": {"cpu": "1250m", "memory": "32Mi"}, "limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}}},
                {"name": "other"}]}});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn field(path: &str) -> Result<String, FieldError> {
        let ips = ["10.0.0.5".to_owned(), "fd00::5".to_owned()];
        let hosts = ["192.168.0.1".to_owned()];
        let selector = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
        env_field(&pod(), &selector, Addresses { pod_ips: &ips, host_ips: &hosts })
    }

    #[test]
    fn fields_have_the_values_of_the_pod() {
        for (path, value) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "shop"),
            ("metadata.uid", "u1"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['missing']", ""),
            ("metadata.annotations['Ex.com/Note']", "hi \u{1f600}\u{200b}\u{1}"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.0.0.5"),
            ("status.podIPs", "10.0.0.5,fd00::5"),
            ("status.hostIP", "192.168.0.1"),
            ("status.hostIPs", "192.168.0.1"),
        ] {
            assert_eq!(field(path).as_deref(), Ok(value), "{path}");
        }
    }

    #[test]
    fn unknown_fields_and_bad_keys_are_named() {
        assert_eq!(field("spec.foo"), Err(FieldError::NotSupported("spec.foo".into())));
        assert_eq!(field("spec.x['y']"), Err(FieldError::NoSubscript("spec.x['y']".into())));
        assert!(matches!(field("metadata.labels['a b']"), Err(FieldError::BadSubscript { .. })));
    }

    #[test]
    fn whole_maps_are_sorted_and_quoted_as_go_does() {
        assert_eq!(metadata_field(&pod().pod, "metadata.labels").unwrap(), "a=\"x\\\"y\\n\"\nb=\"2\"");
        let notes = metadata_field(&pod().pod, "metadata.annotations").unwrap();
        assert_eq!(notes, "Ex.com/Note=\"hi \u{1f600}\\u200b\\x01\"");
        assert_eq!(format_map(None), "");
    }

    fn resource(name: &str, container: Option<&str>, divisor: Option<&str>) -> Result<String, FieldError> {
        let p = pod();
        let selector = ResourceFieldSelector {
            resource: name.into(),
            container_name: container.map(Into::into),
            divisor: divisor.map(|d| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.into())),
        };
        let node: ApiList = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap();
        resource_field(p.spec(), &selector, Some(&p.regular_containers()[0]), &node)
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        assert_eq!(resource("requests.cpu", None, None).as_deref(), Ok("2"));
        assert_eq!(resource("requests.cpu", None, Some("1m")).as_deref(), Ok("1250"));
        assert_eq!(resource("requests.memory", None, Some("1Mi")).as_deref(), Ok("32"));
        assert_eq!(resource("limits.memory", None, Some("0")).as_deref(), Ok("67108864"));
        assert_eq!(resource("limits.hugepages-2Mi", None, None).as_deref(), Ok("4194304"));
    }

    #[test]
    fn missing_limits_are_what_the_node_can_give() {
        assert_eq!(resource("limits.cpu", None, None).as_deref(), Ok("2"));
        assert_eq!(resource("limits.memory", Some("other"), Some("1Mi")).as_deref(), Ok("1024"));
        assert_eq!(resource("requests.memory", Some("other"), None).as_deref(), Ok("0"));
        assert_eq!(resource("limits.cpu", Some("nobody"), None), Err(FieldError::Container("nobody".into())));
        assert_eq!(resource("limits.gpu", None, None), Err(FieldError::Resource("limits.gpu".into())));
    }
}
