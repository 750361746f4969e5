//! From a token to the files of a node. Nothing is written before the server has given everything, but the node's
//! password, which has to be on the disk before the server hears of it.

use std::{fs, net::IpAddr, path::PathBuf};

use host::addresses::{self, NodeIp};
use jiff::Timestamp;

use crate::{
    JoinError, Result, Token,
    client::Address,
    endpoints::{self, Node, Server, ServerConfig},
    files::{self, Paths, Settings, Taint},
    password,
};

/// What to join, and as what.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub server: String,
    pub token: Token,
    /// To take whatever CA the server shows when the token does not say which.
    pub skip_ca_hash: bool,
    pub node_name: String,
    pub with_node_id: bool,
    /// Empty: found out.
    pub node_ips: Vec<IpAddr>,
    pub data_dir: PathBuf,
    /// Where the node's password and id are kept.
    pub node_dir: PathBuf,
    pub root_dir: PathBuf,
    pub runtime_endpoint: String,
    pub resolv_conf: String,
    pub cgroup_driver: String,
    pub labels: Vec<String>,
    pub taints: Vec<Taint>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Joined {
    pub node_name: String,
    pub files: Vec<PathBuf>,
    /// The agent's arguments.
    pub arguments: Vec<String>,
    /// What the operator should know of this cluster.
    pub notes: Vec<String>,
}

pub async fn join(wanted: &Wanted, now: Timestamp) -> Result<Joined> {
    let address = Address::parse(&wanted.server)?;
    let name = node_name(wanted)?;
    let ips = node_ips(wanted, &name).await?;

    let server = Server::believe(address, &wanted.token, wanted.skip_ca_hash, now).await?;
    let config = server.config().await?;
    let client_ca = server.ca(endpoints::CLIENT_CA).await?;
    let server_ca = server.ca(endpoints::SERVER_CA).await?;
    let password = password::ensure(&wanted.node_dir)?;
    let node = Node { name: &name, ips: &ips, password: &password };
    let serving = server.certificate(endpoints::SERVING, &node).await?;
    let client = server.certificate(endpoints::CLIENT, &node).await?;
    let api_servers = server.api_servers().await?;

    let paths = Paths::below(&wanted.data_dir);
    let api_server = config.api_server(&server.address);
    let settings = settings(wanted, &config);
    let new = [
        (&paths.client_ca, client_ca),
        (&paths.server_ca, server_ca),
        (&paths.serving, serving.pem.reveal().as_bytes().to_vec()),
        (&paths.client, client.pem.reveal().as_bytes().to_vec()),
        (&paths.config, files::configuration(&settings, &paths)?.into_bytes()),
        (&paths.kubeconfig, files::kubeconfig(&api_server.url(), &paths)?.into_bytes()),
    ]
    .map(|(path, content)| (path.clone(), content, 0o600));
    let dir = wanted.data_dir.join("agent");
    fs::create_dir_all(&dir).map_err(|source| JoinError::Directory { path: dir, source })?;
    host::atomic_file::write_together(&new).map_err(|source| JoinError::Write { source })?;

    Ok(Joined {
        files: new.map(|(path, ..)| path).into(),
        arguments: arguments(wanted, &name, &ips, &paths),
        notes: notes(&config, &api_server, &api_servers),
        node_name: name,
    })
}

fn node_name(wanted: &Wanted) -> Result<String> {
    let mut name = wanted.node_name.trim().to_lowercase();
    if wanted.with_node_id {
        name = format!("{name}-{}", password::node_id(&wanted.node_dir)?);
    }
    let is_label = |label: &str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let plain = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        plain && ends(label.bytes().next()) && ends(label.bytes().last())
    };
    match name.len() <= 253 && name.split('.').all(is_label) {
        true => Ok(name),
        false => Err(JoinError::NodeName { name }),
    }
}

async fn node_ips(wanted: &Wanted, name: &str) -> Result<Vec<IpAddr>> {
    if !wanted.node_ips.is_empty() {
        return Ok(wanted.node_ips.clone());
    }
    // As the agent itself will find them.
    addresses::node_ips(NodeIp::Unset, name, name).await.map_err(|source| JoinError::NodeAddress { source })
}

fn settings(wanted: &Wanted, config: &ServerConfig) -> Settings {
    Settings {
        cluster_dns: config.cluster_dns(),
        cluster_domain: match config.cluster_domain.is_empty() {
            true => "cluster.local".to_owned(),
            false => config.cluster_domain.clone(),
        },
        runtime_endpoint: wanted.runtime_endpoint.clone(),
        resolv_conf: wanted.resolv_conf.clone(),
        cgroup_driver: wanted.cgroup_driver.clone(),
        taints: wanted.taints.clone(),
    }
}

fn arguments(wanted: &Wanted, name: &str, ips: &[IpAddr], paths: &Paths) -> Vec<String> {
    let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    let mut arguments = vec![
        format!("--config={}", paths.config.display()),
        format!("--kubeconfig={}", paths.kubeconfig.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", ips.join(",")),
        format!("--root-dir={}", wanted.root_dir.display()),
        format!("--cert-dir={}", wanted.root_dir.join("pki").display()),
    ];
    if !wanted.labels.is_empty() {
        arguments.push(format!("--node-labels={}", wanted.labels.join(",")));
    }
    arguments
}

/// What k3s' own agent would have done beside the kubelet.
fn notes(config: &ServerConfig, api_server: &Address, api_servers: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    if config.egress_selector_mode != "disabled" {
        notes.push(
            "the server reaches kubelets through a tunnel that k3s' own agent opens; for `kubectl logs`, `exec` and \
             `top` on this node start the server with --egress-selector-mode=disabled"
                .to_owned(),
        );
    }
    if !matches!(config.flannel_backend.as_str(), "none" | "") {
        notes.push(format!(
            "the cluster's pod network (flannel, {}) is part of k3s' agent: this node needs a CNI plugin of its own",
            config.flannel_backend
        ));
    }
    if !config.disable_kube_proxy {
        notes.push(
            "kube-proxy and the network policies are part of k3s' agent too: run kube-proxy here for service addresses"
                .to_owned(),
        );
    }
    if api_servers.len() > 1 {
        notes.push(format!(
            "the cluster has several API servers ({}); the node uses {}, so that should be an address which outlives \
             one of them",
            api_servers.join(", "),
            api_server.url()
        ));
    }
    notes
}
