//! The few things of a kubeconfig that bootstrap reads and writes. Requests go through `apiserver`, which reads it whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    CertificateError, Result,
    pair::{Leaf, chain},
};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kubeconfig {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    users: Vec<Named<User>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    body: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cluster {
    cluster: ClusterBody,
}
/// Kept whole: server, CA, proxy and what else there may be.
type ClusterBody = serde_yaml_ng::Mapping;

#[derive(Debug, Serialize, Deserialize)]
struct Context {
    context: ContextBody,
}
#[derive(Debug, Default, Serialize, Deserialize)]
struct ContextBody {
    cluster: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct User {
    user: UserBody,
}
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
}

/// Not even a certificate is for logs.
impl std::fmt::Debug for UserBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserBody").finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Kubeconfig> {
    let text = fs::read_to_string(path).map_err(|source| CertificateError::Read { path: path.into(), source })?;
    serde_yaml_ng::from_str(&text).map_err(|error| unusable(path, error.to_string()))
}

fn unusable(path: &Path, detail: impl Into<String>) -> CertificateError {
    CertificateError::Kubeconfig { path: path.into(), detail: detail.into() }
}

impl Kubeconfig {
    fn context(&self) -> Option<&ContextBody> {
        let found = self.contexts.iter().find(|c| c.name == self.current_context).or(self.contexts.first());
        found.map(|c| &c.body.context)
    }
    fn user(&self) -> Option<&UserBody> {
        let name = &self.context()?.user;
        self.users.iter().find(|u| &u.name == name).map(|u| &u.body.user)
    }
    fn cluster(&self) -> Option<&ClusterBody> {
        let name = &self.context()?.cluster;
        self.clusters.iter().find(|c| &c.name == name).map(|c| &c.body.cluster)
    }
}

/// Whether it is there with a client certificate that has not expired.
pub fn is_still_valid(path: &Path, now: Timestamp) -> bool {
    if !path.exists() {
        return false;
    }
    match client_certificate_validity(path) {
        Ok((_, not_after)) if now <= not_after => true,
        Ok((_, not_after)) => {
            let file = certificate_file(path).unwrap_or_else(|_| path.to_owned());
            tracing::warn!("{}", expired(&file, not_after));
            false
        }
        Err(error) => {
            tracing::info!(error = error.described(), "kubeconfig has no client certificate that can be used");
            false
        }
    }
}

/// What is wrong, and what to do.
pub fn expired(file: &Path, not_after: Timestamp) -> String {
    let file = file.display();
    format!(
        "the client certificate in {file} expired on {not_after}: unless the node gets a new one by itself, join it \
         again (`kubeadm token create --print-join-command`), or give a --bootstrap-kubeconfig with a valid token"
    )
}

/// Where the client certificate is: the file that the kubeconfig names, or itself.
pub fn certificate_file(path: &Path) -> Result<PathBuf> {
    let config = read(path)?;
    let user = config.user().filter(|user| user.client_certificate_data.is_none());
    let named = user.and_then(|user| user.client_certificate.as_deref());
    Ok(named.map_or_else(|| path.to_owned(), |file| path.parent().unwrap_or(Path::new("")).join(file)))
}

/// From when to when every certificate of the kubeconfig's client chain is valid.
pub fn client_certificate_validity(path: &Path) -> Result<(Timestamp, Timestamp)> {
    let origin = path.display().to_string();
    let mut valid: Option<(Timestamp, Timestamp)> = None;
    for der in chain(&client_certificate(path)?, &origin)? {
        let leaf = Leaf::read(&der, &origin)?;
        let (from, to) = valid.unwrap_or((leaf.not_before, leaf.not_after));
        valid = Some((from.max(leaf.not_before), to.min(leaf.not_after)));
    }
    valid.ok_or(CertificateError::NoCertificate { origin })
}

fn client_certificate(path: &Path) -> Result<Vec<u8>> {
    let config = read(path)?;
    let user = config.user().ok_or_else(|| unusable(path, "no user in the current context"))?;
    given(path, user.client_certificate_data.as_deref(), user.client_certificate.as_deref(), "client certificate")
}

