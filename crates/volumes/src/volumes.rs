//! The handle that pod workers hold.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use host::{Clock, HostError, RootDir};
use metrics::volumes::World;
use pod::{DesiredPod, Mono, PodUid, mounts::ContainerMount, quantity::ApiList};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    task::JoinHandle,
};

use crate::{
    container_mounts::{self, MountsFor, Planned},
    counted, disk,
    error::{Cause, VolumeError},
    mounted::MountedVolumes,
    prepare::{Which, prepare},
    refresh,
    registry::{Locks, Registry},
    sources::{Api, Sources},
    sub_path::SubPathError,
    tokens::Tokens,
};

pub struct VolumesConfig {
    pub root: RootDir,
    pub clock: Clock,
    /// None in standalone mode: volumes whose content lives in the API server are refused.
    pub api: Option<Api>,
    /// What the node can give to pods, asked for at each mount.
    pub node_allocatable: Arc<dyn Fn() -> ApiList + Send + Sync>,
}

/// Cheap to clone. The refresh task ends with the last clone.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<Inner>,
    refresh: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

pub(crate) struct Inner {
    root: RootDir,
    pub clock: Clock,
    pub api: Option<Api>,
    node_allocatable: Arc<dyn Fn() -> ApiList + Send + Sync>,
    tokens: Tokens,
    registry: Mutex<Registry>,
    /// Rung when the registry has a new time to wait for.
    pub rescheduled: Notify,
    selinux: bool,
}

impl Volumes {
    /// Starts the refresh task: needs a running tokio runtime.
    pub fn new(config: VolumesConfig) -> Self {
        let VolumesConfig { root, clock, api, node_allocatable } = config;
        let inner = Arc::new(Inner {
            root,
            clock,
            api,
            node_allocatable,
            tokens: Tokens::default(),
            registry: Mutex::default(),
            rescheduled: Notify::new(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        });
        let refresh = tokio::spawn(refresh::run(inner.clone()));
        Self { shared: Arc::new(Shared { inner, refresh }) }
    }

    /// Puts all volumes of the pod in place that some container mounts, and keeps their files current until `unmount`.
    /// To be called again whenever the pod changes. May be dropped at any point and called again; what is in place
    /// stays.
    pub async fn mount(&self, pod: &DesiredPod) -> Result<MountedVolumes, VolumeError> {
        self.shared.inner.update(pod, Which::All, true).await
    }

    /// A newer version of a mounted pod that changes nothing in its volumes; the older one need not be kept.
    pub fn renew(&self, pod: &DesiredPod) {
        self.shared.inner.registry().renew(pod);
    }

    /// Takes down all volumes of the pod: subPath binds, tmpfs and other mounts, directories, tokens. What its dead
    /// containers left (termination logs, /etc/hosts) stays. No error when there is nothing.
    pub async fn unmount(&self, uid: &PodUid) -> Result<(), VolumeError> {
        self.shared.inner.take_down(uid, disk::tear_down).await
    }

    /// `unmount`, and removes the pod's directory with all that is in it.
    pub async fn remove_pod(&self, uid: &PodUid) -> Result<(), VolumeError> {
        self.shared.inner.take_down(uid, disk::remove_pod).await
    }

    /// The container's mounts in the order of its volumeMounts, without /etc/hosts and the termination log. Binds its
    /// subPaths. Everything but that is decided before the future is returned.
    pub fn container_mounts(
        &self,
        of: MountsFor<'_>,
    ) -> impl Future<Output = Result<Vec<ContainerMount>, VolumeError>> + Send + use<> {
        let inner = self.shared.inner.clone();
        let planned = container_mounts::plan(&of, &inner.root, inner.selinux);
        let (uid, container) = (of.pod.uid.clone(), of.container.name.clone());
        async move { inner.bind_sub_paths(&uid, container, planned?).await }
    }

    /// Pods that have a directory on this node.
    pub fn leftovers(&self) -> Result<Vec<PodUid>, VolumeError> {
        self.shared.inner.root.pod_uids().map_err(|e| VolumeError::PodDirectory { cause: e.into() })
    }

    /// Whether anything of the pod's volumes is still on disk or mounted.
    pub async fn has_volumes(&self, uid: &PodUid) -> Result<bool, VolumeError> {
        let (root, uid) = (self.shared.inner.root.clone(), uid.clone());
        let found = blocking(None, move || disk::has_volumes(&root, &uid)).await;
        found.map_err(|cause| VolumeError::PodDirectory { cause })
    }
}

/// Runs on a blocking thread to the end even if nobody waits any more; the lock is held until then.
async fn blocking<T: Send + 'static>(
    lock: Option<OwnedMutexGuard<()>>,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Cause> {
    let locked = move || {
        let _until_done = lock;
        work()
    };
    tokio::task::spawn_blocking(locked).await.map_err(Cause::Task)?.map_err(Cause::Host)
}

impl Inner {
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no panic while the registry is locked")
    }

    fn enter(&self, pod: &DesiredPod) -> Locks {
        let mut registry = self.registry();
        if !registry.is_open(&pod.uid) {
            counted::count(pod, World::Desired, 1);
        }
        registry.enter(pod, self.clock.mono())
    }

