//! A certificate chain with its private key.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use jiff::Timestamp;
use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    prelude::{FromDer, GeneralName, X509Certificate},
    x509::AttributeTypeAndValue,
};

use crate::{CertificateError, Result};

/// The group of all nodes.
pub(crate) const NODES: &str = "system:nodes";

/// As whom the API server knows a node.
pub(crate) fn user_of(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// Checked to belong together. Its Debug shows no key.
#[derive(Clone)]
pub struct Pair {
    pub certified: Arc<CertifiedKey>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub names: Names,
    /// The leaf's common name.
    pub subject: String,
    /// The leaf's organizations, which are groups to the API server.
    pub groups: Vec<String>,
    /// Common name of the leaf's issuer.
    pub issuer: String,
}

/// Whom a certificate speaks for, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl Names {
    pub fn new(mut dns: Vec<String>, mut ips: Vec<IpAddr>) -> Self {
        dns.sort();
        dns.dedup();
        ips.sort();
        ips.dedup();
        Self { dns, ips }
    }

    /// A host name may be an address in disguise.
    pub fn of_host(host_name: &str, ips: &[IpAddr]) -> Self {
        match host_name.parse::<IpAddr>() {
            Ok(ip) => Self::new(Vec::new(), ips.iter().copied().chain([ip]).collect()),
            Err(_) => Self::new(vec![host_name.to_owned()], ips.to_vec()),
        }
    }

    pub fn cover(&self, wanted: &Names) -> bool {
        wanted.dns.iter().all(|name| self.dns.contains(name)) && wanted.ips.iter().all(|ip| self.ips.contains(ip))
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("not_after", &self.not_after).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Pair {
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = read(certificate)?;
        let origin = certificate.display().to_string();
        if certificate == key {
            Self::from_pem(&chain, &chain, &origin)
        } else {
            Self::from_pem(&chain, &read(key)?, &origin)
        }
    }

    /// `origin` is for messages.
    pub fn from_pem(certificates: &[u8], key: &[u8], origin: &str) -> Result<Self> {
        let chain = chain(certificates, origin)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey { origin: origin.to_owned() })?;
        let leaf = Leaf::read(&chain[0], origin)?;
        let certified = CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|error| CertificateError::Unusable { origin: origin.to_owned(), detail: error.to_string() })?;
        Ok(Self {
            certified: Arc::new(certified),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            names: leaf.names,
            subject: leaf.subject,
            groups: leaf.groups,
            issuer: leaf.issuer,
        })
    }

    /// By name and group: what a signing request of that node asks for.
    pub fn is_of_node(&self, node_name: &str) -> bool {
        self.subject == user_of(node_name) && self.groups.iter().any(|group| group == NODES)
    }

    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.into(), source })
}

pub(crate) fn chain(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>> {
    let parsed: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(CertificateError::NoCertificate { origin: origin.to_owned() }),
    }
}

/// What a certificate says, without its key.
pub(crate) struct Leaf {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub names: Names,
    pub subject: String,
    pub groups: Vec<String>,
    pub issuer: String,
}

impl Leaf {
    pub fn read(der: &CertificateDer<'_>, origin: &str) -> Result<Self> {
        let unusable = |detail: String| CertificateError::Unusable { origin: origin.to_owned(), detail };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unusable(error.to_string()))?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|error| unusable(error.to_string()));
        let text = |part: &AttributeTypeAndValue<'_>| part.as_str().map(str::to_owned).ok();
        let (subject, issuer) = (certificate.subject(), certificate.issuer());
        Ok(Self {
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            names: names(&certificate),
            subject: subject.iter_common_name().find_map(text).unwrap_or_default(),
            groups: subject.iter_organization().filter_map(text).collect(),
            issuer: issuer.iter_common_name().find_map(text).unwrap_or_default(),
        })
    }
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ips.extend(ip_of(bytes)),
            _ => {}
        }
    }
    Names::new(dns, ips)
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
