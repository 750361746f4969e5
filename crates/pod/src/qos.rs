//! The quality of service class of a pod.

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};

use crate::{quantity::Quantity, resources::pod_level_set};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The class the API server wrote into the status, else the computed one. It never changes in a pod's life.
pub fn qos_class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => pod.spec.as_ref().map_or(QosClass::BestEffort, compute),
    }
}

/// From the spec alone: pod-level resources decide where they are set, else all init and regular containers.
pub fn compute(spec: &PodSpec) -> QosClass {
    if pod_level_set(spec)
        && let Some(resources) = &spec.resources
    {
        return of_requirements(Some(resources));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    agree(containers.map(|c| of_requirements(c.resources.as_ref()))).unwrap_or(QosClass::BestEffort)
}

fn of_requirements(resources: Option<&ResourceRequirements>) -> QosClass {
    let amount = |list: &Option<crate::quantity::ApiList>, name: &str| {
        list.as_ref().and_then(|l| l.get(name)).map(Quantity::of).unwrap_or_default()
    };
    let Some(resources) = resources else { return QosClass::BestEffort };
    let of_resource = |name| {
        let (request, limit) = (amount(&resources.requests, name), amount(&resources.limits, name));
        match (request == limit, request.is_zero()) {
            (false, _) => QosClass::Burstable,
            (true, true) => QosClass::BestEffort,
            (true, false) => QosClass::Guaranteed,
        }
    };
    agree(["cpu", "memory"].into_iter().map(of_resource)).unwrap_or(QosClass::BestEffort)
}

/// One class when all parts have it, else Burstable.
fn agree(parts: impl Iterator<Item = QosClass>) -> Option<QosClass> {
    parts.reduce(|a, b| if a == b { a } else { QosClass::Burstable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(spec: serde_json::Value) -> QosClass {
        compute(&serde_json::from_value(spec).unwrap())
    }
    fn container(resources: serde_json::Value) -> serde_json::Value {
        json!({"name": "c", "resources": resources})
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = container(
            json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "0.1", "memory": "1024Mi"}}),
        );
        let none = container(json!({}));
        let half = container(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}));
        let zero = container(json!({"requests": {"cpu": "0"}, "limits": {"memory": "0"}}));
        let gpu = container(json!({"requests": {"x/gpu": "1"}, "limits": {"x/gpu": "1"}}));
        assert_eq!(class(json!({"containers": [full]})), QosClass::Guaranteed);
        assert_eq!(class(json!({"containers": [full, none]})), QosClass::Burstable);
        assert_eq!(class(json!({"containers": [full], "initContainers": [none]})), QosClass::Burstable);
        assert_eq!(class(json!({"containers": [half]})), QosClass::Burstable);
        assert_eq!(class(json!({"containers": [none, zero, gpu]})), QosClass::BestEffort);
    }

    #[test]
    fn pod_level_resources_decide_alone_unless_they_are_empty() {
        let resources = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let none = container(json!({}));
        let some = container(json!({"requests": {"cpu": "1"}}));
        assert_eq!(class(json!({"containers": [none], "resources": resources})), QosClass::Guaranteed);
        assert_eq!(class(json!({"containers": [some], "resources": {}})), QosClass::Burstable);
    }

    #[test]
    fn the_class_in_the_status_is_kept() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}, "status": {"qosClass": "Burstable"}}),
        )
        .unwrap();
        assert_eq!(qos_class(&pod), QosClass::Burstable);
    }
}