/// Certificate and key, both as PEM.
pub fn client_pair(path: &Path) -> Result<(Vec<u8>, String)> {
    let config = read(path)?;
    let user = config.user().ok_or_else(|| unusable(path, "no user in the current context"))?;
    let key = given(path, user.client_key_data.as_deref(), user.client_key.as_deref(), "client key")?;
    let key = String::from_utf8(key).map_err(|_| unusable(path, "the client key is no PEM"))?;
    Ok((client_certificate(path)?, key))
}

/// What the kubeconfig holds itself or names the file of.
fn given(path: &Path, data: Option<&str>, file: Option<&Path>, what: &str) -> Result<Vec<u8>> {
    if let Some(data) = data {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
        return decoded.map_err(|_| unusable(path, format!("the {what} is no base64")));
    }
    let file = file.ok_or_else(|| unusable(path, format!("no {what}")))?;
    // Relative to the kubeconfig, as client-go resolves it.
    let file = path.parent().unwrap_or(Path::new("")).join(file);
    fs::read(&file).map_err(|source| CertificateError::Read { path: file, source })
}

/// When the first certificate of the cluster's CA expires; None where none is named that can be read.
pub fn ca_expiry(path: &Path) -> Option<Timestamp> {
    let config = read(path).ok()?;
    let cluster = config.cluster()?;
    let text = |key: &str| cluster.get(key).and_then(|value| value.as_str());
    let file = text("certificate-authority").map(Path::new);
    let pem = given(path, text("certificate-authority-data"), file, "CA").ok()?;
    let origin = path.display().to_string();
    chain(&pem, &origin).ok()?.iter().filter_map(|ca| Leaf::read(ca, &origin).ok()).map(|ca| ca.not_after).min()
}

/// The kubeconfig and the files that it names, but for a token's: the client reads that one again by itself.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let Ok(config) = read(path) else { return files };
    let cluster = config.cluster().and_then(|c| c.get("certificate-authority")).and_then(|ca| ca.as_str());
    let user = config.user();
    let of_user = user.into_iter().flat_map(|u| [&u.client_certificate, &u.client_key]).flatten();
    let named = cluster.map(Path::new).into_iter().chain(of_user.map(PathBuf::as_path));
    files.extend(named.map(|file| path.parent().unwrap_or(Path::new("")).join(file)));
    files
}

