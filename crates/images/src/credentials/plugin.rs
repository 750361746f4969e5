//! Plugins that hand out logins: a program per registry family, asked by JSON on its standard input. No shell is
//! involved; a plugin that takes longer than a minute is killed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use apiserver::{ApiError, ApiServer, TokenFor};
use host::Clock;
use pod::{DesiredPod, Mono};
use prometheus::{HistogramVec, IntCounterVec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{
    Candidate, Login, Origin, Owner,
    docker_config::DockerConfig,
    hex,
    keyring::{self, Keyring},
    plugin_config::{self, PluginConfig, PluginConfigError, TokenAttributes, parse_duration},
};

const LIMIT: Duration = Duration::from_secs(60);

static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of errors from credential provider plugin";
    metrics::counters("kubelet_credential_provider_plugin_errors_total", help, &["plugin_name"])
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration of execution in seconds for credential provider plugin";
    let name = "kubelet_credential_provider_plugin_duration";
    metrics::histograms(name, help, &metrics::DEFAULT_BUCKETS, &["plugin_name"])
});

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("service account {0} has no annotation {1}")]
    AnnotationMissing(String, String),
    #[error("failed to get service account: {0}")]
    ServiceAccount(ApiError),
    #[error("failed to get service account token: {0}")]
    Token(ApiError),
    #[error("the plugin needs a service account token and there is no API server")]
    NoApi,
    #[error("error execing credential provider plugin: {0}")]
    Exec(io::Error),
    #[error("error execing credential provider plugin: {status}: {stderr}")]
    Status { status: std::process::ExitStatus, stderr: String },
    #[error("error execing credential provider plugin: no answer within {} s", LIMIT.as_secs())]
    Deadline,
    /// The answer may hold a secret: nothing of it is shown.
    #[error("error decoding credential provider plugin response from stdout")]
    Decode,
    #[error(
        "apiVersion from credential plugin response did not match expected apiVersion:{expected}, actual apiVersion:{actual}"
    )]
    Version { expected: String, actual: String },
    #[error("credential provider plugin did not return a valid cacheKeyType: {0}")]
    CacheKeyType(String),
    #[error("the plugin returned the service account token as the password, which needs cacheType Token")]
    EchoedToken,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// What is asked on behalf of a service account.
#[derive(Default)]
struct Account {
    owner: Option<Owner>,
    token: String,
    annotations: BTreeMap<String, String>,
    /// Distinguishes cached answers.
    key: String,
}

struct Cached {
    config: DockerConfig,
    expires: Mono,
}

/// All configured plugins.
#[derive(Debug, Default)]
pub struct CredentialProviders(Vec<Plugin>);

impl CredentialProviders {
    /// `config` is a file or a directory of files; each plugin is a program in `bin_dir`.
    pub fn load(config: &Path, bin_dir: &Path, clock: Clock) -> Result<Self, PluginConfigError> {
        let plugins = plugin_config::read(config, bin_dir)?;
        Ok(Self(plugins.into_iter().map(|p| Plugin::new(p, bin_dir, clock)).collect()))
    }

    /// For plugins that ask for a token of the pod's service account.
    #[must_use]
    pub fn with_api(mut self, api: &ApiServer) -> Self {
        self.0.iter_mut().for_each(|plugin| plugin.api = Some(api.clone()));
        self
    }

    pub(crate) async fn lookup(&self, repository: &str, pod: &DesiredPod) -> Vec<Candidate> {
        let mut keyring = Keyring::default();
        for plugin in &self.0 {
            if let Some((origin, config)) = plugin.logins(repository, pod).await {
                keyring.add(&origin, config);
            }
        }
        keyring.lookup(repository)
    }
}

