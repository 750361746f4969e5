//! The files of a volume before they are written.

use std::{collections::BTreeMap, fmt};

use pod::api::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodSpec, Secret};
use pod::{fields, quantity::ApiList};

use crate::error::Cause;

/// A file's content. It may be a secret or a token, so it does not print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content(Vec<u8>);

impl Content {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Projection {
    pub content: Content,
    pub mode: u32,
    /// The file's owner, where it is not the agent itself.
    pub owner: Option<u32>,
}

/// By path relative to the volume.
pub(crate) type Payload = BTreeMap<String, Projection>;

/// What a volume says about all of its files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    mode: u32,
}

impl Defaults {
    pub fn new(mode: Option<i32>) -> Result<Self, Cause> {
        Ok(Self { mode: bits(mode.ok_or(Cause::NoDefaultMode)?) })
    }

    pub fn mode(self, own: Option<i32>) -> u32 {
        own.map_or(self.mode, bits)
    }

    fn projection(self, content: impl Into<Vec<u8>>, own_mode: Option<i32>) -> Projection {
        Projection { content: Content::new(content), mode: self.mode(own_mode), owner: None }
    }
}

fn bits(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o7777
}

/// All keys, or those that `items` name. An object that is absent (and optional) is an empty one.
pub(crate) fn of_config_map(
    items: &[KeyToPath],
    map: &ConfigMap,
    defaults: Defaults,
    optional: bool,
) -> Result<Payload, Cause> {
    let text = map.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    // Text wins where a key is in both, which the API does not allow.
    let data: BTreeMap<&String, &[u8]> = binary.chain(text).collect();
    select(items, &data, defaults, optional, Cause::NoConfigKey)
}

pub(crate) fn of_secret(
    items: &[KeyToPath],
    secret: &Secret,
    defaults: Defaults,
    optional: bool,
) -> Result<Payload, Cause> {
    let data = secret.data.iter().flatten().map(|(key, value)| (key, value.0.as_slice())).collect();
    select(items, &data, defaults, optional, Cause::NoSecretKey)
}

fn select(
    items: &[KeyToPath],
    data: &BTreeMap<&String, &[u8]>,
    defaults: Defaults,
    optional: bool,
    missing: fn(String) -> Cause,
) -> Result<Payload, Cause> {
    if items.is_empty() {
        return Ok(data.iter().map(|(key, value)| ((*key).clone(), defaults.projection(*value, None))).collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                payload.insert(item.path.clone(), defaults.projection(*value, item.mode));
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(payload)
}

/// Fields and resources of the pod itself.
pub(crate) fn of_downward_api(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    spec: &PodSpec,
    allocatable: &ApiList,
    defaults: Defaults,
) -> Result<Payload, Cause> {
    let (mut payload, mut problems) = (Payload::new(), Vec::new());
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::metadata_field(pod, &field.field_path),
            (None, Some(resource)) => fields::resource_field(spec, resource, None, allocatable),
            (None, None) => Ok(String::new()),
        };
        match value {
            Ok(text) => drop(payload.insert(item.path.clone(), defaults.projection(text, item.mode))),
            Err(e) => problems.push(Cause::Field(e)),
        }
    }
    Cause::collected(problems).map_or(Ok(payload), Err)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn config_map(items: Value, optional: bool) -> Result<Payload, Cause> {
        let map = from_value(json!({"data": {"a": "text"}, "binaryData": {"b": "AAE="}})).unwrap();
        let items: Vec<KeyToPath> = from_value(items).unwrap();
        of_config_map(&items, &map, Defaults::new(Some(0o644)).unwrap(), optional)
    }

    #[test]
    fn without_items_every_key_is_a_file() {
        let payload = config_map(json!([]), false).unwrap();
        assert_eq!(payload["a"].content.as_bytes(), b"text");
        assert_eq!(payload["b"].content.as_bytes(), [0, 1]);
        assert_eq!(payload["a"].mode, 0o644);
    }

    #[test]
    fn items_choose_path_and_mode() {
        let payload = config_map(json!([{"key": "a", "path": "x/y", "mode": 256}]), false).unwrap();
        assert_eq!(payload.keys().collect::<Vec<_>>(), ["x/y"]);
        assert_eq!(payload["x/y"].mode, 0o400);
    }

    #[test]
    fn a_missing_key_is_an_error_unless_optional() {
        let items = json!([{"key": "nope", "path": "x"}]);
        let error = config_map(items.clone(), false).unwrap_err();
        assert_eq!(error.to_string(), "configmap references non-existent config key: nope");
        assert!(config_map(items, true).unwrap().is_empty());
    }

    #[test]
    fn a_missing_secret_key_reads_as_upstreams() {
        let items: Vec<KeyToPath> = from_value(json!([{"key": "k", "path": "x"}])).unwrap();
        let error = of_secret(&items, &Secret::default(), Defaults::new(Some(0)).unwrap(), false).unwrap_err();
        assert_eq!(error.to_string(), "references non-existent secret key: k");
    }

    #[test]
    fn contents_do_not_print() {
        assert_eq!(format!("{:?}", Content::new("hunter2")), "[7 bytes]");
    }

    #[test]
    fn the_downward_api_gives_fields_and_resources() {
        let pod: Pod = from_value(json!({"metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "app", "resources": {"limits": {"memory": "64Mi"}}}]}}))
        .unwrap();
        let items: Vec<DownwardAPIVolumeFile> = from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "mem", "mode": 256, "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"}}]))
        .unwrap();
        let allocatable = from_value(json!({"cpu": "4"})).unwrap();
        let defaults = Defaults::new(Some(0o644)).unwrap();
        let payload = of_downward_api(&items, &pod, pod.spec.as_ref().unwrap(), &allocatable, defaults).unwrap();
        let text = |path: &str| String::from_utf8(payload[path].content.as_bytes().to_vec()).unwrap();
        assert_eq!((text("labels"), text("mem"), text("cpu")), ("a=\"b\"".into(), "67108864".into(), "4".into()));
        assert_eq!(payload["mem"].mode, 0o400);
    }
}
