//! The span that a step's actions are done for, with upstream's names; a step that begins nothing has none.

use pod::Life;
use trace::Kind;

use super::{Stage, Worker};

const SCOPE: &str = "k8s.io/kubernetes/pkg/kubelet";

impl Worker {
    pub(super) fn begin_span(&mut self) {
        if !trace::is_on() {
            return;
        }
        std::mem::take(&mut self.tasks.span).release();
        let name = match self.report.life {
            Life::Pending | Life::Syncing => "syncPod",
            Life::Terminating { .. } => "syncTerminatingPod",
            Life::Terminated => "syncTerminatedPod",
            Life::Rejected { .. } | Life::Gone => return,
        };
        let span = trace::root(SCOPE, name, Kind::Internal);
        if span.is_recording() {
            let key = &self.desired.key;
            span.attribute("k8s.pod.uid", self.uid.as_str());
            span.attribute("k8s.pod", format!("{}/{}", key.namespace, key.name));
            span.attribute("k8s.pod.name", &*key.name);
            span.attribute("k8s.namespace.name", &*key.namespace);
            if name == "syncPod" {
                let first = matches!(self.stage, Stage::Bare);
                span.attribute("k8s.pod.update_type", if first { "create" } else { "sync" });
            }
        }
        self.tasks.span = span.shared();
    }
}