/// One configured plugin with its cache.
struct Plugin {
    config: PluginConfig,
    binary: PathBuf,
    clock: Clock,
    api: Option<ApiServer>,
    cache: Mutex<HashMap<String, Cached>>,
    /// Concurrent questions wait for each other, so that the second one finds the first one's answer.
    asking: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Plugin {
    fn new(config: PluginConfig, bin_dir: &Path, clock: Clock) -> Self {
        let binary = bin_dir.join(&config.name);
        Self { config, binary, clock, api: None, cache: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Nothing where the plugin is not for this image. A plugin that fails is as one that has no login: the pull says
    /// what is missing.
    async fn logins(&self, repository: &str, pod: &DesiredPod) -> Option<(Origin, DockerConfig)> {
        if !self.config.match_images.iter().any(|pattern| keyring::matches(pattern, repository)) {
            return None;
        }
        match self.provide(repository, pod).await {
            Ok(answer) => Some(answer),
            // The annotation is how a workload opts in.
            Err(PluginError::AnnotationMissing(..)) => None,
            Err(e) => {
                ERRORS.with_label_values(&[&self.config.name]).inc();
                tracing::warn!(plugin = self.config.name, image = repository, pod = %pod.key, error = %e, "no registry login from a credential provider");
                None
            }
        }
    }

    async fn provide(&self, repository: &str, pod: &DesiredPod) -> Result<(Origin, DockerConfig), PluginError> {
        let account = match &self.config.token_attributes {
            None => Account::default(),
            Some(attributes) => match self.account(attributes, pod).await? {
                Some(account) => account,
                None => return Ok((Origin::Node, DockerConfig::new())),
            },
        };
        let origin = account.owner.clone().map_or(Origin::Node, Origin::ServiceAccount);
        let _one_at_a_time = self.asking.lock().await;
        if let Some(config) = self.cached(repository, &account) {
            return Ok((origin, config));
        }
        let response = self.ask(repository, &account).await?;
        Ok((origin, self.keep(repository, &account, response)?))
    }

    /// None: the plugin requires a service account and the pod has none.
    async fn account(&self, attributes: &TokenAttributes, pod: &DesiredPod) -> Result<Option<Account>, PluginError> {
        let name = pod.spec().service_account_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            let required = attributes.require_service_account.unwrap_or(true);
            return Ok((!required).then(Account::default));
        }
        let api = self.api.as_ref().ok_or(PluginError::NoApi)?;
        let namespace = &*pod.key.namespace;
        let object = api.get_service_account(namespace, name).await.map_err(PluginError::ServiceAccount)?;
        let given = object.metadata.annotations.unwrap_or_default();
        let mut annotations = BTreeMap::new();
        for key in &attributes.required_service_account_annotation_keys {
            let value = given.get(key).ok_or_else(|| PluginError::AnnotationMissing(name.to_owned(), key.clone()))?;
            annotations.insert(key.clone(), value.clone());
        }
        for key in &attributes.optional_service_account_annotation_keys {
            annotations.extend(given.get(key).map(|value| (key.clone(), value.clone())));
        }
        let audience = [attributes.service_account_token_audience.clone()];
        let bound_to = TokenFor { pod: pod.key.clone(), uid: pod.uid.clone() };
        let token = api.token_request(name, &audience, None, &bound_to).await.map_err(PluginError::Token)?.token;
        let owner = Owner {
            uid: object.metadata.uid.unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut key = format!("{namespace}/{name}/{}/{annotations:?}", owner.uid);
        if attributes.cache_type == "Token" {
            key += &format!("/{}", hex(&Sha256::digest(&token)));
        }
        Ok(Some(Account { owner: Some(owner), token, annotations, key }))
    }

    fn cached(&self, repository: &str, account: &Account) -> Option<DockerConfig> {
        let now = self.clock.mono();
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        cache.retain(|_, entry| entry.expires > now);
        let keys = [repository, registry(repository), GLOBAL].map(|base| cache_key(base, account));
        keys.iter().find_map(|key| cache.get(key)).map(|entry| entry.config.clone())
    }

    fn keep(&self, repository: &str, account: &Account, response: Response) -> Result<DockerConfig, PluginError> {
        let auth = response.auth.unwrap_or_default();
        let token_cached = self.config.token_attributes.as_ref().is_some_and(|t| t.cache_type == "Token");
        if !account.token.is_empty() && !token_cached && auth.values().any(|a| a.password == account.token) {
            return Err(PluginError::EchoedToken);
        }
        let base = match response.cache_key_type.as_str() {
            "Image" => repository,
            "Registry" => registry(repository),
            "Global" => GLOBAL,
            other => return Err(PluginError::CacheKeyType(other.to_owned())),
        };
        let login = |a: Auth| Login { username: a.username, password: a.password, email: String::new() };
        let config: DockerConfig = auth.into_iter().map(|(registry, a)| (registry, login(a))).collect();
        let for_how_long = match &response.cache_duration {
            Some(text) => parse_duration(text).ok_or(PluginError::Decode)?,
            None => self.config.default_cache_duration.unwrap_or_default(),
        };
        if !for_how_long.is_zero() {
            let entry = Cached { config: config.clone(), expires: self.clock.mono() + for_how_long };
            let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
            cache.insert(cache_key(base, account), entry);
        }
        Ok(config)
    }

    async fn ask(&self, repository: &str, account: &Account) -> Result<Response, PluginError> {
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: &self.config.api_version,
            image: repository,
            service_account_token: &account.token,
            service_account_annotations: &account.annotations,
        };
        let input = serde_json::to_vec(&request).map_err(|_| PluginError::Decode)?;
        let started = self.clock.mono();
        let output = timeout(LIMIT, self.run(&input)).await;
        let took = self.clock.mono().since(started).as_secs_f64();
        DURATION.with_label_values(&[&self.config.name]).observe(took);
        let output = output.map_err(|_| PluginError::Deadline)??;
        let response: Response = serde_json::from_slice(&output).map_err(|_| PluginError::Decode)?;
        if response.kind != "CredentialProviderResponse" || response.api_version != self.config.api_version {
            let expected = self.config.api_version.clone();
            return Err(PluginError::Version { expected, actual: response.api_version });
        }
        Ok(response)
    }

    async fn run(&self, input: &[u8]) -> Result<Vec<u8>, PluginError> {
        let env = self.config.env.iter().map(|e| (&e.name, &e.value));
        let mut child = Command::new(&self.binary)
            .args(&self.config.args)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(PluginError::Exec)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may answer without reading what it is asked.
            let _ = stdin.write_all(input).await;
        }
        let output = child.wait_with_output().await.map_err(PluginError::Exec)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(PluginError::Status { status: output.status, stderr });
        }
        Ok(output.stdout)
    }
}

