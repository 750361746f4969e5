//! This node's own object: registered, kept true, and published inside the agent.
//!
//! `NodeAgent::new` looks at the machine, so that the facts are there before anything else; `run` then owns five tasks:
//! `runtime_state` (asks the runtime), `facts` (publishes), `lease`, `csi_node` and `reporter` (status). Dropping the
//! future of `run` ends them all. Without an API server only the first two run.

mod conditions;
mod config;
mod csi_node;
mod facts;
mod jitter;
mod lease;
mod object;
mod patch;
mod registration;
mod reporter;
pub mod resources;
mod runtime_state;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use apiserver::{ApiServer, Reachability};
use host::MachineFacts;
use pod::{api::Node, mounts::EventType};
use tokio::{sync::watch, task::JoinSet};

pub use config::{HardEviction, Health, ImageLister, NodeConfig, NodeParts, Pressure, Threshold, VolumesInUse};
pub use facts::NodeFacts;
pub use runtime_state::RuntimeView;

use facts::{Local, Publisher};
use reporter::{Memory, Reporter};

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("invalid Node Allocatable configuration. {detail}")]
    Reservation { detail: String },
}

pub struct NodeAgent {
    config: Arc<NodeConfig>,
    parts: NodeParts,
    machine: Arc<MachineFacts>,
    runtime: watch::Sender<RuntimeView>,
    publisher: Publisher,
}

impl NodeAgent {
    /// Publishes the first facts; asks neither the runtime nor the API server yet.
    pub async fn new(config: NodeConfig, parts: NodeParts, machine: MachineFacts) -> Result<Self, NodeError> {
        let local = facts::survey(&config, &machine, &Local::default(), true).await;
        resources::check(&config, &local.capacity).map_err(|detail| NodeError::Reservation { detail })?;
        let (config, machine) = (Arc::new(config), Arc::new(machine));
        let runtime = watch::Sender::new(RuntimeView::default());
        let mut publisher = Publisher {
            config: config.clone(),
            machine: machine.clone(),
            clock: parts.clock,
            runtime: runtime.subscribe(),
            node: parts.api.as_ref().map(|api| api.watch_node(&config.node_name)),
            local: watch::Sender::new(local),
            facts: watch::Sender::default(),
        };
        publisher.publish();
        Ok(Self { config, parts, machine, runtime, publisher })
    }

    pub fn facts(&self) -> watch::Receiver<Arc<NodeFacts>> {
        self.publisher.facts.subscribe()
    }

    /// What the runtime said last, for the health endpoint and for whoever waits for the network.
    pub fn runtime(&self) -> watch::Receiver<RuntimeView> {
        self.runtime.subscribe()
    }

    /// The API's Node; None when there is no API server.
    pub fn node(&self) -> Option<watch::Receiver<Option<Arc<Node>>>> {
        self.publisher.node.clone()
    }

    /// Runs until dropped.
    pub async fn run(self) {
        self.parts.events.node(EventType::Normal, "Starting", "Starting kubelet.");
        // A task each: a wake of one is no look at all the others.
        let mut tasks = JoinSet::new();
        tasks.spawn(runtime_state::poll(self.parts.cri.clone(), self.parts.clock, self.runtime.clone()));
        if let Some(cluster) = Cluster::new(&self) {
            cluster.spawn(&mut tasks);
        }
        tasks.spawn(self.publisher.run());
        tasks.join_all().await;
    }
}

/// The tasks that speak to the API server.
struct Cluster {
    api: ApiServer,
    node: watch::Receiver<Option<Arc<Node>>>,
    storage: watch::Sender<Option<String>>,
    reporter: Reporter,
}

impl Cluster {
    fn new(agent: &NodeAgent) -> Option<Self> {
        let api = agent.parts.api.clone()?;
        let node = agent.publisher.node.clone()?;
        let storage = watch::Sender::new(Some(csi_node::NOT_YET.to_owned()));
        let reporter = Reporter {
            config: agent.config.clone(),
            parts: agent.parts.clone(),
            api: api.clone(),
            machine: agent.machine.clone(),
            runtime: agent.runtime.subscribe(),
            local: agent.publisher.local.subscribe(),
            storage: storage.subscribe(),
            node: node.clone(),
            memory: Memory::default(),
        };
        Some(Self { api, node, storage, reporter })
    }

    fn spawn(self, tasks: &mut JoinSet<()>) {
        let Self { api, node, storage, reporter } = self;
        let config = reporter.config.clone();
        let heart = lease::Heart {
            api: api.clone(),
            clock: reporter.parts.clock,
            node_name: config.node_name.clone(),
            duration_seconds: config.lease_duration_seconds,
            node: node.clone(),
        };
        let registrar = api.clone();
        tasks.spawn(async move {
            let initial = || {
                let (local, runtime) = (reporter.local.borrow().clone(), reporter.runtime.borrow().clone());
                facts::own_node(&config, &reporter.machine, &local, &runtime, reporter.parts.clock.now())
            };
            let registered = match config.register {
                true => {
                    let clock = reporter.parts.clock;
                    Some(registration::register(&registrar, clock, initial, config.new_machine).await)
                }
                false => None,
            };
            reporter.run(registered).await;
        });
        tasks.spawn(heart.beat());
        tasks.spawn(tell_reachability(api.clone()));
        tasks.spawn(async move { csi_node::initialize(&api, node, &storage).await });
    }
}

/// One line when the API server goes away and one when it is back; all else about it is for debugging.
async fn tell_reachability(api: ApiServer) {
    let mut state = api.reachability();
    let mut is_away = false;
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            Reachability::Unreachable { error, .. } if !is_away => {
                tracing::warn!(error, "the API server can't be reached; pods go on, updates wait");
                is_away = true;
            }
            Reachability::Reachable { .. } if is_away => {
                tracing::info!("the API server is back");
                is_away = false;
            }
            _ => {}
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
