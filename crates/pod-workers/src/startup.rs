//! How long a pod takes until it is seen to run, from the creation of its object on, and what of that time the node is
//! not answerable for: image pulls and init containers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pod::{
    ContainerState, DesiredPod, Mono, ObservedPod,
    api::{Container, Pod, Volume},
    phase::is_terminal_field,
    time::Timestamp,
};

/// Kept while a pod starts; shared with the tasks that fetch its images.
#[derive(Debug, Default)]
pub(crate) struct Startup {
    pulls: Mutex<Pulls>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    Starting,
    /// It has run: this is what it took.
    Running {
        total: Duration,
        own: Duration,
    },
    /// It will not be measured.
    Over,
}

impl Startup {
    /// None for pods that are not measured: static ones, and those that began before we saw them.
    pub fn of(pod: &DesiredPod) -> Option<Arc<Self>> {
        let began = pod.pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let measured = !pod.is_static() && !began && !is_excluded(&pod.pod);
        measured.then(Arc::default)
    }

    /// An image was needed at `asked`, and (`got`) is there at `now`. `began`: a pull was made for it. What lies between a
    /// pull that failed and the next one is waiting for the image too.
    pub fn image(&self, began: Option<Mono>, got: bool, now: Mono) {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).note(began, got, now);
    }

    /// What the API's picture of the pod says.
    pub fn seen(&self, pod: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Seen {
        if is_excluded(&pod.pod) {
            return Seen::Over;
        }
        if !has_started(&pod.pod) {
            return Seen::Starting;
        }
        let Some(created) = pod.pod.metadata.creation_timestamp.as_ref() else { return Seen::Over };
        let total = Duration::try_from(now.duration_since(created.0)).unwrap_or_default();
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner).sum();
        Seen::Running { total, own: total.saturating_sub(pulls).saturating_sub(init_time(pod, observed)) }
    }
}

/// Has ended, or could not be scheduled at once: then others had to do something first.
fn is_excluded(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let unschedulable = status.conditions.iter().flatten().any(|c| c.type_ == "PodScheduled" && c.status == "False");
    unschedulable || is_terminal_field(status.phase.as_deref())
}

/// All containers run at the same time.
fn has_started(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let runs = |state: &pod::api::ContainerState| state.running.as_ref().is_some_and(|r| r.started_at.is_some());
    !containers.is_empty() && containers.iter().all(|c| c.state.as_ref().is_some_and(runs))
}

/// Of what has to end before the pod runs.
fn init_time(pod: &DesiredPod, observed: &ObservedPod) -> Duration {
    let ends = |c: &&Container| c.restart_policy.as_deref() != Some("Always");
    let ended = pod.init_containers().iter().filter(ends).filter_map(|c| observed.newest(&c.name));
    let ran = ended.filter(|c| c.state == ContainerState::Exited).filter_map(|c| {
        Duration::try_from(c.finished_at?.duration_since(c.started_at?)).ok() // less than nothing is nothing
    });
    ran.sum()
}

/// In the words of the SLI: what it mounts is more than what the API server can give again.
pub(crate) fn is_stateful(pod: &DesiredPod) -> bool {
    let given = |v: &Volume| {
        let from_api = v.secret.is_some() || v.config_map.is_some() || v.downward_api.is_some();
        from_api || v.empty_dir.is_some() || v.projected.is_some()
    };
    pod.spec().volumes.iter().flatten().any(|volume| !given(volume))
}

/// Times in which at least one image was waited for: apart, in order, and no more than a few.
#[derive(Debug, Default)]
struct Pulls {
    spans: Vec<(Mono, Mono)>,
    /// Of spans that were many.
    earlier: Duration,
    failing_since: Option<Mono>,
}

const MOST_SPANS: usize = 8;

impl Pulls {
    fn note(&mut self, began: Option<Mono>, got: bool, now: Mono) {
        let since = self.failing_since.or(began);
        if !got {
            self.failing_since = since;
            return;
        }
        self.failing_since = None;
        let Some(from) = since else { return };
        let mut span = (from.min(began.unwrap_or(from)), now);
        self.spans.retain(|&(start, end)| {
            let apart = end < span.0 || span.1 < start;
            if !apart {
                span = (span.0.min(start), span.1.max(end));
            }
            apart
        });
        self.spans.push(span);
        if self.spans.len() > MOST_SPANS {
            let (start, end) = self.spans.remove(0);
            self.earlier += end.since(start);
        }
    }

