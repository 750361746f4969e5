//! Images: whether one must be pulled, with which credentials, how many at a time, and what to say about it.

pub mod credentials;
mod error;
mod listing;
mod plugins;
mod pulls;
mod reference;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::{Events, Objects};
use cri::{Cri, Image};
use host::Clock;
use pod::{
    DesiredPod, Mono, PodUid,
    mounts::{EventType, ImageUser, ResolvedImage},
    reason::event,
};

pub use credentials::Keyring;
pub use error::ImageError;
pub use plugins::{CredentialProviders, PluginError};
pub use pulls::PullLimits;

const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
const BACK_OFF_CAP: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct ImagesConfig {
    pub limits: PullLimits,
    /// Docker configuration files of the node, in order of precedence.
    pub node_config_files: Vec<PathBuf>,
    /// At most so many images in the node's status; None for all.
    pub node_status_max: Option<usize>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    cri: Cri,
    clock: Clock,
    events: Events,
    objects: Option<Objects>,
    config: ImagesConfig,
    providers: CredentialProviders,
    pulls: pulls::Pulls,
    back_off: Mutex<HashMap<(PodUid, String), Held>>,
    listing: listing::Listing,
}

/// A pod's image after a failed pull.
#[derive(Clone, Debug)]
struct Held {
    delay: Duration,
    until: Mono,
    error: String,
}

impl Images {
    pub fn new(
        cri: Cri,
        clock: Clock,
        events: Events,
        objects: Option<Objects>,
        config: ImagesConfig,
        providers: CredentialProviders,
    ) -> Self {
        let pulls = pulls::Pulls::new(cri.clone(), clock, config.limits);
        let shared = Shared {
            listing: listing::Listing::new(config.node_status_max),
            back_off: Mutex::default(),
            cri,
            clock,
            events,
            objects,
            config,
            providers,
            pulls,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The image is present when this succeeds. Dropping the future gives the pull up, unless others wait for it too.
    pub async fn ensure(
        &self,
        desired: &DesiredPod,
        container: &str,
        image: &str,
        policy: Option<&str>,
    ) -> Result<ResolvedImage, ImageError> {
        let say = |kind, reason: &str, message: &str| self.shared.events.container(desired, container, kind, reason, message);
        let full = reference::with_default_tag(image).map_err(|error| {
            let message = format!("Failed to apply default image tag {image:?}: {error}");
            say(EventType::Warning, "InspectFailed", &message);
            ImageError::InvalidName { message }
        })?;
        let policy = policy.unwrap_or_else(|| reference::default_policy(&full));
        if policy != "Always" {
            let found = self.shared.cri.image_status(&full).await.map_err(|error| {
                let message = format!("Failed to inspect image {image:?}: {error}");
                say(EventType::Warning, "InspectFailed", &message);
                ImageError::Inspect { message }
            })?;
            if let Some(found) = found {
                let message = format!("Container image {image:?} already present on machine and can be accessed by the pod");
                say(EventType::Normal, event::PULLED, &message);
                return Ok(resolved(&found, &full));
            }
            if policy == "Never" {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                say(EventType::Warning, "ErrImageNeverPull", &message);
                return Err(ImageError::NeverPull { message });
            }
        }
        self.pull(desired, image, full, &say).await
    }

    async fn pull(
        &self,
        desired: &DesiredPod,
        image: &str,
        full: String,
        say: &(impl Fn(EventType, &str, &str) + Sync),
    ) -> Result<ResolvedImage, ImageError> {
        let key = (desired.uid.clone(), image.to_owned());
        let begun = self.shared.clock.mono();
        if let Some(held) = self.held(&key, begun) {
            let message = format!("Back-off pulling image {image:?}");
            say(EventType::Normal, event::BACK_OFF, &message);
            let message = format!("{message}: {}", held.error);
            return Err(ImageError::BackOff { message, retry_after: held.until.since(begun) });
        }
        say(EventType::Normal, event::PULLING, &format!("Pulling image {image:?}"));
        let keyring = self.keyring(desired, &full).await;
        match self.shared.pulls.pull(desired, &full, keyring.lookup(reference::repository(&full))).await {
            Ok(pulled) => {
                self.shared.back_off.lock().expect("an image call panicked").remove(&key);
                let waited = self.shared.clock.mono().since(begun);
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                    spell(pulled.took),
                    spell(waited),
                    pulled.image.size_bytes
                );
                say(EventType::Normal, event::PULLED, &message);
                Ok(resolved(&pulled.image, &full))
            }
            Err(failure) => {
                say(EventType::Warning, event::FAILED, &format!("Failed to pull image {image:?}: {failure}"));
                let error = ImageError::of_pull(image, &failure);
                let waiting = error.waiting();
                self.hold(key, format!("{}: {}", waiting.reason, waiting.message));
                Err(error)
            }
        }
    }

    fn held(&self, key: &(PodUid, String), now: Mono) -> Option<Held> {
        let held = self.shared.back_off.lock().expect("an image call panicked").get(key).cloned();
        held.filter(|h| h.until > now)
    }

    fn hold(&self, key: (PodUid, String), error: String) {
        let now = self.shared.clock.mono();
        let mut all = self.shared.back_off.lock().expect("an image call panicked");
        all.retain(|_, h| now.since(h.until) < BACK_OFF_CAP * 2);
        let delay = all.get(&key).map_or(BACK_OFF_FIRST, |h| (h.delay * 2).min(BACK_OFF_CAP));
        all.insert(key, Held { delay, until: now + delay, error });
    }

    /// The pod's own pull secrets first, then the node's files, then the plugins.
    async fn keyring(&self, desired: &DesiredPod, image: &str) -> Keyring {
        let mut keyring = Keyring::default();
        for reference in desired.spec().image_pull_secrets.iter().flatten() {
            let Some(objects) = &self.shared.objects else { break };
            match objects.secret(&desired.key.namespace, &reference.name).await {
                Ok(secret) => keyring.add_secret(&secret),
                Err(error) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    tracing::warn!(pod = %desired.key, secret = %reference.name, %error, "no image pull secret");
                    let warning = EventType::Warning;
                    self.shared.events.pod(desired, warning, "FailedToRetrieveImagePullSecret", &message);
                }
            }
        }
        for file in &self.shared.config.node_config_files {
            keyring.add_file(file).await;
        }
        self.shared.providers.add_to(&mut keyring, image).await;
        keyring
    }

