//! The HTTP handler: a GET answered with 200..=399. Redirects are followed while they stay on the host.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pod::api::{Container, HTTPGetAction};
use tokio::time::timeout;
use url::Url;

use crate::{
    Outcome,
    http_exchange::{Answer, exchange},
    port::{PortError, resolve_port},
    spelling,
};

const MAX_REDIRECTS: usize = 10;

/// On whose behalf a request is made; the server sees it in User-Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Probe,
    Lifecycle,
}

impl Purpose {
    fn user_agent(self) -> &'static str {
        match self {
            Purpose::Probe => "kube-probe/1.37",
            Purpose::Lifecycle => "kube-lifecycle/1.37",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub https: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, escaped.
    pub path: String,
}

impl Target {
    pub fn authority(&self) -> String {
        spelling::host_port(&self.host, self.port)
    }
    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// A GET ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    /// What the spec's `Host` header says; else the target's authority is sent.
    pub(crate) host_header: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("net/http: invalid header field {0:?}")]
    Header(String),
}

/// Why a request got no answer. The text names the request as Go's client does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("Get {url:?}: {text}")]
    NoAnswer { url: String, text: String },
    #[error("Get {url:?}: http: server gave HTTP response to HTTPS client")]
    PlainHttp { url: String },
    #[error("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Deadline { url: String },
    /// The status line came, the body did not.
    #[error("{0}")]
    Body(String),
}

impl HttpRequest {
    /// `pod_ip` is the host where the action names none.
    pub fn new(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        purpose: Purpose,
    ) -> Result<Self, RequestError> {
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
        let target = Target {
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: resolve_port(&action.port, container)?,
            path: escaped_path(action.path.as_deref().unwrap_or_default()),
        };
        let mut headers = spec_headers(action)?;
        let host_header = headers.remove(header::HOST).filter(|v| !v.is_empty());
        apply_defaults(&mut headers, purpose);
        Ok(Self { target, headers, host_header })
    }

    /// The same request without TLS and without credentials.
    pub fn downgraded(&self) -> Self {
        let mut plain = self.clone();
        plain.target.https = false;
        plain.headers.remove(header::AUTHORIZATION);
        plain
    }

    pub fn authority(&self) -> String {
        self.target.authority()
    }
}

/// Probes with `request`: the limit covers connection, redirects and body.
pub async fn http_get(request: &HttpRequest, limit: Duration) -> Outcome {
    match timeout(limit, follow(request, Redirects::SameHost)).await {
        Ok(Ok(answer)) => judge(answer),
        // A body that breaks off says nothing about the container's health.
        Ok(Err(HttpError::Body(text))) => Outcome::Unknown(text),
        Ok(Err(e)) => Outcome::Failure(e.to_string()),
        Err(_) => Outcome::Failure(HttpError::Deadline { url: request.target.url() }.to_string()),
    }
}

/// Calls a lifecycle hook: any answer is good, whatever its status. The caller bounds the time.
pub async fn http_hook(request: &HttpRequest) -> Result<(), HttpError> {
    match follow(request, Redirects::AnyHost).await {
        Ok(_) | Err(HttpError::Body(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

fn judge(answer: Answer) -> Outcome {
    match answer.status.as_u16() {
        200..=299 => Outcome::Success(answer.body),
        300..=399 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        // The body may hold secrets of the application, so it is not shown.
        status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Redirects {
    SameHost,
    AnyHost,
}

async fn follow(request: &HttpRequest, redirects: Redirects) -> Result<Answer, HttpError> {
    let mut hop = request.clone();
    for _ in 0..MAX_REDIRECTS {
        let answer = exchange(&hop).await.map_err(|fault| fault.into_error(hop.target.url()))?;
        let Some(location) = redirect_location(&answer) else { return Ok(answer) };
        let next = next_target(&hop.target, location).map_err(|text| no_answer(&hop.target, text))?;
        if redirects == Redirects::SameHost && next.host != request.target.host {
            return Ok(answer);
        }
        if !is_relative(location) {
            hop.host_header = None;
        }
        hop.target = next;
    }
    Err(no_answer(&hop.target, "stopped after 10 redirects".to_owned()))
}

fn no_answer(target: &Target, text: String) -> HttpError {
    HttpError::NoAnswer { url: target.url(), text }
}

fn redirect_location(answer: &Answer) -> Option<&str> {
    const FOLLOWED: [StatusCode; 5] = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location = answer.location.as_deref().filter(|l| !l.is_empty())?;
    FOLLOWED.contains(&answer.status).then_some(location)
}

fn is_relative(location: &str) -> bool {
    matches!(Url::parse(location), Err(url::ParseError::RelativeUrlWithoutBase)) && !location.starts_with("//")
}

fn next_target(current: &Target, location: &str) -> Result<Target, String> {
    let invalid = |e| format!("failed to parse Location header {location:?}: {e}");
    let url = Url::parse(&current.url()).and_then(|base| base.join(location)).map_err(invalid)?;
    let https = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(format!("unsupported protocol scheme {other:?}")),
    };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
    Ok(Target { https, host, port, path: format!("{}{query}", url.path()) })
}

fn spec_headers(action: &HTTPGetAction) -> Result<HeaderMap, RequestError> {
    let mut headers = HeaderMap::new();
    for h in action.http_headers.as_deref().unwrap_or_default() {
        let invalid = || RequestError::Header(h.name.clone());
        let name = HeaderName::from_bytes(h.name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_str(h.value.trim()).map_err(|_| invalid())?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// An empty User-Agent or Accept in the spec means that none is sent.
fn apply_defaults(headers: &mut HeaderMap, purpose: Purpose) {
    for (name, default) in [(header::USER_AGENT, purpose.user_agent()), (header::ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => drop(headers.insert(name, HeaderValue::from_static(default))),
            Some(v) if v.is_empty() => drop(headers.remove(name)),
            Some(_) => {}
        }
    }
    // These frame the message, and a GET without body has no say in them.
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER] {
        headers.remove(name);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// The spec's path may carry a query and stray characters. A whole URL keeps only its path and query; one that
/// cannot be parsed is taken as a literal path.
fn escaped_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let valid = has_valid_escapes(path);
    let path = if valid { strip_origin(path) } else { path };
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        let literal = !valid && matches!(byte, b'%' | b'?');
        if literal
            || !byte.is_ascii_graphic()
            || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
        {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(byte as char);
        }
    }
    out
}

fn has_valid_escapes(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().filter(|(_, b)| **b == b'%').all(|(i, _)| {
        let digits = bytes.get(i + 1..i + 3);
        digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
    })
}

fn strip_origin(path: &str) -> &str {
    let Some((scheme, rest)) = path.split_once("://") else { return path };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return path;
    }
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

#[cfg(test)]
mod tests;
