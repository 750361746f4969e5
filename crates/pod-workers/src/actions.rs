//! What a plan's steps do. Each is one future that the worker owns; dropping it gives the step up, and the relist
//! that ends it makes sure that no plan is made from an older picture.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cri::Made;
use futures::FutureExt;
use images::Use;
use pod::{
    ContainerId, ContainerState, Containers, DesiredPod, ObservedPod, ObservedSandbox,
    api::Container,
    mounts::{ContainerMount, EventType, ResolvedImage},
    plan::{StartContainer, StopContainer},
    quantity::ApiList,
    reason::{self, event},
    resize,
};
use runtime::{SandboxRequest, StartRequest, StopRequest};
use tokio::sync::watch;
use volumes::{MountedVolumes, MountsFor};

use crate::{
    in_flight::{Done, Failure},
    parts::Parts,
    startup::Startup,
    termination,
};

/// What a pod's containers stand on.
#[derive(Debug)]
pub(crate) struct Setup {
    /// As the runtime wants it named.
    pub cgroup_parent: String,
    pub volumes: MountedVolumes,
}

/// The pod's cgroup, its directories and its volumes.
pub(crate) async fn set_up(parts: Parts, desired: DesiredPod) -> Done {
    Done::Setup(try_set_up(&parts, &desired).await)
}

async fn try_set_up(parts: &Parts, desired: &DesiredPod) -> Result<Setup, Failure> {
    let (cgroup, mounted) =
        futures::join!(parts.cgroups.ensure_pod(desired).boxed(), parts.volumes.mount(desired).boxed());
    let cgroup_parent = cgroup
        .map_err(|e| Failure::new("FailedCreatePodContainer", format!("unable to ensure pod container exists: {e}")))?;
    let mounted = mounted.map_err(|error| {
        for each in error.each() {
            parts.events.pod(desired, EventType::Warning, event::FAILED_MOUNT, each.to_string());
        }
        Failure { event_sent: true, ..Failure::new(event::FAILED_MOUNT, error) }
    })?;
    parts.actuated.init(desired);
    Ok(Setup { cgroup_parent, volumes: mounted })
}

/// Puts changed labels, annotations and resources into downward API volumes; what fails is tried again by the volumes
/// themselves.
pub(crate) async fn refresh_volumes(parts: Parts, desired: DesiredPod) -> Done {
    if let Err(error) = parts.volumes.mount(&desired).boxed().await {
        tracing::warn!(pod = %desired.key, %error, "volumes not refreshed");
    }
    Done::Refreshed
}

/// `before` is what the new sandbox replaces. One that died by itself, say in a reboot, still has its address: the
/// stop gives it back.
pub(crate) async fn create_sandbox(
    parts: Parts,
    desired: DesiredPod,
    setup: Arc<Setup>,
    before: Arc<ObservedPod>,
    attempt: u32,
) -> Done {
    for sandbox in &before.sandboxes {
        if let Err(error) = parts.runtime.stop_sandbox(&sandbox.id).await {
            return Done::Sandbox(Err(Failure::new(event::FAILED_KILL_POD, error)));
        }
    }
    let request =
        SandboxRequest { attempt, cgroup_parent: &setup.cgroup_parent, volume_groups: &setup.volumes.extra_groups };
    let created = parts.runtime.create_sandbox(&desired, request).boxed().await;
    // Of those that were stopped before, only a look at the whole pod shows that.
    let made = created.as_ref().ok().filter(|_| before.sandboxes.is_empty()).cloned().map(Made::Sandbox);
    relist_with(&parts, &desired, made).await;
    Done::Sandbox(created.map(drop).map_err(|e| {
        let waiting = e.waiting();
        Failure { waiting, retry_after: None, event_sent: false }
    }))
}

