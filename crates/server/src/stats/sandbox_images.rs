//! The images of sandboxes. The CRI has no field for them: runtimes tell them only to who asks for all they know, so each
//! is asked for once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use cri::Cri;
use pod::SandboxId;
use serde::Deserialize;

pub type Images = HashMap<SandboxId, Arc<str>>;

/// Of the sandboxes that were shown last.
#[derive(Default)]
pub struct SandboxImages(Mutex<Images>);

impl SandboxImages {
    /// Empty for a sandbox of which the runtime tells none.
    pub async fn of(&self, cri: &Cri, sandboxes: HashSet<&SandboxId>) -> Images {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.retain(|id, _| sandboxes.contains(id));
        for id in sandboxes {
            if !known.contains_key(id) {
                let image = cri.sandbox_info(id).await.ok().as_deref().and_then(image).unwrap_or_default();
                // Most often one for all.
                let same = known.values().find(|known| ***known == *image).cloned();
                known.insert(id.clone(), same.unwrap_or_else(|| image.into()));
            }
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&known);
        known
    }
}

/// As containerd and CRI-O have it.
fn image(info: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        image: String,
    }
    serde_json::from_str::<Info>(info).ok().map(|info| info.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_one_of_many_fields() {
        let info = r#"{"pid": 7, "image": "registry.k8s.io/pause:3.10", "runtimeSpec": {"process": {}}}"#;
        assert_eq!(image(info).as_deref(), Some("registry.k8s.io/pause:3.10"));
        assert_eq!((image("{}"), image("")), (None, None));
    }
}
