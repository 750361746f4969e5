//! Stopping a container: preStop hook, its turn, stop signal and, when the time is up, kill.

use std::sync::Arc;

use host::Clock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod::{
    ContainerId, ContainerState, DesiredPod, Mono, ObservedContainer, ObservedPod, Source,
    api::{Container, Lifecycle, Pod, PodSpec},
    mounts::EventType,
    reason::event,
};
use tokio::sync::watch;

use crate::{
    error::{Result, RuntimeError},
    hooks::{self, HookSite},
    runtime::Runtime,
};

/// How to stop a container.
#[derive(Clone, Debug)]
pub struct StopRequest {
    /// When the grace period ends. It may come nearer while the container is being stopped.
    pub deadline: watch::Receiver<Mono>,
    pub run_pre_stop: bool,
    /// For the Killing event; empty: `Stopping container NAME`.
    pub message: String,
    /// Becomes true when the container may be stopped: sidecars wait here, after their preStop hooks, for those they
    /// serve. At the deadline everybody goes.
    pub turn: Option<watch::Receiver<bool>>,
}

impl StopRequest {
    /// With its preStop hook, at once.
    pub fn by(deadline: watch::Receiver<Mono>) -> Self {
        Self { deadline, run_pre_stop: true, message: String::new(), turn: None }
    }
}

impl Runtime {
    /// Returns when the container has ended. May be dropped at any time and called again.
    pub async fn stop_container(
        &self,
        pod: &DesiredPod,
        container: &ObservedContainer,
        pod_ips: &[String],
        request: StopRequest,
    ) -> Result<()> {
        let spec = match pod.container(&container.name) {
            Some((_, spec)) => spec,
            None => from_annotations(container),
        };
        let pod_ip = pod_ips.first().map(String::as_str).unwrap_or_default();
        // In one that does not run there is nothing to prepare.
        let run_pre_stop = request.run_pre_stop && container.state == ContainerState::Running;
        let request = StopRequest { run_pre_stop, ..request };
        self.stop_started(pod, &spec, &container.id, pod_ip, request).await
    }

    pub(crate) async fn stop_started(
        &self,
        pod: &DesiredPod,
        spec: &Container,
        id: &ContainerId,
        pod_ip: &str,
        mut request: StopRequest,
    ) -> Result<()> {
        let parts = self.parts();
        let default = || format!("Stopping container {}", spec.name);
        let message = Some(request.message.clone()).filter(|m| !m.is_empty()).unwrap_or_else(default);
        parts.events.container(pod, &spec.name, EventType::Normal, event::KILLING, message);
        let site = HookSite { cri: &parts.cri, events: &parts.events, pod, container: spec, id, pod_ip };
        if request.run_pre_stop {
            pre_stop(site, &mut request.deadline, parts.clock).await;
        }
        if let Some(turn) = &mut request.turn {
            tokio::select! {
                // A sender that is gone will never say more: nobody is left to wait for.
                _ = turn.wait_for(|mine| *mine) => {}
                () = until(&mut request.deadline, parts.clock) => {}
            }
        }
        self.signal(id, &mut request.deadline).await
    }

    /// The runtime signals, waits and kills; when the deadline comes nearer it is told again.
    async fn signal(&self, id: &ContainerId, deadline: &mut watch::Receiver<Mono>) -> Result<()> {
        let parts = self.parts();
        loop {
            let at = *deadline.borrow_and_update();
            let grace = at.since(parts.clock.mono()).max(Self::MINIMUM_GRACE);
            tokio::select! {
                stopped = parts.cri.stop_container(id, grace) => return match stopped {
                    Err(e) if !e.is_not_found() => Err(RuntimeError::StopContainer(e)),
                    _ => Ok(()),
                },
                () = nearer(deadline, at) => {}
            }
        }
    }
}

