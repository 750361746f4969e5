//! Whether connections to the API server go through an HTTP proxy: the kubeconfig's `proxy-url`, else what the
//! environment says (HTTPS_PROXY, NO_PROXY and their like), by the rules of Go and not those of curl.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kube::config::Kubeconfig;
use url::Host;

use crate::{ApiError, with_causes};

/// Asked by CONNECT for a way to the server; TLS is with the server itself.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub uri: Uri,
    /// Does not print.
    pub authorization: Option<HeaderValue>,
    pub origin: &'static str,
}

impl std::fmt::Display for Proxy {
    /// No user, no password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (host, port) = (self.uri.host().unwrap_or_default(), self.uri.port_u16().unwrap_or(80));
        write!(f, "http://{host}:{port} ({})", self.origin)
    }
}

/// A way to the server that the proxy does not give.
#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}: {}", with_causes(source.as_ref()))]
pub(crate) struct ByProxy {
    pub proxy: Proxy,
    pub source: tower::BoxError,
}

/// What the environment says of proxies. ALL_PROXY says nothing to Go.
#[derive(Default)]
pub(crate) struct Environment {
    https: String,
    http: String,
    no: String,
}

impl Environment {
    pub fn read() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// An empty variable is as good as none.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let one = |names: [&str; 2]| {
            names.into_iter().filter_map(&variable).find(|value| !value.is_empty()).unwrap_or_default()
        };
        Self {
            https: one(["HTTPS_PROXY", "https_proxy"]),
            http: one(["HTTP_PROXY", "http_proxy"]),
            no: one(["NO_PROXY", "no_proxy"]),
        }
    }

    /// Its URL, with a scheme. What cannot be one at all is passed over.
    fn proxy_for(&self, server: &Uri) -> Option<String> {
        let (proxy, default_port) = match server.scheme_str()? {
            "https" => (&self.https, 443),
            "http" => (&self.http, 80),
            _ => return None,
        };
        let port = server.port_u16().unwrap_or(default_port).to_string();
        if proxy.is_empty() || self.goes_directly(server.host()?, &port) {
            return None;
        }
        let url = if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
        if url.parse::<Uri>().is_err() {
            tracing::warn!("HTTPS_PROXY or HTTP_PROXY of the environment is no URL: the API server is asked directly");
            return None;
        }
        Some(url)
    }

    fn goes_directly(&self, host: &str, port: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        let host = host.to_lowercase();
        self.no.split(',').any(|entry| is_excepted(&entry.trim().to_lowercase(), &host, ip, port))
    }
}

/// Whether one entry of NO_PROXY means this server. `ip`: of a host that is an address; names are not looked up.
fn is_excepted(entry: &str, host: &str, ip: Option<IpAddr>, port: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((net, bits)) = network(entry) {
        return ip.is_some_and(|ip| contains(net, bits, ip));
    }
    let (name, only_port) = split_port(entry);
    if !only_port.is_empty() && only_port != port {
        return false;
    }
    match (name.parse::<IpAddr>(), ip) {
        (Ok(excepted), ip) => Some(excepted.to_canonical()) == ip,
        (Err(_), Some(_)) => false,
        (Err(_), None) => is_domain_of(name, host),
    }
}

/// A name stands for itself and all below it; with a dot, or a star and a dot, before it, only for those below.
fn is_domain_of(name: &str, host: &str) -> bool {
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    let (below_only, name) = (name.starts_with('.'), name.strip_prefix('.').unwrap_or(name));
    let name = match Host::parse(name) {
        Ok(Host::Domain(ascii)) if !name.is_ascii() => ascii,
        _ => name.to_owned(),
    };
    match host.strip_suffix(&name) {
        Some("") => !name.is_empty() && !below_only,
        Some(above) => !name.is_empty() && above.ends_with('.'),
        None => false,
    }
}

fn network(entry: &str) -> Option<(IpAddr, u32)> {
    let (net, bits) = entry.split_once('/')?;
    let (net, bits) = (net.parse::<IpAddr>().ok()?, bits.parse().ok()?);
    let most = if net.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((net, bits))
}

fn contains(net: IpAddr, bits: u32, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0,
        (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0,
        _ => false,
    }
}

