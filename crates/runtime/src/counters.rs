//! This crate's metrics.

use std::{collections::BTreeSet, sync::LazyLock};

use cri::ErrorClass;
use pod::mounts::ContainerMount;
use prometheus::{HistogramVec, IntCounter, IntCounterVec};

use crate::error::RuntimeError;

pub(crate) static STARTED_PODS: LazyLock<IntCounter> =
    LazyLock::new(|| metrics::counter("kubelet_started_pods_total", "Cumulative number of pods started"));
pub(crate) static STARTED_PODS_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods")
});
pub(crate) static STARTED_USERNS_PODS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    metrics::counter("kubelet_started_user_namespaced_pods_total", help)
});
/// Of sandboxes only: a container that can't be made afterwards counts as a container's error.
pub(crate) static STARTED_USERNS_PODS_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.";
    metrics::counter("kubelet_started_user_namespaced_pods_errors_total", help)
});
pub(crate) static STARTED_CONTAINERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of containers started";
    metrics::counters("kubelet_started_containers_total", help, &["container_type"])
});
pub(crate) static STARTED_CONTAINERS_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of errors when starting containers";
    metrics::counters("kubelet_started_containers_errors_total", help, &["container_type", "code"])
});
pub(crate) static RUN_SANDBOX_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.";
    let name = "kubelet_run_podsandbox_duration_seconds";
    metrics::histograms(name, help, &metrics::DEFAULT_BUCKETS, &["runtime_handler"])
});
pub(crate) static RUN_SANDBOX_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.";
    metrics::counters("kubelet_run_podsandbox_errors_total", help, &["runtime_handler"])
});
pub(crate) static HTTP_FALLBACKS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "The number of times lifecycle handlers successfully fell back to http from https.";
    metrics::counter("kubelet_lifecycle_handler_http_fallbacks_total", help)
});
static SLEEPS_CUT_SHORT: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "The number of times lifecycle sleep handler got terminated before it finishes";
    metrics::counter("kubelet_sleep_action_terminated_early_total", help)
});
static IMAGE_VOLUMES: LazyLock<IntCounter> =
    LazyLock::new(|| metrics::counter("kubelet_image_volume_requested_total", "Number of requested image volumes."));
static IMAGE_MOUNTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Number of successful image volume mounts.";
    metrics::counter("kubelet_image_volume_mounted_succeed_total", help)
});
static IMAGE_MOUNTS_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Number of failed image volume mounts.";
    metrics::counter("kubelet_image_volume_mounted_errors_total", help)
});

/// Counts a sleep that is dropped before its end.
pub(crate) struct Sleep(bool);

impl Sleep {
    pub(crate) fn begun() -> Self {
        Self(true)
    }

    pub(crate) fn over(mut self) {
        self.0 = false;
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.0 {
            SLEEPS_CUT_SHORT.inc();
        }
    }
}

/// Upstream's rule: only what the runtime marks as the failure of such a mount is one, of all mounts of the container;
/// whatever else keeps a container from starting leaves them mounted.
pub(crate) fn image_volumes<T>(mounts: &[ContainerMount], started: &Result<T, RuntimeError>) {
    let of_images: Vec<&str> = mounts.iter().filter(|m| m.image.is_some()).map(|m| m.name.as_str()).collect();
    IMAGE_VOLUMES.inc_by(of_images.iter().collect::<BTreeSet<_>>().len() as u64);
    let failed = matches!(started, Err(RuntimeError::CreateContainer(e)) if e.class() == Some(ErrorClass::ImageVolumeMountFailed));
    let mounted = if failed { &IMAGE_MOUNTS_ERRORS } else { &IMAGE_MOUNTS };
    mounted.inc_by(of_images.len() as u64);
}

/// So that these are shown before there is anything to count.
pub(crate) fn show() {
    LazyLock::force(&STARTED_PODS);
    LazyLock::force(&STARTED_PODS_ERRORS);
    LazyLock::force(&HTTP_FALLBACKS);
    LazyLock::force(&STARTED_USERNS_PODS);
    LazyLock::force(&STARTED_USERNS_PODS_ERRORS);
    LazyLock::force(&SLEEPS_CUT_SHORT);
    LazyLock::force(&IMAGE_VOLUMES);
    LazyLock::force(&IMAGE_MOUNTS);
    LazyLock::force(&IMAGE_MOUNTS_ERRORS);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_ends_is_not_counted_and_one_cut_short_is() {
        let before = SLEEPS_CUT_SHORT.get();
        Sleep::begun().over();
        assert_eq!(SLEEPS_CUT_SHORT.get(), before);
        let sleeping = async {
            let _sleep = Sleep::begun();
            std::future::pending::<()>().await;
        };
        assert!(tokio::time::timeout(Duration::from_secs(1), sleeping).await.is_err());
        assert_eq!(SLEEPS_CUT_SHORT.get(), before + 1);
    }

    #[test]
    fn an_image_volume_counts_once_for_its_volume_and_once_a_mount() {
        let of = |name: &str, image: Option<&str>| ContainerMount {
            name: name.to_owned(),
            image: image.map(str::to_owned),
            ..ContainerMount::default()
        };
        let mounts = [of("data", Some("a")), of("data", Some("a")), of("plain", None)];
        let failed = |message: &str| -> Result<(), RuntimeError> {
            Err(RuntimeError::CreateContainer(cri::CriError {
                operation: "create_container",
                object: String::new(),
                code: cri::Code::Unknown,
                message: message.to_owned(),
            }))
        };
        let before = (IMAGE_VOLUMES.get(), IMAGE_MOUNTS.get(), IMAGE_MOUNTS_ERRORS.get());
        image_volumes(&mounts, &Ok(()));
        image_volumes(&mounts, &failed("ImageVolumeMountFailed: no such image"));
        image_volumes(&mounts, &failed("no space left"));
        let after = (IMAGE_VOLUMES.get(), IMAGE_MOUNTS.get(), IMAGE_MOUNTS_ERRORS.get());
        assert_eq!(after, (before.0 + 3, before.1 + 4, before.2 + 2));
    }
}
