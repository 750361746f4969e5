//! Directories, mounts and cgroups of pods that neither a source nor the runtime knows: swept once all sources have
//! spoken, and again, less and less often, for as long as something of them stays.

use std::{collections::HashSet, time::Duration};

use pod::{Mono, PodUid};
use tokio::task::{JoinError, JoinSet};

use super::Dispatcher;
use crate::remains;

const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(120);

#[derive(Default)]
pub(super) struct Leftovers {
    /// At most one; it says whether nothing is left.
    pub sweep: JoinSet<bool>,
    pub again_at: Option<Mono>,
    tries: u32,
}

impl Dispatcher {
    pub(super) fn sweep_leftovers(&mut self) {
        self.leftovers.again_at = None;
        let mut known: HashSet<PodUid> = self.workers.keys().cloned().collect();
        known.extend(self.unadmitted.iter().chain(self.successors.values()).map(|p| p.uid.clone()));
        known.extend(self.parts.pleg.snapshot().iter().map(|o| o.uid.clone()));
        self.parts.allocated.retain(|uid| known.contains(uid));
        self.parts.actuated.retain(|uid| known.contains(uid));
        self.leftovers.sweep.spawn(remains::sweep(self.parts.clone(), known));
    }

    pub(super) fn swept(&mut self, clean: Result<bool, JoinError>) {
        if let Err(error) = &clean {
            tracing::error!(%error, "a sweep for leftovers of unknown pods ended abnormally");
        }
        if clean.unwrap_or(false) {
            return;
        }
        let wait = RETRY_FIRST.saturating_mul(1 << self.leftovers.tries.min(6)).min(RETRY_MOST);
        self.leftovers.tries += 1;
        self.leftovers.again_at = Some(self.parts.clock.mono() + wait);
    }
}