    /// The pod as it was kept until now.
    fn close(&self, uid: &PodUid) -> (Locks, Option<DesiredPod>) {
        let mut registry = self.registry();
        let (pod, was_mounted) = (registry.pod(uid), registry.is_mounted(uid));
        if let Some(pod) = &pod {
            counted::count(pod, World::Desired, -1);
            counted::count(pod, World::Actual, -i64::from(was_mounted));
        }
        (registry.close(uid), pod)
    }

    /// Collects the files and puts them in place. `enter` makes the pod one that is kept current.
    pub async fn update(&self, pod: &DesiredPod, which: Which, enter: bool) -> Result<MountedVolumes, VolumeError> {
        let locks = if enter { self.enter(pod) } else { self.registry().locks(&pod.uid) };
        let _update = locks.update.lock_owned().await;
        if enter && let Some(api) = &self.api {
            api.objects.hold_pod(pod);
        }
        let began = self.clock.mono();
        let outcome = self.collect_and_set_up(pod, which, locks.disk).await;
        let now = self.clock.mono();
        if which == Which::All {
            counted::mounted(pod, outcome.as_ref().map(drop), now.since(began));
        }
        match &outcome {
            Ok((_, renew_at)) => {
                let wanted_since = self.registry().succeeded(&pod.uid, *renew_at);
                if let Some(since) = wanted_since {
                    counted::count(pod, World::Actual, 1);
                    counted::all_in_place(pod, now.since(since));
                }
            }
            // A worker calls again after a failed mount by itself.
            Err(_) if enter => {}
            Err(_) => self.registry().failed(&pod.uid, now),
        }
        self.rescheduled.notify_one();
        outcome.map(|(mounted, _)| mounted)
    }

    async fn collect_and_set_up(
        &self,
        pod: &DesiredPod,
        which: Which,
        disk: Arc<tokio::sync::Mutex<()>>,
    ) -> Result<(MountedVolumes, Option<Mono>), VolumeError> {
        let allocatable = (self.node_allocatable)();
        let sources = Sources::new(self.api.as_ref(), &self.tokens, self.clock, pod, allocatable);
        let (mut steps, mut errors) = (Vec::new(), Vec::new());
        for prepared in prepare(&self.root, &sources, which).await {
            match prepared {
                Ok(step) => steps.push(step),
                Err(error) => errors.push(error),
            }
        }
        let renew_at = steps.iter().filter_map(|s| s.renew_at).min();
        let extra_groups = steps.iter().filter_map(|s| s.extra_group).collect();
        let mut mounted = MountedVolumes { extra_groups, ..MountedVolumes::default() };

        let guard = disk.lock_owned().await;
        if !self.registry().is_open(&pod.uid) {
            let cause = Cause::TakenDown;
            return Err(VolumeError::PodDirectory { cause });
        }
        let (root, uid, wall) = (self.root.clone(), pod.uid.clone(), self.clock.wall());
        let done = blocking(Some(guard), move || disk::set_up(&root, &uid, steps, wall)).await;
        for volume in done.map_err(|cause| VolumeError::PodDirectory { cause })? {
            match volume {
                Ok(volume) => drop(mounted.volumes.insert(volume.name.clone(), volume)),
                Err(error) => errors.push(error),
            }
        }
        VolumeError::collected(errors).map_or(Ok((mounted, renew_at)), Err)
    }

    async fn take_down(
        &self,
        uid: &PodUid,
        work: fn(&RootDir, &PodUid) -> Result<(), HostError>,
    ) -> Result<(), VolumeError> {
        let (locks, pod) = self.close(uid);
        let guard = locks.disk.lock_owned().await;
        let began = self.clock.mono();
        let (root, of) = (self.root.clone(), uid.clone());
        let done = blocking(Some(guard), move || work(&root, &of)).await;
        if let Some(pod) = pod {
            counted::taken_down(&pod, done.is_ok(), self.clock.mono().since(began));
        }
        done.map_err(|cause| VolumeError::TearDown { cause })?;
        self.tokens.forget(uid);
        if let Some(api) = &self.api {
            api.objects.release(uid);
        }
        self.registry().forget(uid);
        Ok(())
    }

    async fn bind_sub_paths(
        &self,
        uid: &PodUid,
        container: String,
        planned: Vec<Planned>,
    ) -> Result<Vec<ContainerMount>, VolumeError> {
        let mounts = planned.iter().map(|p| p.mount.clone()).collect();
        let binds: Vec<_> = planned.into_iter().filter_map(|p| Some((p.mount.name, p.sub_path?))).collect();
        if binds.is_empty() {
            return Ok(mounts);
        }
        let disk = self.registry().locks(uid).disk;
        let guard = disk.lock_owned().await;
        let bound = blocking(Some(guard), move || {
            Ok(binds.iter().try_for_each(|(mount, sub_path)| {
                sub_path.set_up().map_err(|error| sub_path_error(mount, &container, error))
            }))
        });
        bound.await.map_err(|cause| VolumeError::PodDirectory { cause })??;
        Ok(mounts)
    }
}

/// The pod learns which step failed; what stood in the way goes to the log only.
fn sub_path_error(mount: &str, container: &str, error: SubPathError) -> VolumeError {
    let (mount, container) = (mount.to_owned(), container.to_owned());
    let (cause, shown) = match error {
        SubPathError::Directory(cause) => (cause, VolumeError::SubPathDirectory { mount, container }),
        SubPathError::Prepare(cause) => (cause, VolumeError::SubPath { mount, container }),
    };
    tracing::warn!(error = apiserver::with_causes(&cause), "{shown}");
    shown
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
