//! Environment of a container: `$(VAR)` expansion and the variables that describe services.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Replaces `$(NAME)` by `lookup(NAME)`; an unknown name stays as written, `$$` is a literal `$`.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let text = |piece| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Variable(name) => lookup(name).unwrap_or_else(|| format!("$({name})")),
    };
    pieces(input).into_iter().map(text).collect()
}

/// As `expand`, where values may be no text: those of a Secret are any bytes.
pub fn expand_bytes(input: &str, lookup: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let bytes = |piece| match piece {
        Piece::Text(text) => text.into(),
        Piece::Variable(name) => lookup(name).unwrap_or_else(|| format!("$({name})").into()),
    };
    pieces(input).into_iter().flat_map(bytes).collect()
}

/// As `expand`, from a map.
pub fn expand_from(input: &str, vars: &HashMap<String, String>) -> String {
    expand(input, |name| vars.get(name).cloned())
}

/// For `subPathExpr`: every name must have a value that is not empty. Err: the missing names, sorted.
pub fn expand_strict(input: &str, vars: &HashMap<String, String>) -> Result<String, Vec<String>> {
    let (mut out, mut missing) = (String::new(), BTreeSet::new());
    for piece in pieces(input) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Variable(name) => match vars.get(name).filter(|value| !value.is_empty()) {
                Some(value) => out.push_str(value),
                None => _ = missing.insert(name.to_owned()),
            },
        }
    }
    if missing.is_empty() { Ok(out) } else { Err(missing.into_iter().collect()) }
}

#[derive(Clone, Copy)]
enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn pieces(input: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        let (before, from_sign) = rest.split_at(at);
        out.push(Piece::Text(before));
        let after = &from_sign[1..];
        rest = match (after.chars().next(), after.find(')')) {
            (Some('$'), _) => {
                out.push(Piece::Text("$"));
                &after[1..]
            }
            (Some('('), Some(end)) => {
                out.push(Piece::Variable(&after[1..end]));
                &after[end + 1..]
            }
            // Neither an escape nor a name: as it stands.
            (next, _) => {
                let (sign, after) = from_sign.split_at(1 + next.map_or(0, char::len_utf8));
                out.push(Piece::Text(sign));
                after
            }
        };
    }
    out.push(Piece::Text(rest));
    out
}

/// What the environment tells about one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEnv {
    pub name: String,
    pub namespace: String,
    /// Empty or `None`: a headless one, which gives no variables.
    pub cluster_ip: String,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: i32,
    /// Empty means TCP.
    pub protocol: String,
}

/// The variables of a pod in `namespace`: always those of `default/kubernetes`, and with `enableServiceLinks` those of
/// its own namespace (which then win over a service of the same name).
pub fn service_env(services: &[ServiceEnv], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &ServiceEnv> = BTreeMap::new();
    for service in services.iter().filter(|s| !s.cluster_ip.is_empty() && s.cluster_ip != "None") {
        if service.namespace == "default" && service.name == "kubernetes" {
            chosen.entry(&service.name).or_insert(service);
        } else if links && service.namespace == namespace {
            chosen.insert(&service.name, service);
        }
    }
    let mut env = BTreeMap::new();
    for service in chosen.into_values() {
        describe(service, &mut env);
    }
    env
}

fn variable_name(text: &str) -> String {
    text.replace('-', "_").to_uppercase()
}

