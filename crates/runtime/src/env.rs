//! A container's environment: envFrom, then env in its order, then what services are called.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use pod::{
    DesiredPod,
    api::{ConfigMap, Container, EnvVar, EnvVarSource, FileKeySelector, Secret},
    env::{ServiceEnv, expand_bytes, service_env},
    fields::{self, Addresses, FieldError},
    quantity::ApiList,
};

use crate::env_file::{self, EnvFileError};

/// Names and values, which may be any bytes. Some values are secrets: Debug shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, Vec<u8>>);

impl Environment {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
    /// `$(NAME)` references replaced. None: what came of it is no text.
    pub fn expand(&self, text: &str) -> Option<String> {
        String::from_utf8(expand_bytes(text, |name| self.0.get(name).cloned())).ok()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<Vec<u8>>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The texts are what `kubectl describe pod` shows after `Error:`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap {0:?} not found")]
    ConfigMapMissing(String),
    #[error("secret {0:?} not found")]
    SecretMissing(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKeyMissing { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKeyMissing { namespace: String, name: String, key: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    VolumeMissing(String),
    #[error("couldn't parse env file")]
    File(#[from] EnvFileError),
    #[error("environment variable key {key:?} not found in file {file:?}")]
    FileKeyMissing { key: String, file: PathBuf },
}

/// A file of variables, and where it lies on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFile {
    pub path: PathBuf,
    pub content: String,
}

/// A volume, and a file in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRef {
    pub volume: String,
    pub path: String,
}

/// What a container's environment mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub files: BTreeSet<FileRef>,
}

impl References {
    pub fn of(container: &Container) -> Self {
        let mut out = Self::default();
        for from in container.env_from.as_deref().unwrap_or_default() {
            out.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            out.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in sources(container) {
            out.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            out.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
            out.files.extend(source.file_key_ref.as_ref().map(file_ref));
        }
        out
    }
}

/// Only a variable without a value of its own looks at its source.
fn sources(container: &Container) -> impl Iterator<Item = &EnvVarSource> {
    let without_value = |e: &&EnvVar| e.value.as_deref().unwrap_or_default().is_empty();
    container.env.as_deref().unwrap_or_default().iter().filter(without_value).filter_map(|e| e.value_from.as_ref())
}

fn file_ref(selector: &FileKeySelector) -> FileRef {
    FileRef { volume: selector.volume_name.clone(), path: selector.path.clone() }
}

/// What the references lead to; absent keys do not exist.
#[derive(Clone, Default)]
pub struct Referents {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Of existing volumes.
    pub files: BTreeMap<FileRef, EnvFile>,
}

#[derive(Clone, Copy)]
pub struct EnvInput<'a> {
    pub pod: &'a DesiredPod,
    pub container: &'a Container,
    pub referents: &'a Referents,
    pub services: &'a [ServiceEnv],
    pub addresses: Addresses<'a>,
    /// The node's, for limits that the container does not set.
    pub allocatable: &'a ApiList,
}

pub fn environment(input: &EnvInput) -> Result<Environment, EnvError> {
    let links = input.pod.spec().enable_service_links.unwrap_or(true);
    let services = service_env(input.services, &input.pod.key.namespace, links);
    let services: BTreeMap<String, Vec<u8>> = services.into_iter().map(|(name, value)| (name, value.into())).collect();
    let mut env = BTreeMap::new();
    add_env_from(input, &mut env)?;
    for var in input.container.env.as_deref().unwrap_or_default() {
        let plain = var.value.as_deref().unwrap_or_default();
        let value = match &var.value_from {
            _ if !plain.is_empty() => {
                Some(expand_bytes(plain, |name| env.get(name).or_else(|| services.get(name)).cloned()))
            }
            Some(source) => from_source(input, source)?,
            None => Some(Vec::new()),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    for (name, value) in services {
        env.entry(name).or_insert(value);
    }
    Ok(Environment(env))
}

fn add_env_from(input: &EnvInput, env: &mut BTreeMap<String, Vec<u8>>) -> Result<(), EnvError> {
    for from in input.container.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match input.referents.config_maps.get(&reference.name) {
                Some(map) => {
                    let data = map.data.iter().flatten();
                    env.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone().into())));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::ConfigMapMissing(reference.name.clone())),
            }
        } else if let Some(reference) = &from.secret_ref {
            match input.referents.secrets.get(&reference.name) {
                Some(secret) => {
                    let data = secret.data.iter().flatten();
                    env.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.0.clone())));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::SecretMissing(reference.name.clone())),
            }
        }
    }
    Ok(())
}

/// None: optional and absent, so the variable is not set at all.
fn from_source(input: &EnvInput, source: &EnvVarSource) -> Result<Option<Vec<u8>>, EnvError> {
    let namespace = || input.pod.key.namespace.to_string();
    if let Some(selector) = &source.field_ref {
        return Ok(Some(fields::env_field(input.pod, selector, input.addresses)?.into()));
    }
    if let Some(selector) = &source.resource_field_ref {
        let spec = input.pod.spec();
        let limits = fields::limits_stand_in(spec, input.allocatable);
        return Ok(Some(fields::resource_field(spec, selector, Some(input.container), &limits)?.into()));
    }
    if let Some(r) = &source.config_map_key_ref {
        let map = input.referents.config_maps.get(&r.name);
        let value = map.and_then(|m| m.data.as_ref()?.get(&r.key).cloned()).map(String::into_bytes);
        return present(value, r.optional, || match map {
            None => EnvError::ConfigMapMissing(r.name.clone()),
            Some(_) => {
                EnvError::ConfigMapKeyMissing { namespace: namespace(), name: r.name.clone(), key: r.key.clone() }
            }
        });
    }
    if let Some(r) = &source.secret_key_ref {
        let secret = input.referents.secrets.get(&r.name);
        let value = secret.and_then(|s| s.data.as_ref()?.get(&r.key).map(|v| v.0.clone()));
        return present(value, r.optional, || match secret {
            None => EnvError::SecretMissing(r.name.clone()),
            Some(_) => EnvError::SecretKeyMissing { namespace: namespace(), name: r.name.clone(), key: r.key.clone() },
        });
    }
    match &source.file_key_ref {
        Some(selector) => from_file(input, selector),
        None => Ok(Some(Vec::new())),
    }
}

fn from_file(input: &EnvInput, selector: &FileKeySelector) -> Result<Option<Vec<u8>>, EnvError> {
    let file = input.referents.files.get(&file_ref(selector));
    let file = file.ok_or_else(|| EnvError::VolumeMissing(selector.volume_name.clone()))?;
    let value = env_file::value(&file.content, &selector.key)?.filter(|v| !v.is_empty());
    present(value.map(String::into_bytes), selector.optional, || EnvError::FileKeyMissing {
        key: selector.key.clone(),
        file: file.path.clone(),
    })
}

fn present(
    value: Option<Vec<u8>>,
    optional: Option<bool>,
    missing: impl FnOnce() -> EnvError,
) -> Result<Option<Vec<u8>>, EnvError> {
    match value {
        None if optional != Some(true) => Err(missing()),
        value => Ok(value),
    }
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
