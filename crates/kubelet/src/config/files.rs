//! Reading one KubeletConfiguration file: syntax, kind, schema, and what belongs to a whole file only.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{
    API_VERSION, ConfigError, EVICTION_HARD, FileError, KIND, Note,
    conform::{Findings, conform},
    document::{self, at, set},
    schema::FIELDS,
    with_defaults,
};

/// Fields that hold a path; a relative one counts from the file's directory.
const PATHS: [&str; 7] = [
    "staticPodPath",
    "authentication.x509.clientCAFile",
    "tlsCertFile",
    "tlsPrivateKeyFile",
    "resolvConf",
    "volumePluginDir",
    "podLogsDir",
];

/// The --config file with all defaults.
pub fn load(path: &Path, flag_gates: &Value, notes: &mut Vec<Note>) -> Result<Value, ConfigError> {
    let fault = |source| ConfigError::File { path: path.to_owned(), source };
    let given = read(path, notes).map_err(fault)?;
    super::gates_of(&given.get("featureGates").cloned().unwrap_or_default()).map_err(ConfigError::Gates)?;
    let mut document = with_defaults(&given, flag_gates, &mut Findings::default());
    let path = std::path::absolute(path).map_err(|e| fault(FileError::Read(e)))?;
    resolve_paths(&mut document, path.parent().unwrap_or(Path::new("/")));
    fill_eviction(&mut document);
    Ok(document)
}

/// One file's own fields, checked against the schema. What strict decoding refuses and lenient decoding passes over
/// goes to the notes.
pub fn read(path: &Path, notes: &mut Vec<Note>) -> Result<Map<String, Value>, FileError> {
    let bytes = std::fs::read(path).map_err(FileError::Read)?;
    if bytes.is_empty() {
        return Err(FileError::Empty);
    }
    let document = document::parse(&bytes).map_err(FileError::Syntax)?;
    let Value::Object(mut given) = document.value else { return Err(FileError::MissingType("kind")) };
    check_kind(&mut given)?;
    let mut findings = Findings::default();
    conform(FIELDS, &given, "", &mut findings);
    if !findings.wrong.is_empty() {
        return Err(FileError::WrongValues(findings.wrong));
    }
    let file = || path.to_owned();
    notes.extend(document.duplicates.into_iter().map(|field| Note::DuplicateField { file: file(), field }));
    notes.extend(findings.unknown.into_iter().map(|field| Note::UnknownField { file: file(), field }));
    Ok(given)
}

fn check_kind(given: &mut Map<String, Value>) -> Result<(), FileError> {
    let mut take = |name: &'static str| match given.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        _ => Err(FileError::MissingType(name)),
    };
    let kind = take("kind")?;
    let api_version = take("apiVersion")?;
    if kind == KIND && api_version == API_VERSION { Ok(()) } else { Err(FileError::WrongKind { kind, api_version }) }
}

fn resolve_paths(document: &mut Value, directory: &Path) {
    for field in PATHS {
        let relative = at(document, field).as_str().filter(|path| !path.is_empty() && !path.starts_with('/'));
        if let Some(relative) = relative {
            let resolved = clean(&directory.join(relative));
            set(document, field, json!(resolved));
        }
    }
}

/// Without `.` and `..`, by text alone.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn fill_eviction(document: &mut Value) {
    let defaults = EVICTION_HARD.iter().map(|(signal, value)| ((*signal).to_owned(), json!(value)));
    let merge = document["mergeDefaultEvictionSettings"] == true;
    match &mut document["evictionHard"] {
        Value::Object(given) if merge => defaults.for_each(|(signal, value)| {
            given.entry(signal).or_insert(value);
        }),
        Value::Object(_) => {}
        missing => *missing = Value::Object(defaults.collect()),
    }
}
