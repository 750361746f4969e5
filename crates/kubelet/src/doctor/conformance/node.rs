//! Calls that are about no pod: the runtime itself, and its images.

use cri::{CgroupDriver, Cri, Image, PullRequest};
use pod::{PodKey, PodUid};
use serde_json::json;

use super::{
    calls,
    pods::{OWN, Place, TestPod},
    report::{Checked, Fault, Report, unexpected},
};

/// Tries of images until one has a shell.
const CANDIDATES: usize = 10;
/// Parts of the names of images that have one, most likely first.
const WITH_SHELL: [&str; 6] = ["busybox", "alpine", "agnhost", "toybox", "debian", "ubuntu"];

/// False where nothing else can be tried.
pub(super) async fn runtime(cri: &Cri, report: &mut Report) -> bool {
    let version = cri.version().await.map_err(Into::into);
    let text = |v: cri::Version| format!("{} {}, CRI {}", v.runtime_name, v.runtime_version, v.runtime_api_version);
    if !report.add(calls::VERSION, version.map(text)) {
        return false;
    }
    report.add(calls::STATUS, status(cri).await);
    // With no CIDR it changes nothing.
    report.add(calls::UPDATE_RUNTIME_CONFIG, cri.update_runtime_config("").await.map(|()| "").map_err(Into::into));
    report.add(calls::IMAGE_FS_INFO, image_filesystems(cri).await);
    true
}

async fn status(cri: &Cri) -> Checked {
    let status = cri.status().await?;
    for (name, condition) in [("runtime", &status.runtime), ("network", &status.network)] {
        if !condition.ready {
            return unexpected(format!("{name} not ready: {} {}", condition.reason, condition.message));
        }
    }
    let names: Vec<&str> =
        status.handlers.iter().map(|h| if h.name.is_empty() { "default" } else { &h.name }).collect();
    Ok(format!("runtime and network are ready; runtime handlers told: {}", names.join(", ")))
}

/// The driver that counts: the runtime's, or `configured` where it does not tell.
pub(super) async fn cgroup_driver(cri: &Cri, configured: &str, report: &mut Report) -> CgroupDriver {
    let told = cri.runtime_config().await;
    let driver = match &told {
        Ok(driver) => *driver,
        Err(_) if configured == "systemd" => CgroupDriver::Systemd,
        Err(_) => CgroupDriver::Cgroupfs,
    };
    let text =
        |d: CgroupDriver| format!("cgroup driver {}", if d == CgroupDriver::Systemd { "systemd" } else { "cgroupfs" });
    report.add(calls::RUNTIME_CONFIG, told.map(text).map_err(Into::into));
    driver
}

pub(super) async fn unknown_handler(place: &Place) -> Checked {
    let pod = TestPod::new(place, "handler", &json!({"containers": [{"name": "main", "image": "any"}]}));
    let pod = pod.map_err(|error| Fault::Unexpected(error.to_string()))?;
    match pod.run_sandbox_by(&format!("{OWN}-none")).await {
        Ok(_) => unexpected("a sandbox was made by a handler that does not exist"),
        Err(Fault::Cri(error)) if error.is_unavailable() || error.is_deadline() => Err(error.into()),
        Err(_) => Ok("refused".to_owned()),
    }
}

async fn image_filesystems(cri: &Cri) -> Checked {
    let found = cri.image_fs_info().await?;
    match found.images.first() {
        Some(images) if !images.mountpoint.is_empty() => Ok(format!("images are in {}", images.mountpoint)),
        _ => unexpected("no image filesystem told"),
    }
}

/// What the pods may run.
#[derive(Default)]
pub(super) struct Images {
    /// Best first.
    pub candidates: Vec<Image>,
    /// One that was not here before this check.
    pub pulled: Option<Image>,
}

/// The image asked for, which is pulled if need be, or else what is here.
pub(super) async fn images(cri: &Cri, asked: Option<&str>, report: &mut Report) -> Images {
    let listed = match cri.list_images().await {
        Ok(listed) => listed,
        Err(error) => {
            report.add(calls::LIST_IMAGES, Err::<&str, _>(error.into()));
            return Images::default();
        }
    };
    report.add(calls::LIST_IMAGES, Ok(format!("{} images", listed.len())));
    let found = match asked {
        Some(name) => {
            let present = present(cri, name, report).await;
            // One that was here by another name would go with all its names.
            let pulled = present.clone().filter(|image| listed.iter().all(|before| before.id != image.id));
            Images { candidates: present.into_iter().collect(), pulled }
        }
        None => {
            report.not_tried(calls::PULL_IMAGE, "no --image was given");
            Images { candidates: likely_first(listed), pulled: None }
        }
    };
    if let Some(first) = found.candidates.first() {
        report.add(calls::IMAGE_STATUS, image_status(cri, first).await);
    }
    found
}

