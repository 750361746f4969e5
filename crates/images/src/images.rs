//! The handle: makes sure that an image is there for a container, and says what was done about it in events.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::{Events, Objects};
use cri::{Cri, Image};
use handlers::spelling;
use host::{Clock, HostError};
use pod::{
    DesiredPod, Mono,
    api::{ContainerImage, Secret},
    mounts::{EventType, ImageUser, ResolvedImage},
    reason::event,
};

use crate::{
    backoff::{BackoffKey, PullBackoff},
    counters::{self, Checked},
    credentials::{
        Candidate, Origin, Owner,
        docker_config::{self, DockerConfig},
        keyring::Keyring,
        node_files,
        plugin::CredentialProviders,
    },
    error::{ImageError, PullFailure},
    inventory::Inventory,
    pull::{Pull, Pulled, Puller},
    pulled_records::{PulledRecords, Verification},
    rate::TokenBucket,
    reference::{Reference, with_default_tag},
};

/// serializeImagePulls, maxParallelImagePulls, registryPullQPS, registryBurst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PullLimits {
    /// None: as many as are asked for.
    pub parallel: Option<usize>,
    /// 0: unlimited.
    pub per_second: f64,
    pub burst: u32,
}

#[derive(Clone, Debug)]
pub struct ImagesConfig {
    pub limits: PullLimits,
    /// Docker's `config.json` and `.dockercfg` files: the first one that can be used counts, and any `config.json`
    /// before any `.dockercfg`.
    pub node_config_files: Vec<PathBuf>,
    /// nodeStatusMaxImages; None: all.
    pub node_status_max: Option<usize>,
}

/// When a disk that can't be written to is tried again.
const RETRY_RECORDS: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
    records: Option<Arc<PulledRecords>>,
}

struct Shared {
    cri: Cri,
    clock: Clock,
    events: Events,
    /// None: standalone.
    objects: Option<Objects>,
    config: ImagesConfig,
    providers: CredentialProviders,
    puller: Puller,
    backoff: Mutex<PullBackoff>,
    inventory: Inventory,
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Container,
    /// A volume, for the sake of a container that mounts it: pulls are told of the pod, failures of the container.
    Volume,
}

/// The pod, the container, and the image as the spec names it.
#[derive(Clone, Copy)]
struct Subject<'a> {
    pod: &'a DesiredPod,
    container: &'a str,
    used: Use,
    image: &'a str,
}

/// The logins that fit, and the names of secrets that could not be had.
struct Logins {
    candidates: Vec<Candidate>,
    missing: Vec<String>,
}

impl Images {
    /// `objects` is None without an API server: then pods have no pull secrets.
    pub fn new(
        cri: Cri,
        clock: Clock,
        events: Events,
        objects: Option<Objects>,
        config: ImagesConfig,
        providers: CredentialProviders,
    ) -> Self {
        let PullLimits { parallel, per_second, burst } = config.limits;
        let rate = TokenBucket::new(per_second, burst, clock.mono());
        let shared = Shared {
            puller: Puller::new(cri.clone(), clock, rate, parallel),
            backoff: Mutex::default(),
            inventory: Inventory::new(cri.clone(), clock, config.node_status_max),
            cri,
            clock,
            events,
            objects,
            config,
            providers,
        };
        Self { shared: Arc::new(shared), records: None }
    }

    /// Feature KubeletEnsureSecretPulledImages: an image that a pod's secret opened stays closed to pods that have no
    /// such secret. `dir` is `image_manager` in the root directory. Pulls whose end the last agent did not see are
    /// looked up, so the runtime must answer by now.
    pub async fn with_pull_records(mut self, dir: &Path, policy: Verification) -> Result<Self, HostError> {
        let records = PulledRecords::open(dir, policy, self.shared.clock)?;
        match self.shared.cri.list_images().await {
            Ok(images) => records.resume(&images),
            Err(e) => tracing::warn!(error = %e, "can't list images to finish the records of earlier pulls"),
        }
        self.records = Some(Arc::new(records));
        Ok(self)
    }

