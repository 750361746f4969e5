//! One pull: rate limit, a place among the parallel ones, then each login in turn.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cri::{Credentials, Cri, CriError, Image, PullRequest};
use host::Clock;
use pod::{PodKey, PodUid};
use tokio::sync::Semaphore;

use crate::{
    credentials::{Candidate, Login},
    error::PullFailure,
    flight::Flights,
    pulled_records::Intent,
    rate::TokenBucket,
};

/// What is pulled. Pods that would pull the same thing with the same logins share one pull.
#[derive(Clone, Debug)]
pub struct Pull {
    /// With its tag.
    pub image: String,
    pub candidates: Vec<Candidate>,
    /// The first pod that wants it: some runtimes pull into its namespace or for its annotations.
    pub uid: PodUid,
    pub key: PodKey,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct Pulled {
    pub image_ref: String,
    /// As the runtime describes it now; None where it does not.
    pub image: Option<Image>,
    /// The runtime's own time, without the wait for a place.
    pub took: Duration,
}

type Outcome = Result<Pulled, PullFailure>;

#[derive(Debug, PartialEq, Eq, Hash)]
struct FlightKey {
    image: String,
    logins: Vec<String>,
}

#[derive(Debug)]
pub struct Puller {
    cri: Cri,
    clock: Clock,
    rate: Arc<TokenBucket>,
    /// None: as many at once as are wanted.
    places: Option<Arc<Semaphore>>,
    flights: Flights<FlightKey, Outcome>,
}

impl Puller {
    pub fn new(cri: Cri, clock: Clock, rate: TokenBucket, parallel: Option<usize>) -> Self {
        let places = parallel.map(|n| Arc::new(Semaphore::new(n.max(1))));
        Self { cri, clock, rate: Arc::new(rate), places, flights: Flights::default() }
    }

    /// The intent's record is written by the shared work, whoever still waits when the runtime is done.
    pub async fn pull(&self, pull: Pull, intent: Option<Intent>) -> Outcome {
        let logins = pull.candidates.iter().map(|c| c.login.hash()).collect();
        let key = FlightKey { image: pull.image.clone(), logins };
        let (cri, clock, rate, places) = (self.cri.clone(), self.clock, self.rate.clone(), self.places.clone());
        self.flights
            .join(key, move || async move {
                let _place = match &places {
                    Some(places) => places.acquire().await.ok(),
                    None => None,
                };
                if !rate.try_take(clock.mono()) {
                    return Err(PullFailure::pull("pull QPS exceeded".to_owned()));
                }
                run(&cri, clock, &pull, intent).await
            })
            .await
    }
}

async fn run(cri: &Cri, clock: Clock, pull: &Pull, mut intent: Option<Intent>) -> Outcome {
    let started = clock.mono();
    if let Some(intent) = &mut intent {
        intent.asking();
    }
    let answer = try_logins(cri, pull).await;
    // Before anything else is waited for: the work may be cancelled there.
    match (intent, &answer) {
        (Some(intent), Ok((image_ref, used))) => intent.pulled(image_ref, used.as_ref()),
        (Some(intent), Err(_)) => intent.failed(),
        (None, _) => {}
    }
    let (image_ref, _) = answer.map_err(|errors| PullFailure::of(&pull.image, &errors))?;
    let image = cri.image_status(&pull.image).await.ok().flatten();
    Ok(Pulled { image_ref, image, took: clock.mono().since(started) })
}

/// The image and the login that worked; None: none was needed.
async fn try_logins(cri: &Cri, pull: &Pull) -> Result<(String, Option<Candidate>), Vec<CriError>> {
    if pull.candidates.is_empty() {
        let image_ref = cri.pull_image(request(pull, None)).await.map_err(|e| vec![e])?;
        return Ok((image_ref, None));
    }
    let mut errors = Vec::new();
    for candidate in &pull.candidates {
        match cri.pull_image(request(pull, Some(&candidate.login))).await {
            Ok(image_ref) => return Ok((image_ref, Some(candidate.clone()))),
            Err(e) => errors.push(e),
        }
    }
    Err(errors)
}

fn request<'a>(pull: &'a Pull, login: Option<&Login>) -> PullRequest<'a> {
    let credentials = |l: &Login| Credentials {
        username: l.username.clone(),
        password: l.password.clone(),
        ..Credentials::default()
    };
    PullRequest {
        image: &pull.image,
        credentials: login.map(credentials),
        uid: &pull.uid,
        key: &pull.key,
        annotations: pull.annotations.clone(),
        runtime_handler: "",
    }
}

#[cfg(test)]
mod tests {
    use testing::FakeCri;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        credentials::{Origin, Owner},
        pulled_records::{PulledRecords, Verification},
    };

    const IMAGE: &str = "reg.io/private:v1";

    /// Pulls with a secret, gives up after a second while that operation hangs, and says what a pod without a secret
    /// is told then.
    async fn given_up_during(operation: &str) -> Option<bool> {
        let fake = FakeCri::start();
        fake.delay(operation, Duration::from_secs(3600));
        let cri = Cri::connect(&fake.endpoint(), "", Duration::from_secs(120)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let records = PulledRecords::open(dir.path(), Verification::NeverVerifyPreloaded, clock).unwrap();
        let records = Arc::new(records);
        let owner = Owner { uid: "u".into(), namespace: "ns".into(), name: "s".into() };
        let pull = Pull {
            image: IMAGE.to_owned(),
            candidates: vec![Candidate { login: Login::default(), origin: Origin::Secret(owner) }],
            uid: PodUid::new("pod"),
            key: PodKey::new("ns", "pod"),
            annotations: BTreeMap::new(),
        };
        let puller = Puller::new(cri, clock, TokenBucket::new(0.0, 1, clock.mono()), None);
        let intent = records.intend(IMAGE).unwrap();
        timeout(Duration::from_secs(60), puller.pull(pull, Some(intent))).await.unwrap_err();
        fake.add_image(IMAGE);
        let id = format!("sha256:{IMAGE}");
        match records.decide(IMAGE, &id) {
            Some(decided) => Some(decided),
            None => records.matches(IMAGE, &id, &[]).then_some(true),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_whose_waiter_went_away_after_the_runtimes_success_opens_nothing_to_pods_without_a_secret() {
        assert_eq!(given_up_during("image_status").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nor_does_one_whose_waiter_went_away_before() {
        assert_eq!(given_up_during("pull_image").await, Some(false));
    }
}