/// After the pods that ran it.
pub(super) async fn remove_image(cri: &Cri, pulled: Option<&Image>, report: &mut Report) {
    match pulled {
        Some(image) => _ = report.add(calls::REMOVE_IMAGE, removed(cri, image).await),
        None => {
            report.not_tried(calls::REMOVE_IMAGE, "no image came for this check; name one by --image that is not here")
        }
    }
}

async fn removed(cri: &Cri, image: &Image) -> Checked {
    cri.remove_image(&image.id).await?;
    match cri.image_status(&image.id).await? {
        None => Ok(format!("{}, which was pulled for this check", name(image))),
        Some(_) => unexpected(format!("{} is still there", name(image))),
    }
}

async fn image_status(cri: &Cri, known: &Image) -> Checked {
    if cri.image_status(&format!("{OWN}.invalid/nothing:1")).await?.is_some() {
        return unexpected("an image that does not exist has a status");
    }
    match cri.image_status(&known.id).await? {
        Some(found) if found.id == known.id => Ok(format!("{} as {}", name(known), short(&found.id))),
        _ => unexpected(format!("{} is listed and has no status", name(known))),
    }
}

async fn present(cri: &Cri, image: &str, report: &mut Report) -> Option<Image> {
    if let Ok(Some(found)) = cri.image_status(image).await {
        report.not_tried(calls::PULL_IMAGE, "the image is here already; name one by --image that is not");
        return Some(found);
    }
    let (uid, key) = (PodUid::new(format!("{OWN}-pull")), PodKey::new(OWN, "pull"));
    let annotations = Default::default();
    let request = PullRequest { image, credentials: None, uid: &uid, key: &key, annotations, runtime_handler: "" };
    let pulled = cri.pull_image(request).await;
    report.add(calls::PULL_IMAGE, pulled.map(|id| format!("{image} as {}", short(&id))).map_err(Into::into));
    cri.image_status(image).await.ok().flatten()
}

/// Images without a name are layers of others, or on their way out.
fn likely_first(mut images: Vec<Image>) -> Vec<Image> {
    let rank = |image: &Image| WITH_SHELL.iter().position(|part| name(image).contains(part)).unwrap_or(usize::MAX);
    images.retain(|image| !image.repo_tags.is_empty());
    images.sort_by_key(|image| (rank(image), image.size_bytes));
    images.truncate(CANDIDATES);
    images
}

pub(super) fn name(image: &Image) -> &str {
    image.repo_tags.first().map_or(&image.id, String::as_str)
}

fn short(id: &str) -> &str {
    id.get(..19).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testing::FakeCri;

    use super::*;

    const NEW: &str = "reg.io/new:1";

    async fn checked(fake: &FakeCri, image: &str) -> Report {
        let cri = Cri::connect(&fake.endpoint(), "", Duration::from_secs(10)).unwrap();
        let mut report = Report::default();
        let found = images(&cri, Some(image), &mut report).await;
        remove_image(&cri, found.pulled.as_ref(), &mut report).await;
        assert_eq!(cri.list_images().await.unwrap().len(), 1, "the node's own stays, and nothing else");
        report
    }

    #[tokio::test]
    async fn only_an_image_that_was_not_here_is_pulled_and_removed() {
        let fake = FakeCri::start();
        fake.add_image("reg.io/here:1");
        let tried = checked(&fake, NEW).await.summary();
        // ListImages, PullImage, ImageStatus, RemoveImage.
        assert!(tried.starts_with("the runtime fits: 4 checks ok"), "{tried}");
        let not_tried = checked(&fake, "reg.io/here:1").await.summary();
        assert!(not_tried.starts_with("the runtime fits: 2 checks ok"), "{not_tried}");
    }

    #[tokio::test]
    async fn a_runtime_that_does_not_remove_an_image_does_not_fit() {
        let fake = FakeCri::start();
        fake.fail_next("remove_image", cri::Code::Internal, "in use");
        assert!(!checked(&fake, NEW).await.fits());
    }

    #[test]
    fn images_that_are_known_to_have_a_shell_come_first_and_then_small_ones() {
        let image = |tag: &str, size_bytes| Image {
            id: format!("sha256:{tag}"),
            repo_tags: vec![tag.to_owned()],
            size_bytes,
            ..Image::default()
        };
        let nameless = Image { id: "sha256:0".into(), ..Image::default() };
        let all = vec![image("big:1", 900), nameless, image("pause:3", 1), image("x/busybox:1", 500)];
        let names: Vec<String> = likely_first(all).iter().map(|i| name(i).to_owned()).collect();
        assert_eq!(names, ["x/busybox:1", "pause:3", "big:1"]);
    }
}
