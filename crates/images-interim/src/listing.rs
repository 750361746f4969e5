//! The images of the node's status: the largest ones, asked for on demand.

use std::time::Duration;

use cri::{Cri, Image};
use host::Clock;
use pod::{Mono, api::ContainerImage};
use tokio::sync::Mutex;

const FRESH: Duration = Duration::from_secs(60);
const MAX_NAMES: usize = 5;

pub(crate) struct Listing {
    max: Option<usize>,
    last: Mutex<Option<(Mono, Vec<ContainerImage>)>>,
}

impl Listing {
    pub fn new(max: Option<usize>) -> Self {
        Self { max, last: Mutex::default() }
    }

    pub async fn get(&self, cri: &Cri, clock: Clock) -> Vec<ContainerImage> {
        let mut last = self.last.lock().await;
        if let Some((at, images)) = &*last
            && clock.mono().since(*at) < FRESH
        {
            return images.clone();
        }
        match cri.list_images().await {
            Ok(images) => {
                let listed = for_status(images, self.max);
                *last = Some((clock.mono(), listed.clone()));
                listed
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list images for the node's status");
                last.as_ref().map(|(_, images)| images.clone()).unwrap_or_default()
            }
        }
    }
}

fn for_status(mut images: Vec<Image>, max: Option<usize>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images.truncate(max.unwrap_or(usize::MAX));
    images
        .into_iter()
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect();
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size_bytes).ok() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_images_come_first_and_digests_before_tags() {
        let image = |id: &str, size_bytes| Image {
            id: id.into(),
            size_bytes,
            repo_tags: vec![format!("{id}:1")],
            repo_digests: vec![format!("{id}@sha256:0")],
            ..Image::default()
        };
        let listed = for_status(vec![image("a", 1), image("b", 3), image("c", 2)], Some(2));
        let names: Vec<_> = listed.iter().map(|i| i.names.clone().unwrap()).collect();
        assert_eq!(names, [["b@sha256:0", "b:1"], ["c@sha256:0", "c:1"]]);
    }
}
