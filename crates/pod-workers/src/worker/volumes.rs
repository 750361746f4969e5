//! Volumes that are made follow the pod: what changed while they were made, too.

use std::sync::Arc;

use pod::{DesiredPod, resize::PodResources};

use super::{Stage, Worker};
use crate::actions;

impl Worker {
    pub(super) fn keep_volumes_current(&mut self) {
        if !matches!(self.stage, Stage::Ready(_)) || Arc::ptr_eq(&self.volumes_of.pod, &self.desired.pod) {
            return;
        }
        // An ephemeral container may be the first to mount one of the pod's volumes: no container starts before that
        // is made, as at the pod's own start.
        if volumes::mounts_other_volumes(&self.volumes_of, &self.desired) {
            self.stage = Stage::Bare;
            return;
        }
        if shows_otherwise(&self.volumes_of, &self.desired) {
            self.tasks.spawn(actions::refresh_volumes(self.parts.clone(), self.desired.clone()));
        } else {
            self.parts.volumes.renew(&self.desired);
        }
        self.volumes_of = self.desired.clone();
    }
}

/// Labels, annotations and resources may show in a downward API volume.
fn shows_otherwise(before: &DesiredPod, now: &DesiredPod) -> bool {
    let (old, new) = (&before.pod.metadata, &now.pod.metadata);
    old.labels != new.labels || old.annotations != new.annotations || PodResources::of(before) != PodResources::of(now)
}
