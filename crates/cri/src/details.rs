//! What single status calls have told, kept for as long as the lists show no change.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use pod::{ContainerId, ContainerState, ObservedContainer, ObservedSandbox, SandboxId};

/// How often the end of a container that was killed is asked for again: containerd may learn of an out-of-memory kill
/// after it has told of the exit.
const SECOND_LOOKS: u8 = 2;
const KILLED: i32 = 128 + 9;

#[derive(Default)]
pub(crate) struct Details(Mutex<Known>);

#[derive(Default)]
struct Known {
    containers: HashMap<ContainerId, Container>,
    sandboxes: HashMap<SandboxId, ObservedSandbox>,
    /// Grows with each `forget`, so that an answer asked for before it is not kept after it.
    forgotten: u64,
}

struct Container {
    detail: ObservedContainer,
    second_looks: u8,
}

/// Taken before a status call, given back with its answer.
#[derive(Clone, Copy)]
pub(crate) struct Asked(u64);

impl Details {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn asking(&self) -> Asked {
        Asked(self.known().forgotten)
    }

    /// The detail of a container that the list shows as `listed`, unless it must be asked for.
    pub(crate) fn container(&self, id: &ContainerId, listed: ContainerState) -> Option<ObservedContainer> {
        let mut known = self.known();
        let c = known.containers.get_mut(id)?;
        if c.second_looks > 0 {
            c.second_looks -= 1;
            return None;
        }
        // An exited container never changes, though an older list may still call it running.
        let holds = c.detail.state == ContainerState::Exited || c.detail.state == listed;
        holds.then(|| c.detail.clone())
    }

    pub(crate) fn sandbox(&self, id: &SandboxId, listed_ready: bool) -> Option<ObservedSandbox> {
        let known = self.known();
        let s = known.sandboxes.get(id)?;
        // One without its address yet is asked for again.
        let complete = !s.ready || s.host_network || !s.ips.is_empty();
        (s.ready == listed_ready && complete).then(|| s.clone())
    }

    pub(crate) fn keep_container(&self, asked: Asked, detail: &ObservedContainer) {
        let mut known = self.known();
        if known.forgotten != asked.0 {
            return;
        }
        let suspicious =
            detail.state == ContainerState::Exited && detail.exit_code == KILLED && detail.reason != "OOMKilled";
        let second_looks = match known.containers.get(&detail.id) {
            Some(c) if c.detail.state == ContainerState::Exited => c.second_looks,
            _ if suspicious => SECOND_LOOKS,
            _ => 0,
        };
        known.containers.insert(detail.id.clone(), Container { detail: detail.clone(), second_looks });
    }

    pub(crate) fn keep_sandbox(&self, detail: &ObservedSandbox) {
        self.known().sandboxes.insert(detail.id.clone(), detail.clone());
    }

    /// Something changed that no list shows.
    pub(crate) fn forget(&self, id: &ContainerId) {
        let mut known = self.known();
        known.forgotten += 1;
        known.containers.remove(id);
    }

    /// Drops all that the runtime no longer has.
    pub(crate) fn retain(&self, containers: &HashSet<&str>, sandboxes: &HashSet<&str>) {
        let mut known = self.known();
        known.containers.retain(|id, _| containers.contains(id.as_str()));
        known.sandboxes.retain(|id, _| sandboxes.contains(id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use api_types::runtime::v1::{self as v1, ContainerStatus};

    use super::*;
    use crate::convert;

    fn detail(state: v1::ContainerState, exit_code: i32) -> ObservedContainer {
        let status = ContainerStatus { id: "c1".into(), state: state as i32, exit_code, ..Default::default() };
        convert::container(status, "s1".into())
    }
    fn keep(details: &Details, detail: &ObservedContainer) {
        details.keep_container(details.asking(), detail);
    }
    fn has(details: &Details, listed: ContainerState) -> bool {
        details.container(&"c1".into(), listed).is_some()
    }

    #[test]
    fn a_running_container_is_asked_for_again_when_the_list_shows_its_end() {
        let details = Details::default();
        keep(&details, &detail(v1::ContainerState::ContainerRunning, 0));
        assert!(has(&details, ContainerState::Running));
        assert!(!has(&details, ContainerState::Exited));
    }

    #[test]
    fn an_exited_container_stays_exited_whatever_an_older_list_says() {
        let details = Details::default();
        keep(&details, &detail(v1::ContainerState::ContainerExited, 1));
        assert!(has(&details, ContainerState::Running));
    }

    #[test]
    fn a_killed_container_is_looked_at_twice_more() {
        let details = Details::default();
        let killed = detail(v1::ContainerState::ContainerExited, 137);
        keep(&details, &killed);
        for _ in 0..2 {
            assert!(!has(&details, ContainerState::Exited));
            keep(&details, &killed);
        }
        assert!(has(&details, ContainerState::Exited));
    }

    #[test]
    fn an_answer_asked_for_before_a_change_is_not_kept() {
        let details = Details::default();
        let asked = details.asking();
        details.forget(&"c1".into());
        details.keep_container(asked, &detail(v1::ContainerState::ContainerRunning, 0));
        assert!(!has(&details, ContainerState::Running));
    }
}
