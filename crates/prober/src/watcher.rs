//! The probes of one running container: startup first, then liveness and readiness side by side.
//!
//! Wakes on: the probe's own period, the pod's termination. Writes: verdicts, through `publish`.

use std::time::Duration;

use host::Clock;
use pod::{Mono, Verdict};
use tokio::sync::watch;

use crate::{Kind, attempt::Target, thresholds::Thresholds};

pub(crate) struct Watched {
    pub clock: Clock,
    pub agent_started: Mono,
    pub started_at: Mono,
    pub already_started: bool,
    pub terminating: watch::Receiver<bool>,
}

pub(crate) async fn watch(target: Target, watched: Watched, publish: impl Fn(Kind, Verdict)) {
    if target.probe(Kind::Startup).is_some() {
        if watched.already_started {
            publish(Kind::Startup, Verdict::Success);
        } else if !until_ended(&watched, startup(&target, &watched, &publish)).await.unwrap_or(false) {
            return; // failed or ending: nothing more to learn of this container
        }
    }
    let liveness = until_ended(&watched, keep_probing(&target, Kind::Liveness, &watched, &publish));
    let readiness = keep_probing(&target, Kind::Readiness, &watched, &publish);
    tokio::join!(liveness, readiness);
}

/// Startup and liveness concern nobody once the pod is ending.
async fn until_ended<T>(watched: &Watched, probing: impl Future<Output = T>) -> Option<T> {
    let mut terminating = watched.terminating.clone();
    tokio::select! {
        done = probing => Some(done),
        _ = terminating.wait_for(|t| *t) => None,
    }
}

/// True on success, false when the container is given up.
async fn startup(target: &Target, watched: &Watched, publish: &impl Fn(Kind, Verdict)) -> bool {
    probe_until(target, Kind::Startup, watched, |verdict| {
        publish(Kind::Startup, verdict);
        true
    })
    .await
        == Some(Verdict::Success)
}

/// A failed liveness ends the loop: the container will be replaced, and its successor is probed anew.
async fn keep_probing(target: &Target, kind: Kind, watched: &Watched, publish: &impl Fn(Kind, Verdict)) {
    probe_until(target, kind, watched, |verdict| {
        publish(kind, verdict);
        kind == Kind::Liveness && verdict == Verdict::Failure
    })
    .await;
}

/// Probes every period until `is_enough` of a verdict. None where there is no such probe.
async fn probe_until(
    target: &Target,
    kind: Kind,
    watched: &Watched,
    is_enough: impl Fn(Verdict) -> bool,
) -> Option<Verdict> {
    let probe = target.probe(kind)?;
    let period = Duration::from_secs(probe.period_seconds.filter(|s| *s > 0).unwrap_or(10) as u64);
    let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
    watched.clock.sleep_until(watched.started_at + delay).await;
    let now = watched.clock.mono();
    // Only what ran before the agent did is spread; a container that has just started is probed at once.
    if watched.started_at < watched.agent_started && now.since(watched.agent_started) < period {
        tokio::time::sleep(period.mul_f64(spread(target.id.as_str()))).await;
    }
    let mut thresholds = Thresholds::of(probe);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(attempt) = target.attempt(kind, probe).await else { continue };
        if let Some(verdict) = thresholds.count(attempt)
            && is_enough(verdict)
        {
            return Some(verdict);
        }
    }
}

/// A fraction of 1 that differs from container to container and needs no random source.
fn spread(id: &str) -> f64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    f64::from(hash) / f64::from(u32::MAX)
}