    fn sum(&self) -> Duration {
        self.earlier + self.spans.iter().map(|&(start, end)| end.since(start)).sum::<Duration>()
    }
}

#[cfg(test)]
mod tests {
    use pod::{ObservedContainer, PodKey, Source};
    use serde_json::{Value, json};

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    fn at(seconds: u64) -> Mono {
        Mono(secs(seconds))
    }
    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }
    fn desired(source: Source, status: Value) -> DesiredPod {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}]},
            "status": status});
        DesiredPod::new(source, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }
    fn running(names: &[&str]) -> Value {
        let all = ["a", "b"].map(|name| {
            let state = match names.contains(&name) {
                true => json!({"running": {"startedAt": "2026-01-01T00:00:05Z"}}),
                false => json!({"waiting": {}}),
            };
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
        });
        json!({"containerStatuses": all})
    }

    #[test]
    fn pulls_at_the_same_time_count_once_and_a_failed_one_until_the_image_is_there() {
        let mut pulls = Pulls::default();
        pulls.note(Some(at(5)), true, at(6));
        pulls.note(Some(at(0)), true, at(10));
        assert_eq!(pulls.sum(), secs(10));
        pulls.note(Some(at(20)), false, at(21));
        pulls.note(None, true, at(30)); // by another pod's pull
        assert_eq!(pulls.sum(), secs(20));
        pulls.note(None, true, at(40));
        assert_eq!(pulls.sum(), secs(20));
        for n in 0..100 {
            pulls.note(Some(at(100 + 10 * n)), true, at(101 + 10 * n));
        }
        assert_eq!((pulls.sum(), pulls.spans.len()), (secs(120), MOST_SPANS));
    }

    #[test]
    fn pods_that_began_earlier_or_were_not_schedulable_or_are_static_are_not_measured() {
        assert!(Startup::of(&desired(Source::Api, json!({}))).is_some());
        assert!(Startup::of(&desired(Source::Api, json!({"startTime": "2026-01-01T00:00:00Z"}))).is_none());
        let scheduled = |status: &str| json!({"conditions": [{"type": "PodScheduled", "status": status}]});
        assert!(Startup::of(&desired(Source::Api, scheduled("True"))).is_some());
        assert!(Startup::of(&desired(Source::Api, scheduled("False"))).is_none());
        assert!(Startup::of(&desired(Source::File, json!({}))).is_none());
    }

    #[test]
    fn a_pod_has_started_once_all_its_containers_run_in_the_eyes_of_the_api() {
        let startup = Startup::default();
        startup.image(Some(at(1)), true, at(3));
        let (init, sidecar) = ("2026-01-01T00:00:02Z", "2026-01-01T00:00:00Z");
        let ended = |name: &str, started: &str| ObservedContainer {
            id: name.into(),
            sandbox_id: "sb".into(),
            name: name.into(),
            restart_count: 0,
            state: ContainerState::Exited,
            image: String::new(),
            image_id: String::new(),
            created_at: time(started),
            started_at: Some(time(started)),
            finished_at: Some(time("2026-01-01T00:00:03Z")),
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            annotations: Default::default(),
            mounts: Vec::new(),
            user: None,
            resources: None,
            log_path: String::new(),
        };
        let containers = vec![ended("i", init), ended("s", sidecar)];
        let observed = ObservedPod { containers, ..ObservedPod::empty("u".into(), PodKey::new("default", "p")) };
        let seen = |status| startup.seen(&desired(Source::Api, status), &observed, time("2026-01-01T00:00:08Z"));
        assert_eq!(seen(json!({})), Seen::Starting);
        assert_eq!(seen(running(&["a"])), Seen::Starting);
        assert_eq!(seen(running(&["a", "b"])), Seen::Running { total: secs(8), own: secs(5) });
        assert_eq!(seen(json!({"phase": "Failed"})), Seen::Over);
    }

    #[test]
    fn what_the_api_server_gives_makes_no_state() {
        let with = |volume: Value| {
            let pod = json!({"metadata": {"name": "p", "uid": "u"},
                "spec": {"containers": [], "volumes": [{"name": "e", "emptyDir": {}}, volume]}});
            is_stateful(&DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap())
        };
        assert!(!with(json!({"name": "c", "configMap": {}})));
        assert!(with(json!({"name": "h", "hostPath": {"path": "/"}})));
    }
}
