//! Taking away what a pod leaves: volumes, cgroup, dead containers, sandboxes, logs, directories.

use std::collections::HashSet;

use futures::FutureExt;
use pod::{
    ContainerId, ContainerState, DesiredPod, ObservedContainer, ObservedPod, ObservedSandbox, PodUid, reason::event,
};
use runtime::StopRequest;
use tokio::sync::watch;

use crate::{
    actions::relist,
    in_flight::{Done, Failure},
    parts::Parts,
};

/// `entirely`: the pod is being deleted, so that its dead containers and their logs go too.
pub(crate) async fn clean_up(parts: Parts, desired: DesiredPod, entirely: bool) -> Done {
    Done::Cleaned(try_clean_up(&parts, &desired, entirely).await)
}

async fn try_clean_up(parts: &Parts, desired: &DesiredPod, entirely: bool) -> Result<(), Failure> {
    let uid = &desired.uid;
    if entirely {
        let look = parts.pleg.relist(uid).await.map_err(|e| failed("the runtime does not answer", e))?;
        remove_from_runtime(parts, desired, &look).await?;
        parts.volumes.remove_pod(uid).boxed().await.map_err(|e| failed("volumes", e))?;
        relist(parts, desired).await;
    } else {
        parts.volumes.unmount(uid).boxed().await.map_err(|e| failed("volumes", e))?;
    }
    parts.cgroups.remove_pod(uid).boxed().await.map_err(|e| failed("cgroup", e))?;
    if entirely {
        parts.runtime.remove_logs(&desired.key, uid);
    }
    Ok(())
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new("FailedCleanUp", format!("cannot take down the pod's {what}: {error}"))
}

async fn remove_from_runtime(parts: &Parts, desired: &DesiredPod, observed: &ObservedPod) -> Result<(), Failure> {
    for container in &observed.containers {
        let removed = parts.runtime.remove_container(&desired.key, container).await;
        removed.map_err(|e| failed("containers", e))?;
    }
    for sandbox in &observed.sandboxes {
        let stopped = parts.runtime.stop_sandbox(&sandbox.id).await;
        stopped.map_err(|e| failed("sandbox", e))?;
        let removed = parts.runtime.remove_sandbox(&sandbox.id).await;
        removed.map_err(|e| failed("sandbox", e))?;
    }
    Ok(())
}

/// Dead containers and sandboxes of a living pod that newer ones have replaced.
pub(crate) async fn prune(
    parts: Parts,
    desired: DesiredPod,
    containers: Vec<ObservedContainer>,
    sandboxes: Vec<ObservedSandbox>,
) -> Done {
    let mut all = true;
    for container in &containers {
        if let Err(error) = parts.runtime.remove_container(&desired.key, container).await {
            tracing::warn!(pod = %desired.key, container = %container.id, %error, "dead container not removed");
            all = false;
        }
    }
    for sandbox in &sandboxes {
        if let Err(error) = parts.runtime.remove_sandbox(&sandbox.id).await {
            tracing::warn!(pod = %desired.key, sandbox = %sandbox.id, %error, "dead sandbox not removed");
            all = false;
        }
    }
    all &= relist(&parts, &desired).await;
    Done::Pruned { all }
}

/// For a pod that begins anew: its containers are killed and removed one by one, so that those that asked for it are
/// the last to go. The logs stay.
pub(crate) async fn remove_to_restart(parts: Parts, desired: DesiredPod) -> Done {
    let result = try_remove_to_restart(&parts, &desired).await;
    relist(&parts, &desired).await;
    Done::RemovedAll(
        result.map_err(|e| Failure::new(event::FAILED_KILL_POD, format!("error restarting all containers: {e}"))),
    )
}

async fn try_remove_to_restart(
    parts: &Parts,
    desired: &DesiredPod,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    parts.runtime.settled(&desired.uid).await;
    // A start may have been given up midway: only a fresh look shows what it left.
    let observed = parts.pleg.relist(&desired.uid).await?;
    let (_deadline, at_once) = watch::channel(parts.clock.mono());
    for container in pod::restart_all::order(desired, &observed) {
        if container.state != ContainerState::Exited {
            let message = "killing".to_owned();
            let request = StopRequest { run_pre_stop: false, message, ..StopRequest::by(at_once.clone()) };
            parts.runtime.stop_container(desired, container, &[], request).await?;
        }
        parts.runtime.remove_container_but_logs(&container.id).await?;
    }
    Ok(())
}

/// Pods that have a directory or a cgroup here, and that nobody knows: remains of a crash. Whether all of them are gone.
pub(crate) async fn sweep(parts: Parts, known: HashSet<PodUid>) -> bool {
    let known = |uid: &PodUid| known.contains(uid) || parts.view.get(uid).is_some(); // pods go on arriving
    let on_disk = parts.volumes.leftovers().inspect_err(|error| tracing::warn!(%error, "pods' directories not listed"));
    let mut clean = on_disk.is_ok();
    let on_disk: HashSet<PodUid> = on_disk.unwrap_or_default().into_iter().collect();
    let (mut with_directory, mut failed) = (0, 0);
    let uids: HashSet<PodUid> = on_disk.iter().cloned().chain(parts.cgroups.pods()).collect();
    for uid in uids {
        if known(&uid) {
            continue;
        }
        tracing::info!(%uid, "removing what is left of a pod that nobody knows");
        with_directory += usize::from(on_disk.contains(&uid));
        if let Err(error) = parts.volumes.remove_pod(&uid).boxed().await {
            tracing::warn!(%uid, %error, "volumes of an unknown pod not removed");
            failed += 1;
            clean = false;
        }
        if let Err(error) = parts.cgroups.remove_pod(&uid).boxed().await {
            tracing::warn!(%uid, %error, "cgroup of an unknown pod not removed");
            clean = false;
        }
    }
    metrics::pods::swept(with_directory, failed);
    let pods = parts.pleg.snapshot();
    let alive = |id: &ContainerId| {
        pods.iter().filter_map(|pod| pod.container(id)).any(|container| container.state != ContainerState::Exited)
    };
    parts.runtime.sweep_logs(known, alive);
    clean
}
