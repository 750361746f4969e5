//! Task: publishes what the rest of the agent wants to know of this node.
//!
//! Reads: network interfaces, the root directory's file system. Writes: `watch` of `NodeFacts`. Wakes on: the Node
//! object, the runtime's state, and every nodeStatusUpdateFrequency.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use cri::{Features, Handler};
use host::{Clock, MachineFacts, addresses, fs_stats::fs_stats};
use pod::{Now, api::Node, quantity::Amounts};
use tokio::{sync::watch, time::Instant};

use crate::{
    config::{NodeConfig, Pressure},
    object::initial_node,
    resources,
    runtime_state::RuntimeView,
    status::{StatusInputs, set_status},
};

/// What costs more to find out than to look whether it still holds.
const FOUND_AGE: Duration = Duration::from_secs(60);

/// This node as admission, the downward API and the status rules see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The API object; before it is known, and without an API server, what this kubelet would register.
    pub node: Option<Arc<Node>>,
    /// Whether `node` is the API's.
    pub from_api: bool,
    /// Primary first; empty while none could be found out.
    pub host_ips: Vec<String>,
    pub capacity: Amounts,
    pub allocatable: Amounts,
    pub runtime_ready: bool,
    pub network_ready: bool,
    /// Why the network is not ready; empty when it is.
    pub network_message: String,
    pub handlers: Vec<Handler>,
    pub features: Option<Features>,
}

/// What was found out on this machine itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Local {
    pub host_ips: Vec<IpAddr>,
    /// Bytes of the root directory's file system.
    pub storage: Option<u64>,
    pub capacity: Amounts,
    pub allocatable: Amounts,
}

/// Looks at the machine. Addresses that can't be found out now stay as they were `before`. Unless `afresh`, those that
/// the machine still has stay too, since to find them out may ask a name server, and so does the size of its disk.
pub(crate) async fn survey(config: &NodeConfig, machine: &MachineFacts, before: &Local, afresh: bool) -> Local {
    let host_ips = if afresh || !still_there(&before.host_ips) {
        find_addresses(config, before).await
    } else {
        before.host_ips.clone()
    };
    let storage = match config.local_storage_isolation {
        true if afresh || before.storage.is_none() => storage(config.root_dir.clone()).await,
        true => before.storage,
        false => None,
    };
    let capacity = resources::capacity(config, machine, storage);
    let allocatable = resources::allocatable(config, &capacity);
    Local { host_ips, storage, capacity, allocatable }
}

fn still_there(known: &[IpAddr]) -> bool {
    let interfaces = addresses::interfaces().unwrap_or_default();
    !known.is_empty() && known.iter().all(|ip| addresses::validate(*ip, &interfaces).is_ok())
}

async fn find_addresses(config: &NodeConfig, before: &Local) -> Vec<IpAddr> {
    match addresses::node_ips(config.node_ip, &config.host_name, &config.node_name).await {
        Ok(ips) => ips,
        Err(error) => {
            if !before.host_ips.is_empty() || before.capacity.is_empty() {
                tracing::warn!(%error, "the node's addresses can't be found out");
            }
            before.host_ips.clone()
        }
    }
}

