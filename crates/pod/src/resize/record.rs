//! One version of pods' resources and its file, in upstream's format: the two kubelets can take over from each other.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{DesiredPod, api::Container, quantity::amounts};

/// What a pod's containers, and the pod as a whole, were given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    #[serde(rename = "ContainerResources", default, deserialize_with = "null_is_empty")]
    pub containers: BTreeMap<String, ResourceRequirements>,
    #[serde(rename = "PodLevelResources", default)]
    pub pod_level: Option<ResourceRequirements>,
    /// Only upstream with an alpha feature writes it; kept for the way back.
    #[serde(rename = "EmptyDirVolumeLimits", default)]
    pub volumes: Option<BTreeMap<String, Quantity>>,
}

/// By pod UID.
pub type Records = BTreeMap<String, PodResources>;

fn null_is_empty<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, ResourceRequirements>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl PodResources {
    pub fn of(pod: &DesiredPod) -> Self {
        let containers = pod.init_containers().iter().chain(pod.regular_containers());
        Self {
            containers: containers.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
            pod_level: pod.spec().resources.clone(),
            volumes: None,
        }
    }

    /// The pod with these resources in place of its own; None when they are the same.
    pub fn applied_to(&self, pod: &DesiredPod) -> Option<DesiredPod> {
        let spec = pod.spec();
        let differs =
            |c: &Container| self.containers.get(&c.name).is_some_and(|own| !same(Some(own), c.resources.as_ref()));
        let containers = pod.init_containers().iter().chain(pod.regular_containers());
        if same(self.pod_level.as_ref(), spec.resources.as_ref()) && !containers.into_iter().any(differs) {
            return None;
        }
        let mut spec = spec.clone();
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if differs(container) {
                container.resources = self.containers.get(&container.name).cloned();
            }
        }
        spec.resources = self.pod_level.clone();
        let metadata: ObjectMeta = pod.pod.metadata.clone();
        let pod_object = crate::api::Pod { metadata, spec: Some(spec), status: pod.pod.status.clone() };
        Some(DesiredPod { pod: Arc::new(pod_object), ..pod.clone() })
    }
}

/// By value: `1000m` is `1`, and nothing is an empty list.
fn same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    let list = |r: Option<&ResourceRequirements>| {
        (amounts(r.and_then(|r| r.requests.as_ref())), amounts(r.and_then(|r| r.limits.as_ref())))
    };
    list(a) == list(b)
}

/// Why a file of records is no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordError {
    NotJson(String),
    Checksum { found: u64, expected: u64 },
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotJson(why) => write!(f, "not readable: {why}"),
            Self::Checksum { found, expected } => write!(f, "its checksum is {found}, but {expected} is written in it"),
        }
    }
}

impl std::error::Error for RecordError {}

#[derive(Serialize, Deserialize)]
struct File {
    data: String,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
struct Data {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Records,
}

pub fn encode(records: &Records) -> String {
    let data = serde_json::to_string(&Data { entries: records.clone() }).expect("maps of text are JSON");
    let file = File { checksum: checksum(&data), data };
    serde_json::to_string(&file).expect("text and a number are JSON")
}

pub fn decode(text: &str) -> Result<Records, RecordError> {
    let not_json = |e: serde_json::Error| RecordError::NotJson(e.to_string());
    let file: File = serde_json::from_str(text).map_err(not_json)?;
    let found = checksum(&file.data);
    if found != file.checksum {
        return Err(RecordError::Checksum { found, expected: file.checksum });
    }
    let data: Data = serde_json::from_str(&file.data).map_err(not_json)?;
    Ok(data.entries)
}

/// Upstream hashes a value's printed form, which begins with its Go type.
fn checksum(data: &str) -> u64 {
    let printed = b"(string)".iter().chain(data.as_bytes());
    let hash = printed.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    u64::from(hash)
}
