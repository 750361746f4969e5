//! The image service.

use std::{collections::BTreeMap, fmt};

use api_types::runtime::v1::{
    self as v1, AuthConfig, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest, PodSandboxConfig,
    PodSandboxMetadata, PullImageRequest, RemoveImageRequest,
};
use pod::{PodKey, PodUid};

use crate::{Cri, call::call, error::CriError, error::Result};

/// An image that the runtime has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub size_bytes: u64,
    /// The user it declares: a number, or else a name; neither means root.
    pub uid: Option<i64>,
    pub username: String,
    /// Never to be collected.
    pub pinned: bool,
    pub runtime_handler: String,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    /// Never prints a secret: errors and requests end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// What to pull, and for whom: some runtimes choose by the pod's namespace, annotations or runtime class.
#[derive(Clone, Debug)]
pub struct PullRequest<'a> {
    pub image: &'a str,
    pub credentials: Option<Credentials>,
    pub uid: &'a PodUid,
    pub key: &'a PodKey,
    pub annotations: BTreeMap<String, String>,
    /// Of the pod's runtime class; empty for the default one.
    pub runtime_handler: &'a str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFilesystems {
    pub images: Vec<FilesystemUsage>,
    /// Where containers' own layers are; empty means with the images.
    pub containers: Vec<FilesystemUsage>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
    /// Nanoseconds since 1970, on the runtime's clock.
    pub taken_at: i64,
}

impl Cri {
    pub async fn list_images(&self) -> Result<Vec<Image>> {
        let mut client = self.images.clone();
        let request = ListImagesRequest { filter: None };
        let reply = call("list_images", "all", self.timeout, client.list_images(request)).await?;
        Ok(reply.images.into_iter().map(image).collect())
    }

    /// None when it is not present.
    pub async fn image_status(&self, image_ref: &str) -> Result<Option<Image>> {
        const OPERATION: &str = "image_status";
        let mut client = self.images.clone();
        let request = ImageStatusRequest { image: Some(spec(image_ref)), verbose: false };
        let reply = call(OPERATION, image_ref, self.timeout, client.image_status(request)).await?;
        let Some(found) = reply.image else { return Ok(None) };
        if found.id.is_empty() {
            return Err(CriError::incomplete(OPERATION, image_ref, "image id"));
        }
        Ok(Some(image(found)))
    }

    /// The reference by which containers are to name it. Takes as long as it takes; drop the future to cancel.
    pub async fn pull_image(&self, pull: PullRequest<'_>) -> Result<String> {
        const OPERATION: &str = "pull_image";
        let mut client = self.images.clone();
        let object = pull.image;
        let reply = call(OPERATION, object, None, client.pull_image(pull_request(pull))).await?;
        if reply.image_ref.is_empty() {
            return Err(CriError::incomplete(OPERATION, object, "image reference"));
        }
        Ok(reply.image_ref)
    }

    /// Succeeds where it is not present.
    pub async fn remove_image(&self, image_ref: &str) -> Result<()> {
        let mut client = self.images.clone();
        let request = RemoveImageRequest { image: Some(spec(image_ref)) };
        call("remove_image", image_ref, self.timeout, client.remove_image(request)).await.map(drop)
    }

    pub async fn image_fs_info(&self) -> Result<ImageFilesystems> {
        let mut client = self.images.clone();
        let reply = call("image_fs_info", "all", self.timeout, client.image_fs_info(ImageFsInfoRequest {})).await?;
        Ok(ImageFilesystems {
            images: reply.image_filesystems.into_iter().map(usage).collect(),
            containers: reply.container_filesystems.into_iter().map(usage).collect(),
        })
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn pull_request(pull: PullRequest<'_>) -> PullImageRequest {
    let image = ImageSpec {
        image: pull.image.to_owned(),
        annotations: pull.annotations.clone(),
        runtime_handler: pull.runtime_handler.to_owned(),
        ..Default::default()
    };
    let metadata = PodSandboxMetadata {
        name: pull.key.name.to_string(),
        namespace: pull.key.namespace.to_string(),
        uid: pull.uid.to_string(),
        attempt: 0,
    };
    let sandbox_config =
        PodSandboxConfig { metadata: Some(metadata), annotations: pull.annotations, ..Default::default() };
    let auth = pull.credentials.map(|c| AuthConfig {
        username: c.username,
        password: c.password,
        auth: c.auth,
        server_address: c.server_address,
        identity_token: c.identity_token,
        registry_token: c.registry_token,
    });
    PullImageRequest { image: Some(image), auth, sandbox_config: Some(sandbox_config) }
}

fn image(i: v1::Image) -> Image {
    Image {
        id: i.id,
        repo_tags: i.repo_tags,
        repo_digests: i.repo_digests,
        size_bytes: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
        pinned: i.pinned,
        runtime_handler: i.spec.map(|s| s.runtime_handler).unwrap_or_default(),
    }
}

fn usage(u: v1::FilesystemUsage) -> FilesystemUsage {
    FilesystemUsage {
        mountpoint: u.fs_id.map(|f| f.mountpoint).unwrap_or_default(),
        used_bytes: u.used_bytes.map(|v| v.value).unwrap_or_default(),
        inodes_used: u.inodes_used.map(|v| v.value).unwrap_or_default(),
        taken_at: u.timestamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_print_themselves() {
        let c = Credentials { password: "hunter2".into(), username: "me".into(), ..Default::default() };
        let wire = AuthConfig { password: "hunter2".into(), registry_token: "t0k".into(), ..Default::default() };
        let text = format!("{c:?} {wire:?}");
        assert!(!text.contains("hunter2") && !text.contains("t0k"), "{text}");
    }
}
