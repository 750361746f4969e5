//! The runtime's event stream, listened to while pods come and go.

use std::sync::{Arc, Mutex, PoisonError};

use cri::{Cri, CriError, EventKind, RuntimeEvent};
use futures::StreamExt;
use pod::ContainerId;
use tokio::task::JoinHandle;

use super::report::{Checked, unexpected};

#[derive(Default)]
struct Heard {
    events: Vec<RuntimeEvent>,
    ended: Option<CriError>,
}

pub(super) struct Listener {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Listener {
    pub(super) fn start(cri: &Cri) -> Self {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (mut stream, notes) = (cri.container_events(), heard.clone());
        let task = tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(event) => notes.events.push(event),
                    Err(error) => notes.ended = Some(error),
                }
            }
        });
        Self { heard, task }
    }

    /// Whether the container's life was told.
    pub(super) fn told(self, container: &ContainerId) -> Checked {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(error) = heard.ended {
            return Err(error.into());
        }
        for kind in [EventKind::Created, EventKind::Started, EventKind::Stopped] {
            if !heard.events.iter().any(|event| &event.id == container && event.kind == kind) {
                return unexpected(format!("no {kind:?} of a container among {} events", heard.events.len()));
            }
        }
        Ok(format!("{} events", heard.events.len()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
