//! Makes the Node object, or takes over the one that is there.

use std::time::Duration;

use apiserver::{ApiError, ApiServer};
use host::Clock;
use pod::{Mono, api::Node};

use crate::{
    object::{forget_devices, reconcile},
    patch::status_patch,
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(7);

/// The Node as the API has it.
pub(crate) struct Registered {
    pub node: Node,
    /// It was not there before.
    pub is_new: bool,
    pub at: Mono,
}

/// Tries until it succeeds. `initial` is asked for anew at each try: addresses may have turned up.
pub(crate) async fn register(
    api: &ApiServer,
    clock: Clock,
    initial: impl Fn() -> Node,
    new_machine: bool,
) -> Registered {
    api.identified().await;
    let tried = clock.mono();
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    loop {
        match try_register(api, &initial(), new_machine).await {
            Ok((node, is_new)) => {
                tracing::info!(node = node.metadata.name, is_new, "node is registered");
                let at = clock.mono();
                if is_new {
                    metrics::node_startup::registered(clock.started().0, tried.0, at.0);
                }
                return Registered { node, is_new, at };
            }
            Err(error) if error.is_unreachable() => tracing::debug!(%error, "node can't be registered yet"),
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::warn!(%error, "node can't be registered");
                    said = text;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The node, and whether it is new.
async fn try_register(api: &ApiServer, initial: &Node, new_machine: bool) -> Result<(Node, bool), ApiError> {
    let name = initial.metadata.name.as_deref().unwrap_or_default();
    let refused = match api.create_node(initial).await {
        Ok(node) => return Ok((node, true)),
        Err(error) => error,
    };
    // To make nodes may be somebody else's right, and this one may be there already.
    if !(refused.is_already_exists() || refused.is_conflict() || refused.is_forbidden()) {
        return Err(refused);
    }
    let existing = match api.get_node(name).await {
        Err(_) if refused.is_forbidden() => return Err(refused),
        existing => existing?,
    };
    Ok((take_over(api, existing, initial, new_machine).await?, false))
}

async fn take_over(api: &ApiServer, existing: Node, initial: &Node, new_machine: bool) -> Result<Node, ApiError> {
    let mut wanted = existing.clone();
    reconcile(&mut wanted, initial);
    if new_machine {
        forget_devices(&mut wanted);
    }
    let name = initial.metadata.name.as_deref().unwrap_or_default();
    match status_patch(&existing, &wanted, false) {
        None => Ok(existing),
        Some(patch) => api.patch_node_status(name, &patch).await,
    }
}
