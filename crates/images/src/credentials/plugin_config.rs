//! The CredentialProviderConfig file, or directory of files.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

const API_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

#[derive(Debug, thiserror::Error)]
pub enum PluginConfigError {
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no configuration files found in directory {0:?}")]
    NoFiles(PathBuf),
    #[error("error decoding config {}: {source}", path.display())]
    Decode { path: PathBuf, source: serde_yaml_ng::Error },
    #[error("error decoding config {}: wrong kind or version {kind:?} {version:?}", path.display())]
    Kind { path: PathBuf, kind: String, version: String },
    #[error("duplicate provider name {0:?} found in configuration file(s)")]
    Duplicate(String),
    #[error("credential provider {name:?}: {problem}")]
    Invalid { name: String, problem: &'static str },
    #[error("plugin binary executable {} did not exist", .0.display())]
    NoBinary(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    #[serde(default)]
    providers: Vec<PluginConfig>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig {
    /// The file name of the plugin.
    pub name: String,
    #[serde(default)]
    pub match_images: Vec<String>,
    #[serde(default, deserialize_with = "duration")]
    pub default_cache_duration: Option<Duration>,
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<PluginEnv>,
    pub token_attributes: Option<TokenAttributes>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginEnv {
    pub name: String,
    pub value: String,
}

/// The plugin wants a token of the pod's service account.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenAttributes {
    #[serde(default)]
    pub service_account_token_audience: String,
    #[serde(default)]
    pub cache_type: String,
    pub require_service_account: Option<bool>,
    #[serde(default)]
    pub required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    pub optional_service_account_annotation_keys: Vec<String>,
}

/// All plugins of `path`, each with a binary in `bin_dir`.
pub fn read(path: &Path, bin_dir: &Path) -> Result<Vec<PluginConfig>, PluginConfigError> {
    let mut plugins = Vec::new();
    let mut names = HashSet::new();
    for file in files(path)? {
        for plugin in parse(&file)? {
            if !names.insert(plugin.name.clone()) {
                return Err(PluginConfigError::Duplicate(plugin.name));
            }
            plugins.push(plugin);
        }
    }
    for plugin in &plugins {
        validate(plugin).map_err(|problem| PluginConfigError::Invalid { name: plugin.name.clone(), problem })?;
        let binary = bin_dir.join(&plugin.name);
        if !binary.is_file() {
            return Err(PluginConfigError::NoBinary(binary));
        }
    }
    Ok(plugins)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, PluginConfigError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|source| PluginConfigError::Read { path: path.to_owned(), source })?;
    let wanted = |p: &PathBuf| p.is_file() && p.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(wanted).collect();
    files.sort();
    if files.is_empty() { Err(PluginConfigError::NoFiles(path.to_owned())) } else { Ok(files) }
}

fn parse(path: &Path) -> Result<Vec<PluginConfig>, PluginConfigError> {
    let path = path.to_owned();
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(source) => return Err(PluginConfigError::Read { path, source }),
    };
    // JSON is YAML.
    let file: File = match serde_yaml_ng::from_slice(&content) {
        Ok(file) => file,
        Err(source) => return Err(PluginConfigError::Decode { path, source }),
    };
    let version = file.api_version.strip_prefix("kubelet.config.k8s.io/").unwrap_or_default();
    if file.kind != "CredentialProviderConfig" || !matches!(version, "v1" | "v1beta1" | "v1alpha1") {
        return Err(PluginConfigError::Kind { path, kind: file.kind, version: file.api_version });
    }
    Ok(file.providers)
}

fn validate(plugin: &PluginConfig) -> Result<(), &'static str> {
    let name = plugin.name.as_str();
    if name.is_empty() || name.contains(['/', ' ']) || matches!(name, "." | "..") {
        return Err("the name must be a file name without spaces");
    }
    if !API_VERSIONS.contains(&plugin.api_version.as_str()) {
        return Err("apiVersion is not supported");
    }
    if plugin.match_images.is_empty() {
        return Err("at least 1 item in matchImages is required");
    }
    if plugin.default_cache_duration.is_none() {
        return Err("defaultCacheDuration is required");
    }
    plugin.token_attributes.as_ref().map_or(Ok(()), |t| validate_token(plugin, t))
}

