//! What a k3s server answers to a node, and in which words.

use std::{net::IpAddr, time::Duration};

use certificates::Pair;
use http::{Method, StatusCode};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Deserializer};

use crate::{
    JoinError, Result, Secret, Token,
    ca::Bundle,
    client::{Address, Client, Question},
    password::NodePassword,
};

const CACERTS: &str = "/cacerts";
const CONFIG: &str = "/v1-k3s/config";
pub const CLIENT_CA: &str = "/v1-k3s/client-ca.crt";
pub const SERVER_CA: &str = "/v1-k3s/server-ca.crt";
pub const SERVING: &str = "/v1-k3s/serving-kubelet.crt";
pub const CLIENT: &str = "/v1-k3s/client-kubelet.crt";
const APISERVERS: &str = "/v1-k3s/apiservers";

/// A server that starts answers 503, and a busy one 429.
const TRIES: u32 = 15;
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(2) };

/// What a worker needs of the server's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServerConfig {
    #[serde(rename = "ClusterDNS", deserialize_with = "null_is_default")]
    cluster_dns: String,
    #[serde(rename = "ClusterDNSs", deserialize_with = "null_is_default")]
    cluster_dns_list: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cluster_domain: String,
    #[serde(rename = "HTTPSPort")]
    https_port: u16,
    supervisor_port: u16,
    #[serde(deserialize_with = "null_is_default")]
    pub flannel_backend: String,
    #[serde(deserialize_with = "null_is_default")]
    pub egress_selector_mode: String,
    pub disable_kube_proxy: bool,
}

fn null_is_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl ServerConfig {
    /// Old servers know one only.
    pub fn cluster_dns(&self) -> Vec<String> {
        match self.cluster_dns_list.is_empty() && !self.cluster_dns.is_empty() {
            true => vec![self.cluster_dns.clone()],
            false => self.cluster_dns_list.clone(),
        }
    }

    /// The API may have a port of its own, beside that of the node endpoints.
    pub fn api_server(&self, server: &Address) -> Address {
        let apart = self.https_port != 0 && self.https_port != self.supervisor_port;
        Address { host: server.host.clone(), port: if apart { self.https_port } else { server.port } }
    }
}

/// The node that asks for certificates.
pub struct Node<'a> {
    pub name: &'a str,
    pub ips: &'a [IpAddr],
    pub password: &'a NodePassword,
}

/// Certificates and their key as one PEM file, so that both change at once. Debug shows neither.
#[derive(Clone, Debug)]
pub struct Issued {
    pub pem: Secret,
}

pub struct Server {
    pub address: Address,
    client: Client,
    authorization: Secret,
}

impl Server {
    /// Only after this, which checks the server's CA against the token's, does anything secret go there.
    pub async fn believe(address: Address, token: &Token, skip_ca_hash: bool, now: Timestamp) -> Result<Self> {
        let cas = asked(&Client::trusting_anybody(address.clone())?, &Question::get(CACERTS)).await?;
        let Bundle { hash: found, trusted } = Bundle::read(&cas, now)
            .ok_or_else(|| JoinError::Answer { path: CACERTS, detail: "there is no certificate in it".to_owned() })?;
        match &token.ca_hash {
            Some(expected) if *expected != found => {
                return Err(JoinError::CaHash { expected: expected.clone(), found });
            }
            None if !skip_ca_hash => return Err(JoinError::NoCaHash { found }),
            Some(_) | None => {}
        }
        let client = Client::trusting(address.clone(), trusted)?;
        Ok(Self { address, client, authorization: token.authorization() })
    }

    pub async fn config(&self) -> Result<ServerConfig> {
        let body = self.get(CONFIG).await?;
        serde_json::from_slice(&body).map_err(|error| JoinError::Answer { path: CONFIG, detail: error.to_string() })
    }

    /// One of the CA bundles.
    pub async fn ca(&self, path: &'static str) -> Result<Vec<u8>> {
        let body = self.get(path).await?;
        match String::from_utf8_lossy(&body).contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(body),
            false => Err(JoinError::Answer { path, detail: "there is no certificate in it".to_owned() }),
        }
    }

    /// The addresses of all API servers; old servers know them not at once.
    pub async fn api_servers(&self) -> Result<Vec<String>> {
        let body = self.get(APISERVERS).await?;
        serde_json::from_slice::<Option<Vec<String>>>(&body)
            .map(Option::unwrap_or_default)
            .map_err(|error| JoinError::Answer { path: APISERVERS, detail: error.to_string() })
    }

    /// A certificate for the node. Newer servers sign our key; older ones take no notice of it and send one of theirs.
    pub async fn certificate(&self, path: &'static str, node: &Node<'_>) -> Result<Issued> {
        let key = KeyPair::generate().map_err(|source| JoinError::Generate { source })?;
        let mut params = CertificateParams::default();
        // The server takes nothing of it but the key.
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(|source| JoinError::Generate { source })?;
        let ips: Vec<String> = node.ips.iter().map(IpAddr::to_string).collect();
        let question = Question {
            method: Method::POST,
            path,
            authorization: Some(self.authorization.clone()),
            headers: vec![
                ("k3s-node-name", Secret::new(node.name)),
                ("k3s-node-password", node.password.value.clone()),
                ("k3s-node-ip", Secret::new(ips.join(","))),
            ],
            body: request.der().to_vec(),
        };
        let body = match asked(&self.client, &question).await {
            Err(JoinError::Refused { status: 403, .. }) => return Err(rejected(node)),
            answer => answer?,
        };
        issued(path, &body, &key)
    }

    async fn get(&self, path: &'static str) -> Result<Vec<u8>> {
        asked(&self.client, &Question { authorization: Some(self.authorization.clone()), ..Question::get(path) }).await
    }
}

