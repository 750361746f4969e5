//! Removing images that nobody uses: those unused for too long, and, when the disk is nearly full, the longest unused.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use cri::{CriError, Image};
use host::{HostError, fs_stats::fs_stats};
use pod::{Mono, ObservedPod, mounts::EventType, time::Timestamp};

use crate::{counters, images::Images, pulled_records::whole_second};

const PERIOD: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
pub struct GcPolicy {
    /// imageGCHighThresholdPercent: above it images are removed; 100 switches that off.
    pub high_percent: u64,
    /// imageGCLowThresholdPercent: until disk use is down to it.
    pub low_percent: u64,
    /// Younger images are about to be used.
    pub min_age: Duration,
    /// imageMaximumGCAge.
    pub max_age: Option<Duration>,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GcError {
    #[error("can't list images: {0}")]
    List(CriError),
    #[error("can't see which images are in use: {0}")]
    Observe(CriError),
    #[error("can't find the image filesystem: {0}")]
    ImageFs(CriError),
    #[error("can't measure the image filesystem")]
    Measure(#[from] HostError),
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {}", errors.join("; "))]
    Remove { wanted: u64, freed: u64, errors: Vec<String> },
    #[error(
        "Insufficient free disk space on the node's image filesystem ({percent}% of {capacity} used). Failed to free \
         sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used \
         by active images, logs, volumes, or other data."
    )]
    Insufficient { percent: u64, capacity: String, freed: u64 },
}

/// What is known of an image besides what the runtime says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    first_seen: Mono,
    /// None: not since the agent began.
    last_used: Option<Mono>,
}

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unused {
    id: String,
    size: u64,
    seen: Sighting,
}

pub struct ImageGc {
    images: Images,
    policy: GcPolicy,
    began: Mono,
    sightings: HashMap<String, Sighting>,
}

impl ImageGc {
    pub fn new(images: Images, policy: GcPolicy) -> Self {
        let began = images.clock().mono();
        Self { images, policy, began, sightings: HashMap::new() }
    }