fn describe(service: &ServiceEnv, env: &mut BTreeMap<String, String>) {
    let prefix = variable_name(&service.name);
    let Some(first) = service.ports.first() else { return };
    env.insert(format!("{prefix}_SERVICE_HOST"), service.cluster_ip.clone());
    env.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in &service.ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
    }
    for (i, port) in service.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{}", host_port(&service.cluster_ip, port.port));
        if i == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let of_port = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(format!("{of_port}_PROTO"), scheme);
        env.insert(format!("{of_port}_PORT"), port.port.to_string());
        env.insert(format!("{of_port}_ADDR"), service.cluster_ip.clone());
        env.insert(of_port, url);
    }
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars() -> HashMap<String, String> {
        [("VAR_A", "A"), ("VAR_B", "B"), ("VAR_REF", "$(VAR_A)"), ("VAR_EMPTY", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn references_expand_as_upstream_expands_them() {
        for (input, output) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)-$(VAR_B)", "A-B"),
            ("f000-$(VAR_EMPTY)-x", "f000--x"),
            ("$(MISSING)", "$(MISSING)"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("foo$$bar", "foo$bar"),
            ("$VAR_A)", "$VAR_A)"),
            ("$(VAR_A", "$(VAR_A"),
            ("$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
            ("foo$", "foo$"),
            ("$", "$"),
            ("$()", "$()"),
            ("\u{1f600}$\u{1f600}$(VAR_A)", "\u{1f600}$\u{1f600}A"),
            ("$((VAR_A)_x)", "$((VAR_A)_x)"),
        ] {
            assert_eq!(expand_from(input, &vars()), output, "{input}");
        }
    }

    #[test]
    fn a_sub_path_needs_every_value() {
        assert_eq!(expand_strict("a/$(VAR_A)", &vars()), Ok("a/A".to_owned()));
        assert_eq!(
            expand_strict("$(Z)/$(VAR_EMPTY)/$(B)", &vars()),
            Err(vec!["B".into(), "VAR_EMPTY".into(), "Z".into()])
        );
    }

    fn service(namespace: &str, name: &str, ip: &str) -> ServiceEnv {
        ServiceEnv {
            name: name.into(),
            namespace: namespace.into(),
            cluster_ip: ip.into(),
            ports: vec![
                ServicePort { name: Some("http-web".into()), port: 80, protocol: "TCP".into() },
                ServicePort { name: None, port: 53, protocol: "UDP".into() },
            ],
        }
    }

    #[test]
    fn a_service_gives_host_port_and_link_variables() {
        let env = service_env(&[service("shop", "foo-bar", "10.0.0.7")], "shop", true);
        let expected = [
            ("FOO_BAR_PORT", "tcp://10.0.0.7:80"),
            ("FOO_BAR_PORT_53_UDP", "udp://10.0.0.7:53"),
            ("FOO_BAR_PORT_53_UDP_ADDR", "10.0.0.7"),
            ("FOO_BAR_PORT_53_UDP_PORT", "53"),
            ("FOO_BAR_PORT_53_UDP_PROTO", "udp"),
            ("FOO_BAR_PORT_80_TCP", "tcp://10.0.0.7:80"),
            ("FOO_BAR_PORT_80_TCP_ADDR", "10.0.0.7"),
            ("FOO_BAR_PORT_80_TCP_PORT", "80"),
            ("FOO_BAR_PORT_80_TCP_PROTO", "tcp"),
            ("FOO_BAR_SERVICE_HOST", "10.0.0.7"),
            ("FOO_BAR_SERVICE_PORT", "80"),
            ("FOO_BAR_SERVICE_PORT_HTTP_WEB", "80"),
        ];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn without_links_only_the_api_server_is_described() {
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("shop", "web", "10.0.0.2"),
            service("shop", "headless", "None"),
        ];
        let env = service_env(&all, "shop", false);
        assert!(env.contains_key("KUBERNETES_SERVICE_HOST") && !env.contains_key("WEB_SERVICE_HOST"));
        let env = service_env(&all, "shop", true);
        assert!(env.contains_key("WEB_SERVICE_HOST") && !env.contains_key("HEADLESS_SERVICE_HOST"));
        let env = service_env(&all, "other", true);
        assert!(!env.contains_key("WEB_SERVICE_HOST"));
    }

    #[test]
    fn an_ipv6_address_is_bracketed_in_urls_only() {
        let env = service_env(&[service("a", "s", "fd00::1")], "a", true);
        assert_eq!(env["S_PORT"], "tcp://[fd00::1]:80");
        assert_eq!(env["S_SERVICE_HOST"], "fd00::1");
    }
}
