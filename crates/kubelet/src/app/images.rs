//! Images: which logins, which records, when unused ones go.

use std::path::PathBuf;

use anyhow::Context;
use apiserver::{ApiServer, Events, Objects};
use cri::Cri;
use host::{Clock, RootDir};
use images::{CredentialProviders, GcPolicy, ImageGc, Images, ImagesConfig, PullLimits, Verification};

use crate::options::Options;

/// The runtime must answer by now: pulls that an earlier agent left unfinished are looked up.
pub(super) async fn images(
    options: &Options,
    root: &RootDir,
    cri: &Cri,
    clock: Clock,
    events: &Events,
    api: Option<(&ApiServer, &Objects)>,
) -> anyhow::Result<Images> {
    let flags = &options.flags;
    let mut providers = match (&flags.image_credential_provider_config, &flags.image_credential_provider_bin_dir) {
        (Some(config), Some(bin)) => CredentialProviders::load(config, bin, clock)?,
        _ => CredentialProviders::default(),
    };
    if let Some((api, _)) = api {
        providers = providers.with_api(api);
    }
    let objects = api.map(|(_, objects)| objects.clone());
    let images = Images::new(cri.clone(), clock, events.clone(), objects, config(options), providers);
    match verification(options) {
        Some(policy) => {
            let with_records = images.with_pull_records(&root.image_manager(), policy).await;
            with_records.context("cannot keep records of image pulls")
        }
        None => Ok(images),
    }
}

fn config(options: &Options) -> ImagesConfig {
    let config = &options.config;
    let parallel = match (config.serialize_image_pulls, config.max_parallel_image_pulls) {
        (true, _) => Some(1),
        (false, limit) => limit.and_then(|n| usize::try_from(n).ok()),
    };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut files = Vec::new();
    for dir in [Some(options.flags.root_dir.clone()), home.map(|h| h.join(".docker"))].into_iter().flatten() {
        files.extend([dir.join("config.json"), dir.join(".dockercfg")]);
    }
    ImagesConfig {
        limits: PullLimits {
            parallel,
            per_second: f64::from(config.registry_pull_qps),
            burst: config.registry_burst.max(1) as u32,
        },
        node_config_files: files,
        node_status_max: usize::try_from(config.node_status_max_images).ok(),
    }
}

/// None: whoever pulled an image, all pods may use it.
fn verification(options: &Options) -> Option<Verification> {
    if !options.gates.enabled("KubeletEnsureSecretPulledImages") {
        return None;
    }
    Some(match options.config.image_pull_credentials_verification_policy.as_str() {
        "NeverVerify" => Verification::Never,
        "NeverVerifyAllowlistedImages" => {
            Verification::NeverVerifyAllowlisted(options.config.preloaded_images_verification_allowlist.clone())
        }
        "AlwaysVerify" => Verification::Always,
        _ => Verification::NeverVerifyPreloaded,
    })
}

/// None where neither a full disk nor age is a reason to remove images.
pub(super) fn garbage_collection(options: &Options, images: &Images) -> Option<ImageGc> {
    let config = &options.config;
    let percent = |value: i32| u64::try_from(value).unwrap_or_default();
    let policy = GcPolicy {
        high_percent: percent(config.image_gc_high_threshold_percent),
        low_percent: percent(config.image_gc_low_threshold_percent),
        min_age: config.image_minimum_gc_age.std(),
        max_age: Some(config.image_maximum_gc_age.std()).filter(|age| !age.is_zero()),
    };
    let wanted = policy.high_percent < 100 || policy.max_age.is_some();
    wanted.then(|| ImageGc::new(images.clone(), policy))
}

pub(super) fn lister(images: &Images) -> node::ImageLister {
    let images = images.clone();
    std::sync::Arc::new(move || {
        let images = images.clone();
        Box::pin(async move { images.for_node_status().await })
    })
}