/// Off the async threads: a file system may take its time.
async fn storage(root_dir: PathBuf) -> Option<u64> {
    let read = move || {
        // Before the first start only what it will be made in exists.
        let existing = root_dir.ancestors().find(|dir| dir.exists())?;
        fs_stats(existing).ok().map(|stats| stats.capacity)
    };
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

pub(crate) struct Publisher {
    pub config: Arc<NodeConfig>,
    pub machine: Arc<MachineFacts>,
    pub clock: Clock,
    pub runtime: watch::Receiver<RuntimeView>,
    /// None without an API server.
    pub node: Option<watch::Receiver<Option<Arc<Node>>>>,
    pub local: watch::Sender<Local>,
    pub facts: watch::Sender<Arc<NodeFacts>>,
}

impl Publisher {
    pub async fn run(mut self) {
        let mut found_at = Instant::now();
        loop {
            self.publish();
            let look_again = tokio::select! {
                () = self.clock.beat(self.config.status_update_frequency) => true,
                Ok(()) = self.runtime.changed() => false,
                () = changed(&mut self.node) => false,
            };
            if look_again {
                let before = self.local.borrow().clone();
                let afresh = found_at.elapsed() >= FOUND_AGE;
                if afresh {
                    found_at = Instant::now();
                }
                let local = survey(&self.config, &self.machine, &before, afresh).await;
                self.local.send_if_modified(|known| std::mem::replace(known, local.clone()) != local);
            }
        }
    }

    /// Also called once before anything runs, so that the facts are never missing.
    pub fn publish(&mut self) {
        let runtime = self.runtime.borrow_and_update().clone();
        let known = self.node.as_mut().and_then(|node| node.borrow_and_update().clone());
        let facts = Arc::new(self.facts_of(known, &runtime));
        self.facts.send_if_modified(|published| {
            let differs = *published != facts;
            *published = facts;
            differs
        });
    }

    fn facts_of(&self, known: Option<Arc<Node>>, runtime: &RuntimeView) -> NodeFacts {
        let local = self.local.borrow();
        let from_api = known.is_some();
        let network_error = runtime.network_error();
        let kept = || Some(self.facts.borrow().clone()).filter(|f| !f.from_api).and_then(|f| f.node.clone());
        let node = known.or_else(kept).unwrap_or_else(|| Arc::new(self.own_node(&local, runtime)));
        NodeFacts {
            host_ips: host_ips(&node, from_api && self.config.external_cloud, &local.host_ips),
            node: Some(node),
            from_api,
            capacity: local.capacity.clone(),
            allocatable: local.allocatable.clone(),
            runtime_ready: runtime.runtime_ready(self.clock.mono()),
            network_ready: network_error.is_none(),
            network_message: network_error.unwrap_or_default(),
            handlers: runtime.handlers.clone(),
            features: runtime.features,
        }
    }

    fn own_node(&self, local: &Local, runtime: &RuntimeView) -> Node {
        own_node(&self.config, &self.machine, local, runtime, self.clock.now())
    }
}

/// The Node that this kubelet would register now.
pub(crate) fn own_node(
    config: &NodeConfig,
    machine: &MachineFacts,
    local: &Local,
    runtime: &RuntimeView,
    now: Now,
) -> Node {
    let mut node = initial_node(config, machine.architecture);
    let mut not_ready = runtime.runtime_errors(now.mono);
    not_ready.extend(runtime.network_error());
    let inputs = StatusInputs {
        config,
        machine,
        host_ips: &local.host_ips,
        capacity: &local.capacity,
        allocatable: &local.allocatable,
        runtime_version: runtime.version.as_ref(),
        handlers: &runtime.handlers,
        features: runtime.features,
        images: &[],
        volumes_in_use: None,
        pressure: Pressure::default(),
        not_ready: &not_ready,
        now: now.wall,
    };
    set_status(&mut node, &inputs);
    node
}

/// With an external cloud the addresses that it gave the Node are the true ones.
fn host_ips(node: &Node, cloud_knows: bool, own: &[IpAddr]) -> Vec<String> {
    if cloud_knows {
        let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        let of = |kind: &'static str| addresses.iter().filter(move |a| a.type_ == kind).map(|a| a.address.clone());
        let given: Vec<String> = of("InternalIP").chain(of("ExternalIP")).collect();
        if !given.is_empty() {
            return given;
        }
    }
    own.iter().map(IpAddr::to_string).collect()
}

/// Never, without an API server or once its watch has ended.
async fn changed(node: &mut Option<watch::Receiver<Option<Arc<Node>>>>) {
    let alive = match node {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => false,
    };
    if !alive {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use cri::Condition;
    use pod::api::{NodeAddress, NodeStatus};

    use super::*;
    use crate::status::tests::machine;

    fn publisher(node: Option<watch::Receiver<Option<Arc<Node>>>>) -> (Publisher, watch::Sender<RuntimeView>) {
        let (runtime_in, runtime) = watch::channel(RuntimeView::default());
        let config = Arc::new(NodeConfig::new("n"));
        let machine = Arc::new(machine());
        let capacity = resources::capacity(&config, &machine, None);
        let local = Local {
            host_ips: vec!["192.0.2.2".parse().unwrap()],
            storage: None,
            allocatable: capacity.clone(),
            capacity,
        };
        let publisher = Publisher {
            config,
            machine,
            clock: Clock::start(),
            runtime,
            node,
            local: watch::Sender::new(local),
            facts: watch::Sender::default(),
        };
        (publisher, runtime_in)
    }

    #[tokio::test(start_paused = true)]
    async fn a_standalone_node_knows_itself_at_once() {
        let (mut publisher, _runtime) = publisher(None);
        publisher.publish();
        let facts = publisher.facts.borrow().clone();
        let node = facts.node.clone().unwrap();
        assert_eq!((node.metadata.name.as_deref(), facts.from_api), (Some("n"), false));
        assert_eq!(facts.host_ips, ["192.0.2.2"]);
        assert_eq!(facts.allocatable["pods"].value(), 110);
        assert!(!facts.network_ready && facts.network_message == "network state unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_object_replaces_the_own_one() {
        let (api, receiver) = watch::channel(None);
        let (mut publisher, _runtime) = publisher(Some(receiver));
        publisher.publish();
        assert!(!publisher.facts.borrow().from_api);
        let mut node = Node::default();
        node.metadata.uid = Some("u".into());
        api.send_replace(Some(Arc::new(node)));
        publisher.publish();
        let facts = publisher.facts.borrow().clone();
        assert_eq!((facts.from_api, facts.node.clone().unwrap().metadata.uid.as_deref()), (true, Some("u")));
    }

    #[tokio::test(start_paused = true)]
    async fn equal_facts_wake_nobody() {
        let (mut publisher, runtime) = publisher(None);
        let mut seen = publisher.facts.subscribe();
        publisher.publish();
        assert!(seen.has_changed().unwrap());
        seen.borrow_and_update();
        publisher.publish();
        assert!(!seen.has_changed().unwrap());
        runtime.send_modify(|view| view.network = Some(Condition { ready: true, ..Condition::default() }));
        publisher.publish();
        assert!(seen.has_changed().unwrap() && seen.borrow().network_ready);
    }

    #[test]
    fn a_clouds_addresses_count_only_where_there_is_one() {
        let address = |kind: &str, ip: &str| NodeAddress { type_: kind.into(), address: ip.into() };
        let addresses = vec![address("ExternalIP", "203.0.113.1"), address("InternalIP", "10.0.0.1")];
        let status = NodeStatus { addresses: Some(addresses), ..NodeStatus::default() };
        let node = Node { status: Some(status), ..Node::default() };
        let own = ["192.0.2.2".parse().unwrap()];
        assert_eq!(host_ips(&node, true, &own), ["10.0.0.1", "203.0.113.1"]);
        assert_eq!(host_ips(&node, false, &own), ["192.0.2.2"]);
        assert_eq!(host_ips(&Node::default(), true, &own), ["192.0.2.2"]);
    }
}
