//! Which dead containers and sandboxes of a living pod nobody needs any more.

use std::collections::{BTreeMap, HashSet};

use crate::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};

#[derive(Debug, Default, PartialEq)]
pub struct Superseded {
    pub containers: Vec<ObservedContainer>,
    pub sandboxes: Vec<ObservedSandbox>,
}

/// Of each container the newest instance and one before it stay: they are its state and lastState. A sandbox goes
/// when a newer one has replaced it and no container of it is left.
pub fn superseded(observed: &ObservedPod) -> Superseded {
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut out = Superseded::default();
    let mut kept_sandboxes = HashSet::new();
    for c in &observed.containers {
        let earlier = seen.entry(c.name.as_str()).or_default();
        *earlier += 1;
        if *earlier > 2 && c.state == ContainerState::Exited {
            out.containers.push(c.clone());
        } else {
            kept_sandboxes.insert(&c.sandbox_id);
        }
    }
    let old = observed.sandboxes.iter().skip(1);
    out.sandboxes = old.filter(|s| !s.ready && !kept_sandboxes.contains(&s.id)).cloned().collect();
    out
}
