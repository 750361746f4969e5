//! What every part of the agent stands on, and the parts that need nothing else: made once, in this order, before any
//! pod is looked at.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use apiserver::{ApiServer, ChangeDetection, Events, Objects, Services};
use cgroups::Cgroups;
use cri::Cri;
use host::{Clock, MachineFacts, RootDir};
use images::Images;
use node::{NodeAgent, NodeFacts, NodeParts, Pressure};
use pleg::{Pleg, PlegConfig};
use pod_workers::{Parts, PodsView, ResourceRecords};
use prober::Prober;
use runtime::{Runtime, RuntimeParts};
use status_manager::StatusManager;
use tokio::{sync::watch, task::JoinSet};
use volumes::{Volumes, VolumesConfig};

use super::{api, images as wiring, kernel, machine, reservation};
use crate::options::Options;

/// A runtime that says nothing for so long at the start is told of.
const HANGS: Duration = Duration::from_secs(10);

pub(super) struct Base {
    pub options: Options,
    pub clock: Clock,
    pub root: RootDir,
    /// The machine's first start of an agent.
    pub new_machine: bool,
    /// None in standalone mode, as with `objects`.
    pub api: Option<ApiServer>,
    pub objects: Option<Objects>,
    pub cri: Cri,
    pub cgroups: Cgroups,
    pub facts: MachineFacts,
    pub events: Events,
    pub pleg: Pleg,
    /// Nobody tells of any yet: nothing is evicted for lack of what the whole node has.
    pressure: watch::Sender<Pressure>,
}

impl Base {
    /// The API server may be away; the machine must be as the configuration wants it, and the runtime must answer.
    pub async fn lay(options: Options, clock: Clock) -> anyhow::Result<Self> {
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
        let events = match &api {
            Some(api) => Events::spawn(api.clone(), clock, &options.node_name),
            None => Events::log_only(),
        };
        let objects = api.as_ref().map(|api| api.objects(ChangeDetection::Watch));
        let pleg = Pleg::spawn(cri.clone(), clock, PlegConfig::default());
        let pressure = watch::Sender::new(Pressure::default());
        Ok(Self { options, clock, root, new_machine, api, objects, cri, cgroups, facts, events, pleg, pressure })
    }

    /// With the image garbage collection, a task.
    pub async fn images(&self, tasks: &mut JoinSet<()>) -> anyhow::Result<Images> {
        let api = self.api.as_ref().zip(self.objects.as_ref());
        let images = wiring::images(&self.options, &self.root, &self.cri, self.clock, &self.events, api).await?;
        if let Some(gc) = wiring::garbage_collection(&self.options, &images) {
            tasks.spawn(gc.run());
        }
        Ok(images)
    }

    /// Its first facts are there when it is.
    pub async fn node(&self, images: &Images, shutting_down: watch::Receiver<bool>) -> anyhow::Result<NodeAgent> {
        let parts = NodeParts {
            api: self.api.clone(),
            events: self.events.clone(),
            cri: self.cri.clone(),
            clock: self.clock,
            images: wiring::lister(images),
            volumes_in_use: Arc::new(|| Some(Vec::new())),
            pleg_health: self.health(),
            pressure: self.pressure.subscribe(),
            shutting_down,
        };
        let config = machine::node_config(&self.options, &self.root, self.new_machine)?;
        Ok(NodeAgent::new(config, parts, self.facts.clone()).await?)
    }

    /// The node's cgroups, and what is kept back from pods; `once` goes on trying what can't be enforced yet.
    pub async fn reserve(&self, facts: &NodeFacts, once: &mut JoinSet<()>) -> anyhow::Result<()> {
        let resources = reservation::node_resources(&self.options, facts, &self.facts)?;
        self.cgroups.ensure_node(&resources).await.context("cannot make the node's cgroups")?;
        reservation::enforce_reserved(&self.options, &self.cgroups, &self.events).await?;
        if self.options.config.cgroups_per_qos {
            once.spawn(reservation::enforce_allocatable(self.cgroups.clone(), resources, self.events.clone()));
        }
        Ok(())
    }

    /// What the workers work with. The records of resources are kept by tasks.
    pub fn parts(
        &self,
        images: Images,
        node: watch::Receiver<Arc<NodeFacts>>,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Parts> {
        let runtime = self.runtime(&node.borrow())?;
        let records = |name| ResourceRecords::open(self.root.path().join(name));
        let parts = Parts {
            clock: self.clock,
            events: self.events.clone(),
            pleg: self.pleg.clone(),
            runtime,
            images,
            volumes: self.volumes(node.clone()),
            cgroups: Arc::new(self.cgroups.clone()),
            prober: Prober::new(self.cri.clone(), self.clock, self.events.clone()),
            status: StatusManager::spawn(self.api.clone(), self.clock),
            node,
            view: PodsView::default(),
            allocated: records(pod_workers::ALLOCATED),
            actuated: records(pod_workers::ACTUATED),
        };
        tasks.spawn(parts.allocated.clone().keep());
        tasks.spawn(parts.actuated.clone().keep());
        Ok(parts)
    }

    fn runtime(&self, node: &NodeFacts) -> anyhow::Result<Runtime> {
        let parts = RuntimeParts {
            cri: self.cri.clone(),
            clock: self.clock,
            events: self.events.clone(),
            api: self.api.clone(),
            objects: self.objects.clone(),
            services: self.api.as_ref().map_or_else(Services::none, ApiServer::services),
        };
        let config = machine::runtime_config(&self.options, &self.root, &self.cgroups, &self.facts, node)?;
        Ok(Runtime::new(parts, config))
    }

    fn volumes(&self, node: watch::Receiver<Arc<NodeFacts>>) -> Volumes {
        let api = self.api.clone().zip(self.objects.clone());
        Volumes::new(VolumesConfig {
            root: self.root.clone(),
            clock: self.clock,
            api: api.map(|(server, objects)| volumes::Api { server, objects }),
            node_allocatable: Arc::new(move || pod::quantity::to_api_list(&node.borrow().allocatable)),
        })
    }

    /// Of the look at the runtime: what the node's Ready and the watchdog hang on.
    pub fn health(&self) -> node::Health {
        let pleg = self.pleg.clone();
        Arc::new(move || pleg.health())
    }
}

/// The runtime must answer before anything else makes sense; it may still be starting itself.
async fn connect_runtime(options: &Options) -> anyhow::Result<Cri> {
    let config = &options.config;
    let endpoint = &config.container_runtime_endpoint;
    let timeout = config.runtime_request_timeout.std();
    let cri = Cri::connect(endpoint, &config.image_service_endpoint, timeout).context("containerRuntimeEndpoint")?;
    let mut tries = 0;
    let version = loop {
        let Ok(answer) = tokio::time::timeout(HANGS, cri.version()).await else {
            // It may be starting, but then takes no connection: one that hangs is worth waiting for.
            tracing::warn!(endpoint, "the container runtime takes a connection but does not answer");
            continue;
        };
        match answer {
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
