//! Task: keeps the Node's status in the API true.
//!
//! Reads: everything the status speaks of. Writes: PATCH nodes/NAME/status, events about the node. Wakes on: every
//! nodeStatusUpdateFrequency, and at once when the runtime, storage, pressure or a shutdown changes readiness.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiError, ApiServer};
use cri::Cri;
use host::{Clock, MachineFacts};
use pod::{
    Mono,
    api::{ContainerImage, Node},
    mounts::EventType,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    config::{ImageLister, NodeConfig, NodeParts},
    facts::Local,
    jitter::half_around,
    object::ensure_required_labels,
    patch::{differs, status_patch},
    registration::Registered,
    runtime_state::RuntimeView,
    status::{Announcement, StatusInputs, set_status},
};

const TRIES: u32 = 5;
/// A list of images is not cheap for a runtime.
const IMAGES_AGE: Duration = Duration::from_secs(30);

pub(crate) struct Reporter {
    pub config: Arc<NodeConfig>,
    pub parts: NodeParts,
    pub api: ApiServer,
    pub machine: Arc<MachineFacts>,
    pub runtime: watch::Receiver<RuntimeView>,
    pub local: watch::Receiver<Local>,
    /// Why storage isn't ready.
    pub storage: watch::Receiver<Option<String>>,
    pub node: watch::Receiver<Option<Arc<Node>>>,
    pub memory: Memory,
}

/// What the task knows from its last rounds.
#[derive(Default)]
pub(crate) struct Memory {
    /// The newest version seen, by watch or as the answer to a patch.
    newest: Option<Arc<Node>>,
    last_report: Option<Instant>,
    next_report_in: Duration,
    /// The runtime's last list; None until there is one.
    images: watch::Sender<Option<Vec<ContainerImage>>>,
    unschedulable: bool,
    pod_cidrs: watch::Sender<String>,
    last_error: String,
    /// When the node was made, until it is ready for the first time.
    made: Option<Mono>,
}

enum Wake {
    Report,
    NodeSeen,
}

impl Reporter {
    /// What asks the runtime goes on beside the reports: a slow runtime must not make the node look dead.
    pub async fn run(self, registered: Option<Registered>) {
        let (cri, lister) = (self.parts.cri.clone(), self.parts.images.clone());
        let (images, wanted_cidrs) = (self.memory.images.clone(), self.memory.pod_cidrs.subscribe());
        let pause = self.config.status_update_frequency;
        let clock = self.parts.clock;
        tokio::join!(
            self.report_on(registered),
            keep_images(lister, clock, images),
            keep_pod_cidrs(cri, wanted_cidrs, pause)
        );
    }

