//! The smallest strategic merge patch that turns the status an API object has into the one it shall have. Pure.

use k8s_openapi::api::core::v1::PodStatus;
use pod::{conditions, phase::is_terminal_field};
use serde_json::{Map, Value, json};

/// Fields of the status that others write.
const FOREIGN: &[&str] = &[
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "volumeHealth",
];

/// Lists that the API server merges by a key, so that what is left out stays; all other lists are replaced.
const MERGED: &[(&str, &str)] = &[("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// `{"status": ...}`; None: the object says it already. `known` is the status of the API object.
pub fn status_patch(known: Option<&PodStatus>, wanted: &PodStatus) -> Option<Value> {
    let none = PodStatus::default();
    let known = known.unwrap_or(&none);
    patch(known, &permitted(known, with_foreign_conditions(known, wanted)))
}

/// As `status_patch`, for a mirror: a static pod that has ended starts anew when its manifest is put back.
pub fn mirror_patch(known: Option<&PodStatus>, wanted: &PodStatus) -> Option<Value> {
    let none = PodStatus::default();
    let known = known.unwrap_or(&none);
    patch(known, &with_foreign_conditions(known, wanted))
}

fn patch(known: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let (old, new) = (fields(known), fields(wanted));
    let mut patch = Map::new();
    for key in old.keys().chain(new.keys()).filter(|key| !FOREIGN.contains(&key.as_str())) {
        let (before, after) = (old.get(key), new.get(key));
        if patch.contains_key(key) || before == after {
            continue;
        }
        match MERGED.iter().find(|(list, _)| list == key) {
            Some((_, by)) => merge_list(&mut patch, key, by, items(before), items(after)),
            None => {
                patch.insert(key.clone(), change(before, after));
            }
        }
    }
    (!patch.is_empty()).then(|| json!({ "status": patch }))
}

/// A final phase never changes again, whatever we believe.
fn permitted(known: &PodStatus, mut wanted: PodStatus) -> PodStatus {
    if is_terminal_field(known.phase.as_deref()) && known.phase != wanted.phase {
        tracing::error!(known = ?known.phase, wanted = ?wanted.phase, "a final phase may not change");
        wanted.phase.clone_from(&known.phase);
        wanted.reason.clone_from(&known.reason);
        wanted.message.clone_from(&known.message);
    }
    wanted
}

fn with_foreign_conditions(known: &PodStatus, wanted: &PodStatus) -> PodStatus {
    let mut wanted = wanted.clone();
    wanted.observed_generation = wanted.observed_generation.max(known.observed_generation);
    // Conditions of others are theirs to change and to remove; one written by several is ours only if we say it.
    let ours = |type_: &str| conditions::is_ours(type_) || type_ == conditions::DISRUPTION_TARGET;
    if let Some(list) = &mut wanted.conditions {
        list.retain(|c| ours(&c.type_));
    }
    let said = wanted.conditions.get_or_insert_default();
    let theirs = known.conditions.iter().flatten().filter(|c| !conditions::is_ours(&c.type_));
    let theirs: Vec<_> = theirs.filter(|c| said.iter().all(|s| s.type_ != c.type_)).cloned().collect();
    said.splice(0..0, theirs);
    wanted
}

/// As JSON, an empty `lastState` being none.
fn fields(status: &PodStatus) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(status) else { return Map::new() };
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        let containers = fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            container.retain(|name, value| name != "lastState" || *value != json!({}));
        }
    }
    fields
}

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A merge patch of one field: what is gone becomes null.
fn change(before: Option<&Value>, after: Option<&Value>) -> Value {
    match (before, after) {
        (_, None) => Value::Null,
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys = before.keys().chain(after.keys());
            let changed = keys.filter(|key| before.get(*key) != after.get(*key));
            changed.map(|key| (key.clone(), change(before.get(key), after.get(key)))).collect()
        }
        (_, Some(after)) => after.clone(),
    }
}

