//! Pods as the runtime shows them: two list calls, and a status call for each entry that changed. Who has just made
//! something needs no list to find it: one status call shows it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use api_types::runtime::v1::{
    self as v1, ContainerFilter, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandboxFilter, PodSandboxStatusRequest,
};
use futures::{StreamExt, future::BoxFuture, stream};
use pod::{ContainerId, ObservedContainer, ObservedPod, ObservedSandbox, PodKey, PodUid, SandboxId};

use crate::{
    Cri,
    call::call,
    convert,
    error::{CriError, Result},
    labels,
};

/// Status calls under way at once.
const PARALLEL: usize = 16;
/// For one status call when all pods are looked at: one that hangs must not hide the others for long.
const DETAIL_DEADLINE: Duration = Duration::from_secs(10);

/// Every pod of the node.
#[derive(Debug, Default)]
pub struct AllObserved {
    pub pods: Vec<ObservedPod>,
    /// Pods that are there but of which a part could not be read: what was known of them still stands.
    pub failed: Vec<(PodUid, CriError)>,
}

impl Cri {
    /// One pod, `version` 0. Empty, with an empty key, where the runtime has nothing of it.
    pub async fn observe_pod(&self, uid: &PodUid) -> Result<ObservedPod> {
        let selector = BTreeMap::from([(labels::POD_UID.to_owned(), uid.to_string())]);
        let listed = self.list(selector, uid.as_str()).await?;
        let mut all = self.assemble(listed, self.timeout).await;
        if let Some((_, error)) = all.failed.pop() {
            return Err(error);
        }
        let found = all.pods.into_iter().find(|p| &p.uid == uid);
        Ok(found.unwrap_or_else(|| ObservedPod::empty(uid.clone(), PodKey::new("", ""))))
    }

    /// All pods, each `version` 0. Costs two calls where nothing has changed.
    pub async fn observe_all(&self) -> Result<AllObserved> {
        let listed = self.list(BTreeMap::new(), "all").await?;
        let containers: HashSet<&str> = listed.containers.iter().map(|c| c.id.as_str()).collect();
        let sandboxes: HashSet<&str> = listed.sandboxes.iter().map(|s| s.id.as_str()).collect();
        self.details.retain(&containers, &sandboxes);
        Ok(self.assemble(listed, self.timeout.min(DETAIL_DEADLINE)).await)
    }

    /// What somebody has just made. None when it is gone already.
    pub async fn observe_made(&self, made: &Made) -> Result<Option<Detail>> {
        match made {
            Made::Sandbox(id) => self.sandbox_detail(id, self.timeout).await,
            Made::Container { id, sandbox } => self.container_detail(id, sandbox.clone(), self.timeout).await,
        }
    }

    async fn list(&self, label_selector: BTreeMap<String, String>, object: &str) -> Result<Listed> {
        let sandboxes = PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() };
        let containers = ContainerFilter { label_selector, ..Default::default() };
        let (mut first, mut second) = (self.runtime.clone(), self.runtime.clone());
        let sandboxes = first.list_pod_sandbox(ListPodSandboxRequest { filter: Some(sandboxes) });
        let containers = second.list_containers(ListContainersRequest { filter: Some(containers) });
        let (sandboxes, containers) = futures::future::try_join(
            call("list_podsandbox", object, self.timeout, sandboxes),
            call("list_containers", object, self.timeout, containers),
        )
        .await?;
        Ok(Listed { sandboxes: sandboxes.items, containers: containers.containers })
    }

    async fn assemble(&self, listed: Listed, deadline: Duration) -> AllObserved {
        let mut pods = Pods::default();
        let mut missing: Vec<BoxFuture<'_, (PodUid, Result<Option<Detail>>)>> = Vec::new();
        for s in listed.sandboxes {
            let Some((uid, key)) = convert::owner(&s.labels) else { continue };
            let (pod, id) = (pods.at(&uid, &key), SandboxId::new(s.id));
            match self.details.sandbox(&id, convert::is_ready(s.state)) {
                Some(known) => pod.sandboxes.push(known),
                None => missing.push(Box::pin(async move { (uid, self.sandbox_detail(&id, deadline).await) })),
            }
        }
        for c in listed.containers {
            let Some((uid, key)) = convert::owner(&c.labels) else { continue };
            let (pod, id) = (pods.at(&uid, &key), ContainerId::new(&c.id));
            match self.details.container(&id, convert::container_state(c.state)) {
                Some(known) => pod.containers.push(known),
                None => {
                    let sandbox = SandboxId::new(c.pod_sandbox_id);
                    missing.push(Box::pin(async move { (uid, self.container_detail(&id, sandbox, deadline).await) }));
                }
            }
        }
        let mut found = stream::iter(missing).buffer_unordered(PARALLEL);
        while let Some((uid, detail)) = found.next().await {
            pods.add(&uid, detail);
        }
        pods.finish()
    }

    /// None when it has gone since it was listed.
    async fn sandbox_detail(&self, id: &SandboxId, deadline: Duration) -> Result<Option<Detail>> {
        const OPERATION: &str = "podsandbox_status";
        let mut client = self.runtime.clone();
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: false };
        let reply = match call(OPERATION, id.as_str(), deadline, client.pod_sandbox_status(request)).await {
            Err(e) if e.is_not_found() => return Ok(None),
            reply => reply?,
        };
        let status = reply.status.ok_or_else(|| CriError::incomplete(OPERATION, id.as_str(), "status"))?;
        let sandbox = convert::sandbox(status);
        self.details.keep_sandbox(&sandbox);
        Ok(Some(Detail::Sandbox(sandbox)))
    }

    async fn container_detail(
        &self,
        id: &ContainerId,
        sandbox: SandboxId,
        deadline: Duration,
    ) -> Result<Option<Detail>> {
        const OPERATION: &str = "container_status";
        let asked = self.details.asking();
        let mut client = self.runtime.clone();
        let request = ContainerStatusRequest { container_id: id.to_string(), verbose: false };
        let reply = match call(OPERATION, id.as_str(), deadline, client.container_status(request)).await {
            Err(e) if e.is_not_found() => return Ok(None),
            reply => reply?,
        };
        let status = reply.status.ok_or_else(|| CriError::incomplete(OPERATION, id.as_str(), "status"))?;
        let container = convert::container(status, sandbox);
        self.details.keep_container(asked, &container);
        Ok(Some(Detail::Container(Box::new(container))))
    }
}

