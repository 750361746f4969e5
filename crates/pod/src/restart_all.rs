//! Restarting all containers of a pod in place: what a container's rule may ask for when it exits.
//!
//! The container that asked is removed last, so for as long as the restart is under way the runtime itself shows it:
//! nothing is remembered, and a new agent goes on where the old one stopped. Sandbox, volumes and addresses stay.

use crate::{ContainerState, DesiredPod, ObservedContainer, ObservedPod, api::Container, restart::matching_rule};

pub const ACTION: &str = "RestartAllContainers";

/// Whether some container's rules could ask for it.
pub fn is_possible(desired: &DesiredPod) -> bool {
    all(desired).flat_map(|c| c.restart_policy_rules.iter().flatten()).any(|rule| rule.action == ACTION)
}

/// Whether it is under way: the newest instance of some container has exited in a way that asks for it.
pub fn is_asked(desired: &DesiredPod, observed: &ObservedPod) -> bool {
    all(desired).any(|c| observed.newest(&c.name).is_some_and(|o| asks(c, o)))
}

/// Every instance of every container, in the order in which they go: regular containers before init containers, and
/// those that asked after all others.
pub fn order<'a>(desired: &DesiredPod, observed: &'a ObservedPod) -> Vec<&'a ObservedContainer> {
    let split = |list: &[Container]| -> (Vec<&'a ObservedContainer>, Vec<&'a ObservedContainer>) {
        let of = |c: &Container| {
            let instances = observed.containers.iter().filter(|o| o.name == c.name);
            instances.map(|o| (asks(c, o), o)).collect::<Vec<_>>()
        };
        let (asking, others): (Vec<_>, Vec<_>) = list.iter().flat_map(of).partition(|(asks, _)| *asks);
        let strip = |list: Vec<(bool, &'a ObservedContainer)>| list.into_iter().map(|(_, o)| o).collect();
        (strip(asking), strip(others))
    };
    let (asking, others) = split(desired.regular_containers());
    let (asking_init, other_init) = split(desired.init_containers());
    [others, other_init, asking, asking_init].concat()
}

fn all(desired: &DesiredPod) -> impl Iterator<Item = &Container> {
    desired.init_containers().iter().chain(desired.regular_containers())
}

fn asks(c: &Container, o: &ObservedContainer) -> bool {
    o.state == ContainerState::Exited && matching_rule(c, o.exit_code).is_some_and(|rule| rule.action == ACTION)
}