/// Writes a kubeconfig for the bootstrap's cluster with the pair at `pair` (a file with certificate and key).
pub fn write_from_bootstrap(bootstrap: &Path, kubeconfig: &Path, pair: &Path) -> Result<()> {
    let source = read(bootstrap)?;
    let mut cluster =
        source.cluster().cloned().ok_or_else(|| unusable(bootstrap, "no cluster in the current context"))?;
    // A relative CA path counts from the file that names it, and that is about to change.
    if let Some(serde_yaml_ng::Value::String(ca)) = cluster.get_mut("certificate-authority") {
        let absolute = bootstrap.parent().unwrap_or(Path::new("")).join(&ca);
        *ca = absolute.display().to_string();
    }
    let (cluster_name, user, context) = ("default-cluster", "default-auth", "default-context");
    let pair = pair.to_path_buf();
    let made = Kubeconfig {
        api_version: "v1".to_owned(),
        kind: "Config".to_owned(),
        clusters: vec![Named { name: cluster_name.to_owned(), body: Cluster { cluster } }],
        contexts: vec![Named {
            name: context.to_owned(),
            body: Context {
                context: ContextBody {
                    cluster: cluster_name.to_owned(),
                    user: user.to_owned(),
                    namespace: Some("default".to_owned()),
                },
            },
        }],
        current_context: context.to_owned(),
        users: vec![Named {
            name: user.to_owned(),
            body: User {
                user: UserBody {
                    client_certificate: Some(pair.clone()),
                    client_key: Some(pair),
                    ..UserBody::default()
                },
            },
        }],
    };
    let text = serde_yaml_ng::to_string(&made).map_err(|error| unusable(kubeconfig, error.to_string()))?;
    if let Some(dir) = kubeconfig.parent() {
        fs::create_dir_all(dir).map_err(|source| CertificateError::Write { path: dir.into(), source })?;
    }
    host::atomic_file::write(kubeconfig, text.as_bytes(), 0o600)
        .map_err(|source| CertificateError::WriteAtomically { path: kubeconfig.into(), source })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const BOOTSTRAP: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster: {server: 'https://10.0.0.1:6443', certificate-authority: ca.crt, tls-server-name: api}
contexts:
- name: tls-bootstrap-token-user@kubernetes
  context: {cluster: kubernetes, user: tls-bootstrap-token-user}
current-context: tls-bootstrap-token-user@kubernetes
users:
- name: tls-bootstrap-token-user
  user: {token: abcdef.0123456789abcdef}
";

    fn write_pair(path: &Path, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        fs::write(path, params.self_signed(&key).unwrap().pem() + &key.serialize_pem()).unwrap();
    }

    #[test]
    fn the_new_kubeconfig_has_the_cluster_of_the_bootstrap_one_and_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let (bootstrap, kubeconfig) = (dir.path().join("bootstrap.conf"), dir.path().join("kubelet.conf"));
        let pair = dir.path().join("kubelet-client-current.pem");
        fs::write(&bootstrap, BOOTSTRAP).unwrap();
        assert!(!is_still_valid(&kubeconfig, Timestamp::UNIX_EPOCH));
        write_from_bootstrap(&bootstrap, &kubeconfig, &pair).unwrap();

        let text = fs::read_to_string(&kubeconfig).unwrap();
        assert!(!text.contains("abcdef") && text.contains("current-context: default-context"), "{text}");
        let made = read(&kubeconfig).unwrap();
        let cluster = made.cluster().unwrap();
        assert_eq!(cluster.get("server").unwrap().as_str(), Some("https://10.0.0.1:6443"));
        assert_eq!(cluster.get("tls-server-name").unwrap().as_str(), Some("api"));
        let ca = dir.path().join("ca.crt");
        assert_eq!(cluster.get("certificate-authority").unwrap().as_str(), ca.to_str());
        let user = made.user().unwrap();
        assert_eq!((user.client_certificate.as_ref(), user.client_key.as_ref()), (Some(&pair), Some(&pair)));
    }

    #[test]
    fn the_files_of_a_kubeconfig_are_those_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.conf");
        fs::write(
            &path,
            BOOTSTRAP.replace("token: abcdef.0123456789abcdef", "client-certificate: /pki/c.pem, client-key: k"),
        )
        .unwrap();
        let expected = [path.clone(), dir.path().join("ca.crt"), PathBuf::from("/pki/c.pem"), dir.path().join("k")];
        assert_eq!(files_of(&path), expected);
        assert_eq!(files_of(Path::new("/nowhere")), [PathBuf::from("/nowhere")]);
    }

    #[test]
    fn the_expiry_of_the_clusters_ca_is_known_whether_named_or_held() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ca) = (dir.path().join("kubelet.conf"), dir.path().join("ca.crt"));
        fs::write(&path, BOOTSTRAP).unwrap();
        assert_eq!(ca_expiry(&path), None, "the file it names is missing");
        write_pair(&ca, 2030);
        assert_eq!(ca_expiry(&path).unwrap().to_string(), "2030-01-01T00:00:00Z");
        let held = base64::engine::general_purpose::STANDARD.encode(fs::read(&ca).unwrap());
        fs::write(&path, BOOTSTRAP.replace("authority: ca.crt", &format!("authority-data: {held}"))).unwrap();
        assert_eq!(ca_expiry(&path).unwrap().to_string(), "2030-01-01T00:00:00Z");
    }

    #[test]
    fn a_kubeconfig_is_valid_as_long_as_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let (bootstrap, kubeconfig) = (dir.path().join("bootstrap.conf"), dir.path().join("kubelet.conf"));
        let pair = dir.path().join("pair.pem");
        fs::write(&bootstrap, BOOTSTRAP).unwrap();
        write_from_bootstrap(&bootstrap, &kubeconfig, &pair).unwrap();
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        assert!(!is_still_valid(&kubeconfig, now), "the file it names is missing");
        write_pair(&pair, 2030);
        assert!(is_still_valid(&kubeconfig, now));
        write_pair(&pair, 2025);
        assert!(!is_still_valid(&kubeconfig, now));
        assert_eq!(certificate_file(&kubeconfig).unwrap(), pair);
        assert!(expired(&pair, now).contains("pair.pem expired on 2026-06-01T00:00:00Z"));
        assert!(!is_still_valid(&bootstrap, now), "a token is no certificate");
    }
}
