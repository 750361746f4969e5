//! Manifests from a URL, asked for at a fixed interval since HTTP tells of no changes.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use pod::{DesiredPod, static_pod::Manifest};

use crate::{
    manifest::{self, ManifestError},
    statics::Statics,
};

const DEADLINE: Duration = Duration::from_secs(10);

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
    Status(http::StatusCode),
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
    let mut request = http::Request::get(&poll.address);
    for (name, values) in &poll.headers {
        for value in values {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let asker = match asker {
        Some(asker) => asker,
        None => asker.insert(new_asker()?),
    };
    let late = |_| UrlError::NoAnswer("it took too long".into());
    let bytes = tokio::time::timeout(DEADLINE, ask(asker, request)).await.map_err(late)??;
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

async fn ask(asker: &Asker, request: http::Request<Empty<Bytes>>) -> Result<Bytes, UrlError> {
    let answer = asker.request(request).await.map_err(|e| UrlError::NoAnswer(with_cause(&e)))?;
    if answer.status() != http::StatusCode::OK {
        return Err(UrlError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), manifest::MAX_BYTES as usize).collect().await;
    Ok(body.map_err(|e| UrlError::NoAnswer(e.to_string()))?.to_bytes())
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
