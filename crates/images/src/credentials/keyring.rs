//! Which logins fit an image: by registry with wildcards per host part, by port, and by the beginning of the path.

use std::collections::BTreeMap;

use super::{Candidate, Login, Origin, docker_config::DockerConfig};

const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Logins by normalized registry. More specific registries come first.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Searched from the back, so that `quay.io/coreos` is found before `quay.io`.
    logins: BTreeMap<String, Vec<Candidate>>,
}

impl Keyring {
    pub fn add(&mut self, origin: &Origin, config: DockerConfig) {
        for (registry, login) in config {
            let candidate = Candidate { login, origin: origin.clone() };
            self.logins.entry(normalize(&registry)).or_default().push(candidate);
        }
    }

    /// `repository` is a full one, registry included.
    pub fn lookup(&self, repository: &str) -> Vec<Candidate> {
        let fitting = self.logins.iter().rev().filter(|(registry, _)| matches(registry, repository));
        let found: Vec<Candidate> = fitting.flat_map(|(_, candidates)| candidates.clone()).collect();
        if found.is_empty() && is_default_registry(repository) {
            return self.logins.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

impl FromIterator<(String, Login)> for Keyring {
    fn from_iter<I: IntoIterator<Item = (String, Login)>>(logins: I) -> Self {
        let mut keyring = Keyring::default();
        keyring.add(&Origin::Node, logins.into_iter().collect());
        keyring
    }
}

/// Without scheme and without the API version that Docker's own entries end in.
fn normalize(registry: &str) -> String {
    let rest = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = split_path(rest);
    let path = match path {
        p if p.starts_with("/v1/") || p.starts_with("/v2/") => &p[3..],
        p => p,
    };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Host with port, and the path with its slash.
fn split_path(url: &str) -> (&str, &str) {
    url.find('/').map_or((url, ""), |slash| url.split_at(slash))
}

/// Whether `target` lies where `pattern` says. `*` and `?` stand for parts of one host label only, never for a dot, a
/// port or a path.
pub fn matches(pattern: &str, target: &str) -> bool {
    let ((pattern_host, pattern_path), (target_host, target_path)) = (split_path(pattern), split_path(target));
    let ((pattern_host, pattern_port), (target_host, target_port)) =
        (split_port(pattern_host), split_port(target_host));
    let (pattern_parts, target_parts): (Vec<_>, Vec<_>) =
        (pattern_host.split('.').collect(), target_host.split('.').collect());
    pattern_port == target_port
        && pattern_parts.len() == target_parts.len()
        && target_path.starts_with(pattern_path)
        && pattern_parts.iter().zip(&target_parts).all(|(p, t)| glob(p.as_bytes(), t.as_bytes()))
}

fn split_port(host: &str) -> (&str, &str) {
    if host.ends_with(']') {
        return (host, "");
    }
    let (host, port) = host.rsplit_once(':').unwrap_or((host, ""));
    // An IPv6 address: its brackets are no class of a pattern.
    (host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host), port)
}

/// `*`, `?`, `[a-z]`, `[^a]` and backslash, as shells match file names.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => glob(&pattern[1..], text) || (!text.is_empty() && glob(pattern, &text[1..])),
        (Some(b'?'), Some(_)) => glob(&pattern[1..], &text[1..]),
        (Some(b'['), Some(byte)) => match class(&pattern[1..], *byte) {
            Some((true, rest)) => glob(rest, &text[1..]),
            _ => false,
        },
        (Some(b'\\'), Some(byte)) => pattern.get(1) == Some(byte) && glob(&pattern[2..], &text[1..]),
        (Some(p), Some(t)) => p == t && glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

/// Whether the byte is in the class, and the pattern after it; None where the class is not closed.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [b']', rest @ ..] => return Some((found != negated, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
            [] => return None,
        };
    }
}

fn is_default_registry(repository: &str) -> bool {
    let Some((first, _)) = repository.split_once('/') else { return !repository.is_empty() };
    matches!(first, "docker.io" | "index.docker.io") || (!first.is_empty() && !first.contains(['.', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(registries: &[&str]) -> Keyring {
        let login = |r: &&str| ((*r).to_owned(), Login { username: (*r).to_owned(), ..Login::default() });
        registries.iter().map(login).collect()
    }

    fn found(registries: &[&str], image: &str) -> Vec<String> {
        keyring(registries).lookup(image).into_iter().map(|c| c.login.username).collect()
    }

    #[test]
    fn hosts_match_label_by_label() {
        for (pattern, target, expected) in [
            ("*.docker.io", "blah.docker.io", true),
            ("*.docker.io", "blah.docker.io/a", true),
            ("*.docker.io", "a.b.docker.io", false),
            ("*.*.docker.io", "a.b.docker.io", true),
            ("*.docker.io", "docker.io", false),
            ("reg*.io", "registry.io", true),
            ("reg?.io", "reg1.io", true),
            ("reg[0-9].io", "reg1.io", true),
            ("reg[^0-9].io", "reg1.io", false),
            ("reg.io:5000", "reg.io:5000/a", true),
            ("reg.io", "reg.io:5000/a", false),
            ("reg.io/a", "reg.io/a/b", true),
            ("reg.io/a", "reg.io/b", false),
            ("reg.io/*", "reg.io/b", false),
            ("[fd00::1]:5000", "[fd00::1]:5000/a", true),
        ] {
            assert_eq!(matches(pattern, target), expected, "{pattern} {target}");
        }
    }

    #[test]
    fn the_more_specific_login_is_tried_first() {
        let all = ["quay.io", "quay.io/coreos", "other.io"];
        assert_eq!(found(&all, "quay.io/coreos/etcd"), ["quay.io/coreos", "quay.io"]);
        assert_eq!(found(&all, "quay.io/me/app"), ["quay.io"]);
        assert!(found(&all, "gcr.io/a").is_empty());
    }

    #[test]
    fn schemes_and_api_versions_do_not_count() {
        assert_eq!(found(&["https://reg.io/v2/"], "reg.io/a"), ["https://reg.io/v2/"]);
        assert_eq!(found(&["http://reg.io/v1/team"], "reg.io/team/a"), ["http://reg.io/v1/team"]);
    }

    #[test]
    fn docker_hub_goes_by_its_old_name() {
        let hub = ["https://index.docker.io/v1/"];
        assert_eq!(found(&hub, "docker.io/library/busybox"), hub);
        assert_eq!(found(&["docker.io"], "docker.io/library/busybox"), ["docker.io"]);
        assert!(found(&hub, "quay.io/a").is_empty());
    }
}
