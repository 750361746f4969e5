//! Graceful node shutdown, where the configuration gives it time.

use std::{sync::Arc, time::Duration};

use apiserver::Events;
use host::{Clock, RootDir};
use pod::Life;
use pod_workers::{PodCommand, PodsView};
use shutdown::{End, Logind, NodeShutdown, Parts, Period, Record};
use status_manager::StatusManager;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::options::Options;

const GATE: &str = "GracefulNodeShutdown";
const BY_PRIORITY: &str = "GracefulNodeShutdownBasedOnPodPriority";

/// What it needs of the agent.
pub(super) struct Surroundings {
    pub root: RootDir,
    pub clock: Clock,
    pub events: Events,
    pub view: PodsView,
    pub status: StatusManager,
    pub commands: mpsc::Sender<PodCommand>,
    pub shutting_down: watch::Sender<bool>,
}

pub(super) fn follow(options: &Options, around: Surroundings, tasks: &mut JoinSet<()>) {
    let kept = options.gates.enabled(GATE) && options.gates.enabled(BY_PRIORITY);
    if kept {
        shutdown::show();
    }
    let periods = periods(options);
    if periods.is_empty() {
        return;
    }
    let (ends, ended) = mpsc::channel(16);
    let (active, seen) = (around.view.clone(), around.view.clone());
    let parts = Parts {
        clock: around.clock,
        events: around.events,
        active: Arc::new(move || active.active().iter().map(|pod| pod.desired.clone()).collect()),
        is_over: Arc::new(move |uid| {
            seen.get(uid).is_none_or(|pod| matches!(pod.life, Life::Gone | Life::Rejected { .. }))
        }),
        changes: around.view.changes(),
        tellings: around.status.tellings(),
        is_told: Arc::new(move |uid| around.status.is_told(uid)),
        ends,
        shutting_down: around.shutting_down,
        record: kept.then(|| Record::at(around.root.path().join(shutdown::FILE))),
    };
    tasks.spawn(NodeShutdown { periods, parts }.run(Logind::connect));
    tasks.spawn(hand_on(ended, around.commands));
}

fn periods(options: &Options) -> Vec<Period> {
    if !options.gates.enabled(GATE) {
        return Vec::new();
    }
    let config = &options.config;
    let listed = config.shutdown_grace_period_by_pod_priority.iter().filter(|_| options.gates.enabled(BY_PRIORITY));
    let by_priority: Vec<Period> = listed
        .map(|entry| Period {
            priority: entry.priority,
            grace: Duration::from_secs(entry.shutdown_grace_period_seconds.max(0).unsigned_abs()),
        })
        .collect();
    shutdown::periods(
        config.shutdown_grace_period.std(),
        config.shutdown_grace_period_critical_pods.std(),
        &by_priority,
    )
}

async fn hand_on(mut ends: mpsc::Receiver<End>, commands: mpsc::Sender<PodCommand>) {
    while let Some(End { uid, cause, grace }) = ends.recv().await {
        if commands.send(PodCommand::End { uid, cause, grace: Some(grace) }).await.is_err() {
            break;
        }
    }
    // No part of the agent ends while it runs.
    std::future::pending::<()>().await;
}
