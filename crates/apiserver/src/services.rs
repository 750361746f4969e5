//! Services of the cluster, for the environment variables that containers get: a few fields of each.
//!
//! Reads: the API server's services but headless ones. Writes: an index by namespace. Wakes on: watch events.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock},
};

use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use crate::{
    ApiServer,
    follow::{Change, Collection, follow},
    owned::Owned,
    request::path,
    rows::Row,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub namespace: String,
    pub name: String,
    /// Empty for a service without one (ExternalName).
    pub cluster_ip: String,
    pub ports: Vec<ServicePortEntry>,
    /// clusterIP: None.
    pub headless: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortEntry {
    pub name: String,
    pub port: i32,
    pub protocol: String,
}

/// Cheap to clone; following ends with the last clone.
#[derive(Clone)]
pub struct Services {
    index: Arc<RwLock<Index>>,
    synced: watch::Receiver<bool>,
    _task: Option<Arc<Owned>>,
}

type Index = HashMap<String, BTreeMap<String, Arc<ServiceEntry>>>;

impl ApiServer {
    pub fn services(&self) -> Services {
        let index = Arc::new(RwLock::new(Index::new()));
        let (synced_in, synced) = watch::channel(false);
        let (changes_in, mut changes) = mpsc::channel(16);
        // Headless services have no address to put into a variable (kubernetes.io/issue/122394).
        let collection = Collection {
            path: path::core("services"),
            field_selector: Some("spec.clusterIP!=None".to_owned()),
            object: "services".to_owned(),
        };
        let follower = Owned::spawn(follow::<ServiceRow>(self.clone(), collection, changes_in));
        let writer = index.clone();
        let task = Owned::spawn(async move {
            let _follower = follower;
            while let Some(change) = changes.recv().await {
                apply(&mut writer.write().unwrap_or_else(|e| e.into_inner()), change);
                synced_in.send_if_modified(|synced| !std::mem::replace(synced, true));
            }
        });
        Services { index, synced, _task: Some(Arc::new(task)) }
    }
}

impl Services {
    /// For a node without an API server: there are none, and that is known.
    pub fn none() -> Self {
        Self { index: Arc::default(), synced: watch::channel(true).1, _task: None }
    }

    /// Whether the services have been read at least once: before that a pod from the API must not start.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for `is_synced`.
    pub async fn synced(&self) {
        // The sender lives in the task that this handle owns.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ServiceEntry>> {
        self.index.read().unwrap_or_else(|e| e.into_inner()).get(namespace)?.get(name).cloned()
    }

    /// In order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<ServiceEntry>> {
        let index = self.index.read().unwrap_or_else(|e| e.into_inner());
        index.get(namespace).map(|services| services.values().cloned().collect()).unwrap_or_default()
    }
}

fn apply(index: &mut Index, change: Change<ServiceRow>) {
    match change {
        Change::Synced(rows) => rows.into_iter().for_each(|row| insert(index, row)),
        Change::Applied(row) => insert(index, *row),
        Change::Deleted(gone) => {
            if let Some(services) = index.get_mut(&gone.namespace) {
                services.remove(&gone.name);
                if services.is_empty() {
                    index.remove(&gone.namespace);
                }
            }
        }
    }
}

fn insert(index: &mut Index, row: ServiceRow) {
    let ServiceRow { metadata: RowMeta { namespace, name, .. }, spec } = row;
    let headless = spec.cluster_ip == "None";
    let ports = spec.ports.into_iter().map(|p| ServicePortEntry { name: p.name, port: p.port, protocol: p.protocol });
    let entry = ServiceEntry {
        namespace: namespace.clone(),
        name: name.clone(),
        cluster_ip: spec.cluster_ip,
        ports: ports.collect(),
        headless,
    };
    index.entry(namespace).or_default().insert(name, Arc::new(entry));
}

/// The fields read of a Service; the rest is never decoded.
#[derive(Debug, Deserialize)]
struct ServiceRow {
    metadata: RowMeta,
    #[serde(default)]
    spec: RowSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowMeta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RowSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<RowPort>,
}

#[derive(Debug, Deserialize)]
struct RowPort {
    #[serde(default)]
    name: String,
    port: i32,
    #[serde(default)]
    protocol: String,
}

impl Row for ServiceRow {
    fn uid(&self) -> &str {
        &self.metadata.uid
    }
    fn namespace(&self) -> &str {
        &self.metadata.namespace
    }
    fn name(&self) -> &str {
        &self.metadata.name
    }
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}
