//! Service account tokens of pods: one per pod, service account, audience and lifetime, renewed well before its end.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Mutex,
    time::Duration,
};

use apiserver::{ApiError, ServiceAccountToken};
use host::Clock;
use pod::{Mono, PodUid};

use crate::{error::Cause, payload::Content};

/// What a token lasts when nobody says otherwise.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
const MAX_JITTER_MILLIS: u64 = 10_000;
/// When the next try is due after one that failed while the old token still serves.
const RETRY: Duration = Duration::from_secs(30);
/// A remaining life shorter than this says that the two clocks differ rather than how long the token lives.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// What tells one token from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub pod: PodUid,
    pub service_account: String,
    pub audience: Option<String>,
    pub expiration_seconds: Option<i64>,
}

impl TokenKey {
    fn asked(&self) -> Duration {
        self.expiration_seconds.map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(s.max(0).unsigned_abs()))
    }

    /// Spreads the renewals of many pods, and is the same at every try.
    fn jitter(&self) -> Duration {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        Duration::from_millis(hasher.finish() % MAX_JITTER_MILLIS)
    }
}

/// A token for a file, and when to ask for it again.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub content: Content,
    pub renew_at: Mono,
}

#[derive(Clone, Debug)]
struct Held {
    content: Content,
    renew_at: Mono,
    expires_at: Mono,
}

#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<TokenKey, Held>>);

impl Tokens {
    /// The token at hand unless it is due for renewal; then what `request` brings. When that fails, the old one serves
    /// as long as it is valid.
    pub async fn get<F>(&self, key: TokenKey, clock: Clock, request: F) -> Result<Issued, Cause>
    where
        F: Future<Output = Result<ServiceAccountToken, ApiError>>,
    {
        let held = self.held().get(&key).cloned();
        let asked_at = clock.mono();
        if let Some(held) = held.as_ref().filter(|h| asked_at < h.renew_at) {
            return Ok(Issued { content: held.content.clone(), renew_at: held.renew_at });
        }
        match (request.await, held) {
            (Ok(token), _) => {
                let left = Duration::try_from(token.expires_at.duration_since(clock.wall())).unwrap_or_default();
                let lifetime = lifetime(key.asked(), left);
                let renew_at = asked_at + renew_after(lifetime, key.jitter());
                let content = Content::new(token.token);
                let held = Held { content: content.clone(), renew_at, expires_at: asked_at + lifetime };
                self.held().insert(key, held);
                Ok(Issued { content, renew_at })
            }
            (Err(error), Some(held)) if clock.mono() < held.expires_at => {
                tracing::warn!(%error, pod = %key.pod, "a service account token can't be renewed; the old one serves on");
                Ok(Issued { content: held.content, renew_at: clock.mono() + RETRY })
            }
            (Err(error), _) => Err(Cause::Token(Box::new(error))),
        }
    }

    pub fn forget(&self, pod: &PodUid) {
        self.held().retain(|key, _| &key.pod != pod);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<TokenKey, Held>> {
        self.0.lock().expect("no panic while tokens are locked")
    }
}

/// The API server may give less than was asked for. A difference between its wall clock and ours must not count.
fn lifetime(asked: Duration, left: Duration) -> Duration {
    if (MIN_LIFETIME..asked).contains(&left) { left } else { asked }
}

/// At 80 % of the life or after 24 hours.
fn renew_after(lifetime: Duration, jitter: Duration) -> Duration {
    (lifetime * 4 / 5).min(MAX_AGE).saturating_sub(jitter)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key() -> TokenKey {
        TokenKey { pod: "uid-1".into(), service_account: "sa".into(), audience: None, expiration_seconds: Some(3600) }
    }

    fn refused() -> ApiError {
        ApiError::not_found("create", "token")
    }

    struct Issuer(AtomicU32, Clock);

    impl Issuer {
        async fn issue(&self) -> Result<ServiceAccountToken, ApiError> {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            let expires_at = self.1.wall() + jiff::SignedDuration::from_secs(3600);
            Ok(ServiceAccountToken { token: format!("t{n}"), expires_at })
        }
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_for_four_fifths_of_its_life() {
        let (clock, tokens) = (Clock::start(), Tokens::default());
        let issuer = Issuer(AtomicU32::new(0), clock);
        let text = async || tokens.get(key(), clock, issuer.issue()).await.unwrap().content;
        assert_eq!(text().await.as_bytes(), b"t0");
        after(2800).await;
        assert_eq!(text().await.as_bytes(), b"t0");
        after(100).await;
        assert_eq!(text().await.as_bytes(), b"t1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_token_serves_until_it_expires() {
        let (clock, tokens) = (Clock::start(), Tokens::default());
        let issuer = Issuer(AtomicU32::new(0), clock);
        tokens.get(key(), clock, issuer.issue()).await.unwrap();
        after(3500).await;
        let old = tokens.get(key(), clock, async { Err(refused()) }).await.unwrap();
        assert_eq!((old.content.as_bytes(), old.renew_at), (b"t0".as_slice(), clock.mono() + RETRY));
        after(200).await;
        assert!(tokens.get(key(), clock, async { Err(refused()) }).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_pods_token_is_asked_for_anew() {
        let (clock, tokens) = (Clock::start(), Tokens::default());
        let issuer = Issuer(AtomicU32::new(0), clock);
        tokens.get(key(), clock, issuer.issue()).await.unwrap();
        tokens.forget(&"uid-1".into());
        assert_eq!(tokens.get(key(), clock, issuer.issue()).await.unwrap().content.as_bytes(), b"t1");
    }

    #[test]
    fn a_long_life_is_cut_to_a_day_and_clock_skew_is_ignored() {
        let (hour, day) = (Duration::from_secs(3600), MAX_AGE);
        assert_eq!(renew_after(hour, Duration::ZERO), Duration::from_secs(2880));
        assert_eq!(renew_after(day * 365, Duration::from_secs(10)), day - Duration::from_secs(10));
        assert_eq!(lifetime(hour, Duration::ZERO), hour);
        assert_eq!(lifetime(hour, day), hour);
        assert_eq!(lifetime(hour, hour / 2), hour / 2);
    }
}
