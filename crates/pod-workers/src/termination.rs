//! The end of a pod's containers: all preStop hooks at once, regular containers first, sidecars after them in
//! reverse order, everything inside one grace period that may still shrink.

use std::time::Duration;

use futures::future::join_all;
use pod::{ContainerState, Containers, DesiredPod, Mono, ObservedContainer, ObservedPod, reason::event};
use runtime::{StopRequest, until};
use tokio::sync::watch;

use crate::{
    actions::{pod_ips, relist},
    in_flight::{Done, Failure},
    parts::Parts,
};

const DEFAULT_GRACE: i64 = 30;

/// What the deletion asks for, else what the spec does; at least a second.
pub(crate) fn grace(desired: &DesiredPod) -> Duration {
    let deletion = desired.pod.metadata.deletion_grace_period_seconds.filter(|_| desired.deletion_requested());
    match deletion {
        Some(secs) => Duration::from_secs(secs.max(1) as u64),
        None => spec_grace(desired),
    }
}

pub(crate) fn spec_grace(desired: &DesiredPod) -> Duration {
    let secs = desired.spec().termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(secs.max(1) as u64)
}

/// Done when the runtime, asked anew, shows nothing of the pod running.
pub(crate) async fn terminate(parts: Parts, desired: DesiredPod, deadline: watch::Receiver<Mono>) -> Done {
    if !parts.runtime.is_settled(&desired.uid) {
        // A start is not cut off, nor does it keep what runs already from its end. What fails here is tried again below.
        let mut by = deadline.clone();
        let settled = async {
            tokio::select! {
                () = parts.runtime.settled(&desired.uid) => {}
                () = until(&mut by, parts.clock) => {} // a start that hangs: what comes of it is stopped when it is seen
            }
        };
        let _ = futures::join!(stop_running(&parts, &desired, deadline.clone()), settled);
    }
    Done::Terminated(stop_everything(&parts, &desired, deadline).await)
}

async fn stop_running(parts: &Parts, desired: &DesiredPod, deadline: watch::Receiver<Mono>) -> Result<(), Failure> {
    let mut observed = ObservedPod::clone(&*look(parts, desired).await?);
    observed.containers.retain(|c| c.state == ContainerState::Running);
    stop_containers(parts, desired, &observed, deadline).await
}

/// The same for a sandbox that is to be replaced, within the spec's grace.
pub(crate) async fn tear_down_sandbox(parts: Parts, desired: DesiredPod) -> Done {
    let (_deadline, by) = watch::channel(parts.clock.mono() + spec_grace(&desired));
    let torn_down = stop_everything(&parts, &desired, by).await;
    if torn_down.is_err() {
        relist(&parts, &desired).await;
    }
    Done::TornDown(torn_down)
}

async fn stop_everything(parts: &Parts, desired: &DesiredPod, deadline: watch::Receiver<Mono>) -> Result<(), Failure> {
    // A start may have been cut off midway: only a fresh look shows what it left.
    let observed = look(parts, desired).await?;
    stop_containers(parts, desired, &observed, deadline).await?;
    // One that died by itself, say in a reboot, still has its address: only the stop gives that back.
    for sandbox in &observed.sandboxes {
        parts.runtime.stop_sandbox(&sandbox.id).await.map_err(|e| Failure::new(event::FAILED_KILL_POD, e))?;
    }
    let after = look(parts, desired).await?;
    if after.is_running() {
        return Err(Failure::new(event::FAILED_KILL_POD, "error killing pod: something of it still runs"));
    }
    Ok(())
}

async fn look(parts: &Parts, desired: &DesiredPod) -> Result<std::sync::Arc<ObservedPod>, Failure> {
    parts.pleg.relist(&desired.uid).await.map_err(|e| Failure::new(event::FAILED_KILL_POD, e))
}

async fn stop_containers(
    parts: &Parts,
    desired: &DesiredPod,
    observed: &ObservedPod,
    deadline: watch::Receiver<Mono>,
) -> Result<(), Failure> {
    let host_ips = parts.node.borrow().host_ips.clone();
    let ips = observed.ready_sandbox().map_or_else(Vec::new, |s| pod_ips(s, &host_ips));
    let alive: Vec<&ObservedContainer> =
        observed.containers.iter().filter(|c| c.state != ContainerState::Exited).collect();
    let ranks: Vec<usize> = alive.iter().map(|c| rank(desired, &c.name)).collect();
    // `ended[i]` becomes true when container i has; whoever waits for its turn watches those of lower rank.
    let (ended, watched): (Vec<_>, Vec<_>) = alive.iter().map(|_| watch::channel(false)).unzip();
    let stops = alive.iter().zip(ended).enumerate().map(|(i, (container, ended))| {
        let before: Vec<_> = (0..ranks.len()).filter(|j| ranks[*j] < ranks[i]).map(|j| watched[j].clone()).collect();
        let (turn_in, turn) = watch::channel(before.is_empty());
        let request = StopRequest { turn: Some(turn), ..StopRequest::by(deadline.clone()) };
        let ips = &ips;
        async move {
            let wait = async {
                for mut one in before {
                    let _ = one.wait_for(|over| *over).await;
                }
                turn_in.send_replace(true);
                std::future::pending::<()>().await
            };
            let result = tokio::select! {
                result = parts.runtime.stop_container(desired, container, ips, request) => result,
                () = wait => unreachable!("pending never ends"),
            };
            ended.send_replace(true);
            result
        }
    });
    for result in join_all(stops).await {
        result.map_err(|e| Failure::new(event::FAILED_KILL_POD, format!("error killing pod: {e}")))?;
    }
    relist(parts, desired).await;
    Ok(())
}

/// Lower ranks stop first: everything but sidecars, then sidecars from the last declared to the first.
fn rank(desired: &DesiredPod, name: &str) -> usize {
    let sidecar = |c: &&pod::api::Container| pod::desired::init_kind(c) == Containers::Sidecar;
    let sidecars: Vec<&str> = desired.init_containers().iter().filter(sidecar).map(|c| c.name.as_str()).collect();
    sidecars.iter().rev().position(|s| *s == name).map_or(0, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pod::Source;
    use serde_json::json;

    use super::*;

    fn desired(value: serde_json::Value) -> DesiredPod {
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(value).unwrap())).unwrap()
    }

    #[test]
    fn sidecars_stop_after_the_others_in_reverse_order() {
        let d = desired(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "app"}],
            "initContainers": [{"name": "once"}, {"name": "a", "restartPolicy": "Always"}, {"name": "b", "restartPolicy": "Always"}]}}));
        let ranks = ["app", "once", "b", "a"].map(|n| rank(&d, n));
        assert_eq!(ranks, [0, 0, 1, 2]);
    }

    #[test]
    fn the_deletions_grace_comes_before_the_specs_and_is_at_least_a_second() {
        let meta = |extra: serde_json::Value| {
            let mut m = json!({"name": "p", "uid": "u"});
            for (k, v) in extra.as_object().unwrap() {
                m[k] = v.clone();
            }
            desired(json!({"metadata": m, "spec": {"containers": [], "terminationGracePeriodSeconds": 7}}))
        };
        assert_eq!(grace(&meta(json!({}))).as_secs(), 7);
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        assert_eq!(grace(&meta(deleted)).as_secs(), 1);
    }
}
