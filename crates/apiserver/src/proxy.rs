//! Whether connections to the API server go through an HTTP proxy: the kubeconfig's `proxy-url`, else what the
//! environment says (HTTPS_PROXY, NO_PROXY and their like), as client-go reads them.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::Kubeconfig;

use crate::ApiError;

/// Asked by CONNECT for a way to the server; TLS is with the server itself.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub uri: Uri,
    /// Does not print.
    pub authorization: Option<HeaderValue>,
}

/// The proxy for `server`; None: directly.
pub(crate) fn proxy(kubeconfig: Option<&str>, environment: &Matcher, server: &Uri) -> Result<Option<Proxy>, ApiError> {
    let found = match kubeconfig.filter(|url| !url.is_empty()) {
        // Meant for this server: NO_PROXY is about the environment's.
        Some(url) => match Matcher::builder().all(url).build().intercept(server) {
            None => {
                return Err(ApiError::Proxy { detail: "proxy-url of the kubeconfig is no URL of a proxy".to_owned() });
            }
            found => found,
        },
        None if is_loopback(server) => None,
        None => environment.intercept(server),
    };
    let Some(found) = found else { return Ok(None) };
    let mut authorization = found.basic_auth().cloned();
    authorization.iter_mut().for_each(|value| value.set_sensitive(true));
    match found.uri().scheme_str() {
        Some("http") => Ok(Some(Proxy { uri: found.uri().clone(), authorization })),
        scheme => {
            let detail = format!("a proxy is to be used by {:?}: only http proxies are", scheme.unwrap_or_default());
            Err(ApiError::Proxy { detail })
        }
    }
}

/// No environment sends these through a proxy.
fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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

    fn of(kubeconfig: Option<&str>, environment: &Matcher, server: &str) -> Result<Option<String>, String> {
        let found = proxy(kubeconfig, environment, &server.parse().unwrap());
        found.map(|found| found.map(|p| p.uri.to_string())).map_err(|e| e.to_string())
    }

    #[test]
    fn the_kubeconfigs_proxy_goes_before_the_environments() {
        let environment = Matcher::builder().https("http://env:3128").no("10.0.0.0/8,.internal").build();
        let env = |server: &str| of(None, &environment, server);
        assert_eq!(env("https://api.example:6443"), Ok(Some("http://env:3128/".to_owned())));
        for direct in ["https://10.1.2.3:6443", "https://api.internal", "https://127.0.0.1:6443", "https://[::1]:6443"]
        {
            assert_eq!(env(direct), Ok(None), "{direct}");
        }
        let own = of(Some("http://own:8080"), &environment, "https://10.1.2.3:6443");
        assert_eq!(own, Ok(Some("http://own:8080/".to_owned())));
        assert_eq!(of(Some(""), &Matcher::builder().build(), "https://api.example"), Ok(None));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_and_no_password_is_printed() {
        let none = Matcher::builder().build();
        for url in ["socks5://own:1080", "https://own:443"] {
            let refused = of(Some(url), &none, "https://api.example").unwrap_err();
            assert!(refused.contains("only http proxies"), "{refused}");
        }
        let own = proxy(Some("http://user:word@own:8080"), &none, &Uri::from_static("https://api.example")).unwrap();
        let own = own.unwrap();
        assert!(own.authorization.is_some() && !format!("{own:?}").contains("word"), "{own:?}");
    }
}
