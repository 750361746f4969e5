//! What the kubelet's configuration and the machine say about sandboxes and containers.

use std::{net::IpAddr, path::PathBuf};

use host::RootDir;

use crate::{resources::ResourceRules, user_ids::UserIds};

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    pub root: RootDir,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// resolvConf; None: the empty string was configured, so that pods get no name servers from the node.
    pub resolv_conf: Option<PathBuf>,
    pub node_ips: Vec<IpAddr>,
    pub seccomp_default: bool,
    pub resources: ResourceRules,
    /// Paths of this machine to mask besides the fixed ones.
    pub masked_paths: Vec<String>,
    pub selinux: bool,
    pub user_ids: UserIds,
}

impl RuntimeConfig {
    pub fn new(root: RootDir) -> Self {
        Self {
            root,
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: Some(PathBuf::from("/etc/resolv.conf")),
            node_ips: Vec::new(),
            seccomp_default: false,
            resources: ResourceRules::default(),
            masked_paths: Vec::new(),
            selinux: false,
            user_ids: UserIds::default(),
        }
    }

    pub fn seccomp_root(&self) -> PathBuf {
        self.root.path().join("seccomp")
    }
}
