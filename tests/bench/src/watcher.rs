//! The watching client: when each pod was seen Ready, with an ended container, and gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use apiserver::{ApiServer, PodEvent};
use host::Clock;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use pod::{Mono, PodUid, conditions};
use tokio::sync::watch;

/// Ends a measurement that hangs; judges nothing.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub uid: String,
    pub ready: Option<Mono>,
    pub is_ready: bool,
    pub running: bool,
    pub ended: Option<Mono>,
    /// What the container left in its termination log.
    pub message: String,
    pub restarts: i32,
    pub gone: Option<Mono>,
    /// Ready no more though nobody asked for its end.
    pub flips: u32,
}

#[derive(Clone)]
pub struct Watcher {
    pods: Arc<Mutex<HashMap<String, Seen>>>,
    changed: watch::Receiver<()>,
    clock: Clock,
}

impl Watcher {
    /// Follows the node's pods until the runtime ends.
    pub async fn start(api: &ApiServer, node: &str, clock: Clock) -> Result<Self> {
        let mut events = api.watch_pods(node);
        let (told, changed) = watch::channel(());
        let watcher = Self { pods: Arc::default(), changed, clock };
        match events.recv().await {
            Some(PodEvent::Synced(_)) => {}
            other => bail!("the watch began with {other:?}"),
        }
        let writer = watcher.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                writer.note(event);
                told.send_replace(());
            }
        });
        Ok(watcher)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: PodEvent) {
        let now = self.clock.mono();
        let mut pods = self.pods();
        match event {
            PodEvent::Synced(list) => list.iter().for_each(|pod| applied(&mut pods, pod, now)),
            PodEvent::Applied(pod) => applied(&mut pods, &pod, now),
            PodEvent::Deleted { key, .. } => _ = pods.entry(key.name.to_string()).or_default().gone.get_or_insert(now),
        }
    }

    pub fn get(&self, name: &str) -> Seen {
        self.pods().get(name).cloned().unwrap_or_default()
    }

    pub fn forget_all(&self) {
        self.pods().clear();
    }

    /// Waits until all pods named are as asked.
    pub async fn until(&self, names: &[String], what: &str, is: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
        let mut changed = self.changed.clone();
        let limit = self.clock.mono() + PATIENCE;
        loop {
            changed.mark_unchanged();
            let missing = {
                let pods = self.pods();
                names.iter().filter(|name| !pods.get(*name).is_some_and(&is)).count()
            };
            if missing == 0 {
                return Ok(names.iter().map(|name| self.get(name)).collect());
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = self.clock.sleep_until(limit) => bail!("{missing} of {} pods never became {what}", names.len()),
            }
        }
    }

    pub async fn until_one(&self, name: &str, what: &str, is: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let mut seen = self.until(std::slice::from_ref(&name.to_owned()), what, is).await?;
        Ok(seen.remove(0))
    }
}

impl Seen {
    pub fn uid(&self) -> PodUid {
        PodUid::new(self.uid.as_str())
    }
}

fn applied(pods: &mut HashMap<String, Seen>, pod: &Pod, now: Mono) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let seen = pods.entry(name).or_default();
    seen.uid = pod.metadata.uid.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let ready = conditions::is_true(status.conditions.as_ref(), conditions::READY);
    if ready {
        seen.ready.get_or_insert(now);
    }
    if seen.is_ready && !ready && pod.metadata.deletion_timestamp.is_none() {
        seen.flips += 1;
    }
    seen.is_ready = ready;
    let containers: &[ContainerStatus] = status.container_statuses.as_deref().unwrap_or_default();
    seen.restarts = containers.iter().map(|c| c.restart_count).sum();
    seen.running = containers.iter().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()));
    let ended = containers.iter().find_map(|c| c.state.as_ref()?.terminated.as_ref());
    if let Some(ended) = ended {
        seen.ended.get_or_insert(now);
        seen.message = ended.message.clone().unwrap_or_default();
    }
}
