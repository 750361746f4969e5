//! The running agent, wired together: every channel is made here, in the order of the picture in
//! docs/ARCHITECTURE.md, and each part is given exactly what it uses.

mod machine;
mod serving;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use apiserver::{ApiServer, ChangeDetection, ClientOptions, Events, Objects, Services};
use cri::Cri;
use host::{Clock, MachineFacts};
use images::{CredentialProviders, Images};
use node::{NodeAgent, NodeFacts, NodeParts, Pressure};
use pleg::{Pleg, PlegConfig};
use pod_source::{PodSource, SourceConfig, SourceEvent};
use pod_workers::{Dispatcher, Parts, PodCommand, PodsView};
use prober::Prober;
use runtime::{Runtime, RuntimeParts};
use status_manager::StatusManager;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use volumes::{Volumes, VolumesConfig};

use crate::options::Options;

/// Connections that are being served when the agent stops get so long to end.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT. Containers go on running: that is what a restart of the agent rests on.
pub async fn run(options: Options, clock: Clock) -> anyhow::Result<()> {
    let root = machine::root_dir(&options)?;
    let api = connect_api(&options).await?;
    let cri = connect_runtime(&options).await?;
    let cgroups = machine::cgroups(&options, &cri).await?;
    let facts = MachineFacts::read();
    machine::tune(&options);

    let events = match &api {
        Some(api) => Events::spawn(api.clone(), clock, &options.node_name),
        None => Events::log_only(),
    };
    let objects = api.as_ref().map(|api| api.objects(ChangeDetection::Watch));
    let services = api.as_ref().map_or_else(Services::none, ApiServer::services);
    let pleg = Pleg::spawn(cri.clone(), clock, PlegConfig::default());
    let images = images(&options, &cri, clock, &events, objects.clone())?;

    let node_config = machine::node_config(&options, &root)?;
    let (_pressure, pressure) = watch::channel(Pressure::default());
    let (shutting_down_in, shutting_down) = watch::channel(false);
    let node_parts = NodeParts {
        api: api.clone(),
        events: events.clone(),
        cri: cri.clone(),
        clock,
        images: lister(&images),
        volumes_in_use: Arc::new(|| Some(Vec::new())),
        pleg_health: health_of(&pleg),
        pressure,
        shutting_down,
    };
    let node = NodeAgent::new(node_config, node_parts, facts.clone()).await?;
    let node_facts = node.facts();
    machine::ensure_node_cgroups(&cgroups, &options, &node_facts.borrow(), &facts).await?;

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
    };

    let sources = source_config(&options);
    let expected = sources.sources(api.is_some());
    let (source, source_events) = PodSource::spawn(sources, api.clone(), clock);
    let (commands, orders) = mpsc::channel(256);
    let dispatcher = Dispatcher::new(parts.clone(), machine::dispatcher_config(&options, &facts, api.is_some())?);
    let mirrors = serving::MirrorUids::default();

    let mut tasks = JoinSet::new();
    let ready = pleg.clone();
    tasks.spawn(async move {
        // The first picture of the runtime comes before the first word about pods: what runs is adopted, not refused.
        ready.synced().await;
        dispatcher.run(orders).await;
    });
    tasks.spawn(hand_on(source_events, commands, expected, parts.status.clone(), mirrors.clone()));
    let server = serving::start(&options, &root, clock, &cri, &cgroups, api, &pleg, view, mirrors, &node_facts).await?;

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("the agent is up");
    tokio::select! {
        ended = wait_for_end(&mut tasks) => ended?,
        () = node.run() => {}
    }
    tracing::info!("the agent is stopping; containers go on running");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shutting_down_in.send_replace(false);
    if let Some(server) = server {
        server.shutdown(DRAIN).await;
    }
    drop(source);
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

async fn connect_api(options: &Options) -> anyhow::Result<Option<ApiServer>> {
    let Some(kubeconfig) = &options.flags.kubeconfig else {
        tracing::info!("standalone: no kubeconfig is given, only static pods run");
        return Ok(None);
    };
    let config = &options.config;
    let client = ClientOptions {
        qps: f64::from(config.kube_api_qps),
        burst: config.kube_api_burst.max(1) as u32,
        event_qps: f64::from(config.event_record_qps),
        event_burst: config.event_burst.max(1) as u32,
        ..ClientOptions::default()
    };
    let api = ApiServer::from_kubeconfig(kubeconfig, client).await;
    Ok(Some(api.with_context(|| format!("cannot use --kubeconfig {}", kubeconfig.display()))?))
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
            Err(error) => return Err(error).with_context(|| format!("no container runtime at {endpoint}: is it running?")),
        }
    };
    tracing::info!(endpoint, runtime = ?version, "container runtime found");
    Ok(cri)
}

fn images(
    options: &Options,
    cri: &Cri,
    clock: Clock,
    events: &Events,
    objects: Option<Objects>,
) -> anyhow::Result<Images> {
    let flags = &options.flags;
    let providers = match (&flags.image_credential_provider_config, &flags.image_credential_provider_bin_dir) {
        (Some(config), Some(bin)) => CredentialProviders::load(config, bin, clock)?,
        _ => CredentialProviders::default(),
    };
    Ok(Images::new(cri.clone(), clock, events.clone(), objects, machine::images_config(options), providers))
}

fn lister(images: &Images) -> node::ImageLister {
    let images = images.clone();
    Arc::new(move || {
        let images = images.clone();
        Box::pin(async move { images.for_node_status().await })
    })
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
                status.mirror(&static_uid, mirror.map(|pod| Arc::from(pod)));
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
