//! Whether a pod has come to where its case wants it.

use anyhow::{Result, bail};
use bed::kubectl::is_ready;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    Ready,
    /// Any phase of a pod.
    Phase(String),
    /// A container waits for this reason.
    Waiting(String),
    Restarts(u64),
    Event(String),
    After(u64),
    /// What the case did to its settled pod has come about, or is refused.
    Followed,
}

impl Until {
    pub fn read(text: &str) -> Result<Self> {
        Ok(match text.split_once(':') {
            None if text == "Ready" => Self::Ready,
            None => Self::Phase(text.to_owned()),
            Some(("Waiting", reason)) => Self::Waiting(reason.to_owned()),
            Some(("Restarts", count)) => Self::Restarts(count.parse()?),
            Some(("Event", reason)) => Self::Event(reason.to_owned()),
            Some(("After", seconds)) => Self::After(seconds.parse()?),
            Some(_) => bail!("until: {text}?"),
        })
    }

    /// `age` is how long ago the pod was made.
    pub fn is_reached(&self, pod: &Value, events: &[Value], age: u64) -> bool {
        match self {
            Self::Ready => is_ready(pod),
            Self::Phase(phase) => pod["status"]["phase"] == phase.as_str(),
            Self::Waiting(reason) => containers(pod).any(|c| c["state"]["waiting"]["reason"] == reason.as_str()),
            Self::Restarts(count) => containers(pod).any(|c| c["restartCount"].as_u64() >= Some(*count)),
            Self::Event(reason) => {
                let uid = &pod["metadata"]["uid"];
                events.iter().any(|e| e["involvedObject"]["uid"] == *uid && e["reason"] == reason.as_str())
            }
            Self::After(seconds) => age >= *seconds,
            Self::Followed => {
                let debuggers = pod["status"]["ephemeralContainerStatuses"].as_array().into_iter().flatten();
                let asked = pod["spec"]["ephemeralContainers"].as_array().map_or(0, Vec::len);
                let status = &pod["status"];
                let begun = |c: &&Value| c["state"]["waiting"]["reason"] != "ContainerCreating";
                debuggers.filter(begun).count() == asked
                    && status["observedGeneration"] == pod["metadata"]["generation"]
                    && bed::kubectl::condition(pod, "PodResizeInProgress").is_none()
            }
        }
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_waiting_init_container_counts() {
        let pod =
            json!({"status": {"initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
        assert!(Until::read("Waiting:CrashLoopBackOff").unwrap().is_reached(&pod, &[], 0));
        assert!(!Until::read("Restarts:1").unwrap().is_reached(&pod, &[], 0));
    }

    #[test]
    fn every_case_says_when_it_is_settled() {
        for case in crate::corpus::load().unwrap() {
            Until::read(&case.until).unwrap();
        }
    }
}
