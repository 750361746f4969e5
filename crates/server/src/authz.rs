//! Whether a caller may do it: asked of the API server, remembered a while.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use host::Clock;

use crate::{
    authn::User,
    error::{ReviewError, ServerError},
    ttl_cache::TtlCache,
};

/// `verb` on `nodes/<subresource>` of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    pub user: Arc<User>,
    pub verb: &'static str,
    pub node: Arc<str>,
    pub subresource: &'static str,
}

/// Asks the API server (SubjectAccessReview).
pub type ReviewAccess = dyn Fn(Access) -> BoxFuture<'static, Result<bool, ReviewError>> + Send + Sync;

/// How long answers count: authorization.webhook.cacheAuthorizedTTL and cacheUnauthorizedTTL.
#[derive(Clone, Copy, Debug)]
pub struct Remember {
    pub allowed: Duration,
    pub denied: Duration,
}

impl Default for Remember {
    fn default() -> Self {
        Self { allowed: Duration::from_secs(300), denied: Duration::from_secs(30) }
    }
}

pub enum Authorizer {
    AlwaysAllow,
    Webhook(Webhook),
}

pub struct Webhook {
    review: Arc<ReviewAccess>,
    remember: Remember,
    answers: TtlCache<Access, bool>,
    clock: Clock,
}

/// What authorization came to.
#[derive(Debug)]
pub enum Verdict {
    Allowed,
    Denied,
    /// The question could not be asked.
    Unknown {
        subresource: &'static str,
        error: ServerError,
    },
}

impl Authorizer {
    pub fn webhook(clock: Clock, review: Arc<ReviewAccess>, remember: Remember) -> Self {
        Self::Webhook(Webhook { review, remember, answers: TtlCache::new(8192), clock })
    }

    /// True as soon as one of the subresources is allowed; they are tried in order.
    pub async fn decide(
        &self,
        user: &Arc<User>,
        verb: &'static str,
        node: &Arc<str>,
        subresources: &[&'static str],
    ) -> Verdict {
        let Self::Webhook(webhook) = self else { return Verdict::Allowed };
        for &subresource in subresources {
            let access = Access { user: user.clone(), verb, node: node.clone(), subresource };
            match webhook.allows(access).await {
                Ok(true) => return Verdict::Allowed,
                Ok(false) => {}
                Err(source) => {
                    let error = ServerError::AccessReview { user: user.name.clone(), source };
                    return Verdict::Unknown { subresource, error };
                }
            }
        }
        Verdict::Denied
    }
}

impl Webhook {
    async fn allows(&self, access: Access) -> Result<bool, ReviewError> {
        if let Some(answer) = self.answers.get(&access, self.clock.mono()) {
            return Ok(answer);
        }
        let allowed = (self.review)(access.clone()).await?;
        let ttl = if allowed { self.remember.allowed } else { self.remember.denied };
        self.answers.put(access, allowed, self.clock.mono(), ttl);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    type Asked = Arc<Mutex<Vec<&'static str>>>;

    /// Allows only that subresource; `broken` cannot be asked.
    fn authorizer(allowed: &'static str) -> (Authorizer, Asked) {
        let asked = Asked::default();
        let log = asked.clone();
        let review = move |access: Access| -> BoxFuture<'static, Result<bool, ReviewError>> {
            log.lock().unwrap().push(access.subresource);
            Box::pin(async move {
                if access.subresource == "broken" { Err("away".into()) } else { Ok(access.subresource == allowed) }
            })
        };
        (Authorizer::webhook(Clock::start(), Arc::new(review), Remember::default()), asked)
    }

    async fn decide(authorizer: &Authorizer, subresources: &[&'static str]) -> Verdict {
        authorizer.decide(&Arc::new(User::anonymous()), "get", &Arc::from("node"), subresources).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_finer_subresource_is_asked_first_and_proxy_only_then() {
        let (authorizer, asked) = authorizer("proxy");
        assert!(matches!(decide(&authorizer, &["pods", "proxy"]).await, Verdict::Allowed));
        assert_eq!(*asked.lock().unwrap(), ["pods", "proxy"]);
        let (authorizer, asked) = self::authorizer("pods");
        assert!(matches!(decide(&authorizer, &["pods", "proxy"]).await, Verdict::Allowed));
        assert_eq!(*asked.lock().unwrap(), ["pods"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_forgotten_sooner_than_an_allowance() {
        let (authorizer, asked) = authorizer("stats");
        assert!(matches!(decide(&authorizer, &["stats"]).await, Verdict::Allowed));
        assert!(matches!(decide(&authorizer, &["metrics"]).await, Verdict::Denied));
        tokio::time::advance(Duration::from_secs(31)).await;
        decide(&authorizer, &["stats"]).await;
        decide(&authorizer, &["metrics"]).await;
        assert_eq!(*asked.lock().unwrap(), ["stats", "metrics", "metrics"]);
        tokio::time::advance(Duration::from_secs(300)).await;
        decide(&authorizer, &["stats"]).await;
        assert_eq!(asked.lock().unwrap().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_question_is_no_denial_and_is_asked_again() {
        let (authorizer, asked) = authorizer("proxy");
        for _ in 0..2 {
            let verdict = decide(&authorizer, &["broken", "proxy"]).await;
            assert!(matches!(verdict, Verdict::Unknown { subresource: "broken", .. }));
        }
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn always_allow_asks_nobody() {
        assert!(matches!(decide(&Authorizer::AlwaysAllow, &["proxy"]).await, Verdict::Allowed));
    }
}