fn rejected(node: &Node<'_>) -> JoinError {
    let name = node.name.to_owned();
    match node.password.is_new {
        true => JoinError::NameTaken { node: name },
        false => JoinError::PasswordRejected { node: name, file: node.password.file.clone() },
    }
}

async fn asked(client: &Client, question: &Question) -> Result<Vec<u8>> {
    let path = question.path;
    let mut tries = 1;
    loop {
        let (status, body) = client.ask(question.clone()).await?;
        match status {
            status if status.is_success() => return Ok(body),
            StatusCode::UNAUTHORIZED => return Err(JoinError::TokenRejected { path }),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            StatusCode::SERVICE_UNAVAILABLE => return Err(JoinError::NotReady { path, message: said(&body) }),
            status => return Err(JoinError::Refused { path, status: status.as_u16(), message: said(&body) }),
        }
    }
}

/// The message of a Status object, else the beginning of whatever there is.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).trim().chars().filter(|c| !c.is_control()).take(200).collect(),
    }
}

fn issued(path: &'static str, body: &[u8], key: &KeyPair) -> Result<Issued> {
    let (mut certificates, mut keys) = (String::new(), String::new());
    for (label, block) in pem_blocks(&String::from_utf8_lossy(body)) {
        match label.as_str() {
            "CERTIFICATE" => certificates.push_str(&block),
            label if label.ends_with("PRIVATE KEY") => keys.push_str(&block),
            _ => {}
        }
    }
    if keys.is_empty() {
        keys = key.serialize_pem();
    }
    // Certificate and key belong together, or it is refused here.
    Pair::from_pem(certificates.as_bytes(), keys.as_bytes(), path)
        .map_err(|source| JoinError::Certificate { path, source })?;
    Ok(Issued { pem: Secret::new(certificates + &keys) })
}

/// Label and text of each PEM block; a block without an end is none.
fn pem_blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((label.to_owned(), String::new()));
        }
        if let Some((_, block)) = &mut open {
            block.push_str(line);
            block.push('\n');
        }
        if line.starts_with("-----END ") {
            found.extend(open.take());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_configuration_is_read_in_old_and_new_words() {
        let new: ServerConfig = serde_json::from_str(
            r#"{"ClusterDNSs":["10.43.0.10","fd43::a"],"ClusterDNS":"10.43.0.10","ClusterDomain":"cluster.local",
                "ClusterIPRange":{"IP":"10.42.0.0","Mask":"//8AAA=="},"FlannelBackend":"vxlan","HTTPSPort":6443,
                "SupervisorPort":6443,"EgressSelectorMode":"agent","DisableKubeProxy":false}"#,
        )
        .unwrap();
        assert_eq!(new.cluster_dns(), ["10.43.0.10", "fd43::a"]);
        let server = Address::parse("https://s:6443").unwrap();
        assert_eq!(new.api_server(&server), server);
        let old: ServerConfig = serde_json::from_str(
            r#"{"ClusterDNS":"10.43.0.10","ClusterDNSs":null,"HTTPSPort":6443,"SupervisorPort":9345}"#,
        )
        .unwrap();
        assert_eq!(old.cluster_dns(), ["10.43.0.10"]);
        assert_eq!(old.api_server(&Address::parse("https://s:9345").unwrap()).url(), "https://s:6443");
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        assert_eq!(said(br#"{"kind":"Status","message":"core not ready"}"#), "core not ready");
        assert_eq!(said(b"404 page not found\n"), "404 page not found");
    }

    #[test]
    fn any_answer_is_a_certificate_or_refused() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let seeds = [certificate.clone() + &key.serialize_pem(), certificate].map(String::into_bytes);
        fuzz::each_of("issued", &seeds, |bytes| drop(issued(CLIENT, bytes, &key)));
        let config = br#"{"ClusterDNSs":["10.43.0.10"],"ClusterDNS":null,"HTTPSPort":6443}"#.to_vec();
        fuzz::each_of("k3s-config", &[config], |bytes| drop(serde_json::from_slice::<ServerConfig>(bytes)));
    }
}