/// The port is empty where none is named; an IPv6 address needs brackets to have one.
fn split_port(entry: &str) -> (&str, &str) {
    match entry.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").unwrap_or((entry, "")),
        None => entry.rsplit_once(':').filter(|(name, _)| !name.contains(':')).unwrap_or((entry, "")),
    }
}

/// The proxy for `server`; None: directly.
pub(crate) fn proxy(
    kubeconfig: Option<&str>,
    environment: &Environment,
    server: &Uri,
) -> Result<Option<Proxy>, ApiError> {
    // Meant for this server: NO_PROXY is about the environment's.
    let (url, origin) = match kubeconfig.filter(|url| !url.is_empty()) {
        Some(url) => (url.to_owned(), "proxy-url of the kubeconfig"),
        None => match environment.proxy_for(server) {
            Some(url) => (url, "HTTPS_PROXY or HTTP_PROXY of the environment"),
            None => return Ok(None),
        },
    };
    let Some(found) = parsed(&url) else {
        return Err(ApiError::Proxy { detail: format!("{origin} is no URL of a proxy") });
    };
    let mut authorization = found.basic_auth().cloned();
    authorization.iter_mut().for_each(|value| value.set_sensitive(true));
    match found.uri().scheme_str() {
        Some("http") => Ok(Some(Proxy { uri: found.uri().clone(), authorization, origin })),
        scheme => {
            let scheme = scheme.unwrap_or_default();
            let detail = format!("a proxy is to be used by {scheme:?} ({origin}): only http proxies are");
            Err(ApiError::Proxy { detail })
        }
    }
}

fn parsed(url: &str) -> Option<Intercept> {
    Matcher::builder().all(url).build().intercept(&Uri::from_static("https://any.server"))
}