/// No registry has such a name.
const GLOBAL: &str = "<global>";

fn cache_key(base: &str, account: &Account) -> String {
    format!("{base}\n{}", account.key)
}

fn registry(repository: &str) -> &str {
    repository.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use pod::{
        Source,
        api::{Pod, PodSpec},
    };
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

    fn pod() -> DesiredPod {
        let metadata = ObjectMeta { name: Some("web".into()), uid: Some("u".into()), ..ObjectMeta::default() };
        DesiredPod::new(Source::Api, Arc::new(Pod { metadata, spec: Some(PodSpec::default()), status: None })).unwrap()
    }

    /// A plugin that prints `answer` and notes each question in the file `asked`.
    fn plugin(dir: &Path, answer: &str) -> Plugin {
        let script =
            format!("#!/bin/sh\ncat >> {0}/asked; echo >> {0}/asked\ncat <<'EOF'\n{answer}\nEOF\n", dir.display());
        let binary = dir.join("plug");
        fs::write(&binary, script).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let config = PluginConfig {
            name: "plug".into(),
            match_images: vec!["*.io".into()],
            default_cache_duration: Some(Duration::from_secs(60)),
            api_version: "credentialprovider.kubelet.k8s.io/v1".into(),
            args: Vec::new(),
            env: Vec::new(),
            token_attributes: None,
        };
        Plugin::new(config, dir, Clock::start())
    }

    fn answer(cache_key_type: &str) -> String {
        format!(
            r#"{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "{cache_key_type}", "auth": {{"reg.io": {{"username": "u", "password": "p"}}}}}}"#
        )
    }

    #[tokio::test]
    async fn a_plugin_is_asked_once_per_cache_key() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = plugin(dir.path(), &answer("Registry"));
        for image in ["reg.io/a", "reg.io/b"] {
            let (origin, config) = plugin.logins(image, &pod()).await.unwrap();
            assert_eq!((origin, config["reg.io"].username.as_str()), (Origin::Node, "u"));
        }
        assert_eq!(plugin.logins("reg.com/a", &pod()).await, None);
        let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
        let request = r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"reg.io/a"}"#;
        assert_eq!(asked.trim(), request);
    }

    #[tokio::test]
    async fn a_bad_answer_is_no_login() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(plugin(dir.path(), &answer("Weather")).logins("reg.io/a", &pod()).await, None);
        assert_eq!(plugin(dir.path(), "hunter2").logins("reg.io/a", &pod()).await, None);
        let older = answer("Image").replace("k8s.io/v1", "k8s.io/v1beta1");
        assert_eq!(plugin(dir.path(), &older).logins("reg.io/a", &pod()).await, None);
    }
}
