//! The running agent, wired together: every channel is made here, in the order of the picture in
//! docs/ARCHITECTURE.md, and each part is given exactly what it uses.

mod api;
mod base;
mod images;
mod kernel;
mod logs;
mod machine;
mod memory;
mod node_sockets;
mod reservation;
mod serving;
mod shutdown;
mod watchdog;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use eviction::{Eviction, LocalStorage};
use host::Clock;
use node::NodeFacts;
use pleg::Pleg;
use pod_source::{PodSource, SourceConfig, SourceEvent};
use pod_workers::{Dispatcher, Parts, PodCommand, PodsView};
use status_manager::StatusManager;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};

use self::base::Base;
use crate::{explain, options::Options};

/// Connections that are being served when the agent stops get so long to end.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT. Containers go on running: that is what a restart of the agent rests on.
pub async fn run(options: Options, clock: Clock) -> anyhow::Result<()> {
    let watchdog = watchdog::interval()?;
    let traces = traces(&options, clock)?;
    let base = Base::lay(options, clock).await?;

    // None of these ends while the agent runs; `once` holds those that may.
    let mut tasks = JoinSet::new();
    let mut once = JoinSet::new();
    if let Some(exporter) = traces {
        tasks.spawn(exporter.run());
    }
    if let Some(api) = &base.api {
        api::keep_identity(&base.options, api, clock, &mut tasks);
    }
    let images = base.images(&mut tasks).await?;
    if let Some(rotation) = logs::rotation(&base.options, &base.cri, clock, &base.pleg)? {
        tasks.spawn(rotation.run(base.pleg.changes()));
    }
    let program = host::memory::Program::running();
    tasks.spawn(memory::run(base.pleg.changes(), move || program.give_back()));

    let (shutting_down, is_shutting_down) = watch::channel(false);
    let node = base.node(&images, is_shutting_down.clone()).await?;
    let node_facts = node.facts();
    let host_ips = node_facts.borrow().host_ips.clone();
    let certificate = serving::certificate(&base, &host_ips, node.node(), &mut tasks)?;
    let listeners = serving::listeners(&base.options, certificate).await?;
    base.reserve(&node_facts.borrow().clone(), &mut once).await?;
    let parts = base.parts(images, node_facts.clone(), &mut tasks)?;
    match explain::listen(base.root.path()) {
        Ok(listener) => drop(tasks.spawn(explain::serve(listener, parts.view.clone(), clock))),
        Err(error) => tracing::warn!(%error, "`kubelet explain` gets no answer on this node"),
    }

    let sources = source_config(&base.options);
    let expected = sources.sources(base.api.is_some());
    let (source, source_events) = PodSource::spawn(sources, base.api.clone(), clock);
    let (commands, orders) = mpsc::channel(256);
    let dispatcher = dispatcher(&base, &parts, &source)?.refuses_while(is_shutting_down);
    if base.options.config.local_storage_capacity_isolation {
        watch_local_storage(&base, &parts.view, &commands, &mut tasks);
    }
    let around = shutdown::Surroundings {
        root: base.root.clone(),
        clock,
        events: base.events.clone(),
        view: parts.view.clone(),
        status: parts.status.clone(),
        commands: commands.clone(),
        shutting_down,
    };
    shutdown::follow(&base.options, around, &mut tasks);
    tasks.spawn(dispatch(dispatcher, orders, base.pleg.clone(), node_facts.clone()));
    let mirrors = serving::MirrorUids::default();
    tasks.spawn(hand_on(source_events, commands, expected, parts.status.clone(), mirrors.clone()));

    node_sockets::serve(&base.options, &base.root, clock, &parts.view, &mut tasks)?;
    let server = serving::start(&base, parts.view.clone(), mirrors, listeners)?;
    if let Some(interval) = watchdog {
        tasks.spawn(watchdog::run(interval, base.health()));
    }

    metrics::show();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("the agent is up");
    tokio::select! {
        ended = wait_for_end(&mut tasks) => ended?,
        () = node.run() => {}
    }
    tracing::info!("the agent is stopping; containers go on running");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    server.shutdown(DRAIN).await;
    for record in [parts.allocated, parts.actuated] {
        if let Err(error) = record.flushed().await {
            tracing::error!(%error, "the record of pods' resources isn't written");
        }
    }
    drop((source, once));
    Ok(())
}

