//! The difference of two versions of the Node, as a strategic merge patch of its status subresource.

use pod::api::{Node, NodeCondition, NodeStatus};
use serde_json::{Map, Value, json};

/// None when a server would see no difference. A heartbeat alone is one only with `with_heartbeats`.
pub fn status_patch(old: &Node, new: &Node, with_heartbeats: bool) -> Option<Value> {
    let mut patch = Map::new();
    let metadata = json!({
        "labels": new.metadata.labels.clone().unwrap_or_default(),
        "annotations": new.metadata.annotations.clone().unwrap_or_default(),
    });
    let old_metadata = json!({
        "labels": old.metadata.labels.clone().unwrap_or_default(),
        "annotations": old.metadata.annotations.clone().unwrap_or_default(),
    });
    if let Some(difference) = difference(&old_metadata, &metadata) {
        patch.insert("metadata".to_owned(), difference);
    }
    if let Some(status) = status_difference(old, new, with_heartbeats) {
        patch.insert("status".to_owned(), status);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether `status_patch` without heartbeats would give one, told without building it: most rounds change nothing.
pub fn differs(old: &Node, new: &Node) -> bool {
    let (before, after) = (&old.metadata, &new.metadata);
    before.labels.iter().flatten().ne(after.labels.iter().flatten())
        || before.annotations.iter().flatten().ne(after.annotations.iter().flatten())
        || besides_conditions(old) != besides_conditions(new)
        || changed_conditions(old, new).iter().any(|(_, real)| *real)
}

/// Every field but one of the status, each named: a new version's field must not be forgotten.
fn besides_conditions(node: &Node) -> Option<impl PartialEq + '_> {
    let NodeStatus {
        conditions: _,
        addresses,
        allocatable,
        capacity,
        config,
        daemon_endpoints,
        declared_features,
        features,
        images,
        node_info,
        phase,
        runtime_handlers,
        volumes_attached,
        volumes_in_use,
    } = node.status.as_ref()?;
    let found = (addresses, allocatable, capacity, config, daemon_endpoints, declared_features, features);
    Some((found, images, node_info, phase, runtime_handlers, volumes_attached, volumes_in_use))
}

fn status_difference(old: &Node, new: &Node, with_heartbeats: bool) -> Option<Value> {
    let plain = |node: &Node| {
        let mut status = node.status.clone().unwrap_or_default();
        status.conditions = None;
        serde_json::to_value(status).unwrap_or_default()
    };
    let mut status = match difference(&plain(old), &plain(new)) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    if let Some(Value::Array(addresses)) = status.get_mut("addresses") {
        // They would be merged by type, and a node may have two of one type.
        addresses.push(json!({"$patch": "replace"}));
    }
    let conditions = changed_conditions(old, new);
    let real_change = conditions.iter().any(|(_, real)| *real) || !status.is_empty();
    if (real_change || with_heartbeats) && !conditions.is_empty() {
        // Merged by type: those of others are not named.
        let list: Vec<&NodeCondition> = conditions.iter().map(|(condition, _)| *condition).collect();
        status.insert("conditions".to_owned(), serde_json::to_value(list).unwrap_or_default());
    }
    (!status.is_empty()).then_some(Value::Object(status))
}

/// Those that differ, and whether by more than the heartbeat.
fn changed_conditions<'a>(old: &Node, new: &'a Node) -> Vec<(&'a NodeCondition, bool)> {
    let conditions = |node: &'a Node| node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let old_status = old.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let before = |kind: &str| old_status.iter().find(|c| c.type_ == kind);
    let without_heartbeat = |c: &NodeCondition| NodeCondition { last_heartbeat_time: None, ..c.clone() };
    let changed = conditions(new).iter().filter_map(|now| match before(&now.type_) {
        Some(then) if then == now => None,
        Some(then) => Some((now, without_heartbeat(then) != without_heartbeat(now))),
        None => Some((now, true)),
    });
    changed.collect()
}

/// A merge patch: changed and new fields with their values, vanished ones as null, lists as a whole.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let changed = new.iter().filter_map(|(key, value)| {
                let change = match old.get(key) {
                    Some(before) => difference(before, value)?,
                    None => value.clone(),
                };
                Some((key.clone(), change))
            });
            let fields: Map<String, Value> = gone.chain(changed).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        _ if old == new => None,
        _ => Some(new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::World;

    fn ready_node() -> Node {
        let mut node = Node::default();
        World::default().set(&mut node);
        node
    }

    #[test]
    fn an_unchanged_node_needs_no_patch_until_its_heartbeat_is_due() {
        let old = ready_node();
        let mut new = old.clone();
        World { second: 10, ..World::default() }.set(&mut new);
        assert_eq!(status_patch(&old, &new, false), None);
        assert!(!differs(&old, &new));
        let patch = status_patch(&old, &new, true).unwrap();
        assert_eq!(patch["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_change_brings_the_heartbeats_along() {
        let old = ready_node();
        let mut new = old.clone();
        World { not_ready: vec!["no network".into()], second: 10, ..World::default() }.set(&mut new);
        assert!(differs(&old, &new));
        let patch = status_patch(&old, &new, false).unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[3]["status"]), (4, &json!("False")));
    }

    #[test]
    fn addresses_are_replaced_and_vanished_keys_nulled() {
        let old = ready_node();
        let mut new = old.clone();
        World { ips: vec!["192.0.2.9".parse().unwrap()], ..World::default() }.set(&mut new);
        new.status.as_mut().unwrap().capacity.as_mut().unwrap().remove("pods");
        assert!(differs(&old, &new));
        let patch = status_patch(&old, &new, false).unwrap();
        assert_eq!(patch["status"]["addresses"][0]["address"], "192.0.2.9");
        assert_eq!(patch["status"]["addresses"][2], json!({"$patch": "replace"}));
        assert_eq!(patch["status"]["capacity"], json!({"pods": null}));
        assert!(patch["status"].get("nodeInfo").is_none());
    }

    #[test]
    fn conditions_of_others_are_not_sent() {
        let mut old = ready_node();
        let foreign =
            NodeCondition { type_: "NetworkUnavailable".into(), status: "False".into(), ..Default::default() };
        old.status.as_mut().unwrap().conditions.as_mut().unwrap().push(foreign);
        let mut new = old.clone();
        World { not_ready: vec!["x".into()], second: 1, ..World::default() }.set(&mut new);
        let patch = status_patch(&old, &new, false).unwrap();
        let kinds = patch["status"]["conditions"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap());
        assert!(!kinds.collect::<Vec<_>>().contains(&"NetworkUnavailable"));
    }

    #[test]
    fn labels_and_annotations_are_part_of_the_patch() {
        let old = ready_node();
        let mut new = old.clone();
        new.metadata.labels.get_or_insert_default().insert("kubernetes.io/os".into(), "linux".into());
        assert!(differs(&old, &new));
        let patch = status_patch(&old, &new, false).unwrap();
        assert_eq!(patch, json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}}));
    }
}
