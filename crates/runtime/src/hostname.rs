//! A pod's host name and domain.

use pod::{
    DesiredPod,
    names::{dns_label, dns_subdomain},
};

const MAX_HOSTNAME: usize = 63;
/// What the kernel's nodename field holds.
const MAX_FQDN: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    #[error("pod HostnameOverride {name:?} is not a valid DNS subdomain: {rule}")]
    Override { name: String, rule: String },
    #[error("pod Hostname {name:?} is not a valid DNS label: {rule}")]
    Hostname { name: String, rule: String },
    #[error("pod Subdomain {name:?} is not a valid DNS label: {rule}")]
    Subdomain { name: String, rule: String },
    #[error("hostname for pod {pod:?} was invalid: {hostname:?}")]
    Empty { pod: String, hostname: String },
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({MAX_FQDN} characters is the max, {} characters requested)",
        fqdn.len()
    )]
    FqdnTooLong { fqdn: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    pub name: String,
    /// Empty without a subdomain.
    pub domain: String,
}

impl Hostname {
    pub fn of(pod: &DesiredPod, cluster_domain: &str) -> Result<Self, HostnameError> {
        let spec = pod.spec();
        if let Some(name) = &spec.hostname_override {
            dns_subdomain(name).map_err(|rule| HostnameError::Override { name: name.clone(), rule })?;
            return Ok(Self { name: truncated(pod, name)?, domain: String::new() });
        }
        let name = match set(&spec.hostname) {
            Some(name) => dns_label(name)
                .map(|()| name)
                .map_err(|rule| HostnameError::Hostname { name: name.to_owned(), rule })?,
            None => &pod.key.name,
        };
        let domain = match set(&spec.subdomain) {
            Some(name) => dns_label(name)
                .map(|()| format!("{name}.{}.svc.{cluster_domain}", pod.key.namespace))
                .map_err(|rule| HostnameError::Subdomain { name: name.to_owned(), rule })?,
            None => String::new(),
        };
        Ok(Self { name: truncated(pod, name)?, domain })
    }

    /// What `uname -n` shows inside the pod.
    pub fn for_kernel(&self, as_fqdn: bool) -> Result<String, HostnameError> {
        if !as_fqdn || self.domain.is_empty() {
            return Ok(self.name.clone());
        }
        let fqdn = format!("{}.{}", self.name, self.domain);
        if fqdn.len() > MAX_FQDN { Err(HostnameError::FqdnTooLong { fqdn }) } else { Ok(fqdn) }
    }
}

fn truncated(pod: &DesiredPod, hostname: &str) -> Result<String, HostnameError> {
    if hostname.len() <= MAX_HOSTNAME {
        return Ok(hostname.to_owned());
    }
    let name = hostname[..hostname.floor_char_boundary(MAX_HOSTNAME)].trim_end_matches(['-', '.']);
    if name.is_empty() {
        let pod = pod.key.name.to_string();
        return Err(HostnameError::Empty { pod, hostname: hostname.to_owned() });
    }
    Ok(name.to_owned())
}

fn set(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|f| !f.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;

    fn of(name: &str, change: impl FnOnce(&mut pod::api::PodSpec)) -> Result<Hostname, HostnameError> {
        Hostname::of(&pod(name, change), "cluster.local")
    }

    #[test]
    fn the_pods_name_is_cut_where_a_host_name_ends() {
        assert_eq!(of("web", |_| {}).unwrap(), Hostname { name: "web".into(), domain: String::new() });
        let long = format!("{}-.tail", "a".repeat(61));
        assert_eq!(of(&long, |_| {}).unwrap().name, "a".repeat(61));
    }

    #[test]
    fn hostname_and_subdomain_make_an_fqdn() {
        let host = of("web", |s| {
            s.hostname = Some("db-0".into());
            s.subdomain = Some("db".into());
        });
        let host = host.unwrap();
        assert_eq!((host.name.as_str(), host.domain.as_str()), ("db-0", "db.ns.svc.cluster.local"));
        assert_eq!(host.for_kernel(true).unwrap(), "db-0.db.ns.svc.cluster.local");
        assert_eq!(host.for_kernel(false).unwrap(), "db-0");
    }

    #[test]
    fn a_domain_alone_does_not_change_the_kernels_name_and_a_long_fqdn_is_refused() {
        let host = Hostname { name: "a".repeat(40), domain: "b".repeat(30) };
        let error = host.for_kernel(true).unwrap_err().to_string();
        assert!(error.ends_with("is too long (64 characters is the max, 71 characters requested)"), "{error}");
    }

    #[test]
    fn an_override_wins_and_drops_the_domain() {
        let host = of("web", |s| {
            s.hostname_override = Some("other.example.com".into());
            s.subdomain = Some("db".into());
        });
        assert_eq!(host.unwrap(), Hostname { name: "other.example.com".into(), domain: String::new() });
    }

    #[test]
    fn a_bad_name_is_refused() {
        assert!(matches!(of("web", |s| s.hostname = Some("Web".into())), Err(HostnameError::Hostname { .. })));
        assert!(matches!(of("web", |s| s.subdomain = Some("a.b".into())), Err(HostnameError::Subdomain { .. })));
    }
}
