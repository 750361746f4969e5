//! Whether a container that ended runs again: its own rules first, then its policy, then the pod's.

use crate::api::{Container, ContainerRestartRule};

/// `pod_policy` is spec.restartPolicy. Source: KEP-5307 (container restart rules).
pub fn after_exit(c: &Container, pod_policy: &str, exit_code: i32) -> bool {
    if c.restart_policy.is_some() && matching_rule(c, exit_code).is_some() {
        return true;
    }
    match c.restart_policy.as_deref().unwrap_or(pod_policy) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The first rule that fits wins; both actions that there are start the container again.
pub fn matching_rule(c: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    let rules = c.restart_policy_rules.as_deref().unwrap_or_default();
    rules.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}