fn merge_list(patch: &mut Map<String, Value>, list: &str, by: &str, before: &[Value], after: &[Value]) {
    let find = |items: &[Value], item: &Value| items.iter().find(|i| i[by] == item[by]).cloned();
    let mut changes = Vec::new();
    for item in after {
        let known = find(before, item);
        if known.as_ref() != Some(item) {
            let mut fields = change(known.as_ref(), Some(item));
            fields[by] = item[by].clone();
            changes.push(fields);
        }
    }
    for gone in before.iter().filter(|item| find(after, item).is_none()) {
        changes.push(json!({ "$patch": "delete", by: gone[by] }));
    }
    let order: Vec<Value> = after.iter().map(|item| json!({ by: item[by] })).collect();
    if !order.is_empty() {
        patch.insert(format!("$setElementOrder/{list}"), Value::Array(order));
    }
    if !changes.is_empty() {
        patch.insert(list.to_owned(), Value::Array(changes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }
    fn patch(known: Value, wanted: Value) -> Value {
        status_patch(Some(&status(known)), &status(wanted)).map_or(Value::Null, |mut p| p["status"].take())
    }

    #[test]
    fn nothing_is_sent_when_nothing_changed() {
        let running = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]});
        let mut served = running.clone();
        served["containerStatuses"][0]["lastState"] = json!({});
        served["conditions"].as_array_mut().unwrap().insert(0, json!({"type": "example.com/gate", "status": "True"}));
        assert_eq!(patch(served, running), Value::Null);
    }

    #[test]
    fn removed_keys_become_null() {
        let known =
            json!({"phase": "Running", "reason": "x", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}});
        let wanted = json!({"phase": "Running", "resources": {"requests": {"cpu": "2"}}});
        assert_eq!(
            patch(known, wanted),
            json!({"reason": null, "resources": {"requests": {"cpu": "2", "memory": null}}})
        );
    }

    #[test]
    fn conditions_merge_by_type_and_those_of_others_are_left_alone() {
        let known = json!({"conditions": [
            {"type": "example.com/gate", "status": "True"},
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
            {"type": "PodScheduled", "status": "True"}]});
        let wanted = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(
            patch(known, wanted),
            json!({
            "$setElementOrder/conditions": [{"type": "example.com/gate"}, {"type": "Ready"}],
            "conditions": [
                {"type": "Ready", "status": "True", "reason": null, "message": null},
                {"type": "PodScheduled", "$patch": "delete"}]})
        );
    }

    #[test]
    fn our_copy_of_a_foreign_condition_is_never_written_back() {
        let known = json!({"conditions": [{"type": "example.com/gate", "status": "True"}]});
        let stale = json!({"conditions": [{"type": "example.com/gate", "status": "False"}]});
        assert_eq!(patch(known, stale), Value::Null);
        assert_eq!(
            patch(json!({}), json!({"conditions": [{"type": "example.com/gate", "status": "False"}]})),
            Value::Null
        );
    }

    #[test]
    fn a_disruption_target_is_shared() {
        let theirs =
            json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]});
        assert_eq!(patch(theirs.clone(), json!({})), Value::Null);
        let ours =
            json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]});
        let sent = patch(theirs, ours);
        assert_eq!(sent["conditions"], json!([{"type": "DisruptionTarget", "reason": "TerminationByKubelet"}]));
    }

    #[test]
    fn addresses_merge_by_ip_and_container_statuses_are_replaced() {
        let container =
            |ready: bool| json!({"name": "a", "image": "i", "imageID": "", "ready": ready, "restartCount": 0});
        let known = json!({"podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [container(false)]});
        let wanted = json!({"podIPs": [{"ip": "10.0.0.2"}], "containerStatuses": [container(true)]});
        assert_eq!(
            patch(known, wanted),
            json!({
            "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}],
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
            "containerStatuses": [container(true)]})
        );
    }

    #[test]
    fn a_mirrors_final_phase_is_that_of_the_pod_before() {
        let status = |phase: &str| PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
        let (over, anew) = (status("Succeeded"), status("Running"));
        assert_eq!(mirror_patch(Some(&over), &anew).unwrap()["status"]["phase"], "Running");
        assert_eq!(status_patch(Some(&over), &anew), None);
    }

    #[test]
    fn a_final_phase_and_the_generation_never_go_back() {
        let known = json!({"phase": "Failed", "reason": "Evicted", "observedGeneration": 3});
        assert_eq!(patch(known, json!({"phase": "Running", "observedGeneration": 2})), Value::Null);
    }

    #[test]
    fn what_others_own_is_not_touched() {
        let known = json!({"resourceClaimStatuses": [{"name": "a"}], "nominatedNodeName": "n"});
        assert_eq!(patch(known, json!({})), Value::Null);
    }
}