    async fn report_on(mut self, registered: Option<Registered>) {
        if registered.as_ref().is_some_and(|registered| registered.is_new) {
            // The object was born with them.
            for reason in ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"] {
                self.announce(&Announcement::StatusIsNow(reason));
            }
        }
        self.memory.made = registered.as_ref().filter(|registered| registered.is_new).map(|registered| registered.at);
        self.memory.newest = registered.map(|registered| Arc::new(registered.node));
        loop {
            self.see_node();
            self.want_pod_cidrs();
            self.report().await;
            let next = self.parts.clock.next_beat(self.config.status_update_frequency);
            while matches!(self.wake(next).await, Wake::NodeSeen) {
                self.see_node();
            }
        }
    }

    async fn wake(&mut self, next: Mono) -> Wake {
        tokio::select! {
            () = self.parts.clock.sleep_until(next) => Wake::Report,
            Ok(()) = self.runtime.changed() => Wake::Report,
            Ok(()) = self.local.changed() => Wake::Report,
            Ok(()) = self.storage.changed() => Wake::Report,
            Ok(()) = self.parts.pressure.changed() => Wake::Report,
            Ok(()) = self.parts.shutting_down.changed() => Wake::Report,
            Ok(()) = self.node.changed() => {
                // The first sight of it is what a report was waiting for.
                if self.memory.newest.is_none() { Wake::Report } else { Wake::NodeSeen }
            }
        }
    }

    fn see_node(&mut self) {
        let seen = self.node.borrow_and_update().clone();
        if let Some(seen) = seen {
            if self.memory.newest.as_ref().is_none_or(|known| is_newer(&seen, known)) {
                self.memory.newest = Some(seen);
            }
        } else if self.memory.last_report.is_some() {
            // Deleted: to register again is for the next start, as with upstream.
            self.memory.newest = None;
        }
        let Some(node) = &self.memory.newest else { return };
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if unschedulable != self.memory.unschedulable {
            self.memory.unschedulable = unschedulable;
            self.announce(&Announcement::StatusIsNow(if unschedulable {
                "NodeNotSchedulable"
            } else {
                "NodeSchedulable"
            }));
        }
    }

    fn want_pod_cidrs(&self) {
        let spec = self.memory.newest.as_ref().and_then(|node| node.spec.as_ref());
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_ref()).map(|list| list.join(",")).unwrap_or_default();
        if !cidrs.is_empty() {
            self.memory.pod_cidrs.send_if_modified(|known| {
                let changed = *known != cidrs;
                *known = cidrs;
                changed
            });
        }
    }

    async fn report(&mut self) {
        for attempt in 0..TRIES {
            match self.try_report(attempt).await {
                Ok(()) => {
                    self.memory.last_error.clear();
                    return;
                }
                Err(error) if error.is_unreachable() || error.is_deadline() => {
                    tracing::debug!(%error, "node status not updated");
                    return;
                }
                Err(error) if attempt + 1 == TRIES => {
                    let text = error.to_string();
                    if text != self.memory.last_error {
                        tracing::warn!(%error, "node status can't be updated");
                        self.memory.last_error = text;
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// The first try starts from the newest version that came by, later ones read it.
    async fn try_report(&mut self, attempt: u32) -> Result<(), ApiError> {
        if attempt > 0 {
            self.memory.newest = Some(Arc::new(self.api.get_node(&self.config.node_name).await?));
        }
        let Some(old) = self.memory.newest.clone() else { return Ok(()) };
        let mut new = (*old).clone();
        ensure_required_labels(&mut new, self.machine.architecture);
        let announcements = self.set_status(&mut new);
        let changed = differs(&old, &new);
        if !changed && !self.is_report_due() {
            return Ok(());
        }
        let Some(patch) = status_patch(&old, &new, true) else { return Ok(()) };
        let updated = self.api.patch_node_status(&self.config.node_name, &patch).await?;
        self.reported(changed);
        self.memory.newest = Some(Arc::new(updated));
        // Only what the API knows now has happened; else an outage would repeat it every round.
        for announcement in &announcements {
            self.announce(announcement);
        }
        if announcements.contains(&Announcement::StatusIsNow("NodeReady"))
            && let Some(made) = self.memory.made.take()
        {
            metrics::node_startup::ready(made.0, self.parts.clock.mono().0);
        }
        Ok(())
    }

    fn is_report_due(&self) -> bool {
        self.memory.last_report.is_none_or(|at| at.elapsed() >= self.memory.next_report_in)
    }

    /// After a change the next report without one comes at a random time, so that nodes that changed together don't
    /// report together ever after.
    fn reported(&mut self, changed: bool) {
        let frequency = self.config.status_report_frequency;
        let first = self.memory.last_report.is_none();
        self.memory.next_report_in = if changed || first { half_around(frequency) } else { frequency };
        self.memory.last_report = Some(Instant::now());
    }

    fn set_status(&mut self, node: &mut Node) -> Vec<Announcement> {
        let runtime = self.runtime.borrow_and_update().clone();
        let local = self.local.borrow_and_update().clone();
        let not_ready = self.not_ready(&runtime);
        let volumes = (self.parts.volumes_in_use)();
        let before = || node.status.as_ref().and_then(|status| status.images.clone());
        let images = self.memory.images.borrow().clone().or_else(before).unwrap_or_default();
        let inputs = StatusInputs {
            config: &self.config,
            machine: &self.machine,
            host_ips: &local.host_ips,
            capacity: &local.capacity,
            allocatable: &local.allocatable,
            runtime_version: runtime.version.as_ref(),
            handlers: &runtime.handlers,
            features: runtime.features,
            images: &images,
            volumes_in_use: volumes.as_deref(),
            pressure: *self.parts.pressure.borrow_and_update(),
            not_ready: &not_ready,
            now: self.parts.clock.wall(),
        };
        set_status(node, &inputs)
    }

    fn not_ready(&mut self, runtime: &RuntimeView) -> Vec<String> {
        let mut errors = runtime.runtime_errors(self.parts.clock.mono());
        if let Err(text) = (self.parts.pleg_health)() {
            errors.push(format!("PLEG is not healthy: {text}"));
        }
        errors.extend(runtime.network_error());
        errors.extend(self.storage.borrow_and_update().clone());
        if *self.parts.shutting_down.borrow_and_update() {
            errors.push("node is shutting down".to_owned());
        }
        errors
    }

    fn announce(&self, announcement: &Announcement) {
        let name = &self.config.node_name;
        let events = &self.parts.events;
        match announcement {
            Announcement::StatusIsNow(reason) => {
                events.node(EventType::Normal, reason, format!("Node {name} status is now: {reason}"));
            }
            Announcement::Rebooted { boot_id } => {
                let message = format!("Node {name} has been rebooted, boot id: {boot_id}");
                events.node(EventType::Warning, "Rebooted", message);
            }
        }
    }
}

async fn keep_images(list: ImageLister, clock: Clock, images: watch::Sender<Option<Vec<ContainerImage>>>) {
    loop {
        images.send_replace(Some(list().await));
        clock.beat(IMAGES_AGE).await;
    }
}

/// Some network plugins learn the node's range from the runtime.
async fn keep_pod_cidrs(cri: Cri, mut wanted: watch::Receiver<String>, pause: Duration) {
    while wanted.changed().await.is_ok() {
        let cidrs = wanted.borrow_and_update().clone();
        if let Err(error) = cri.update_runtime_config(&cidrs).await {
            tracing::debug!(%error, "the runtime did not take the pod CIDR yet");
            tokio::time::sleep(pause).await;
            wanted.mark_changed();
        }
    }
}

/// Another object of that name is newer whatever its version.
fn is_newer(seen: &Node, known: &Node) -> bool {
    let version = |node: &Node| node.metadata.resource_version.as_deref().and_then(|v| v.parse::<u128>().ok());
    seen.metadata.uid != known.metadata.uid || version(seen) >= version(known)
}
