//! The effective configuration: built-in defaults, then the --config file, then the drop-ins of --config-dir, then the
//! flags that were given.
//!
//! All of it is done on one JSON value that has every field of the schema; the typed form is decoded at the end.

pub mod conform;
pub mod document;
mod dropins;
pub mod duration;
mod files;
pub mod invalid;
pub mod names;
pub mod schema;
pub mod types;
pub mod validate;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
pub use types::KubeletConfiguration;

use self::{
    conform::{Findings, conform, prune},
    document::{at, merge, set},
    invalid::Invalid,
    schema::FIELDS,
};
use crate::{
    flags::Given,
    gates::{FeatureGates, GateError},
};

pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub const KIND: &str = "KubeletConfiguration";

/// Applied when a configuration file leaves evictionHard out, not when there is no file; so upstream has it.
const EVICTION_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to load kubelet config file {path:?}")]
    File { path: PathBuf, source: FileError },
    #[error("failed to walk through kubelet drop-in directory {path:?}")]
    DropinDirectory { path: PathBuf, source: std::io::Error },
    #[error("failed to set feature gates: {}", joined(.0))]
    Gates(Vec<GateError>),
    /// The schema and the typed form disagree, which no input may cause.
    #[error("failed to decode the merged configuration")]
    Decode(#[source] serde_json::Error),
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    #[error("it is empty")]
    Empty,
    #[error("failed to decode")]
    Syntax(#[source] document::SyntaxError),
    #[error("failed to decode: Object '{0}' is missing")]
    MissingType(&'static str),
    #[error(
        "failed to decode: no kind {kind:?} is registered for version {api_version:?}, expected {KIND} of {API_VERSION}"
    )]
    WrongKind { kind: String, api_version: String },
    #[error("failed to decode: {}", invalid::list(.0))]
    WrongValues(Vec<Invalid>),
}

fn joined(errors: &[GateError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Something in the files that is passed over, and said so once logging works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    UnknownField {
        file: PathBuf,
        field: String,
    },
    DuplicateField {
        file: PathBuf,
        field: String,
    },
    /// In the drop-in directory, without the suffix `.conf`.
    SkippedFile {
        file: PathBuf,
    },
}

#[derive(Debug)]
pub struct Effective {
    pub config: KubeletConfiguration,
    pub gates: FeatureGates,
    /// Every field of the schema, as JSON.
    pub document: Value,
    pub notes: Vec<Note>,
}

/// Loads what the flags name and puts the flags on top.
pub fn load(given: &Given) -> Result<Effective, ConfigError> {
    let mut notes = Vec::new();
    let flag_gates = given.value("feature-gates").cloned().unwrap_or_default();
    // Upstream refuses a bad gate of the command line before it opens any file.
    gates_of(&flag_gates).map_err(ConfigError::Gates)?;
    let file = given.text("config");
    let mut document =
        if file.is_empty() { flag_defaults() } else { files::load(Path::new(&file), &flag_gates, &mut notes)? };
    let directory = given.text("config-dir");
    if !directory.is_empty() {
        let merged = dropins::merged(document, Path::new(&directory), &mut notes)?;
        document = with_defaults(&merged, &flag_gates, &mut Findings::default());
    }
    for (path, value) in given.of_config() {
        match path {
            "featureGates" => {
                let mut gates = at(&document, path).clone();
                merge(&mut gates, value.clone());
                set(&mut document, path, gates);
            }
            _ => set(&mut document, path, value.clone()),
        }
    }
    let gates = gates_of(at(&document, "featureGates")).map_err(ConfigError::Gates)?;
    let config = decode(&document)?;
    Ok(Effective { config, gates, document, notes })
}

fn gates_of(value: &Value) -> Result<FeatureGates, Vec<GateError>> {
    let entries = value.as_object().into_iter().flatten();
    let given: BTreeMap<String, bool> =
        entries.filter_map(|(name, value)| Some((name.clone(), value.as_bool()?))).collect();
    FeatureGates::new(&given)
}

fn decode(document: &Value) -> Result<KubeletConfiguration, ConfigError> {
    let mut document = document.clone();
    strip_nulls(&mut document);
    serde_json::from_value(document).map_err(ConfigError::Decode)
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// The defaults of a configuration file.
pub fn file_defaults() -> Value {
    with_defaults(&Map::new(), &Value::Null, &mut Findings::default())
}

/// The defaults when there is no configuration file: four are laxer, for old command lines' sake.
pub fn flag_defaults() -> Value {
    let mut document = file_defaults();
    set(&mut document, "authentication.anonymous.enabled", json!(true));
    set(&mut document, "authentication.webhook.enabled", json!(false));
    set(&mut document, "authorization.mode", json!("AlwaysAllow"));
    set(&mut document, "readOnlyPort", json!(10255));
    document
}

/// Whether evictionHard is what a file without it gets, or nothing.
pub fn is_default_eviction(value: &Value) -> bool {
    let Value::Object(given) = value else { return value.is_null() };
    given.len() == EVICTION_HARD.len()
        && EVICTION_HARD.iter().all(|(signal, value)| given.get(*signal).is_some_and(|given| given == value))
}

/// The document with its defaults, those included that depend on other fields.
fn with_defaults(given: &Map<String, Value>, flag_gates: &Value, findings: &mut Findings) -> Value {
    let mut document = conform(FIELDS, given, "", findings);
    let is_given = |name: &str| given.get(name).is_some_and(|value| !value.is_null() && value != "0s");
    if !is_given("nodeStatusReportFrequency") && is_given("nodeStatusUpdateFrequency") {
        document["nodeStatusReportFrequency"] = document["nodeStatusUpdateFrequency"].clone();
    }
    if !is_given("serializeImagePulls") && document["maxParallelImagePulls"].as_i64() >= Some(2) {
        document["serializeImagePulls"] = json!(false);
    }
    if document["podPidsLimit"].as_i64() < Some(0) {
        document["podPidsLimit"] = json!(-1);
    }
    let mut gates = flag_gates.clone();
    merge(&mut gates, document["featureGates"].clone());
    let off = |name: &str| gates[name] == false;
    let cap = "maxContainerRestartPeriod";
    let no_cap = given.get("crashLoopBackOff").is_none_or(|inner| at(inner, cap).is_null());
    if off("KubeletCrashLoopBackOffMax") && no_cap {
        document["crashLoopBackOff"][cap] = Value::Null;
    }
    if off("KubeletEnsureSecretPulledImages") && !is_given("imagePullCredentialsVerificationPolicy") {
        set(&mut document, "imagePullCredentialsVerificationPolicy", json!(""));
    }
    document
}

impl Effective {
    /// The object that `/configz` serves and the log shows: upstream's form, with apiVersion and kind.
    pub fn versioned(&self) -> Value {
        let mut shown = prune(FIELDS, &self.document);
        shown["apiVersion"] = json!(API_VERSION);
        shown["kind"] = json!(KIND);
        shown
    }

    /// As YAML for the log, with header values masked: they may hold credentials.
    pub fn for_log(&self) -> String {
        let mut shown = self.versioned();
        if let Some(headers) = shown.get_mut("staticPodURLHeader").and_then(Value::as_object_mut) {
            headers.values_mut().for_each(|values| *values = json!(["<masked>"]));
        }
        serde_yaml_ng::to_string(&shown).unwrap_or_else(|e| format!("cannot be shown: {e}"))
    }
}

#[cfg(test)]
mod tests;