const AFTER_A_RUN: Duration = Duration::from_secs(1);
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Whatever went wrong before, the next plan must see what there is now. Gives up after a while: names that the runtime
/// has reserved then keep a plan from an old picture from doing a thing twice. Returns whether there is a picture.
pub(crate) async fn relist(parts: &Parts, desired: &DesiredPod) -> bool {
    for look in 1..=LOOKS {
        match parts.pleg.relist(&desired.uid).await {
            Ok(_) => return true,
            Err(error) => tracing::debug!(pod = %desired.key, %error, look, "no fresh picture after an action"),
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    false
}

/// As [`relist`]; what was made is all that has changed.
async fn relist_with(parts: &Parts, desired: &DesiredPod, made: Option<Made>) {
    match made {
        Some(made) if parts.pleg.relist_made(&desired.uid, &made).await.is_ok() => {}
        _ => _ = relist(parts, desired).await,
    }
}

pub(crate) async fn start(
    parts: Parts,
    desired: DesiredPod,
    observed: Arc<ObservedPod>,
    setup: Arc<Setup>,
    start: StartContainer,
    startup: Option<Arc<Startup>>,
) -> Done {
    let result = try_start(&parts, &desired, &observed, &setup, &start, startup.as_deref()).await;
    let made = result.as_ref().ok().cloned().flatten();
    relist_with(&parts, &desired, made).await;
    Done::Started { name: start.name, result: result.map(drop) }
}

async fn try_start(
    parts: &Parts,
    desired: &DesiredPod,
    observed: &ObservedPod,
    setup: &Setup,
    start: &StartContainer,
    startup: Option<&Startup>,
) -> Result<Option<Made>, Failure> {
    let Some((_, container)) = desired.container(&start.name) else { return Ok(None) };
    let Some(sandbox) = observed.ready_sandbox() else { return Ok(None) };
    let node = parts.node.borrow().clone();
    let image = container.image.as_deref().unwrap_or_default();
    // Boxed, one after the other: in one piece a start would hold 35 KiB while it waits for the runtime.
    let volumes = image_volumes(parts, desired, &container, startup).boxed().await?;
    let user = (start.name.as_str(), Use::Container);
    let image = image_for(parts, desired, user, image, container.image_pull_policy.as_deref(), startup).boxed().await?;
    let allocatable: ApiList = pod::quantity::to_api_list(&node.allocatable);
    let ips = pod_ips(sandbox, &node.host_ips);
    let mut request = StartRequest {
        pod: desired,
        kind: start.kind,
        name: &start.name,
        restart_count: start.restart_count,
        sandbox,
        observed,
        cgroup_parent: &setup.cgroup_parent,
        pod_ips: &ips,
        host_ips: &node.host_ips,
        allocatable: &allocatable,
        image: &image,
        mounts: &[],
        volume_groups: &setup.volumes.extra_groups,
        devices: &[],
    };
    let mounts = container_mounts(parts, request, &container, setup, (sandbox, &volumes)).boxed().await?;
    request.mounts = &mounts;
    if start.kind != Containers::Ephemeral {
        parts.actuated.set_container(&desired.uid, &start.name, resize::effective(desired, &container));
    }
    let started = parts.runtime.start_container(request).boxed().await;
    started.map(|id| Some(Made::Container { id, sandbox: sandbox.id.clone() })).map_err(|e| {
        // What was made counts as a run, and its back-off says when the next one may come.
        let retry_after = e.left_a_container().then_some(AFTER_A_RUN);
        Failure { waiting: e.waiting(), retry_after, event_sent: false }
    })
}

async fn container_mounts(
    parts: &Parts,
    request: StartRequest<'_>,
    container: &Container,
    setup: &Setup,
    (sandbox, images): (&ObservedSandbox, &BTreeMap<String, String>),
) -> Result<Vec<ContainerMount>, Failure> {
    let expands =
        container.volume_mounts.iter().flatten().any(|m| m.sub_path_expr.as_deref().is_some_and(|e| !e.is_empty()));
    let env = match expands {
        true => Some(parts.runtime.environment(request, container).await.map_err(|e| failure(e.waiting()))?),
        false => None,
    };
    // A value that is no text can't be part of a path that the runtime is told.
    let text = |(k, v): (&str, &[u8])| Some((k.to_owned(), String::from_utf8(v.to_owned()).ok()?));
    let vars = env.iter().flat_map(|e| e.iter()).filter_map(text).collect();
    let handlers = parts.node.borrow().handlers.clone();
    let mounts = parts.volumes.container_mounts(MountsFor {
        pod: request.pod,
        container,
        volumes: &setup.volumes,
        images,
        recursive_read_only: handlers.iter().any(|h| h.name == sandbox.runtime_handler && h.recursive_read_only_mounts),
        expand: &|text| {
            pod::env::expand_strict(text, &vars).map_err(|missing| format!("missing value for {}", missing.join(", ")))
        },
    });
    mounts.await.map_err(|e| {
        parts.events.container(request.pod, request.name, EventType::Warning, event::FAILED, format!("Error: {e}"));
        failure(e.waiting())
    })
}

fn failure(waiting: pod::Waiting) -> Failure {
    Failure { waiting, retry_after: None, event_sent: true }
}

async fn image_for(
    parts: &Parts,
    desired: &DesiredPod,
    user: (&str, Use),
    image: &str,
    policy: Option<&str>,
    startup: Option<&Startup>,
) -> Result<ResolvedImage, Failure> {
    let (image, pull_began) = parts.images.ensure(desired, user, image, policy).await;
    if let Some(startup) = startup {
        startup.image(pull_began, image.is_ok(), parts.clock.mono());
    }
    image.map_err(|e| Failure { waiting: e.waiting(), retry_after: e.retry_after(), event_sent: false })
}

/// The images that the container mounts as volumes, pulled before its own.
async fn image_volumes(
    parts: &Parts,
    desired: &DesiredPod,
    container: &Container,
    startup: Option<&Startup>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut pulled = BTreeMap::new();
    for volume in desired.spec().volumes.iter().flatten() {
        let Some(source) = &volume.image else { continue };
        if !container.volume_mounts.iter().flatten().any(|m| m.name == volume.name) {
            continue;
        }
        let name = source.reference.as_deref().unwrap_or_default();
        let user = (container.name.as_str(), Use::Volume);
        let image = image_for(parts, desired, user, name, source.pull_policy.as_deref(), startup).await?;
        pulled.insert(volume.name.clone(), image.image_ref);
    }
    Ok(pulled)
}

/// A host network pod has the node's addresses.
pub(crate) fn pod_ips(sandbox: &ObservedSandbox, host_ips: &[String]) -> Vec<String> {
    if sandbox.ips.is_empty() { host_ips.to_vec() } else { sandbox.ips.clone() }
}

/// Stops one container of a pod that goes on, or takes away one that never ran.
pub(crate) async fn stop(parts: Parts, desired: DesiredPod, observed: Arc<ObservedPod>, stop: StopContainer) -> Done {
    let result = if stop.discard {
        discard(&parts, &desired, &stop.id).boxed().await
    } else {
        stop_running(&parts, &desired, &observed, &stop).boxed().await
    };
    relist(&parts, &desired).await;
    Done::Stopped { id: stop.id, result }
}

async fn stop_running(
    parts: &Parts,
    desired: &DesiredPod,
    observed: &ObservedPod,
    stop: &StopContainer,
) -> Result<(), Failure> {
    let Some(container) = observed.container(&stop.id) else { return Ok(()) };
    let grace = stop.grace.unwrap_or_else(|| termination::spec_grace(desired));
    // The sender stays alive here: this deadline does not move.
    let (_deadline, by) = watch::channel(parts.clock.mono() + grace.max(Duration::from_secs(1)));
    let request = StopRequest { message: stop.message.clone(), ..StopRequest::by(by) };
    let host_ips = parts.node.borrow().host_ips.clone();
    let ips = observed.ready_sandbox().map_or_else(Vec::new, |s| pod_ips(s, &host_ips));
    let stopped = parts.runtime.stop_container(desired, container, &ips, request).await;
    stopped.map_err(|e| Failure::new(reason::ERROR, e))
}

/// A start that nobody waits for any more may have come to pass since the plan's picture: what runs is left alone.
async fn discard(parts: &Parts, desired: &DesiredPod, id: &ContainerId) -> Result<(), Failure> {
    parts.runtime.settled(&desired.uid).await;
    let now = parts.pleg.relist(&desired.uid).await.map_err(|e| Failure::new(reason::ERROR, e))?;
    match now.container(id).filter(|c| c.state == ContainerState::Created) {
        Some(container) => {
            let removed = parts.runtime.remove_container(&desired.key, container).await;
            removed.map_err(|e| Failure::new(reason::ERROR, e))
        }
        None => Ok(()),
    }
}