fn dispatcher(base: &Base, parts: &Parts, source: &PodSource) -> anyhow::Result<Dispatcher> {
    let config = machine::dispatcher_config(&base.options, &base.facts, base.api.is_some())?;
    let mut dispatcher = Dispatcher::new(parts.clone(), config);
    if let Some(api) = base.api.clone() {
        let name = base.options.node_name.clone();
        dispatcher = dispatcher.asks_node(move || {
            let (api, name) = (api.clone(), name.clone());
            Box::pin(async move { api.get_node(&name).await.ok() })
        });
    }
    if let Some(mirrors) = source.mirrors() {
        dispatcher = dispatcher.on_end(move |uid| mirrors.ended(uid));
    }
    Ok(dispatcher)
}

/// Task: the first picture of the runtime comes before the first word about pods: what runs is adopted, not refused,
/// and none waits for a network of which nothing has been heard yet.
async fn dispatch(
    dispatcher: Dispatcher,
    orders: mpsc::Receiver<PodCommand>,
    pleg: Pleg,
    mut node: watch::Receiver<Arc<NodeFacts>>,
) {
    pleg.synced().await;
    let _ = node.wait_for(|facts| facts.runtime_ready).await;
    dispatcher.run(orders).await;
}

fn watch_local_storage(base: &Base, view: &PodsView, commands: &mpsc::Sender<PodCommand>, tasks: &mut JoinSet<()>) {
    let (evictions, ended) = mpsc::channel(16);
    let seen = view.clone();
    let local_storage = LocalStorage {
        root: base.root.clone(),
        cri: base.cri.clone(),
        clock: base.clock,
        events: base.events.clone(),
        active: Arc::new(move || seen.active().iter().map(|pod| pod.desired.clone()).collect()),
        changes: view.active_changes(),
        evictions,
    };
    tasks.spawn(local_storage.run());
    tasks.spawn(end_evicted(ended, commands.clone()));
}

async fn wait_for_end(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        Some(ended) = tasks.join_next() => {
            ended.context("a part of the agent failed")?;
            bail!("a part of the agent ended by itself; the lines before say which, and why")
        }
    }
}

/// None where `tracing` is not configured: then there are no spans at all.
fn traces(options: &Options, clock: Clock) -> anyhow::Result<Option<trace::Exporter>> {
    let Some(tracing) = &options.config.tracing else { return Ok(None) };
    let config = trace::Config {
        endpoint: tracing.endpoint.clone().unwrap_or_default(),
        sampling_rate_per_million: tracing.sampling_rate_per_million.unwrap_or(0).max(0).unsigned_abs(),
        host_name: options.node_name.clone(),
    };
    trace::start(&config, clock).map(Some).context("could not configure tracer provider")
}

fn source_config(options: &Options) -> SourceConfig {
    let config = &options.config;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SourceConfig {
        node_name: options.node_name.clone(),
        static_pod_path: given(&config.static_pod_path).map(|p| Path::new(&p).to_owned()),
        file_check: config.file_check_frequency.std(),
        static_pod_url: given(&config.static_pod_url),
        url_headers: config.static_pod_url_header.clone(),
        url_check: config.http_check_frequency.std(),
    }
}

async fn end_evicted(mut evictions: mpsc::Receiver<Eviction>, commands: mpsc::Sender<PodCommand>) {
    while let Some(Eviction { uid, cause, grace }) = evictions.recv().await {
        if commands.send(PodCommand::End { uid, cause, grace: Some(grace) }).await.is_err() {
            return;
        }
    }
}

/// From what sources say to what workers are told; mirrors go to whoever writes status.
async fn hand_on(
    mut events: mpsc::Receiver<SourceEvent>,
    commands: mpsc::Sender<PodCommand>,
    mut expected: Vec<pod::Source>,
    status: StatusManager,
    mirrors: serving::MirrorUids,
) {
    if expected.is_empty() && commands.send(PodCommand::SourcesReady).await.is_err() {
        return;
    }
    while let Some(event) = events.recv().await {
        let command = match event {
            SourceEvent::Set(desired) => PodCommand::Set(desired),
            SourceEvent::Removed(uid) => PodCommand::Removed(uid),
            SourceEvent::Mirror { static_uid, mirror } => {
                mirrors.set(&static_uid, mirror.as_ref().and_then(|m| m.metadata.uid.as_deref()).map(pod::PodUid::new));
                status.mirror(&static_uid, mirror.map(Arc::from));
                continue;
            }
            SourceEvent::Synced(source) => {
                expected.retain(|s| *s != source);
                if !expected.is_empty() {
                    continue;
                }
                PodCommand::SourcesReady
            }
        };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}
