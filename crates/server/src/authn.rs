//! Who asks: a client certificate, a bearer token that the API server knows, or nobody in particular.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::Engine as _;
use futures::future::BoxFuture;
use host::Clock;
use http::{HeaderMap, header};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    error::{ReviewError, ServerError},
    ttl_cache::TtlCache,
};

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    fn authenticated(mut self) -> Self {
        let group = "system:authenticated";
        if !self.groups.iter().any(|g| g == group) {
            self.groups.push(group.into());
        }
        self
    }
}

/// Asks the API server whose token that is; None: nobody's.
pub type ReviewToken = dyn Fn(String) -> BoxFuture<'static, Result<Option<User>, ReviewError>> + Send + Sync;

/// The verifier of the current clientCAFile; None when no such file is configured.
pub type ClientCa = dyn Fn() -> Option<Arc<dyn ClientCertVerifier>> + Send + Sync;

/// The configured ways to say who one is.
pub struct Authenticator {
    client_ca: Arc<ClientCa>,
    review: Option<Arc<ReviewToken>>,
    anonymous: bool,
    ttl: Duration,
    reviewed: TtlCache<[u8; 32], Option<Arc<User>>>,
    /// Anybody who reaches the port can ask about tokens: only so many at a time.
    reviews: Semaphore,
    clock: Clock,
}

const MOST_REVIEWS: usize = 32;

impl Authenticator {
    /// `review` is None without webhook authentication; `ttl` is authentication.webhook.cacheTTL (2 minutes).
    pub fn new(
        clock: Clock,
        client_ca: Arc<ClientCa>,
        review: Option<Arc<ReviewToken>>,
        anonymous: bool,
        ttl: Duration,
    ) -> Self {
        Self {
            client_ca,
            review,
            anonymous,
            ttl,
            reviewed: TtlCache::new(4096),
            reviews: Semaphore::new(MOST_REVIEWS),
            clock,
        }
    }

    /// None: 401. A certificate or token that is there but bad never becomes anonymous.
    pub async fn who(&self, certificates: &[CertificateDer<'_>], headers: &HeaderMap) -> Option<Arc<User>> {
        let by_certificate = self.by_certificate(certificates);
        if let Ok(Some(user)) = by_certificate {
            return Some(Arc::new(user.authenticated()));
        }
        let by_token = self.by_token(headers).await;
        if let Ok(Some(user)) = by_token {
            return Some(user);
        }
        if let Some(refusal) = by_certificate.err().or(by_token.err()) {
            tracing::info!(refusal, "request not authenticated");
            return None;
        }
        self.anonymous.then(|| Arc::new(User::anonymous()))
    }

    fn by_certificate(&self, chain: &[CertificateDer<'_>]) -> Result<Option<User>, String> {
        let (Some((leaf, intermediates)), Some(ca)) = (chain.split_first(), (self.client_ca)()) else {
            return Ok(None);
        };
        let since_epoch = Duration::try_from(self.clock.wall().duration_since(jiff::Timestamp::UNIX_EPOCH));
        let now = UnixTime::since_unix_epoch(since_epoch.unwrap_or_default());
        ca.verify_client_cert(leaf, intermediates, now).map_err(|error| format!("client certificate: {error}"))?;
        user_of(leaf)
    }

    async fn by_token(&self, headers: &HeaderMap) -> Result<Option<Arc<User>>, String> {
        let (Some(review), Some(token)) = (&self.review, bearer_token(headers)) else { return Ok(None) };
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let answer = match self.reviewed.get(&key, self.clock.mono()) {
            Some(answer) => answer,
            None => {
                let _turn = self.reviews.acquire().await;
                match self.reviewed.get(&key, self.clock.mono()) {
                    // Somebody else has asked meanwhile.
                    Some(answer) => answer,
                    None => self.reviewed_now(review.as_ref(), key, token).await?,
                }
            }
        };
        answer.map(Some).ok_or_else(|| "invalid bearer token".into())
    }

    async fn reviewed_now(
        &self,
        review: &ReviewToken,
        key: [u8; 32],
        token: String,
    ) -> Result<Option<Arc<User>>, String> {
        let answer = review(token).await.map_err(|source| ServerError::TokenReview { source }.chain())?;
        let answer = answer.map(|user| Arc::new(user.authenticated()));
        self.reviewed.put(key, answer.clone(), self.clock.mono(), self.ttl);
        Ok(answer)
    }
}

/// CommonName is the user, Organizations are the groups; a certificate without CommonName names nobody.
fn user_of(leaf: &CertificateDer<'_>) -> Result<Option<User>, String> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| format!("client certificate: {error}"))?;
    let subject = certificate.subject();
    let Some(name) = subject.iter_common_name().last().and_then(|cn| cn.as_str().ok()).filter(|cn| !cn.is_empty())
    else {
        return Ok(None);
    };
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let fingerprint: String = Sha256::digest(leaf.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = ("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={fingerprint}")]);
    Ok(Some(User { name: name.into(), uid: String::new(), groups, extra: BTreeMap::from([credential]) }))
}

/// From `Authorization: Bearer`, or from the websocket subprotocol that browsers use for want of headers.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|value| value.trim().split_once(' ')) {
        let token = token.trim_start();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut protocols = protocols.flat_map(|list| list.split(',')).map(str::trim);
    let encoded = protocols.find_map(|protocol| protocol.strip_prefix(WEBSOCKET_TOKEN))?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

/// Must not be passed on or chosen: it is a credential.
pub const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

#[cfg(test)]
mod tests;
