//! Which pods make room for a critical one: as few as can be, best-effort before burstable before guaranteed ones.

use crate::{
    DesiredPod,
    admit::Shortage,
    qos::{QosClass, qos_class},
    resources::pod_requests,
};

pub const REASON: &str = "Preempting";
pub const MESSAGE: &str = "Preempted in order to admit critical pod";
/// Of the victim's condition DisruptionTarget.
pub const DISRUPTION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// In the order in which they are ended. An error says what nobody can give.
pub fn victims<'a>(
    candidate: &DesiredPod,
    active: &[&'a DesiredPod],
    shortages: &[Shortage],
) -> Result<Vec<&'a DesiredPod>, String> {
    let missing: Vec<Missing> = shortages.iter().map(Missing::of).collect();
    let of_class = |class: QosClass| -> Vec<&'a DesiredPod> {
        active.iter().filter(|p| may_end(candidate, p) && qos_class(&p.pod) == class).copied().collect()
    };
    let best_effort = of_class(QosClass::BestEffort);
    let burstable = of_class(QosClass::Burstable);
    let guaranteed = of_class(QosClass::Guaranteed);
    let all = [best_effort.clone(), burstable.clone(), guaranteed.clone()].concat();
    let unmet = less(&missing, &all);
    if !unmet.is_empty() {
        return Err(text(&unmet));
    }
    // Of a class only those go without whom the classes below are not enough.
    let guaranteed = nearest(guaranteed, less(&missing, &[best_effort.clone(), burstable.clone()].concat()))?;
    let burstable = nearest(burstable, less(&missing, &[best_effort.clone(), guaranteed.clone()].concat()))?;
    let best_effort = nearest(best_effort, less(&missing, &[burstable.clone(), guaranteed.clone()].concat()))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

fn may_end(candidate: &DesiredPod, other: &DesiredPod) -> bool {
    if candidate.uid == other.uid {
        return false;
    }
    let priorities = candidate.spec().priority.zip(other.spec().priority);
    (candidate.is_critical() && !other.is_critical()) || priorities.is_some_and(|(a, b)| a > b)
}

#[derive(Clone, Debug)]
struct Missing {
    resource: String,
    amount: i64,
}

impl Missing {
    fn of(shortage: &Shortage) -> Self {
        Self { resource: shortage.resource.clone(), amount: shortage.missing() }
    }
}

fn request(pod: &DesiredPod, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        "cpu" => pod_requests(pod.spec()).get("cpu").map_or(0, |q| q.milli_value()),
        other => pod_requests(pod.spec()).get(other).map_or(0, |q| q.value()),
    }
}

/// What is missing still when these pods are gone.
fn less(missing: &[Missing], pods: &[&DesiredPod]) -> Vec<Missing> {
    let left = |m: &Missing| m.amount - pods.iter().map(|p| request(p, &m.resource)).sum::<i64>();
    missing.iter().map(|m| Missing { resource: m.resource.clone(), amount: left(m) }).filter(|m| m.amount > 0).collect()
}

fn text(missing: &[Missing]) -> String {
    let each: String = missing.iter().map(|m| format!("(res: {}, q: {}), ", m.resource, m.amount)).collect();
    format!("no set of running pods found to reclaim resources: [{each}]")
}

/// Again and again the pod that leaves the least missing; of equals the smaller one.
fn nearest(mut pods: Vec<&DesiredPod>, mut missing: Vec<Missing>) -> Result<Vec<&DesiredPod>, String> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        if pods.is_empty() {
            return Err(text(&missing));
        }
        let mut best = (0, f64::MAX);
        for (i, pod) in pods.iter().enumerate() {
            let distance = distance(&missing, pod);
            if distance < best.1 || (distance == best.1 && is_smaller(pod, pods[best.0])) {
                best = (i, distance);
            }
        }
        let pod = pods.swap_remove(best.0);
        missing = less(&missing, &[pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

/// Each resource weighs the same, whatever its unit.
fn distance(missing: &[Missing], pod: &DesiredPod) -> f64 {
    let left = |m: &Missing| (m.amount - request(pod, &m.resource)).max(0) as f64 / m.amount as f64;
    missing.iter().map(|m| left(m).powi(2)).sum()
}

fn is_smaller(a: &DesiredPod, b: &DesiredPod) -> bool {
    let size = |p: &DesiredPod| (request(p, "memory"), request(p, "cpu"));
    size(a) <= size(b)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    fn pod(name: &str, priority: i32, resources: Value) -> DesiredPod {
        let pod = json!({"metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn burstable(name: &str, cpu: &str) -> DesiredPod {
        pod(name, 0, json!({"requests": {"cpu": cpu}}))
    }
    fn guaranteed(name: &str, cpu: &str) -> DesiredPod {
        let list = json!({"cpu": cpu, "memory": "1Mi"});
        pod(name, 0, json!({"requests": list, "limits": list}))
    }
    fn chosen(active: &[DesiredPod], resource: &str, amount: i64) -> Result<Vec<String>, String> {
        let shortage = Shortage { resource: resource.to_owned(), requested: amount, used: 0, capacity: 0 };
        let critical = pod("critical", 2_000_000_000, json!({}));
        let pods = victims(&critical, &active.iter().collect::<Vec<_>>(), &[shortage])?;
        Ok(pods.into_iter().map(|p| p.key.name.to_string()).collect())
    }

    #[test]
    fn lower_classes_go_first_and_no_more_than_needed() {
        let active =
            [guaranteed("g", "1"), burstable("small", "200m"), burstable("large", "1"), pod("b", 0, json!({}))];
        assert_eq!(chosen(&active, "cpu", 100).unwrap(), ["small"]);
        assert_eq!(chosen(&active, "cpu", 900).unwrap(), ["large"]);
        assert_eq!(chosen(&active, "cpu", 1500).unwrap(), ["large", "g"]);
        assert_eq!(chosen(&active, "pods", 1).unwrap(), ["b"]);
    }

    #[test]
    fn critical_pods_of_no_lower_priority_stay() {
        let active = [pod("critical-too", 2_000_000_000, json!({"requests": {"cpu": "1"}}))];
        let why = chosen(&active, "cpu", 100).unwrap_err();
        assert_eq!(why, "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]");
    }
}
