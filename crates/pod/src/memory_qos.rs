//! Memory that is kept for pods and memory at which they are slowed down (feature MemoryQoS, cgroup v2 only).

use std::collections::BTreeMap;

use crate::{
    DesiredPod,
    qos::{QosClass, qos_class},
    resources::{all_limited, pod_level_set, pod_limits, pod_requests},
};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryQos {
    /// memoryReservationPolicy TieredReservation: requests are protected.
    pub tiered_reservation: bool,
    /// Sets memory.high at this share of the way from request to limit.
    pub throttling_factor: Option<f64>,
}

impl MemoryQos {
    /// The files of a pod's own cgroup. Those of its containers are the runtime's.
    pub fn of_pod(self, pod: &DesiredPod, page: usize) -> BTreeMap<&'static str, i64> {
        let memory = |list: &crate::quantity::Amounts| list.get("memory").map_or(0, |q| q.value());
        let (request, limit) = (memory(&pod_requests(pod.spec())), memory(&pod_limits(pod.spec())));
        let mut files = BTreeMap::new();
        if self.tiered_reservation && request > 0 {
            let kept = if qos_class(&pod.pod) == QosClass::Guaranteed { "memory.min" } else { "memory.low" };
            files.insert(kept, request);
        }
        // A pod without resources of its own is throttled container by container.
        let throttles = pod_level_set(pod.spec()) && all_limited(pod.spec(), "memory");
        let high = self.throttling_factor.filter(|_| throttles).and_then(|f| memory_high(request, limit, f, page));
        files.extend(high.map(|high| ("memory.high", high)));
        files
    }

    /// The files of the cgroup above all pods, and of that of the burstable ones: nothing below a cgroup is protected
    /// that the cgroup itself is not.
    pub fn of_classes(self, pods: &[DesiredPod]) -> Option<[BTreeMap<&'static str, i64>; 2]> {
        let sum = |class| -> i64 {
            let pods = pods.iter().filter(|pod| qos_class(&pod.pod) == class);
            pods.filter_map(|pod| pod_requests(pod.spec()).get("memory").map(|q| q.value())).sum()
        };
        let (guaranteed, burstable) = (sum(QosClass::Guaranteed), sum(QosClass::Burstable));
        let all = [("memory.min", guaranteed + burstable), ("memory.low", burstable)];
        self.tiered_reservation.then(|| [all.into(), [("memory.low", burstable)].into()])
    }
}

/// None: the limit alone holds.
pub fn memory_high(request: i64, limit: i64, factor: f64, page: usize) -> Option<i64> {
    if limit == 0 || request == limit {
        return None;
    }
    let page = page as f64;
    let high = request as f64 + (limit as f64 - request as f64) * factor;
    let high = ((high / page).floor() * page) as i64;
    (high > request).then_some(high)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Source;

    const MIB: i64 = 1 << 20;
    const QOS: MemoryQos = MemoryQos { tiered_reservation: true, throttling_factor: Some(0.5) };

    fn pod(pod_level: Value, container: Value) -> DesiredPod {
        let container = json!({"name": "app", "image": "i", "resources": container});
        let spec = json!({"containers": [container], "resources": pod_level});
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
        DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn burstable() -> DesiredPod {
        pod(json!({"requests": {"memory": "10Mi"}, "limits": {"memory": "20Mi"}}), json!({}))
    }

    fn guaranteed() -> DesiredPod {
        let all = json!({"cpu": "1", "memory": "20Mi"});
        pod(json!({"requests": all, "limits": all}), json!({}))
    }

    #[test]
    fn a_pods_request_is_kept_for_it_and_above_it_the_pod_is_slowed_down() {
        assert_eq!(QOS.of_pod(&burstable(), 4096), [("memory.low", 10 * MIB), ("memory.high", 15 * MIB)].into());
        assert_eq!(QOS.of_pod(&guaranteed(), 4096), [("memory.min", 20 * MIB)].into());
        assert_eq!(MemoryQos::default().of_pod(&burstable(), 4096), BTreeMap::new());
    }

    #[test]
    fn without_resources_of_its_own_a_pod_is_throttled_by_its_containers() {
        let pod = pod(json!(null), json!({"requests": {"memory": "10Mi"}, "limits": {"memory": "20Mi"}}));
        assert_eq!(QOS.of_pod(&pod, 4096), [("memory.low", 10 * MIB)].into());
    }

    #[test]
    fn what_is_kept_for_pods_is_kept_for_their_classes() {
        let [all, class] = QOS.of_classes(&[burstable(), burstable(), guaranteed()]).unwrap();
        assert_eq!(all, [("memory.min", 40 * MIB), ("memory.low", 20 * MIB)].into());
        assert_eq!(class, [("memory.low", 20 * MIB)].into());
        assert_eq!(MemoryQos::default().of_classes(&[burstable()]), None);
    }
}