struct Listed {
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
}

/// What an action has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Sandbox(SandboxId),
    Container { id: ContainerId, sandbox: SandboxId },
}

/// One sandbox or container.
#[derive(Clone, Debug)]
pub enum Detail {
    Sandbox(ObservedSandbox),
    Container(Box<ObservedContainer>),
}

impl Detail {
    /// In place of what the picture shows of the same, if anything.
    pub fn put_into(self, pod: &mut ObservedPod) {
        match self {
            Self::Sandbox(sandbox) => {
                pod.sandboxes.retain(|known| known.id != sandbox.id);
                pod.sandboxes.push(sandbox);
            }
            Self::Container(container) => {
                pod.containers.retain(|known| known.id != container.id);
                pod.containers.push(*container);
            }
        }
        newest_first(pod);
    }
}

/// Pods under construction.
#[derive(Default)]
struct Pods {
    pods: HashMap<PodUid, ObservedPod>,
    failed: HashMap<PodUid, CriError>,
}

impl Pods {
    fn at(&mut self, uid: &PodUid, key: &PodKey) -> &mut ObservedPod {
        self.pods.entry(uid.clone()).or_insert_with(|| ObservedPod::empty(uid.clone(), key.clone()))
    }

    fn add(&mut self, uid: &PodUid, detail: Result<Option<Detail>>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match detail {
            Ok(Some(Detail::Sandbox(s))) => pod.sandboxes.push(s),
            Ok(Some(Detail::Container(c))) => pod.containers.push(*c),
            Ok(None) => {}
            Err(e) => {
                self.failed.insert(uid.clone(), e);
            }
        }
    }

    fn finish(mut self) -> AllObserved {
        self.pods.retain(|uid, _| !self.failed.contains_key(uid));
        let mut pods: Vec<_> = self.pods.into_values().collect();
        pods.iter_mut().for_each(newest_first);
        AllObserved { pods, failed: self.failed.into_iter().collect() }
    }
}

/// By attempt, which only grows while any instance is there, then by creation: the wall clock may have been set back.
fn newest_first(pod: &mut ObservedPod) {
    pod.sandboxes
        .sort_by(|a, b| (b.attempt, b.created_at, b.id.as_str()).cmp(&(a.attempt, a.created_at, a.id.as_str())));
    pod.containers.sort_by(|a, b| {
        (b.restart_count, b.created_at, b.id.as_str()).cmp(&(a.restart_count, a.created_at, a.id.as_str()))
    });
}

#[cfg(test)]
mod tests {
    use api_types::runtime::v1::{ContainerMetadata, ContainerStatus, PodSandboxMetadata, PodSandboxStatus};

    use super::*;

    #[test]
    fn the_last_attempt_is_the_newest_though_the_wall_clock_was_set_back() {
        let mut pod = ObservedPod::empty("web".into(), PodKey::new("default", "web"));
        for (attempt, created_at) in [(0, 2_000), (1, 1_000), (1, 1_500)] {
            let id = format!("{attempt}-{created_at}");
            let metadata = Some(PodSandboxMetadata { attempt, ..Default::default() });
            let sandbox = PodSandboxStatus { id: id.clone(), metadata, created_at, ..Default::default() };
            Detail::Sandbox(convert::sandbox(sandbox)).put_into(&mut pod);
            let metadata = Some(ContainerMetadata { name: "app".into(), attempt });
            let container = ContainerStatus { id, metadata, created_at, ..Default::default() };
            Detail::Container(Box::new(convert::container(container, "s".into()))).put_into(&mut pod);
        }
        assert_eq!(pod.sandboxes.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["1-1500", "1-1000", "0-2000"]);
        assert_eq!(pod.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["1-1500", "1-1000", "0-2000"]);
    }
}
