//! Manifests from a URL, asked for at a fixed interval since HTTP tells of no changes.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use pod::{DesiredPod, static_pod::Manifest};
use url::Url;

use crate::{
    manifest::{self, ManifestError},
    statics::Statics,
};

const DEADLINE: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 10;
/// A server may not send these on to another.
const SECRET: [HeaderName; 4] =
    [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, header::PROXY_AUTHENTICATE];

pub(crate) struct Poll {
    pub address: String,
    pub headers: BTreeMap<String, Vec<String>>,
    pub every: Duration,
}

#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("it is no valid request: {0}")]
    Request(#[from] http::Error),
    #[error("no answer: {0}")]
    NoAnswer(String),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("it is no valid URL: {0}")]
    Url(#[from] url::ParseError),
    #[error("stopped after {MAX_REDIRECTS} redirects")]
    Circle,
    #[error("the body is empty")]
    Empty,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

pub(crate) async fn poll(poll: Poll, node_name: String, mut statics: Statics) {
    let mut last_error = String::new();
    let mut asker = None;
    loop {
        match fetch(&poll, &node_name, &mut asker).await {
            Ok(pods) => {
                last_error.clear();
                statics.now(pods).await;
            }
            Err(error) => {
                // A server with nothing to say has said so; one that had pods before is rather out of order.
                if matches!(error, UrlError::Empty) && !statics.is_synced() {
                    statics.now(Vec::new()).await;
                }
                let error = error.to_string();
                if error != last_error {
                    // The address may carry a token in its query.
                    let address = poll.address.split('?').next().unwrap_or_default();
                    tracing::error!(url = address, error, "static pods by URL are passed over; asked again");
                    last_error = error;
                }
            }
        }
        tokio::time::sleep(poll.every.max(Duration::from_secs(1))).await;
    }
}

async fn fetch(poll: &Poll, node_name: &str, asker: &mut Option<Asker>) -> Result<Vec<DesiredPod>, UrlError> {
    let mut headers = HeaderMap::new();
    for (name, value) in poll.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value))) {
        headers.append(
            HeaderName::try_from(name).map_err(http::Error::from)?,
            HeaderValue::try_from(value).map_err(http::Error::from)?,
        );
    }
    let asker = match asker {
        Some(asker) => asker,
        None => asker.insert(new_asker()?),
    };
    let late = |_| UrlError::NoAnswer("it took too long".into());
    let asked = ask(asker, Url::parse(&poll.address)?, headers);
    let bytes = tokio::time::timeout(DEADLINE, asked).await.map_err(late)??;
    if bytes.is_empty() {
        return Err(UrlError::Empty);
    }
    Ok(manifest::read(&bytes, Manifest::Url(&poll.address), node_name)?)
}

type Asker = Client<hyper_rustls::HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Reads the machine's certificates: once, and only when there is a URL.
fn new_asker() -> Result<Asker, UrlError> {
    let tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|e| UrlError::NoAnswer(e.to_string()))?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(tls))
}

async fn ask(asker: &Asker, mut url: Url, mut headers: HeaderMap) -> Result<Bytes, UrlError> {
    let first = url.clone();
    for _ in 0..MAX_REDIRECTS {
        let mut request = Request::get(url.as_str()).body(Empty::new())?;
        request.headers_mut().clone_from(&headers);
        let answer = asker.request(request).await.map_err(|e| UrlError::NoAnswer(with_cause(&e)))?;
        let Some(location) = redirect(&answer) else { return read(answer).await };
        url = url.join(location)?;
        if !is_within(&url, &first) {
            SECRET.iter().for_each(|name| drop(headers.remove(name)));
        }
    }
    Err(UrlError::Circle)
}

fn redirect<B>(answer: &Response<B>) -> Option<&str> {
    let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers().get(header::LOCATION).filter(|_| moved)?.to_str().ok().filter(|location| !location.is_empty())
}

/// On the same host or one of its subdomains.
fn is_within(url: &Url, first: &Url) -> bool {
    let (Some(host), Some(parent)) = (url.host_str(), first.host_str()) else { return false };
    host == parent || url.domain().is_some_and(|name| name.strip_suffix(parent).is_some_and(|sub| sub.ends_with('.')))
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, UrlError> {
    if answer.status() != StatusCode::OK {
        return Err(UrlError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), manifest::MAX_BYTES as usize).collect().await;
    Ok(body.map_err(|e| UrlError::NoAnswer(e.to_string()))?.to_bytes())
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Mutex,
    };

    use super::*;

    /// Answers each request with what `answer` makes of it; what was asked is kept.
    async fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let length = stream.read(&mut buffer).await.unwrap();
                let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
                stream.write_all(answer(&request).as_bytes()).await.unwrap();
                heard.lock().await.push(request);
            }
        });
        (port, asked)
    }

    fn moved_to(location: &str) -> String {
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    }

    fn headers() -> HeaderMap {
        [(header::AUTHORIZATION, "secret"), (header::ACCEPT, "any")]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_redirect_is_followed_and_another_host_gets_no_secrets() {
        let ok = |_: &str| "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npods".to_owned();
        let (there, asked_there) = serve(ok).await;
        let (here, asked_here) = serve(move |request| match request.starts_with("GET /first ") {
            true => moved_to("/second"),
            false => moved_to(&format!("http://127.0.0.2:{there}/third")),
        })
        .await;
        let answer = ask(&new_asker().unwrap(), url(&format!("http://127.0.0.1:{here}/first")), headers()).await;
        assert_eq!(answer.unwrap(), "pods");
        let asked_here = asked_here.lock().await;
        assert!(asked_here[1].starts_with("GET /second ") && asked_here[1].contains("secret"));
        let asked_there = asked_there.lock().await;
        assert!(!asked_there[0].contains("secret") && asked_there[0].contains("any"));
    }

    #[tokio::test]
    async fn redirects_in_a_circle_are_given_up() {
        let (port, asked) = serve(|_| moved_to("/")).await;
        let answer = ask(&new_asker().unwrap(), url(&format!("http://127.0.0.1:{port}/")), headers()).await;
        assert_eq!(
            (answer.unwrap_err().to_string().as_str(), asked.lock().await.len()),
            ("stopped after 10 redirects", 10)
        );
    }

    #[test]
    fn a_subdomain_belongs_to_its_domain_and_nothing_else_does() {
        let first = url("https://example.com/pods");
        let within = |text| is_within(&url(text), &first);
        assert!(within("http://example.com:81/") && within("https://a.example.com/"));
        assert!(!within("https://badexample.com/") && !within("https://com/"));
    }
}