    /// For `node.status.images`: the largest ones, a few names each. Asked of the runtime at most once a minute.
    pub async fn for_node_status(&self) -> Vec<pod::api::ContainerImage> {
        self.shared.listing.get(&self.shared.cri, self.shared.clock).await
    }
}

fn resolved(image: &Image, asked: &str) -> ResolvedImage {
    let user = match image.uid {
        Some(uid) => ImageUser::Uid(uid),
        None if image.username.is_empty() => ImageUser::Root,
        None => ImageUser::Name(image.username.clone()),
    };
    let image_ref = if image.id.is_empty() { asked.to_owned() } else { image.id.clone() };
    ResolvedImage { image_ref, user }
}

/// Milliseconds, as Go prints a duration.
fn spell(d: Duration) -> String {
    let ms = d.as_millis();
    match ms {
        0 => "0s".into(),
        1..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}s", trim(ms as f64 / 1e3)),
        _ => format!("{}m{}s", ms / 60_000, trim((ms % 60_000) as f64 / 1e3)),
    }
}

fn trim(seconds: f64) -> String {
    let text = format!("{seconds:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        let spelled = [0, 7, 1_000, 1_230, 61_500].map(|ms| spell(Duration::from_millis(ms)));
        assert_eq!(spelled, ["0s", "7ms", "1s", "1.23s", "1m1.5s"]);
    }

    #[test]
    fn the_user_of_an_image_is_a_number_a_name_or_root() {
        let image = |uid, username: &str| Image { id: "sha256:x".into(), uid, username: username.into(), ..Image::default() };
        assert_eq!(resolved(&image(Some(0), ""), "a").user, ImageUser::Uid(0));
        assert_eq!(resolved(&image(None, "web"), "a").user, ImageUser::Name("web".into()));
        assert_eq!(resolved(&image(None, ""), "a").user, ImageUser::Root);
    }
}