/// What the current context's cluster says.
pub(crate) fn of_kubeconfig(kubeconfig: &Kubeconfig) -> Option<String> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| &c.name == current)?.context.as_ref()?;
    kubeconfig.clusters.iter().find(|c| c.name == context.cluster)?.cluster.as_ref()?.proxy_url.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name);
        Environment::of(|name| variable(name).map(|(_, value)| (*value).to_owned()))
    }

    fn of(kubeconfig: Option<&str>, environment: &Environment, server: &str) -> Result<Option<String>, String> {
        let found = proxy(kubeconfig, environment, &server.parse().unwrap());
        found.map(|found| found.map(|p| p.uri.to_string())).map_err(|e| e.to_string())
    }

    /// The proxy that the environment has for an API server.
    fn by(variables: &[(&str, &str)], server: &str) -> Option<String> {
        of(None, &environment(variables), server).unwrap()
    }

    #[test]
    fn the_kubeconfigs_proxy_goes_before_the_environments() {
        let environment = environment(&[("HTTPS_PROXY", "http://env:3128"), ("NO_PROXY", "10.0.0.0/8,.internal")]);
        let env = |server: &str| of(None, &environment, server);
        assert_eq!(env("https://api.example:6443"), Ok(Some("http://env:3128/".to_owned())));
        assert_eq!(env("https://10.1.2.3:6443"), Ok(None));
        let own = of(Some("http://own:8080"), &environment, "https://10.1.2.3:6443");
        assert_eq!(own, Ok(Some("http://own:8080/".to_owned())));
        assert_eq!(of(Some(""), &Environment::default(), "https://api.example"), Ok(None));
    }

    #[test]
    fn the_scheme_of_the_server_names_the_variable_and_an_empty_one_is_passed_over() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://h:1")];
        assert_eq!(by(&both, "https://api.example").as_deref(), Some("http://s:1/"));
        assert_eq!(by(&both, "http://api.example").as_deref(), Some("http://h:1/"));
        let upper_first = [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")];
        assert_eq!(by(&upper_first, "https://api.example").as_deref(), Some("http://upper:1/"));
        let empty = [("HTTPS_PROXY", ""), ("https_proxy", "http://lower:1"), ("NO_PROXY", ""), ("no_proxy", "a.b")];
        assert_eq!(by(&empty, "https://api.example").as_deref(), Some("http://lower:1/"));
        assert_eq!(by(&empty, "https://a.b"), None);
        for elsewhere in ["ALL_PROXY", "all_proxy", "HTTP_PROXY"] {
            assert_eq!(by(&[(elsewhere, "socks5://all:1080")], "https://api.example"), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_proxy_without_a_scheme_is_spoken_to_by_http() {
        for (value, expected) in [
            ("proxy.example:3128", "http://proxy.example:3128/"),
            ("proxy.example:3128/", "http://proxy.example:3128/"),
            ("localhost", "http://localhost/"),
            ("user:word@10.0.0.9:3128", "http://10.0.0.9:3128/"),
        ] {
            assert_eq!(by(&[("HTTPS_PROXY", value)], "https://api.example").as_deref(), Some(expected));
        }
        assert_eq!(by(&[("HTTPS_PROXY", "http://no url")], "https://api.example"), None);
    }

    #[test]
    fn no_proxy_excepts_what_it_excepts_for_go() {
        const PROXY: (&str, &str) = ("HTTPS_PROXY", "http://env:3128");
        let is_direct = |no: &str, server: &str| by(&[PROXY, ("NO_PROXY", no)], server).is_none();
        for (no, direct, through) in [
            ("*", vec!["https://10.0.0.1:6443", "https://api.example", "https://[2001:db8::1]"], vec![]),
            ("a.b,*", vec!["https://10.0.0.1:6443"], vec![]),
            ("", vec!["https://localhost:6443", "https://127.0.0.2", "https://[::1]:6443"], vec!["https://[::2]"]),
            ("*.corp.example", vec!["https://api.corp.example"], vec!["https://corp.example", "https://acorp.example"]),
            (".corp.example", vec!["https://api.corp.example"], vec!["https://corp.example"]),
            ("CORP.example", vec!["https://a.corp.example", "https://corp.EXAMPLE"], vec!["https://acorp.example"]),
            ("*corp.example", vec![], vec!["https://corp.example", "https://api.corp.example"]),
            ("10.0.0.1:6443", vec!["https://10.0.0.1:6443"], vec!["https://10.0.0.1", "https://10.0.0.2:6443"]),
            ("api.example:443", vec!["https://api.example", "https://x.api.example"], vec!["https://api.example:6443"]),
            ("x, 10.0.0.1 ,y", vec!["https://10.0.0.1:6443"], vec!["https://10.0.0.11:6443"]),
            (
                "10.0.0.0/30",
                vec!["https://10.0.0.2"],
                vec!["https://10.0.0.4", "https://name.example", "https://[::2]"],
            ),
            ("0.0.0.0/0", vec!["https://10.0.0.2"], vec!["https://[2001:db8::1]"]),
            ("10.0.0.0/33", vec![], vec!["https://10.0.0.2"]),
            ("2001:db8::/64", vec!["https://[2001:db8::9]"], vec!["https://[2001:db9::9]"]),
            ("2001:db8::1", vec!["https://[2001:db8::1]:6443"], vec!["https://[2001:db8::2]"]),
            ("[2001:db8::1]:6443", vec!["https://[2001:db8::1]:6443"], vec!["https://[2001:db8::1]"]),
            ("::ffff:10.0.0.1", vec!["https://10.0.0.1"], vec![]),
            (":1, ,.,*.,/8", vec![], vec!["https://api.example:1", "https://10.0.0.1:1"]),
            ("示例.com", vec!["https://www.xn--fsq092h.com"], vec!["https://com"]),
            // No address below a name: an address has no names above it.
            (".1", vec![], vec!["https://10.0.0.1"]),
        ] {
            for server in direct {
                assert!(is_direct(no, server), "{no:?}: {server} is asked through the proxy");
            }
            for server in through {
                assert!(!is_direct(no, server), "{no:?}: {server} is asked directly");
            }
        }
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_and_no_password_is_printed() {
        let none = Environment::default();
        for url in ["socks5://own:1080", "https://own:443"] {
            let refused = of(Some(url), &none, "https://api.example").unwrap_err();
            assert!(refused.contains("only http proxies") && refused.contains("kubeconfig"), "{refused}");
            let refused = of(None, &environment(&[("HTTPS_PROXY", url)]), "https://api.example").unwrap_err();
            assert!(refused.contains("only http proxies") && refused.contains("environment"), "{refused}");
        }
        let own = proxy(Some("http://user:word@own:8080"), &none, &Uri::from_static("https://api.example")).unwrap();
        let own = own.unwrap();
        assert!(own.authorization.is_some() && !format!("{own:?}").contains("word"), "{own:?}");
    }
}
