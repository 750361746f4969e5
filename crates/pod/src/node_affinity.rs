//! Which nodes a pod accepts: its node selector and required node affinity; and which taints it bears.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Both the selector and, if there is one, some term of the required affinity must match.
pub fn accepts(spec: &PodSpec, node_name: &str, labels: &BTreeMap<String, String>) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node_name, labels)))
}

/// An empty term selects nothing; a malformed one neither.
fn term(term: &NodeSelectorTerm, node_name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| label(r, labels))
        && fields.iter().all(|r| field(r, node_name))
}

fn label(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let have = labels.get(&requirement.key);
    let compared = || {
        let [wanted] = values else { return None };
        Some((have?.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => have.is_some_and(|v| values.contains(v)),
        "NotIn" => !values.is_empty() && have.is_none_or(|v| !values.contains(v)),
        "Exists" => values.is_empty() && have.is_some(),
        "DoesNotExist" => values.is_empty() && have.is_none(),
        "Gt" => compared().is_some_and(|(have, wanted)| have > wanted),
        "Lt" => compared().is_some_and(|(have, wanted)| have < wanted),
        _ => false,
    }
}

fn field(requirement: &NodeSelectorRequirement, node_name: &str) -> bool {
    let Some([wanted]) = requirement.values.as_deref() else { return false };
    let have = if requirement.key == "metadata.name" { node_name } else { "" };
    match requirement.operator.as_str() {
        "In" => have == wanted,
        "NotIn" => have != wanted,
        _ => false,
    }
}

/// The first taint of that effect that no toleration covers.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effect: &str) -> Option<&'a Taint> {
    taints.iter().filter(|t| t.effect == effect).find(|taint| !tolerated(tolerations, taint))
}

pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let unset_or = |field: &Option<String>, value: &str| field.as_deref().is_none_or(|f| f.is_empty() || f == value);
    if !unset_or(&toleration.effect, &taint.effect) || !unset_or(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn accepted(spec: Value) -> bool {
        let mut full = json!({"containers": []});
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        let labels = [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        accepts(&serde_json::from_value(full).unwrap(), "n1", &labels)
    }
    fn affinity(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }
    fn expression(key: &str, operator: &str, values: Value) -> bool {
        accepted(affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}])))
    }

    #[test]
    fn every_operator_compares_as_the_scheduler_does() {
        assert!(expression("zone", "In", json!(["a", "b"])) && !expression("zone", "In", json!(["b"])));
        assert!(!expression("rack", "In", json!(["b"])) && expression("rack", "NotIn", json!(["b"])));
        assert!(!expression("zone", "NotIn", json!(["a"])));
        assert!(expression("zone", "Exists", json!([])) && !expression("rack", "Exists", json!([])));
        assert!(expression("rack", "DoesNotExist", json!([])) && !expression("zone", "DoesNotExist", json!([])));
        assert!(expression("cores", "Gt", json!(["7"])) && !expression("cores", "Gt", json!(["8"])));
        assert!(expression("cores", "Lt", json!(["9"])) && !expression("zone", "Lt", json!(["9"])));
        assert!(!expression("zone", "Like", json!(["a"])));
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        assert!(accepted(json!({"nodeSelector": {"zone": "a"}})) && !accepted(json!({"nodeSelector": {"zone": "b"}})));
        assert!(!accepted(affinity(json!([{}]))) && !accepted(affinity(json!([]))));
        let here = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        let elsewhere = json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]});
        assert!(accepted(affinity(json!([elsewhere, here]))) && !accepted(affinity(json!([elsewhere]))));
    }

    #[test]
    fn tolerations_cover_taints_by_key_value_and_effect() {
        let taint = |v: Value| serde_json::from_value::<Taint>(v).unwrap();
        let bears = |t: Value| {
            tolerated(
                &[serde_json::from_value(t).unwrap()],
                &taint(json!({"key": "k", "value": "v", "effect": "NoExecute"})),
            )
        };
        assert!(bears(json!({"operator": "Exists"})) && bears(json!({"key": "k", "value": "v"})));
        assert!(bears(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})));
        assert!(
            !bears(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}))
                && !bears(json!({"key": "k", "value": "w"}))
        );
        let taints = [taint(json!({"key": "k", "effect": "NoSchedule"}))];
        assert!(untolerated(&taints, &[], "NoExecute").is_none() && untolerated(&taints, &[], "NoSchedule").is_some());
    }
}
