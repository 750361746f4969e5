//! Which sysctls a pod may set: the safe ones of this kernel and those the administrator allows.

use k8s_openapi::api::core::v1::PodSpec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
    Uts,
    User,
}

impl Namespace {
    fn as_str(self) -> &'static str {
        match self {
            Namespace::Ipc => "IPC",
            Namespace::Net => "Net",
            Namespace::Uts => "UTS",
            Namespace::User => "User",
        }
    }
}

/// Safe: namespaced and of no effect on other pods; with the kernel release that first isolates it.
const SAFE: &[(&str, (u32, u32))] = &[
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
    ("net.ipv4.tcp_slow_start_after_idle", (4, 15)),
    ("net.ipv4.tcp_notsent_lowat", (4, 6)),
];

const BY_NAME: &[(&str, Namespace)] = &[
    ("kernel.domainname", Namespace::Uts),
    ("kernel.sem", Namespace::Ipc),
    ("kernel.shmall", Namespace::Ipc),
    ("kernel.shmmax", Namespace::Ipc),
    ("kernel.shmmni", Namespace::Ipc),
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msgmax", Namespace::Ipc),
    ("kernel.msgmnb", Namespace::Ipc),
    ("kernel.msgmni", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
];

const BY_PREFIX: &[(&str, Namespace)] =
    &[("net.", Namespace::Net), ("fs.mqueue.", Namespace::Ipc), ("user.", Namespace::User)];

fn namespace_of(name: &str) -> Option<Namespace> {
    let exact = BY_NAME.iter().find(|(known, _)| *known == name);
    exact.or_else(|| BY_PREFIX.iter().find(|(prefix, _)| name.starts_with(prefix))).map(|(_, ns)| *ns)
}

/// `net/ipv4/conf/eth0.1/x` and `net.ipv4.conf.eth0/1.x` are the same: the latter is returned.
pub fn normalize(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// What may be set on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SysctlPolicy {
    names: Vec<(String, Namespace)>,
    prefixes: Vec<(String, Namespace)>,
}

impl SysctlPolicy {
    /// `kernel`: major and minor release. `unsafe_patterns`: allowedUnsafeSysctls, entries may end in `*`.
    pub fn new(kernel: (u32, u32), unsafe_patterns: &[String]) -> Result<Self, String> {
        let mut policy = Self::default();
        for (name, _) in SAFE.iter().filter(|(_, since)| *since <= kernel) {
            policy.allow(name)?;
        }
        for pattern in unsafe_patterns {
            if !is_pattern(pattern) {
                return Err(format!(
                    "sysctl {pattern:?} must have at most 253 characters and match regex ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]"
                ));
            }
            policy.allow(pattern)?;
        }
        Ok(policy)
    }

    fn allow(&mut self, pattern: &str) -> Result<(), String> {
        let name = normalize(pattern);
        let (name, prefixed) = match name.split_once('*') {
            Some((prefix, _)) => (prefix.to_owned(), true),
            None => (name, false),
        };
        let ns = namespace_of(&name).ok_or_else(|| format!("the sysctls {name:?} are not known to be namespaced"))?;
        if prefixed { &mut self.prefixes } else { &mut self.names }.push((name, ns));
        Ok(())
    }

    /// Err: why the pod's first offending sysctl is refused.
    pub fn check(&self, spec: &PodSpec) -> Result<(), String> {
        let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
        for sysctl in sysctls {
            let name = normalize(&sysctl.name);
            let known = self.names.iter().find(|(allowed, _)| *allowed == name);
            let known = known.or_else(|| self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_str())));
            let Some((_, ns)) = known else { return Err(format!("{name:?} not allowlisted")) };
            let shared = match ns {
                Namespace::Ipc => spec.host_ipc == Some(true),
                Namespace::Net => spec.host_network == Some(true),
                Namespace::User => spec.host_users != Some(false),
                Namespace::Uts => false,
            };
            if shared {
                return Err(format!("{name:?} not allowed with host {} enabled", ns.as_str()));
            }
        }
        Ok(())
    }
}

/// Segments of `[-_a-z0-9]` between dots or slashes; the last one may end in `*`.
fn is_pattern(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        !bytes.is_empty()
            && ok(bytes[0])
            && ok(bytes[bytes.len() - 1])
            && bytes.iter().all(|b| ok(*b) || b"-_".contains(b))
    };
    let segments: Vec<&str> = text.split(['.', '/']).collect();
    let Some((last, before)) = segments.split_last() else { return false };
    let last_ok = match last.strip_suffix('*') {
        Some("") => true,
        Some(stem) => ok(stem.as_bytes()[0]) && stem.bytes().all(|b| ok(b) || b"-_".contains(&b)),
        None => segment(last),
    };
    text.len() <= 253 && last_ok && before.iter().all(|s| segment(s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(name: &str, extra: serde_json::Value) -> PodSpec {
        let mut spec = json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn safe_sysctls_pass_and_others_need_permission() {
        let policy = SysctlPolicy::new((5, 10), &["kernel.msg*".into(), "net.core.somaxconn".into()]).unwrap();
        assert_eq!(policy.check(&spec("net.ipv4.tcp_syncookies", json!({}))), Ok(()));
        assert_eq!(policy.check(&spec("net/ipv4/tcp_syncookies", json!({}))), Ok(()));
        assert_eq!(policy.check(&spec("kernel.msgmax", json!({}))), Ok(()));
        assert_eq!(policy.check(&spec("net.core.somaxconn", json!({}))), Ok(()));
        assert_eq!(policy.check(&spec("fs.file-max", json!({}))), Err("\"fs.file-max\" not allowlisted".into()));
        let old = SysctlPolicy::new((4, 4), &[]).unwrap();
        assert!(old.check(&spec("net.ipv4.tcp_keepalive_time", json!({}))).is_err());
    }

    #[test]
    fn a_pod_that_shares_the_hosts_namespace_may_not_change_it() {
        let policy = SysctlPolicy::new((5, 10), &["user.max_ipc_namespaces".into()]).unwrap();
        let shared = policy.check(&spec("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})));
        assert_eq!(shared, Err("\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled".into()));
        assert!(policy.check(&spec("kernel.shm_rmid_forced", json!({"hostIPC": true}))).is_err());
        assert!(policy.check(&spec("user.max_ipc_namespaces", json!({}))).is_err());
        assert!(policy.check(&spec("user.max_ipc_namespaces", json!({"hostUsers": false}))).is_ok());
    }

    #[test]
    fn patterns_must_be_well_formed_and_namespaced() {
        assert!(SysctlPolicy::new((5, 10), &["Kernel.x".into()]).is_err());
        assert!(SysctlPolicy::new((5, 10), &["vm.overcommit_memory".into()]).is_err());
        assert!(SysctlPolicy::new((5, 10), &["net.ipv6.neigh.*".into()]).is_ok());
    }
}
