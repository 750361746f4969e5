//! The images that the node has, for its status: listed on demand, kept for half a minute.

use std::{sync::Mutex, time::Duration};

use cri::{Cri, Image};
use host::Clock;
use pod::{Mono, api::ContainerImage};

const FRESH: Duration = Duration::from_secs(30);
const NAMES_PER_IMAGE: usize = 5;

#[derive(Debug)]
pub(crate) struct Inventory {
    cri: Cri,
    clock: Clock,
    limit: Option<usize>,
    cached: Mutex<Option<Listed>>,
}

#[derive(Clone, Debug)]
struct Listed {
    at: Mono,
    stale: bool,
    images: Vec<ContainerImage>,
}

impl Inventory {
    pub fn new(cri: Cri, clock: Clock, limit: Option<usize>) -> Self {
        Self { cri, clock, limit, cached: Mutex::default() }
    }

    /// Largest first. What was last known, where the runtime does not answer.
    pub async fn for_node_status(&self) -> Vec<ContainerImage> {
        let now = self.clock.mono();
        let cached = self.cached.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let fresh = |l: &Listed| !l.stale && now.since(l.at) < FRESH;
        if let Some(listed) = cached.as_ref().filter(|l| fresh(l)) {
            return listed.images.clone();
        }
        match self.cri.list_images().await {
            Ok(images) => {
                let images = describe(&images, self.limit);
                let listed = Listed { at: now, stale: false, images: images.clone() };
                *self.cached.lock().unwrap_or_else(|e| e.into_inner()) = Some(listed);
                images
            }
            Err(e) => {
                tracing::warn!(error = %e, "can't list images for the node's status");
                cached.map(|l| l.images).unwrap_or_default()
            }
        }
    }

    /// An image came or went.
    pub fn forget(&self) {
        if let Some(listed) = &mut *self.cached.lock().unwrap_or_else(|e| e.into_inner()) {
            listed.stale = true;
        }
    }
}

fn describe(images: &[Image], limit: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    let entry = |i: &&Image| ContainerImage {
        names: Some(i.repo_digests.iter().chain(&i.repo_tags).take(NAMES_PER_IMAGE).cloned().collect()),
        size_bytes: i64::try_from(i.size_bytes).ok(),
    };
    sorted.iter().take(limit.unwrap_or(sorted.len())).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64, tags: usize) -> Image {
        Image {
            id: format!("i{size}"),
            size_bytes: size,
            repo_digests: vec![format!("r@{size}")],
            repo_tags: (0..tags).map(|t| format!("r:{t}")).collect(),
            ..Image::default()
        }
    }

    #[test]
    fn the_largest_images_come_first_with_a_few_names_each() {
        let images = [image(1, 1), image(3, 9), image(2, 0)];
        let got = describe(&images, Some(2));
        assert_eq!(got.iter().map(|i| i.size_bytes.unwrap()).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(got[0].names.as_ref().unwrap().len(), 5);
        assert_eq!(got[1].names, Some(vec!["r@2".to_owned()]));
        assert_eq!(describe(&images, None).len(), 3);
    }
}
