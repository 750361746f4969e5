//! Whether what the cache says can be trusted.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pod::Mono;

use crate::PlegConfig;

#[derive(Default)]
pub(crate) struct Health(Mutex<Signs>);

#[derive(Default)]
struct Signs {
    /// The last event, or look at all pods that succeeded.
    last_seen: Option<Mono>,
    unreachable: Option<(Mono, String)>,
}

impl Health {
    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn seen(&self, at: Mono) {
        let mut signs = self.signs();
        signs.last_seen = Some(at);
        signs.unreachable = None;
    }

    /// Keeps the time of the first failure in a row. Returns whether this is it.
    pub fn failed(&self, at: Mono, error: &cri::CriError) -> bool {
        if !error.is_unavailable() {
            return false;
        }
        let mut signs = self.signs();
        let first = signs.unreachable.is_none();
        let since = signs.unreachable.as_ref().map_or(at, |(since, _)| *since);
        signs.unreachable = Some((since, error.message.clone()));
        first
    }

    pub fn verdict(&self, now: Mono, config: &PlegConfig) -> Result<(), String> {
        let signs = self.signs();
        if let Some((since, why)) = &signs.unreachable {
            let lasts = now.since(*since);
            if lasts >= config.unreachable_after {
                return Err(format!("container runtime has been unreachable for {}s: {why}", lasts.as_secs()));
            }
        }
        let Some(last_seen) = signs.last_seen else { return Err("pleg has yet to be successful".to_owned()) };
        let age = now.since(last_seen);
        if age > config.stale_after {
            let (age, limit) = (age.as_secs(), config.stale_after.as_secs());
            return Err(format!("pleg was last seen active {age}s ago; threshold is {limit}s"));
        }
        Ok(())
    }
}