    /// Looks every five minutes, for as long as the future lives. A first failure may pass; the next one is an event.
    pub async fn run(mut self) {
        let mut failed_before = false;
        loop {
            match self.collect().await {
                Ok(()) => failed_before = false,
                Err(e) => {
                    tracing::warn!(error = %e, "image garbage collection failed");
                    if failed_before {
                        self.node_event("ImageGCFailed", &e.to_string());
                    }
                    failed_before = true;
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    pub async fn collect(&mut self) -> Result<(), GcError> {
        let span = trace::span("k8s.io/kubernetes/pkg/kubelet/images", "Images/GarbageCollect", trace::Kind::Internal);
        span.cover(self.try_collect()).await
    }

    async fn try_collect(&mut self) -> Result<(), GcError> {
        let now = self.images.clock().mono();
        let began = self.record_time();
        let mut unused = self.look(now).await?;
        self.remove_old(&mut unused, now).await?;
        let (capacity, available) = self.disk().await?;
        if capacity == 0 {
            let error = GcError::NoCapacity;
            self.node_event("InvalidDiskCapacity", &error.to_string());
            return Err(error);
        }
        let Some((percent, wanted)) = self.to_free(capacity, available) else { return Ok(()) };
        let freed = self.remove_longest_unused(unused, wanted, now, began).await?;
        if freed < wanted {
            let error = GcError::Insufficient { percent, capacity: format_size(capacity), freed };
            self.node_event("FreeDiskSpaceFailed", &error.to_string());
            return Err(error);
        }
        Ok(())
    }

    /// For an eviction manager whose image filesystem runs full: everything that nobody uses.
    pub async fn remove_all_unused(&mut self) -> Result<u64, GcError> {
        let now = self.images.clock().mono();
        let began = self.record_time();
        let unused = self.look(now).await?;
        self.remove_longest_unused(unused, u64::MAX, now, began).await
    }

    /// To be taken before the images are listed: the record of an image pulled after that must stay, and its time has
    /// no fraction.
    fn record_time(&self) -> Timestamp {
        whole_second(self.images.clock().wall())
    }

    fn node_event(&self, reason: &str, text: &str) {
        self.images.events().node(EventType::Warning, reason, text);
    }

    /// Percent in use and bytes to free, once the high threshold is reached.
    fn to_free(&self, capacity: u64, available: u64) -> Option<(u64, u64)> {
        let available = available.min(capacity);
        let percent = 100 - available * 100 / capacity;
        let free_wanted = (u128::from(capacity) * u128::from(100 - self.policy.low_percent.min(100)) / 100) as u64;
        (percent >= self.policy.high_percent).then(|| (percent, free_wanted.saturating_sub(available)))
    }

    async fn disk(&self) -> Result<(u64, u64), GcError> {
        let info = self.images.cri().image_fs_info().await.map_err(GcError::ImageFs)?;
        let mountpoint = info.images.first().map(|f| f.mountpoint.clone()).unwrap_or_default();
        // Blocks where the file system hangs, so not on a thread that others need.
        let stats = tokio::task::spawn_blocking(move || fs_stats(Path::new(&mountpoint))).await;
        let stats = stats.expect("a measurement does not panic")?;
        Ok((stats.capacity, stats.available))
    }

    /// Updates what is known and lists what may go, longest unused first.
    async fn look(&mut self, now: Mono) -> Result<Vec<Unused>, GcError> {
        let cri = self.images.cri();
        let images = cri.list_images().await.map_err(GcError::List)?;
        let mut observed = cri.observe_all().await.map_err(GcError::Observe)?;
        // What can't be read may use any image.
        if let Some((_, error)) = observed.failed.pop() {
            return Err(GcError::Observe(error));
        }
        Ok(sort_out(&mut self.sightings, &images, &in_use(&observed.pods), now))
    }

    async fn remove_old(&mut self, unused: &mut Vec<Unused>, now: Mono) -> Result<(), GcError> {
        let Some(max_age) = self.policy.max_age.filter(|a| !a.is_zero()) else { return Ok(()) };
        // When images were used before the agent began is not known.
        if now.since(self.began) <= max_age {
            return Ok(());
        }
        let (old, young) = std::mem::take(unused).into_iter().partition(|i| is_older(i, self.began, now, max_age));
        *unused = young;
        self.remove(old, u64::MAX, "age").await.map(drop)
    }

    async fn remove_longest_unused(
        &mut self,
        unused: Vec<Unused>,
        wanted: u64,
        now: Mono,
        began: Timestamp,
    ) -> Result<u64, GcError> {
        let old_enough = unused.into_iter().filter(|i| now.since(i.seen.first_seen) >= self.policy.min_age);
        let freed = self.remove(old_enough.collect(), wanted, "space").await?;
        if let Some(records) = self.images.records() {
            let left: Vec<String> = self.sightings.keys().cloned().collect();
            records.prune(&left, began);
        }
        Ok(freed)
    }

    async fn remove(&mut self, images: Vec<Unused>, wanted: u64, reason: &str) -> Result<u64, GcError> {
        let (mut freed, mut errors) = (0, Vec::new());
        for image in images {
            if freed >= wanted {
                break;
            }
            tracing::info!(image = image.id, size = image.size, "removing an image that nobody uses");
            match self.images.cri().remove_image(&image.id).await {
                Ok(()) => {
                    freed += image.size;
                    self.sightings.remove(&image.id);
                    counters::COLLECTED.with_label_values(&[reason]).inc();
                }
                Err(e) => errors.push(e.to_string()),
            }
        }
        self.images.inventory().forget();
        if errors.is_empty() { Ok(freed) } else { Err(GcError::Remove { wanted, freed, errors }) }
    }
}

fn is_older(image: &Unused, began: Mono, now: Mono, max_age: Duration) -> bool {
    now.since(image.seen.last_used.unwrap_or(began)) > max_age
}

/// All that any container, running or not, names as its image or mounts.
fn in_use(pods: &[ObservedPod]) -> HashSet<&str> {
    let containers = pods.iter().flat_map(|p| &p.containers);
    containers
        .flat_map(|c| {
            let own = [c.image_id.as_str(), c.image.as_str()];
            own.into_iter().chain(c.mounts.iter().filter_map(|m| m.image.as_deref()))
        })
        .filter(|name| !name.is_empty())
        .collect()
}

fn sort_out(
    sightings: &mut HashMap<String, Sighting>,
    images: &[Image],
    in_use: &HashSet<&str>,
    now: Mono,
) -> Vec<Unused> {
    let present: HashSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
    sightings.retain(|id, _| present.contains(id.as_str()));
    let mut unused = Vec::new();
    for image in images {
        let new = Sighting { first_seen: now, last_used: None };
        let seen = sightings.entry(image.id.clone()).or_insert(new);
        let mut names = image.repo_digests.iter().chain(&image.repo_tags).chain([&image.id]);
        if names.any(|n| in_use.contains(n.as_str())) {
            seen.last_used = Some(now);
        } else if !image.pinned {
            unused.push(Unused { id: image.id.clone(), size: image.size_bytes, seen: *seen });
        }
    }
    unused.sort_by_key(|i| (i.seen.last_used, i.seen.first_seen));
    unused
}

/// `1.5 GiB`, as upstream's event prints it.
fn format_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Mono {
        Mono::from_secs(n)
    }

    fn image(id: &str) -> Image {
        Image { id: id.into(), size_bytes: 10, repo_digests: vec![format!("r@{id}")], ..Image::default() }
    }

    fn ids(unused: &[Unused]) -> Vec<&str> {
        unused.iter().map(|i| i.id.as_str()).collect()
    }

    #[test]
    fn used_and_pinned_images_stay_and_the_longest_unused_goes_first() {
        let mut sightings = HashMap::new();
        let pinned = Image { pinned: true, ..image("pause") };
        let all = [image("a"), image("b"), image("c"), pinned];
        let used: HashSet<&str> = ["r@a", "c"].into();
        assert_eq!(ids(&sort_out(&mut sightings, &all, &used, s(10))), ["b"]);
        let used: HashSet<&str> = ["c"].into();
        sort_out(&mut sightings, &all, &used, s(20));
        let unused = sort_out(&mut sightings, &all, &HashSet::new(), s(30));
        assert_eq!(ids(&unused), ["b", "a", "c"]);
        assert_eq!(unused[1].seen, Sighting { first_seen: s(10), last_used: Some(s(10)) });
    }

    #[test]
    fn an_image_that_comes_back_is_new() {
        let mut sightings = HashMap::new();
        sort_out(&mut sightings, &[image("a")], &HashSet::new(), s(1));
        sort_out(&mut sightings, &[], &HashSet::new(), s(2));
        let again = sort_out(&mut sightings, &[image("a")], &HashSet::new(), s(3));
        assert_eq!(again[0].seen.first_seen, s(3));
    }

    #[test]
    fn age_counts_from_the_last_use_or_the_agents_start() {
        let unused = |last_used| Unused { id: "a".into(), size: 1, seen: Sighting { first_seen: s(0), last_used } };
        let age = Duration::from_secs(100);
        assert!(is_older(&unused(None), s(0), s(101), age));
        assert!(!is_older(&unused(Some(s(50))), s(0), s(101), age));
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [(512, "512 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