    pub(crate) fn cri(&self) -> &Cri {
        &self.shared.cri
    }
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }
    pub(crate) fn events(&self) -> &Events {
        &self.shared.events
    }
    pub(crate) fn records(&self) -> Option<&Arc<PulledRecords>> {
        self.records.as_ref()
    }

    /// The largest images, for the node's status.
    pub async fn for_node_status(&self) -> Vec<ContainerImage> {
        self.shared.inventory.for_node_status().await
    }
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.shared.inventory
    }

    /// Drop the future to give up: a pull ends when nobody waits for it any more. A `policy` of None follows from the
    /// tag. Also returns when a pull began, if there was one.
    pub async fn ensure(
        &self,
        pod: &DesiredPod,
        (container, used): (&str, Use),
        image: &str,
        policy: Option<&str>,
    ) -> (Result<ResolvedImage, ImageError>, Option<Mono>) {
        let subject = Subject { pod, container, used, image };
        let mut pull_began = None;
        let result = self.resolve(subject, policy, &mut pull_began).await;
        if let Err(e) = &result {
            let text = format!("Error: {}", e.reason());
            self.events().container(pod, container, EventType::Warning, event::FAILED, text);
        }
        (result, pull_began)
    }

    async fn resolve(
        &self,
        subject: Subject<'_>,
        policy: Option<&str>,
        pull_began: &mut Option<Mono>,
    ) -> Result<ResolvedImage, ImageError> {
        let image = with_default_tag(subject.image).map_err(|e| {
            let error = ImageError::InvalidName(e);
            self.event(subject, EventType::Warning, "InspectFailed", error.to_string());
            error
        })?;
        let policy = policy.filter(|p| !p.is_empty()).unwrap_or_else(|| default_policy(&image));
        let mut request = counters::EnsureRequest::new(policy);
        if policy != "Always" {
            let present = self.inspect(subject, &image).await?;
            request.present = Some(present.is_some());
            if let Some(found) = present
                && self.may_use(subject, &image, &found).await
            {
                request.pull_required = Some(false);
                return Ok(self.already_present(subject, found));
            }
        }
        request.pull_required = Some(policy != "Never");
        if policy == "Never" {
            // Whether it is there at all is nobody's business who may not use it.
            let error = ImageError::NeverPull(subject.image.to_owned());
            self.event(subject, EventType::Warning, "ErrImageNeverPull", error.to_string());
            return Err(error);
        }
        self.pull(subject, image, pull_began).await
    }

    async fn inspect(&self, subject: Subject<'_>, image: &str) -> Result<Option<Image>, ImageError> {
        self.cri().image_status(image).await.map_err(|source| {
            let error = ImageError::Inspect { image: subject.image.to_owned(), source };
            self.event(subject, EventType::Warning, "InspectFailed", error.to_string());
            error
        })
    }

    /// A present image may be another pod's that needed a login to get it.
    async fn may_use(&self, subject: Subject<'_>, image: &str, found: &Image) -> bool {
        let Some(records) = self.records() else { return true };
        if let Some(decided) = records.decide(subject.image, &found.id) {
            return decided;
        }
        let logins = self.logins(subject.pod, image).await;
        let matches = records.matches(subject.image, &found.id, &logins.candidates);
        counters::checked(if matches { Checked::RecordFound } else { Checked::MustAuthenticate });
        matches
    }

    fn already_present(&self, subject: Subject<'_>, found: Image) -> ResolvedImage {
        let access = if self.records().is_some() { " and can be accessed by the pod" } else { "" };
        let text = format!("Container image {:?} already present on machine{access}", subject.image);
        self.event(subject, EventType::Normal, event::PULLED, text);
        ResolvedImage { user: user(&found), image_ref: found.id }
    }

    async fn pull(
        &self,
        subject: Subject<'_>,
        image: String,
        pull_began: &mut Option<Mono>,
    ) -> Result<ResolvedImage, ImageError> {
        let clock = self.clock();
        let key = BackoffKey { pod: subject.pod.uid.clone(), image: subject.image.to_owned() };
        let held = self.with_backoff(|b| b.holds(&key, clock.mono()).map(|(left, failure)| (left, failure.to_owned())));
        if let Some((left, failure)) = held {
            let text = format!("Back-off pulling image {:?}", subject.image);
            self.event(subject, EventType::Normal, event::BACK_OFF, text);
            return Err(ImageError::BackOff { image: subject.image.to_owned(), failure, left });
        }
        let logins = self.logins(subject.pod, &image).await;
        let intent = self.records().map(|r| r.intend(subject.image)).transpose().map_err(|e| {
            let text = format!("Failed to record image pull intent for container image {:?}: {e}", subject.image);
            ImageError::Pull { failure: PullFailure::pull(text), backoff: RETRY_RECORDS }
        })?;
        self.event(subject, EventType::Normal, event::PULLING, format!("Pulling image {:?}", subject.image));
        let started = clock.mono();
        *pull_began = Some(started);
        let pull = Pull {
            image,
            candidates: logins.candidates,
            uid: subject.pod.uid.clone(),
            key: subject.pod.key.clone(),
            annotations: subject.pod.pod.metadata.annotations.clone().unwrap_or_default(),
        };
        match self.shared.puller.pull(pull, intent).await {
            Ok(pulled) => {
                self.with_backoff(|b| b.succeeded(&key));
                Ok(self.announce(subject, pulled, started))
            }
            Err(failure) => {
                let text = format!("Failed to pull image {:?}: {failure}", subject.image);
                self.event(subject, EventType::Warning, event::FAILED, text);
                self.tell_missing_secrets(subject.pod, &logins.missing);
                let shown = format!("{}: {failure}", failure.reason);
                let backoff = self.with_backoff(|b| b.failed(key, shown, clock.mono()));
                Err(ImageError::Pull { failure, backoff })
            }
        }
    }

    fn with_backoff<T>(&self, act: impl FnOnce(&mut PullBackoff) -> T) -> T {
        act(&mut self.shared.backoff.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn announce(&self, subject: Subject<'_>, pulled: Pulled, started: Mono) -> ResolvedImage {
        let whole = self.clock().mono().since(started);
        let size = pulled.image.as_ref().map_or(0, |i| i.size_bytes);
        let text = format!(
            "Successfully pulled image {:?} in {} ({} including waiting). Image size: {size} bytes.",
            subject.image,
            spelling::duration(to_millis(pulled.took)),
            spelling::duration(to_millis(whole)),
        );
        self.event(subject, EventType::Normal, event::PULLED, text);
        counters::pulled(size, whole);
        self.shared.inventory.forget();
        let user = pulled.image.as_ref().map(user).unwrap_or_default();
        ResolvedImage { image_ref: pulled.image_ref, user }
    }

    fn tell_missing_secrets(&self, pod: &DesiredPod, missing: &[String]) {
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.events().pod(pod, EventType::Warning, "FailedToRetrieveImagePullSecret", text);
        }
    }

    fn event(&self, subject: Subject<'_>, kind: EventType, reason: &str, text: String) {
        let events = self.events();
        match subject.used {
            Use::Volume => events.pod(subject.pod, kind, reason, text),
            Use::Container => events.container(subject.pod, subject.container, kind, reason, text),
        }
    }

    /// The pod's own secrets first, then what every pod of the node may use.
    async fn logins(&self, pod: &DesiredPod, image: &str) -> Logins {
        let Ok(Reference { repository, .. }) = Reference::parse(image) else {
            return Logins { candidates: Vec::new(), missing: Vec::new() };
        };
        let (of_pod, missing) = self.pod_keyring(pod).await;
        let mut candidates = of_pod.lookup(&repository);
        let mut of_node = Keyring::default();
        of_node.add(&Origin::Node, node_files::read(&self.shared.config.node_config_files));
        candidates.extend(of_node.lookup(&repository));
        candidates.extend(self.shared.providers.lookup(&repository, pod).await);
        Logins { candidates, missing }
    }

    async fn pod_keyring(&self, pod: &DesiredPod) -> (Keyring, Vec<String>) {
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        let refs = pod.spec().image_pull_secrets.iter().flatten();
        for name in refs.map(|r| r.name.as_str()).filter(|n| !n.is_empty()) {
            let secret = match &self.shared.objects {
                Some(objects) => objects.secret(&pod.key.namespace, name).await.ok(),
                None => None,
            };
            match secret.as_deref().map(docker_config_of) {
                Some(Ok(Some(config))) => {
                    let uid = secret.as_ref().and_then(|s| s.metadata.uid.clone()).unwrap_or_default();
                    let owner = Owner { uid, namespace: pod.key.namespace.to_string(), name: name.to_owned() };
                    keyring.add(&Origin::Secret(owner), config);
                }
                // A secret of another type is no login, and no mistake either.
                Some(Ok(None)) => {}
                Some(Err(e)) => {
                    tracing::warn!(pod = %pod.key, secret = name, error = %e, "can't use an image pull secret");
                    missing.push(name.to_owned());
                }
                None => missing.push(name.to_owned()),
            }
        }
        (keyring, missing)
    }
}

