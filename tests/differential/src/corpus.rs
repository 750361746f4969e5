//! The corpus: what each case's pod is and when it counts as settled.
//!
//! A document of `corpus/*.yaml` is a case in short form: `name`, `until`, and the pod's `spec`. Containers that
//! name no image get busybox and a look around; grace is a second unless the case says otherwise.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use bed::images;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// `Ready`, `Running`, `Succeeded`, `Failed`, `Waiting:REASON`, `Restarts:N`, `Event:REASON`, `After:SECONDS`.
    pub until: String,
    /// Part of the short form of the test.
    #[serde(default)]
    pub short: bool,
    /// Done to the pod once it is settled; what comes of it is what is compared.
    #[serde(default)]
    pub then: Option<Then>,
    #[serde(default)]
    pub labels: Map<String, Value>,
    #[serde(default)]
    pub annotations: Map<String, Value>,
    pub spec: Value,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// An ephemeral container of this image.
    Debug(String),
    /// A patch of the spec through the subresource for resizing.
    Resize(Value),
}

/// What containers run that are given no command: they tell what they see, and stay.
const LOOK: &str = r#"exec 2>&1; id; hostname; pwd; umask; cat /etc/resolv.conf /proc/self/oom_score_adj
grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status
awk '{ for (i = 7; $i != "-"; i++) sub(/:.*/, "", $i); t = $(i+1); o = (t ~ /overlay|cgroup/) ? "" : $(i+3);
  p = (i == 7) ? "private" : $7; print "mount", $5, $6, p, t, o }' /proc/self/mountinfo | sort
exec sleep 3600"#;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))
}

/// Every case, in the order of files and documents.
pub fn load() -> Result<Vec<Case>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())?.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|f| !f.ends_with("objects.yml")) {
        let text = fs::read_to_string(file)?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            // By way of JSON: YAML would want enums tagged.
            let case = Value::deserialize(document).map(serde_json::from_value::<Case>);
            cases.push(
                case.map_err(anyhow::Error::from)
                    .and_then(|case| Ok(case?))
                    .with_context(|| format!("{} after {:?}", file.display(), last(&cases)))?,
            );
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = cases.iter().find(|case| !names.insert(case.name.as_str())) {
        bail!("two cases are named {}", twice.name);
    }
    Ok(cases)
}

fn last(cases: &[Case]) -> &str {
    cases.last().map_or("", |case| &case.name)
}

/// What the cases refer to: config maps, secrets, classes.
pub fn objects() -> Result<String> {
    Ok(fs::read_to_string(folder().join("objects.yml"))?)
}

impl Case {
    /// The manifest as the API server gets it.
    pub fn pod(&self, node: &str) -> Value {
        let mut spec = self.spec.clone();
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for (i, container) in containers.enumerate() {
                complete(container, if list == "containers" { "c" } else { "i" }, i);
            }
        }
        if let Some(spec) = spec.as_object_mut() {
            spec.insert("nodeName".into(), node.into());
            spec.entry("terminationGracePeriodSeconds").or_insert(1.into());
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": self.labels, "annotations": self.annotations},
            "spec": spec
        })
    }
}

fn complete(container: &mut Value, prefix: &str, index: usize) {
    let Some(container) = container.as_object_mut() else { return };
    container.entry("name").or_insert_with(|| format!("{prefix}{index}").into());
    if !container.contains_key("image") {
        container.insert("image".into(), images::BUSYBOX.into());
        if prefix == "c" || container.contains_key("restartPolicy") {
            container.entry("command").or_insert_with(|| json!(["sh", "-c", LOOK]));
        }
    }
    if let Some(image) = container.get_mut("image") {
        *image = full_name(image.as_str().unwrap_or_default()).into();
    }
}

/// The images of the bed by their short names.
pub fn full_name(image: &str) -> &str {
    match image {
        "busybox" => images::BUSYBOX,
        "agnhost" => images::AGNHOST,
        "nginx" => images::NGINX,
        "pause" => images::PAUSE,
        "nonroot" => "registry.k8s.io/e2e-test-images/nonroot:1.5",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_well_formed() {
        let cases = load().unwrap();
        assert!(cases.len() >= 150);
        assert!(cases.iter().filter(|case| case.short).count() >= 10);
    }

    #[test]
    fn a_bare_container_gets_a_name_an_image_and_something_to_do() {
        let case: Case = serde_yaml_ng::from_str("{name: a, until: Ready, spec: {containers: [{}]}}").unwrap();
        let container = &case.pod("n")["spec"]["containers"][0];
        assert_eq!(container["name"], "c0");
        assert_eq!(container["command"], json!(["sh", "-c", LOOK]));
    }
}