/// A failed hook only makes an event: the container is stopped all the same.
async fn pre_stop(site: HookSite<'_>, deadline: &mut watch::Receiver<Mono>, clock: Clock) {
    let Some(hook) = site.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    if *deadline.borrow() <= clock.mono() {
        return;
    }
    tokio::select! {
        result = hooks::run(site, hook) => if let Err(e) = result {
            tracing::info!(pod = %site.pod.key, container = site.container.name, error = %e, "preStop hook failed");
            let name = &site.container.name;
            site.events.container(site.pod, name, EventType::Warning, event::FAILED_PRE_STOP_HOOK, "PreStopHook failed");
        },
        () = until(deadline, clock) => {
            tracing::info!(pod = %site.pod.key, container = site.container.name, "preStop hook did not end in time");
            // Its process dies with the container.
            if hook.exec.is_some() {
                let name = &site.container.name;
                site.events.container(site.pod, name, EventType::Warning, event::FAILED_PRE_STOP_HOOK, "PreStopHook failed");
            }
        }
    }
}

/// Waits for the deadline wherever it moves.
pub async fn until(deadline: &mut watch::Receiver<Mono>, clock: Clock) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = clock.sleep_until(at) => return,
            () = nearer(deadline, at) => {}
        }
    }
}

/// Returns when the deadline comes to lie before `at`; never, when its sender is gone.
async fn nearer(deadline: &mut watch::Receiver<Mono>, at: Mono) {
    if deadline.wait_for(|now| *now < at).await.is_err() {
        std::future::pending().await
    }
}

/// A pod that only the runtime knows, with what its containers' annotations tell: enough to stop it.
pub fn restored(observed: &ObservedPod) -> Option<DesiredPod> {
    let seconds = |key: &str| observed.containers.iter().find_map(|c| c.annotations.get(key)?.parse().ok());
    let metadata = ObjectMeta {
        name: Some(observed.key.name.to_string()),
        namespace: Some(observed.key.namespace.to_string()),
        uid: Some(observed.uid.to_string()),
        deletion_grace_period_seconds: seconds(cri::labels::POD_DELETION_GRACE_PERIOD),
        ..ObjectMeta::default()
    };
    let mut containers: Vec<Container> = Vec::new();
    for container in &observed.containers {
        if containers.iter().all(|c| c.name != container.name) {
            containers.push(from_annotations(container));
        }
    }
    let spec = PodSpec {
        containers,
        termination_grace_period_seconds: seconds(cri::labels::POD_TERMINATION_GRACE_PERIOD),
        ..PodSpec::default()
    };
    DesiredPod::new(Source::Api, Arc::new(Pod { metadata, spec: Some(spec), status: None }))
}

fn from_annotations(container: &ObservedContainer) -> Container {
    let json = |key: &str| container.annotations.get(key);
    let pre_stop = json(cri::labels::PRE_STOP_HANDLER).and_then(|j| serde_json::from_str(j).ok());
    Container {
        name: container.name.clone(),
        ports: json(cri::labels::CONTAINER_PORTS).and_then(|j| serde_json::from_str(j).ok()),
        termination_message_path: json(cri::labels::TERMINATION_MESSAGE_PATH).cloned(),
        lifecycle: pre_stop.map(|hook| Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() }),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_comes_nearer_is_kept() {
        let clock = Clock::start();
        let start = clock.mono();
        let (tx, mut rx) = watch::channel(start + s(100));
        let waiting = until(&mut rx, clock);
        let moving = async {
            tokio::time::sleep(s(5)).await;
            tx.send_replace(start + s(10));
        };
        tokio::join!(waiting, moving);
        assert_eq!(clock.mono().since(start).as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_whose_owner_is_gone_stands() {
        let clock = Clock::start();
        let start = clock.mono();
        let (tx, mut rx) = watch::channel(start + s(3));
        drop(tx);
        until(&mut rx, clock).await;
        assert_eq!(clock.mono().since(start).as_secs(), 3);
    }
}
