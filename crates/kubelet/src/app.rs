//! The running agent, wired together: every channel is made here, in the order of the picture in
//! docs/ARCHITECTURE.md, and each part is given exactly what it uses.

mod api;
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
use apiserver::{ApiServer, ChangeDetection, Events, Services};
use cri::Cri;
use eviction::{Eviction, LocalStorage};
use host::{Clock, MachineFacts};
use node::{NodeAgent, NodeFacts, NodeParts, Pressure};
use pleg::{Pleg, PlegConfig};
use pod_source::{PodSource, SourceConfig, SourceEvent};
use pod_workers::{Dispatcher, Parts, PodCommand, PodsView, ResourceRecords};
use prober::Prober;
use runtime::{Runtime, RuntimeParts};
use status_manager::StatusManager;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use volumes::{Volumes, VolumesConfig};

use crate::{explain, options::Options};

/// Connections that are being served when the agent stops get so long to end.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT. Containers go on running: that is what a restart of the agent rests on.
pub async fn run(options: Options, clock: Clock) -> anyhow::Result<()> {
    let watchdog = watchdog::interval()?;
    let traces = traces(&options, clock)?;
    let (root, new_machine) = machine::root_dir(&options)?;
    let api = api::connect(&options, clock).await?;
    let cri = connect_runtime(&options).await?;
    let cgroups = machine::cgroups(&options, &cri).await?;
    let facts = MachineFacts::read();
    machine::tune(&options);
    match options.config.protect_kernel_defaults {
        true => kernel::check()?,
        false => kernel::set(),
    }

    // None of these ends while the agent runs; `once` holds those that may.
    let mut tasks = JoinSet::new();
    let mut once = JoinSet::new();
    if let Some(exporter) = traces {
        tasks.spawn(exporter.run());
    }
    if let Some(api) = &api {
        api::keep_identity(&options, api, clock, &mut tasks);
    }
    let events = match &api {
        Some(api) => Events::spawn(api.clone(), clock, &options.node_name),
        None => Events::log_only(),
    };
    let objects = api.as_ref().map(|api| api.objects(ChangeDetection::Watch));
    let services = api.as_ref().map_or_else(Services::none, ApiServer::services);
    let pleg = Pleg::spawn(cri.clone(), clock, PlegConfig::default());
    let images = images::images(&options, &root, &cri, clock, &events, api.as_ref().zip(objects.as_ref())).await?;
    if let Some(gc) = images::garbage_collection(&options, &images) {
        tasks.spawn(gc.run());
    }
    if let Some(rotation) = logs::rotation(&options, &cri, clock, &pleg)? {
        tasks.spawn(rotation.run(pleg.changes()));
    }
    let program = host::memory::Program::running();
    tasks.spawn(memory::run(pleg.changes(), move || program.give_back()));

    let node_config = machine::node_config(&options, &root, new_machine)?;
    let (_pressure, pressure) = watch::channel(Pressure::default());
    let (shutting_down, is_shutting_down) = watch::channel(false);
    let node_parts = NodeParts {
        api: api.clone(),
        events: events.clone(),
        cri: cri.clone(),
        clock,
        images: images::lister(&images),
        volumes_in_use: Arc::new(|| Some(Vec::new())),
        pleg_health: health_of(&pleg),
        pressure,
        shutting_down: is_shutting_down.clone(),
    };
    let node = NodeAgent::new(node_config, node_parts, facts.clone()).await?;
    let node_facts = node.facts();
    let resources = reservation::node_resources(&options, &node_facts.borrow(), &facts)?;
    cgroups.ensure_node(&resources).await.context("cannot make the node's cgroups")?;
    reservation::enforce_reserved(&options, &cgroups, &events).await?;
    if options.config.cgroups_per_qos {
        once.spawn(reservation::enforce_allocatable(cgroups.clone(), resources, events.clone()));
    }

    let view = PodsView::default();
    let parts = Parts {
        clock,
        events: events.clone(),
        pleg: pleg.clone(),
        runtime: Runtime::new(
            RuntimeParts {
                cri: cri.clone(),
                clock,
                events: events.clone(),
                api: api.clone(),
                objects: objects.clone(),
                services,
            },
            machine::runtime_config(&options, &root, &cgroups, &facts, &node_facts.borrow())?,
        ),
        images,
        volumes: Volumes::new(VolumesConfig {
            root: root.clone(),
            clock,
            api: api.clone().zip(objects).map(|(server, objects)| volumes::Api { server, objects }),
            node_allocatable: allocatable(&node_facts),
        }),
        cgroups: Arc::new(cgroups.clone()),
        prober: Prober::new(cri.clone(), clock, events.clone()),
        status: StatusManager::spawn(api.clone(), clock),
        node: node_facts.clone(),
        view: view.clone(),
        allocated: ResourceRecords::open(root.path().join(pod_workers::ALLOCATED)),
        actuated: ResourceRecords::open(root.path().join(pod_workers::ACTUATED)),
    };
    let records = [parts.allocated.clone(), parts.actuated.clone()];
    for record in records.clone() {
        tasks.spawn(record.keep());
    }

    match explain::listen(root.path()) {
        Ok(listener) => drop(tasks.spawn(explain::serve(listener, view.clone(), clock))),
        Err(error) => tracing::warn!(%error, "`kubelet explain` gets no answer on this node"),
    }

    let sources = source_config(&options);
    let expected = sources.sources(api.is_some());
    let (source, source_events) = PodSource::spawn(sources, api.clone(), clock);
    let (commands, orders) = mpsc::channel(256);
    let mut dispatcher = Dispatcher::new(parts.clone(), machine::dispatcher_config(&options, &facts, api.is_some())?)
        .refuses_while(is_shutting_down);
    if let Some(api) = api.clone() {
        let name = options.node_name.clone();
        dispatcher = dispatcher.asks_node(move || {
            let (api, name) = (api.clone(), name.clone());
            Box::pin(async move { api.get_node(&name).await.ok() })
        });
    }
    if let Some(mirrors) = source.mirrors() {
        dispatcher = dispatcher.on_end(move |uid| mirrors.ended(uid));
    }
    let mirrors = serving::MirrorUids::default();
    if options.config.local_storage_capacity_isolation {
        let (evictions, ended) = mpsc::channel(16);
        let seen = view.clone();
        let local_storage = LocalStorage {
            root: root.clone(),
            cri: cri.clone(),
            clock,
            events: events.clone(),
            active: Arc::new(move || seen.active().iter().map(|pod| pod.desired.clone()).collect()),
            changes: view.active_changes(),
            evictions,
        };
        tasks.spawn(local_storage.run());
        tasks.spawn(end_evicted(ended, commands.clone()));
    }

    let around = shutdown::Surroundings {
        root: root.clone(),
        clock,
        events: events.clone(),
        view: view.clone(),
        status: parts.status.clone(),
        commands: commands.clone(),
        shutting_down,
    };
    shutdown::follow(&options, around, &mut tasks);

    let (ready, mut known) = (pleg.clone(), node_facts.clone());
    tasks.spawn(async move {
        // The first picture of the runtime comes before the first word about pods: what runs is adopted, not refused,
        // and none waits for a network of which nothing has been heard yet.
        ready.synced().await;
        let _ = known.wait_for(|facts| facts.runtime_ready).await;
        dispatcher.run(orders).await;
    });
    tasks.spawn(hand_on(source_events, commands, expected, parts.status.clone(), mirrors.clone()));
    let cluster = api.as_ref().zip(node.node()).map(|(api, node)| serving::Cluster { api, node });
    let host_ips = node_facts.borrow().host_ips.clone();
    let certificate = serving::certificate(&options, clock, &host_ips, cluster, &mut tasks)?;
    node_sockets::serve(&options, &root, clock, &view, &mut tasks)?;
    let server = serving::start(&options, &root, clock, &cri, &cgroups, api, &pleg, view, mirrors, certificate).await?;
    if let Some(interval) = watchdog {
        tasks.spawn(watchdog::run(interval, health_of(&pleg)));
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
    for record in records {
        if let Err(error) = record.flushed().await {
            tracing::error!(%error, "the record of pods' resources isn't written");
        }
    }
    drop((source, once));
    Ok(())
}

async fn wait_for_end(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        Some(ended) = tasks.join_next() => {
            ended.context("a part of the agent failed")?;
            bail!("a part of the agent ended by itself; a new start mends it")
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

/// The runtime must answer before anything else makes sense; it may still be starting itself.
async fn connect_runtime(options: &Options) -> anyhow::Result<Cri> {
    let config = &options.config;
    let endpoint = &config.container_runtime_endpoint;
    let timeout = config.runtime_request_timeout.std();
    let cri = Cri::connect(endpoint, &config.image_service_endpoint, timeout).context("containerRuntimeEndpoint")?;
    let mut tries = 0;
    let version = loop {
        match cri.version().await {
            Ok(version) => break version,
            Err(error) if tries < 30 => {
                tracing::warn!(endpoint, %error, "the container runtime does not answer yet");
                tries += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("no container runtime at {endpoint}: is it running?"));
            }
        }
    };
    tracing::info!(endpoint, runtime = ?version, "container runtime found");
    Ok(cri)
}

fn health_of(pleg: &Pleg) -> node::Health {
    let pleg = pleg.clone();
    Arc::new(move || pleg.health())
}

fn allocatable(facts: &watch::Receiver<Arc<NodeFacts>>) -> Arc<dyn Fn() -> pod::quantity::ApiList + Send + Sync> {
    let facts = facts.clone();
    Arc::new(move || pod::quantity::to_api_list(&facts.borrow().allocatable))
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
