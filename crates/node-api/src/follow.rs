//! One client that follows the pods. It is told how the pods differ from what it was told last: a slow client is told
//! less often instead of being cut off, and costs no memory of events.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use api_types::kubelet::v1alpha1::{EventType, WatchPodsEvent};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::{api::core::v1::PodStatus, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use metrics::node_api::{self, Pods as Method};
use pod::{DesiredPod, PodUid};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::{EncodeError, PodRow, Pods, encode, pods};

/// What was told last of a pod.
#[derive(Debug)]
struct Told {
    desired: DesiredPod,
    status: Arc<PodStatus>,
    deleted: bool,
}

#[derive(Debug)]
pub struct Follow {
    pods: Pods,
    changes: watch::Receiver<()>,
    told: HashMap<PodUid, Told>,
    next: VecDeque<WatchPodsEvent>,
    begun: bool,
    outcome: Outcome,
}

/// Counts the request when it is over, for whatever reason; mostly the client goes.
#[derive(Debug)]
struct Outcome(Code);

impl Drop for Outcome {
    fn drop(&mut self) {
        node_api::pods_answered(Method::Watch, pods::name_of(self.0));
    }
}

impl Follow {
    pub fn new(pods: Pods) -> Self {
        let changes = pods.changes.clone();
        let (told, next) = (HashMap::new(), VecDeque::new());
        Self { pods, changes, told, next, begun: false, outcome: Outcome(Code::Cancelled) }
    }

    pub fn stream(self) -> BoxStream<'static, Result<WatchPodsEvent, Status>> {
        stream::unfold(Some(self), |follow| async {
            let mut follow = follow?;
            match follow.event().await {
                Ok(Some(event)) => Some((Ok(event), Some(follow))),
                Ok(None) => None,
                Err(error) => {
                    node_api::pod_event_dropped();
                    follow.outcome.0 = Code::Internal;
                    Some((Err(pods::refused(&error)), None))
                }
            }
        })
        .boxed()
    }

    /// None when the agent stops.
    async fn event(&mut self) -> Result<Option<WatchPodsEvent>, EncodeError> {
        loop {
            if let Some(event) = self.next.pop_front() {
                return Ok(Some(event));
            }
            if self.begun && self.changes.changed().await.is_err() {
                return Ok(None);
            }
            self.changes.mark_unchanged();
            self.look()?;
            if !self.begun {
                self.begun = true;
                self.tell(EventType::InitialSyncComplete, Vec::new());
            }
        }
    }

    fn look(&mut self) -> Result<(), EncodeError> {
        let rows = self.pods.by_uid();
        let there: HashSet<&PodUid> = rows.iter().map(|row| &row.desired.uid).collect();
        let left: Vec<PodUid> = self.told.keys().filter(|uid| !there.contains(uid)).cloned().collect();
        for uid in left {
            let Some(told) = self.told.remove(&uid) else { continue };
            if !told.deleted {
                self.tell(EventType::Deleted, encode::names(&told.desired)?);
            }
        }
        for row in &rows {
            self.look_at(row)?;
        }
        Ok(())
    }

    fn look_at(&mut self, row: &PodRow) -> Result<(), EncodeError> {
        let before = self.told.get(&row.desired.uid);
        // Whoever begins to follow is told of every pod that is known, also of those that are over.
        let event = match before {
            Some(told) if told.deleted && row.gone => return Ok(()),
            // A static pod that was put back: its going and its coming may be one wake.
            Some(told) if told.deleted => EventType::Added,
            Some(_) if row.gone => EventType::Deleted,
            Some(told) if is_told(told, row) => return Ok(()),
            Some(_) => EventType::Modified,
            None => EventType::Added,
        };
        let deleted = event == EventType::Deleted;
        let pod = match deleted {
            true => encode::names(&row.desired)?,
            false => encode::pod(&row.desired, &row.status)?,
        };
        let told = Told { desired: row.desired.clone(), status: row.status.clone(), deleted: deleted || row.gone };
        self.told.insert(row.desired.uid.clone(), told);
        self.tell(event, pod);
        Ok(())
    }

    fn tell(&mut self, event: EventType, pod: Vec<u8>) {
        self.next.push_back(WatchPodsEvent { r#type: event.into(), pod });
    }
}

/// A new version of the object alone is no news: it comes back with every status that is written.
fn is_told(told: &Told, row: &PodRow) -> bool {
    let (a, b) = (&told.desired.pod, &row.desired.pod);
    let version_aside = |meta: &ObjectMeta| ObjectMeta { resource_version: None, ..meta.clone() };
    let same_pod = Arc::ptr_eq(a, b) || (a.spec == b.spec && version_aside(&a.metadata) == version_aside(&b.metadata));
    same_pod && (Arc::ptr_eq(&told.status, &row.status) || told.status == row.status)
}
