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
    /// The login that worked; None: none was needed.
    pub used: Option<Candidate>,
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

    pub async fn pull(&self, pull: Pull) -> Outcome {
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
                run(&cri, clock, &pull).await
            })
            .await
    }
}

async fn run(cri: &Cri, clock: Clock, pull: &Pull) -> Outcome {
    let started = clock.mono();
    let (image_ref, used) = try_logins(cri, pull).await.map_err(|errors| PullFailure::of(&pull.image, &errors))?;
    let image = cri.image_status(&pull.image).await.ok().flatten();
    Ok(Pulled { image_ref, image, took: clock.mono().since(started), used })
}

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