fn validate_token(plugin: &PluginConfig, token: &TokenAttributes) -> Result<(), &'static str> {
    let (required, optional) =
        (&token.required_service_account_annotation_keys, &token.optional_service_account_annotation_keys);
    if plugin.api_version != API_VERSIONS[0] {
        return Err("tokenAttributes needs apiVersion v1");
    }
    if token.service_account_token_audience.is_empty() {
        return Err("serviceAccountTokenAudience is required");
    }
    match token.require_service_account {
        None => return Err("requireServiceAccount is required"),
        Some(false) if !required.is_empty() => {
            return Err("requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set");
        }
        Some(_) => {}
    }
    if !matches!(token.cache_type.as_str(), "ServiceAccount" | "Token") {
        return Err("cacheType must be ServiceAccount or Token");
    }
    if required.iter().any(|k| optional.contains(k)) {
        return Err("annotation keys cannot be both required and optional");
    }
    Ok(())
}

fn duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|t| parse_duration(&t).ok_or_else(|| serde::de::Error::custom("not a duration"))).transpose()
}

/// `12h`, `1h30m`, `1.5s`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit()).map_or(after, |end| &after[..end]);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let amount: f64 = rest[..digits].parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n";
    const ECR: &str = "- name: ecr\n  matchImages: ['*.dkr.ecr.*.amazonaws.com']\n  defaultCacheDuration: 12h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/ecr"), "").unwrap();
        dir
    }

    fn read_text(text: &str) -> Result<Vec<PluginConfig>, PluginConfigError> {
        let dir = dir();
        fs::write(dir.path().join("c.yaml"), text).unwrap();
        read(&dir.path().join("c.yaml"), &dir.path().join("bin"))
    }

    #[test]
    fn a_file_names_plugins_and_what_they_are_asked_for() {
        let plugins = read_text(&format!("{HEAD}{ECR}  env: [{{name: A, value: b}}]\n")).unwrap();
        assert_eq!(plugins[0].default_cache_duration, Some(Duration::from_secs(12 * 3600)));
        assert_eq!((plugins[0].match_images.len(), plugins[0].env[0].name.as_str()), (1, "A"));
    }

    #[test]
    fn mistakes_are_found_at_the_start() {
        assert!(matches!(read_text("kind: Other\napiVersion: v1\n"), Err(PluginConfigError::Kind { .. })));
        assert!(matches!(read_text(&format!("{HEAD}{ECR}  nme: x\n")), Err(PluginConfigError::Decode { .. })));
        assert!(matches!(read_text(&format!("{HEAD}{ECR}{ECR}")), Err(PluginConfigError::Duplicate(_))));
        let other = ECR.replace("ecr\n", "../x\n");
        assert!(matches!(read_text(&format!("{HEAD}{other}")), Err(PluginConfigError::Invalid { .. })));
        let missing = ECR.replace("name: ecr", "name: gone");
        assert!(matches!(read_text(&format!("{HEAD}{missing}")), Err(PluginConfigError::NoBinary(_))));
    }

    #[test]
    fn a_directory_is_read_in_order() {
        let dir = dir();
        let conf = dir.path().join("conf");
        fs::create_dir(&conf).unwrap();
        assert!(matches!(read(&conf, &conf), Err(PluginConfigError::NoFiles(_))));
        fs::write(dir.path().join("bin/gcr"), "").unwrap();
        fs::write(conf.join("b.yml"), format!("{HEAD}{ECR}")).unwrap();
        fs::write(conf.join("a.yaml"), format!("{HEAD}{}", ECR.replace("name: ecr", "name: gcr"))).unwrap();
        let names: Vec<_> = read(&conf, &dir.path().join("bin")).unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["gcr", "ecr"]);
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("12h", 43_200_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("7ms", 7)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "h", "1d", "-1s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
