//! Who gets other resources, and who has to leave for it.

use node::NodeFacts;
use pod::{DesiredPod, Life, Source, quantity::Quantity};
use serde_json::json;
use testing::{PodBuilder, pod};
use tokio::time::sleep;

use crate::bed::{Agent, Machine, facts, s};

fn asking_for(name: &str, cpu: &str) -> PodBuilder {
    let requests = json!({"requests": {"cpu": cpu}});
    pod(name).container("app", "nginx").with(|c| c.resources = Some(serde_json::from_value(requests).unwrap()))
}

fn one_cpu() -> NodeFacts {
    let amount = |text: &str| text.parse::<Quantity>().unwrap();
    let all = [("cpu", "1"), ("memory", "1Gi"), ("pods", "10")];
    NodeFacts { allocatable: all.map(|(name, text)| (name.to_owned(), amount(text))).into(), ..facts() }
}

/// The pod as somebody's change of its CPU request leaves it in the API.
fn resized(machine: &Machine, pod: &DesiredPod, cpu: &str) -> DesiredPod {
    let mut object = machine.object(pod).expect("it exists");
    object["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(cpu);
    object["metadata"]["generation"] = json!(2);
    let pod = serde_json::from_value(machine.api.put(object)).unwrap();
    DesiredPod::new(Source::Api, std::sync::Arc::new(pod)).unwrap()
}

fn condition(agent: &Agent, pod: &DesiredPod, type_: &str) -> Option<String> {
    let status = agent.status(pod)?;
    let found = status.conditions.iter().flatten().find(|c| c.type_ == type_)?;
    Some(found.reason.clone().unwrap_or_default())
}

fn granted(agent: &Agent, pod: &DesiredPod) -> String {
    let status = agent.status(pod).unwrap();
    status.container_statuses.as_ref().unwrap()[0].allocated_resources.as_ref().unwrap()["cpu"].0.clone()
}

#[tokio::test(start_paused = true)]
async fn a_resize_reaches_the_runtime_without_a_restart() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    agent.tell(pod_workers::PodCommand::SourcesReady).await;
    let web = machine.create(asking_for("web", "200m"));
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.set(&resized(&machine, &web, "500m")).await;
    agent.until("it is granted", || granted(&agent, &web) == "500m").await;
    agent.until("it is done", || condition(&agent, &web, "PodResizeInProgress").is_none()).await;
    assert_eq!(machine.cri.calls("update_container"), 1);
    assert_eq!(machine.cri.calls("create_container"), 1);
    let actuated = agent.parts.actuated.get(&web.uid).unwrap();
    assert_eq!(actuated.containers["app"].requests.as_ref().unwrap()["cpu"].0, "500m");
}

#[tokio::test(start_paused = true)]
async fn a_resize_without_room_waits_until_another_pod_has_gone() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    agent.tell(pod_workers::PodCommand::SourcesReady).await;
    let (web, other) = (machine.create(asking_for("web", "200m")), machine.create(asking_for("other", "600m")));
    agent.set(&web).await;
    agent.set(&other).await;
    agent.until_running(&web).await;
    agent.set(&resized(&machine, &web, "500m")).await;
    agent.until("it waits", || condition(&agent, &web, "PodResizePending").as_deref() == Some("Deferred")).await;
    assert_eq!(granted(&agent, &web), "200m");
    agent.set(&machine.deleted(&other, 1)).await;
    agent.until("it is granted", || granted(&agent, &web) == "500m").await;
    agent.until("that is told", || condition(&agent, &web, "PodResizePending").is_none()).await;
    let metrics = metrics::gather();
    for series in [
        "kubelet_pod_deferred_accepted_resizes_total{retry_trigger=\"pod_terminated\"}",
        "kubelet_pod_deferred_resize_duration_seconds_count{priority_bucket=\"normal\",resolution=\"accepted\"}",
        "kubelet_container_requested_resizes_total{operation=\"increase\",requirement=\"requests\",resource=\"cpu\"}",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_gets_the_place_of_another() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    let web = machine.create(asking_for("web", "800m"));
    agent.set(&web).await;
    agent.until_running(&web).await;
    let critical = machine.create(asking_for("critical", "500m").spec(|s| s.priority = Some(2_000_000_000)));
    agent.set(&critical).await;
    agent.until_running(&critical).await;
    let status = agent.status(&web).unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Preempting")));
    assert_eq!(status.message.as_deref(), Some("Preempted in order to admit critical pod"));
    assert_eq!(condition(&agent, &web, "DisruptionTarget").as_deref(), Some("TerminationByKubelet"));
    assert!(metrics::gather().contains("kubelet_preemptions{preemption_signal=\"cpu\"}"));
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_for_which_nobody_can_leave_is_refused() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    let critical = machine.create(asking_for("critical", "2").spec(|s| s.priority = Some(2_000_000_000)));
    agent.set(&critical).await;
    sleep(s(10)).await;
    assert!(
        matches!(agent.life(&critical), Some(Life::Rejected { reason, .. }) if reason == "UnexpectedAdmissionError")
    );
}
