//! What a newer version of a pod asks for that the older one did not, in the words of the metrics.

use crate::{
    DesiredPod,
    api::Container,
    quantity::Quantity,
    resources::{container_limit, container_request},
};

/// Resource, requirement and operation of each amount of a container that changes.
pub fn asked(old: &DesiredPod, new: &DesiredPod) -> Vec<[&'static str; 3]> {
    let regular = old.spec().containers.iter().zip(&new.spec().containers);
    let init = old.init_containers().iter().zip(new.init_containers());
    regular.chain(init).filter(|(old, new)| old.name == new.name).flat_map(|(old, new)| changes(old, new)).collect()
}

fn changes(old: &Container, new: &Container) -> impl Iterator<Item = [&'static str; 3]> {
    ["memory", "cpu"].into_iter().flat_map(|name| {
        let requests = operation(container_request(old, name), container_request(new, name));
        let limits = operation(container_limit(old, name), container_limit(new, name));
        [("requests", requests), ("limits", limits)]
            .into_iter()
            .filter_map(move |(requirement, operation)| Some([name, requirement, operation?]))
    })
}

fn operation(old: Quantity, new: Quantity) -> Option<&'static str> {
    match (old.is_zero(), new.is_zero()) {
        (true, true) => None,
        (true, false) => Some("add"),
        (false, true) => Some("remove"),
        _ if new < old => Some("decrease"),
        _ if new > old => Some("increase"),
        _ => None,
    }
}

/// The pod's priority in a label.
pub fn priority_bucket(pod: &DesiredPod) -> &'static str {
    match pod.spec().priority.unwrap_or(0) {
        2_000_000_000.. => "system-critical",
        100_000.. => "high",
        1.. => "medium",
        0 => "normal",
        -999.. => "low",
        _ => "very-low",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    fn pod(resources: Value, priority: Value) -> DesiredPod {
        let spec = json!({"containers": [{"name": "app", "resources": resources}], "priority": priority});
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    #[test]
    fn each_amount_that_changes_is_named() {
        let old = pod(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}), json!(null));
        let new = pod(json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}), json!(null));
        let expected = [["memory", "limits", "add"], ["cpu", "requests", "increase"], ["cpu", "limits", "remove"]];
        assert_eq!(asked(&old, &new), expected);
        assert!(asked(&new, &new).is_empty());
    }

    #[test]
    fn priorities_fall_into_buckets() {
        let bucket = |priority: i32| priority_bucket(&pod(json!({}), json!(priority)));
        let buckets = [2_000_001_000, 100_000, 7, 0, -1, -1000].map(bucket);
        assert_eq!(buckets, ["system-critical", "high", "medium", "normal", "low", "very-low"]);
        assert_eq!(priority_bucket(&pod(json!({}), json!(null))), "normal");
    }
}
