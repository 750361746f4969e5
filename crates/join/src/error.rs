//! What can go wrong on the way into a cluster, said so that one knows what to do. No variant carries a secret.

use std::{io, path::PathBuf};

use certificates::CertificateError;
use host::{HostError, addresses::AddressError};

pub type Result<T> = std::result::Result<T, JoinError>;

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the token is malformed: {detail}; take the whole line of /var/lib/rancher/k3s/server/node-token")]
    Token { detail: &'static str },
    #[error("{url:?} is no server URL: {detail}; it looks like https://HOST:6443")]
    Url { url: String, detail: &'static str },
    #[error("{name:?} can't be a node's name: lower case letters, digits, '-' and '.', at most 253")]
    NodeName { name: String },

    #[error("the node's address is not to be found; name it with --node-ip")]
    NodeAddress { source: AddressError },

    #[error("no connection to {server}: is it up, and is the way to it free?")]
    Unreachable { server: String, source: io::Error },
    #[error("no answer from {server} within {seconds} s")]
    NoAnswer { server: String, seconds: u64 },
    #[error("no TLS with {server}: is that the port of a k3s server?")]
    Tls { server: String, source: io::Error },
    #[error(
        "the certificate of {server} is not signed by the cluster's CA, or not for this name: use a name or an address that the server knows as its own (its --tls-san)"
    )]
    Untrusted { server: String, source: io::Error },
    #[error("the exchange with {server} broke off at {path}")]
    Exchange { server: String, path: &'static str, source: hyper::Error },

    #[error(
        "the server's CA is another one than the token's: its hash is {found}, the token says {expected}. The token is of another cluster, or somebody is in between; nothing secret has been sent"
    )]
    CaHash { expected: String, found: String },
    #[error(
        "the token says nothing of the cluster's CA, so the server can't be told from somebody in between; nothing secret has been sent. Take the whole token (K10...) from the server, or accept the CA with the hash {found} by --insecure-skip-ca-hash"
    )]
    NoCaHash { found: String },

    #[error(
        "the server does not accept the token (401 at {path}): for a node it is that in /var/lib/rancher/k3s/server/agent-token or, without one, node-token"
    )]
    TokenRejected { path: &'static str },
    #[error(
        "the node name {node} is taken: the server knows it with another node password. Choose another with --node-name or --with-node-id; or, if the node is gone for good, delete the secret {node}.node-password.k3s in the namespace kube-system"
    )]
    NameTaken { node: String },
    #[error("node password rejected: that in {} is not the one which the server knows for {node}. Either another machine has this name (see --node-name, --with-node-id), or the file was replaced; if the node is gone for good, delete the secret {node}.node-password.k3s in the namespace kube-system", file.display())]
    PasswordRejected { node: String, file: PathBuf },
    #[error("the server is not ready yet (503 at {path}): {message}")]
    NotReady { path: &'static str, message: String },
    #[error("the server answered {status} at {path}: {message}")]
    Refused { path: &'static str, status: u16, message: String },
    #[error("the server's answer at {path} makes no sense: {detail}")]
    Answer { path: &'static str, detail: String },
    #[error("the certificate that the server sent at {path} can't be used")]
    Certificate { path: &'static str, source: CertificateError },

    #[error("cannot make a key or a signing request")]
    Generate { source: rcgen::Error },
    #[error("TLS configuration")]
    TlsConfig { source: rustls::Error },
    #[error("the system gives no random bytes")]
    NoRandom,
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("nothing was written")]
    Write { source: HostError },
    #[error("cannot write {what}")]
    Encode { what: &'static str, source: serde_yaml_ng::Error },
}