fn docker_config_of(secret: &Secret) -> Result<Option<DockerConfig>, docker_config::DockerConfigError> {
    let content = |key: &str| secret.data.as_ref()?.get(key).map(|c| c.0.as_slice()).filter(|c| !c.is_empty());
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            content(".dockerconfigjson").map(docker_config::parse_json).transpose()
        }
        Some("kubernetes.io/dockercfg") => content(".dockercfg").map(docker_config::parse_legacy).transpose(),
        _ => Ok(None),
    }
}

fn default_policy(image: &str) -> &'static str {
    let latest = Reference::parse(image).is_ok_and(|r| r.tag.as_deref() == Some("latest") && r.digest.is_none());
    if latest { "Always" } else { "IfNotPresent" }
}

fn user(image: &Image) -> ImageUser {
    match (image.uid, image.username.as_str()) {
        (Some(uid), _) => ImageUser::Uid(uid),
        (None, "") => ImageUser::Root,
        (None, name) => ImageUser::Name(name.to_owned()),
    }
}

fn to_millis(d: Duration) -> Duration {
    Duration::from_millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_follows_the_tag() {
        assert_eq!(default_policy("busybox:latest"), "Always");
        assert_eq!(default_policy("busybox:1.36"), "IfNotPresent");
        let digest = format!("busybox:latest@sha256:{}", "a".repeat(64));
        assert_eq!(default_policy(&digest), "IfNotPresent");
    }

    #[test]
    fn an_images_user_is_a_number_a_name_or_root() {
        let image = |uid, name: &str| Image { uid, username: name.into(), ..Image::default() };
        assert_eq!(user(&image(Some(7), "")), ImageUser::Uid(7));
        assert_eq!(user(&image(None, "nobody")), ImageUser::Name("nobody".into()));
        assert_eq!(user(&image(None, "")), ImageUser::Root);
    }
}
