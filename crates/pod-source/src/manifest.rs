//! Manifests as text: JSON or YAML, a Pod or a PodList.

use pod::{
    DesiredPod,
    api::Pod,
    static_pod::{Manifest, from_manifest},
};
use serde::Deserialize;
use serde_json::Value;

/// Larger than any object that an API server would take.
pub(crate) const MAX_BYTES: u64 = 10 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("it is neither JSON nor YAML: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    #[error("it is of kind {0:?}, not a v1 Pod or PodList")]
    Kind(String),
    #[error("it is no valid Pod: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("it is larger than 10 MiB")]
    TooLarge,
    #[error("{0}")]
    Invalid(#[from] pod::static_pod::ManifestError),
}

/// Every pod of a manifest, or why there is none.
pub(crate) fn read(text: &[u8], from: Manifest<'_>, node_name: &str) -> Result<Vec<DesiredPod>, ManifestError> {
    let value = parse(text)?;
    let kind = value["kind"].as_str().unwrap_or_default();
    let pods = match (value["apiVersion"].as_str(), kind) {
        (Some("v1"), "Pod") => vec![value],
        (Some("v1"), "PodList" | "List") => match value {
            Value::Object(mut list) => match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        },
        _ => return Err(ManifestError::Kind(kind.to_owned())),
    };
    pods.into_iter()
        .map(|value| {
            // By way of text: a reader of pods from a `Value` would be 250 KiB of code for this one place.
            let pod: Pod = serde_json::from_slice(&serde_json::to_vec(&value)?)?;
            Ok(from_manifest(pod, from, node_name)?)
        })
        .collect()
}

/// YAML is a superset of JSON; of several documents only the first counts, as upstream.
fn parse(text: &[u8]) -> Result<Value, ManifestError> {
    if let Ok(value) = serde_json::from_slice(text) {
        return Ok(value);
    }
    let mut documents = serde_yaml_ng::Deserializer::from_slice(text);
    match documents.next() {
        Some(document) => Ok(Value::deserialize(document)?),
        None => Ok(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Manifest<'static> = Manifest::File("/m/web.yaml");

    #[test]
    fn yaml_and_json_mean_the_same_pod() {
        let yaml = b"apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}\n";
        let json = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","image":"i"}]}}"#;
        let (yaml, json) = (read(yaml, FROM, "n").unwrap(), read(json, FROM, "n").unwrap());
        assert_eq!(yaml[0].uid, json[0].uid);
        assert_eq!(yaml[0].key.to_string(), "default/web-n");
    }

    #[test]
    fn amounts_may_be_numbers() {
        let spec = "containers: [{name: a, image: i, resources: {limits: {cpu: 1, memory: 0.5}}}]";
        let yaml = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{{spec}}}\n---\nkind: Second\n");
        let limits =
            read(yaml.as_bytes(), FROM, "n").unwrap()[0].spec().containers[0].resources.clone().unwrap().limits;
        assert_eq!(limits.unwrap()["cpu"].0, "1");
    }

    #[test]
    fn what_is_no_pod_is_named() {
        let error = |text: &str| read(text.as_bytes(), FROM, "n").unwrap_err().to_string();
        assert!(error("kind: Deployment\napiVersion: apps/v1\n").contains("Deployment"));
        assert!(error("a: [").contains("neither JSON nor YAML"));
        assert!(error("{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"spec\":3}").contains("no valid Pod"));
    }

    #[test]
    fn any_manifest_is_read_or_refused() {
        fuzz::each("manifest", |text| drop(read(text, FROM, "n")));
    }
}
