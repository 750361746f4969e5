//! The files that the agent is started with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{JoinError, Result};

/// Where they are, below k3s' data directory; k3s' own agent has files of the first three names in the same place.
#[derive(Clone, Debug)]
pub struct Paths {
    pub kubeconfig: PathBuf,
    pub server_ca: PathBuf,
    pub client_ca: PathBuf,
    /// Certificate and key in one.
    pub client: PathBuf,
    pub serving: PathBuf,
    pub config: PathBuf,
}

impl Paths {
    pub fn below(data_dir: &Path) -> Self {
        let agent = data_dir.join("agent");
        Self {
            kubeconfig: agent.join("kubelet.kubeconfig"),
            server_ca: agent.join("server-ca.crt"),
            client_ca: agent.join("client-ca.crt"),
            client: agent.join("client-kubelet.pem"),
            serving: agent.join("serving-kubelet.pem"),
            config: agent.join("kubelet-config.yaml"),
        }
    }
}

/// With files by name, so that the agent takes a certificate that a later join has renewed.
pub fn kubeconfig(api_server: &str, paths: &Paths) -> Result<String> {
    let content = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "local",
            "cluster": { "server": api_server, "certificate-authority": paths.server_ca },
        }],
        "contexts": [{ "name": "default", "context": { "cluster": "local", "namespace": "default", "user": "user" } }],
        "current-context": "default",
        "users": [{ "name": "user", "user": { "client-certificate": paths.client, "client-key": paths.client } }],
    });
    yaml("the kubeconfig", &content)
}

/// What goes into the configuration beyond what it always has.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub runtime_endpoint: String,
    /// Empty: the agent's default.
    pub resolv_conf: String,
    /// Empty: as the runtime says.
    pub cgroup_driver: String,
    /// `KEY=VALUE:EFFECT`.
    pub taints: Vec<Taint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// As k3s sets its own kubelet up, where that is no matter of its other parts.
pub fn configuration(settings: &Settings, paths: &Paths) -> Result<String> {
    let mut content = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": paths.client_ca },
        },
        "authorization": { "mode": "Webhook" },
        "clusterDNS": settings.cluster_dns,
        "clusterDomain": settings.cluster_domain,
        "containerRuntimeEndpoint": settings.runtime_endpoint,
        "evictionHard": { "imagefs.available": "5%", "nodefs.available": "5%" },
        "evictionMinimumReclaim": { "imagefs.available": "10%", "nodefs.available": "10%" },
        "failSwapOn": false,
        "serializeImagePulls": false,
        "tlsCertFile": paths.serving,
        "tlsPrivateKeyFile": paths.serving,
    });
    for (field, value) in [("resolvConf", &settings.resolv_conf), ("cgroupDriver", &settings.cgroup_driver)] {
        if !value.is_empty() {
            content[field] = json!(value);
        }
    }
    if !settings.taints.is_empty() {
        let taint = |taint: &Taint| json!({ "key": taint.key, "value": taint.value, "effect": taint.effect });
        content["registerWithTaints"] = settings.taints.iter().map(taint).collect();
    }
    yaml("the configuration", &content)
}

fn yaml(what: &'static str, content: &Value) -> Result<String> {
    serde_yaml_ng::to_string(content).map_err(|source| JoinError::Encode { what, source })
}
