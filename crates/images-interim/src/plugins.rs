//! Exec credential providers (KEP-2133): a program per registry that answers with credentials.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use cri::Credentials;
use host::Clock;
use pod::Mono;
use serde::Deserialize;
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex, time::timeout};

use crate::{Keyring, credentials::matches, reference};

const DEADLINE: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("cannot read credential provider configuration {path}: {reason}")]
    Config { path: PathBuf, reason: String },
}

/// All configured providers; clones share the cache.
#[derive(Clone, Default)]
pub struct CredentialProviders(Option<Arc<Inner>>);

struct Inner {
    bin_dir: PathBuf,
    providers: Vec<Provider>,
    clock: Clock,
    cache: Mutex<HashMap<String, Cached>>,
}

#[derive(Clone)]
struct Cached {
    until: Mono,
    auth: BTreeMap<String, Auth>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    token_attributes: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct ProviderConfig {
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Auth>,
}

#[derive(Clone, Deserialize)]
struct Auth {
    username: String,
    password: String,
}

impl CredentialProviders {
    /// `config` is a file or a directory of files, merged in lexical order.
    pub fn load(config: &Path, bin_dir: &Path, clock: Clock) -> Result<Self, PluginError> {
        let broken = |path: &Path, reason: String| PluginError::Config { path: path.to_owned(), reason };
        let mut files = vec![config.to_owned()];
        if config.is_dir() {
            let listed = std::fs::read_dir(config).map_err(|e| broken(config, e.to_string()))?;
            files = listed.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
            files.sort();
        }
        let mut providers = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|e| broken(&file, e.to_string()))?;
            let parsed: ProviderConfig = serde_yaml_ng::from_str(&text).map_err(|e| broken(&file, e.to_string()))?;
            providers.extend(parsed.providers);
        }
        for provider in &providers {
            let plain = !provider.name.is_empty() && !provider.name.contains('/') && !provider.name.starts_with('.');
            if !plain || !bin_dir.join(&provider.name).is_file() {
                let reason = format!("provider {:?} is no program in {}", provider.name, bin_dir.display());
                return Err(broken(config, reason));
            }
            if provider.token_attributes.is_some() {
                let reason = format!("provider {:?}: tokenAttributes are not supported yet", provider.name);
                return Err(broken(config, reason));
            }
        }
        let inner = Inner { bin_dir: bin_dir.to_owned(), providers, clock, cache: Mutex::default() };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Asks every provider that the image matches; one that fails is logged and passed over.
    pub(crate) async fn add_to(&self, keyring: &mut Keyring, image: &str) {
        let Some(inner) = &self.0 else { return };
        let repository = reference::repository(image);
        for provider in inner.providers.iter().filter(|p| p.match_images.iter().any(|m| matches(m, repository))) {
            match inner.ask(provider, image).await {
                Ok(auth) => {
                    for (registry, Auth { username, password }) in auth {
                        keyring.add(&registry, Credentials { username, password, ..Credentials::default() });
                    }
                }
                Err(reason) => tracing::error!(provider = %provider.name, image, reason, "credential provider failed"),
            }
        }
    }
}

impl Inner {
    async fn ask(&self, provider: &Provider, image: &str) -> Result<BTreeMap<String, Auth>, String> {
        let registry = image.split('/').next().unwrap_or(image);
        let keys = [image, registry, "global"].map(|k| format!("{}\0{k}", provider.name));
        let mut cache = self.cache.lock().await;
        let now = self.clock.mono();
        cache.retain(|_, c| c.until > now);
        if let Some(hit) = keys.iter().find_map(|k| cache.get(k)) {
            return Ok(hit.auth.clone());
        }
        let answer = self.run(provider, image).await?;
        let key = match answer.cache_key_type.as_str() {
            "Image" => &keys[0],
            "Registry" => &keys[1],
            "Global" => &keys[2],
            other => return Err(format!("unknown cacheKeyType {other:?}")),
        };
        let duration = answer.cache_duration.as_ref().or(provider.default_cache_duration.as_ref());
        let duration = duration.and_then(|d| seconds(d)).unwrap_or_default();
        if !duration.is_zero() {
            cache.insert(key.clone(), Cached { until: now + duration, auth: answer.auth.clone() });
        }
        Ok(answer.auth)
    }

    async fn run(&self, provider: &Provider, image: &str) -> Result<Answer, String> {
        let request = json!({"apiVersion": provider.api_version, "kind": "CredentialProviderRequest", "image": image});
        let mut child = Command::new(self.bin_dir.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|v| (&v.name, &v.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let talk = async move {
            // One that does not read its request may still answer.
            let _ = stdin.write_all(request.to_string().as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = timeout(DEADLINE, talk).await.map_err(|_| "no answer within a minute")?.map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(output.status.to_string());
        }
        if output.stdout.len() > MAX_ANSWER {
            return Err("its answer is too long".into());
        }
        serde_json::from_slice(&output.stdout).map_err(|_| "its answer is no CredentialProviderResponse".into())
    }
}

/// A Go duration of whole units: `1h30m`, `10m`, `45s`, `0`.
fn seconds(text: &str) -> Option<Duration> {
    let mut total = 0;
    let mut number = 0u64;
    for c in text.chars() {
        match c {
            '0'..='9' => number = number.checked_mul(10)?.checked_add(u64::from(c as u32 - '0' as u32))?,
            'h' => total += std::mem::take(&mut number) * 3600,
            'm' => total += std::mem::take(&mut number) * 60,
            's' => total += std::mem::take(&mut number),
            _ => return None,
        }
    }
    Some(Duration::from_secs(total))
}
