//! Pulls under way: one per image and credentials however many pods wait for it, a bounded number at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use cri::{Credentials, Cri, CriError, Image, PullRequest};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use host::Clock;
use pod::{DesiredPod, Mono};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// serializeImagePulls, maxParallelImagePulls, registryPullQPS, registryBurst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PullLimits {
    /// None: as many as are asked for.
    pub parallel: Option<usize>,
    /// 0: unlimited.
    pub per_second: f64,
    pub burst: u32,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PullFailure {
    #[error("{}", .0.message)]
    Runtime(Arc<CriError>),
    #[error("the runtime does not know the image it has just pulled")]
    Vanished,
    #[error("pull QPS exceeded")]
    TooMany,
}

#[derive(Clone, Debug)]
pub(crate) struct Pulled {
    pub image: Image,
    pub took: Duration,
}

type Outcome = Result<Pulled, PullFailure>;
type Pull = Shared<BoxFuture<'static, Outcome>>;
/// Image and a digest of the credentials tried: whoever has others must not profit from this pull.
type Key = (String, [u8; 32]);

pub(crate) struct Pulls {
    cri: Cri,
    clock: Clock,
    slots: Option<Arc<Semaphore>>,
    rate: Mutex<Bucket>,
    under_way: Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Outcome>>>>,
}

impl Pulls {
    pub fn new(cri: Cri, clock: Clock, limits: PullLimits) -> Self {
        Self {
            cri,
            clock,
            slots: limits.parallel.map(|n| Arc::new(Semaphore::new(n.max(1)))),
            rate: Mutex::new(Bucket::full(limits, clock.mono())),
            under_way: Mutex::default(),
        }
    }

    pub async fn pull(&self, desired: &DesiredPod, image: &str, credentials: Vec<Credentials>) -> Outcome {
        let pull = self.join_or_begin(desired, image, credentials)?;
        pull.await
    }

    fn join_or_begin(&self, desired: &DesiredPod, image: &str, credentials: Vec<Credentials>) -> Result<Pull, PullFailure> {
        let key = (image.to_owned(), fingerprint(&credentials));
        let mut under_way = self.under_way.lock().expect("an image call panicked");
        under_way.retain(|_, pull| pull.upgrade().is_some());
        if let Some(pull) = under_way.get(&key).and_then(WeakShared::upgrade)
            && pull.peek().is_none()
        {
            return Ok(pull);
        }
        if !self.rate.lock().expect("an image call panicked").take(self.clock.mono()) {
            return Err(PullFailure::TooMany);
        }
        let attempt = Attempt {
            cri: self.cri.clone(),
            clock: self.clock,
            slots: self.slots.clone(),
            desired: desired.clone(),
            image: image.to_owned(),
            credentials,
        };
        let pull = attempt.run().boxed().shared();
        if let Some(weak) = pull.downgrade() {
            under_way.insert(key, weak);
        }
        Ok(pull)
    }
}

struct Attempt {
    cri: Cri,
    clock: Clock,
    slots: Option<Arc<Semaphore>>,
    desired: DesiredPod,
    image: String,
    credentials: Vec<Credentials>,
}

impl Attempt {
    async fn run(self) -> Outcome {
        let _slot = match &self.slots {
            Some(slots) => Some(slots.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        let begun = self.clock.mono();
        let pulled = self.try_each().await?;
        let found = self.cri.image_status(&pulled).await.map_err(runtime)?.ok_or(PullFailure::Vanished)?;
        Ok(Pulled { image: found, took: self.clock.mono().since(begun) })
    }

    /// Every credential that fits, else anonymously; the last refusal is the one reported.
    async fn try_each(&self) -> Result<String, PullFailure> {
        let mut last = None;
        let anonymous = self.credentials.is_empty().then_some(None);
        for credentials in self.credentials.iter().cloned().map(Some).chain(anonymous) {
            let request = PullRequest {
                image: &self.image,
                credentials,
                uid: &self.desired.uid,
                key: &self.desired.key,
                annotations: self.desired.pod.metadata.annotations.clone().unwrap_or_default(),
                runtime_handler: "",
            };
            match self.cri.pull_image(request).await {
                Ok(image) => return Ok(image),
                Err(error) => last = Some(runtime(error)),
            }
        }
        Err(last.unwrap_or(PullFailure::Vanished))
    }
}

fn runtime(error: CriError) -> PullFailure {
    PullFailure::Runtime(Arc::new(error))
}

fn fingerprint(credentials: &[Credentials]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for c in credentials {
        for field in [&c.username, &c.password, &c.auth, &c.server_address, &c.identity_token, &c.registry_token] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
    }
    hash.finalize().into()
}

/// A token bucket: pulls beyond it are refused, and retried by the pod's back-off.
struct Bucket {
    limits: PullLimits,
    tokens: f64,
    filled: Mono,
}

impl Bucket {
    fn full(limits: PullLimits, now: Mono) -> Self {
        Self { limits, tokens: f64::from(limits.burst), filled: now }
    }

    fn take(&mut self, now: Mono) -> bool {
        if self.limits.per_second <= 0.0 {
            return true;
        }
        let gained = now.since(self.filled).as_secs_f64() * self.limits.per_second;
        self.tokens = (self.tokens + gained).min(f64::from(self.limits.burst));
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let limits = PullLimits { parallel: None, per_second: 5.0, burst: 2 };
        let mut bucket = Bucket::full(limits, Mono::from_secs(0));
        let taken: Vec<bool> = [0, 0, 0, 200, 200].map(|ms| bucket.take(Mono(Duration::from_millis(ms)))).to_vec();
        assert_eq!(taken, [true, true, false, true, false]);
    }

    #[test]
    fn other_credentials_make_another_pull() {
        let with = |password: &str| Credentials { password: password.into(), ..Credentials::default() };
        assert_ne!(fingerprint(&[with("a")]), fingerprint(&[with("b")]));
        assert_ne!(fingerprint(&[]), fingerprint(&[with("")]));
    }
}
