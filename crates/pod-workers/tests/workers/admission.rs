//! Who gets a worker, and when: admission, orphans, static pods that follow one another.

use node::NodeFacts;
use pod::{Life, quantity::Quantity};
use pod_workers::PodCommand;
use testing::{PodBuilder, pod};
use tokio::time::sleep;

use crate::bed::{Machine, facts, s};

fn web() -> PodBuilder {
    pod("web").container("app", "nginx")
}

fn asking_for(cpu: &str, pod: PodBuilder) -> PodBuilder {
    let requests = serde_json::json!({"requests": {"cpu": cpu}});
    pod.with(|c| c.resources = Some(serde_json::from_value(requests).unwrap()))
}

fn one_cpu() -> NodeFacts {
    let amount = |text: &str| text.parse::<Quantity>().unwrap();
    let all = [("cpu", "1"), ("memory", "1Gi"), ("pods", "10")];
    NodeFacts { allocatable: all.map(|(name, text)| (name.to_owned(), amount(text))).into(), ..facts() }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_pod_is_failed_and_goes_when_it_is_deleted() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    let web = machine.create(asking_for("2", web()));
    agent.set(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Failed").await;
    assert_eq!(machine.object(&web).unwrap()["status"]["reason"], "OutOfcpu");
    sleep(s(60)).await;
    assert_eq!(machine.cri.calls("run_podsandbox"), 0);
    agent.set(&machine.deleted(&web, 0)).await;
    agent.until("its object is gone", || machine.object(&web).is_none()).await;
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_rejected_by_an_earlier_agent_stays_failed() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    let web = machine.create(asking_for("2", web()));
    agent.set(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Failed").await;
    agent.stop().await;
    let agent = machine.agent_that(facts(), false).await;
    let object = machine.object(&web).unwrap();
    let again = pod::DesiredPod::new(pod::Source::Api, std::sync::Arc::new(serde_json::from_value(object).unwrap()));
    agent.set(&again.unwrap()).await;
    sleep(s(60)).await;
    assert_eq!(machine.cri.calls("run_podsandbox"), 0);
    assert_eq!(machine.object(&web).unwrap()["status"]["reason"], "OutOfcpu");
}

#[tokio::test(start_paused = true)]
async fn two_pods_that_come_at_once_do_not_share_what_is_there_for_one() {
    let machine = Machine::new();
    let agent = machine.agent_that(one_cpu(), false).await;
    let [a, b] = ["a", "b"].map(|name| machine.create(asking_for("600m", pod(name).container("app", "nginx"))));
    agent.set(&a).await;
    agent.set(&b).await;
    agent.until_running(&a).await;
    agent.until("the other is refused", || machine.phase(&b) == "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn until_the_node_is_known_only_static_pods_start_and_deleted_ones_go() {
    let machine = Machine::new();
    let agent = machine.agent_that(facts(), true).await;
    let [waits, goes] = ["waits", "goes"].map(|name| machine.create(pod(name).container("app", "nginx")));
    let fixed = pod("static").container("app", "nginx").from_file().desired();
    for pod in [&waits, &goes, &fixed] {
        agent.set(pod).await;
    }
    agent.until_running(&fixed).await;
    agent.set(&machine.deleted(&goes, 30)).await;
    agent.until("its object is gone", || machine.object(&goes).is_none()).await;
    assert!(agent.life(&waits).is_none());
    agent.facts.send_replace(NodeFacts { from_api: true, ..facts() }.into());
    agent.until_running(&waits).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_takes_no_more_pods() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let [before, late, after] =
        ["before", "late", "after"].map(|name| machine.create(pod(name).container("app", "nginx")));
    agent.set(&before).await;
    agent.until_running(&before).await;
    agent.shutting_down.send_replace(true);
    agent.set(&late).await;
    agent.until("the API knows", || machine.phase(&late) == "Failed").await;
    assert_eq!(machine.object(&late).unwrap()["status"]["reason"], "NodeShutdown");
    assert!(agent.is_running(&before), "what runs is not refused");
    agent.shutting_down.send_replace(false);
    agent.set(&after).await;
    agent.until_running(&after).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_come_before_the_word_of_the_label_that_it_wants() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let wants = |name: &str, disk: &str| {
        let selector = [("disk".to_owned(), disk.to_owned())].into();
        machine.create(pod(name).container("app", "nginx").spec(|s| s.node_selector = Some(selector)))
    };
    let (fast, slow) = (wants("fast", "ssd"), wants("slow", "tape"));
    let metadata = serde_json::json!({"name": "node-a", "labels": {"disk": "ssd"}});
    machine.api.put(serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}));
    agent.set(&fast).await;
    agent.set(&slow).await;
    agent.until_running(&fast).await;
    agent.until("the API knows", || machine.phase(&slow) == "Failed").await;
    assert_eq!(machine.object(&slow).unwrap()["status"]["reason"], "NodeAffinity");
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_stopped_only_after_all_sources_have_spoken() {
    let machine = Machine::new();
    let orphan = web().desired();
    machine.cri.seed(&orphan);
    let agent = machine.agent().await;
    sleep(s(120)).await;
    assert_eq!(machine.cri.running(), ["app"]);
    agent.tell(PodCommand::SourcesReady).await;
    agent.until("it is gone", || machine.cri.sandbox_count() == 0).await;
    agent.until_forgotten(&orphan).await;
    let writes: Vec<_> =
        machine.api.requests().into_iter().filter(|r| r.method != "GET").map(|r| (r.method, r.path)).collect();
    assert!(writes.is_empty(), "an orphan has no status to write: {writes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_wanted_after_all_starts_anew() {
    let machine = Machine::new();
    let web = machine.create(web());
    machine.cri.seed(&web);
    machine.cri.ignores_stop("app");
    let agent = machine.agent().await;
    agent.tell(PodCommand::SourcesReady).await;
    agent.until("its end begins", || machine.cri.calls("stop_container") == 1).await;
    agent.set(&web).await;
    agent.until("a new one runs", || machine.cri.calls("run_podsandbox") == 1 && agent.is_running(&web)).await;
    assert_eq!(machine.cri.sandbox_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn leftovers_of_unknown_pods_are_swept_and_those_of_known_pods_are_not() {
    let machine = Machine::new();
    let web = machine.create(web());
    let lost = machine.pod_dir(&"lost".into());
    std::fs::create_dir_all(&lost).unwrap();
    let agent = machine.agent().await;
    agent.tell(PodCommand::SourcesReady).await;
    agent.set(&web).await;
    agent.tell(PodCommand::SourcesReady).await; // as when the API has been listed anew
    agent.until("it is swept", || !lost.exists()).await;
    agent.until_running(&web).await;
    assert!(machine.pod_dir(&web.uid).exists());
}

#[tokio::test(start_paused = true)]
async fn what_a_sweep_could_not_remove_is_swept_again() {
    let machine = Machine::new();
    let lost = machine.pod_dir(&"lost".into());
    let data = lost.join("volumes/kubernetes.io~csi/disk/data");
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
    std::fs::write(&data, "of value to somebody").unwrap();
    let agent = machine.agent().await;
    agent.tell(PodCommand::SourcesReady).await;
    tokio::time::sleep(s(20)).await;
    assert!(data.exists());
    std::fs::remove_file(&data).unwrap();
    agent.until("it is swept", || !lost.exists()).await;
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_waits_for_its_predecessor_of_the_same_name() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let fixed = |uid: &str| web().uid(uid).from_file().desired();
    let (old, new) = (fixed("old"), fixed("new"));
    machine.cri.ignores_stop("app");
    agent.set(&old).await;
    agent.until_running(&old).await;
    agent.set(&new).await;
    agent.removed(&old).await;
    sleep(s(20)).await;
    assert!(matches!(agent.life(&old), Some(Life::Terminating { .. })));
    assert_eq!(machine.cri.calls("run_podsandbox"), 1);
    agent.until_running(&new).await;
    assert!(agent.life(&old).is_none());
    assert_eq!(machine.cri.sandbox_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_whose_manifest_is_put_back_starts_anew() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = web().from_file().desired();
    agent.set(&web).await;
    agent.until_running(&web).await;
    let first = machine.cri.container(&web.uid, "app");
    agent.removed(&web).await;
    agent.set(&web).await;
    agent
        .until("another runs", || machine.cri.container(&web.uid, "app") != first && machine.cri.running() == ["app"])
        .await;
    assert!(metrics::gather().contains("kubelet_restarted_pods_total{static=\"true\"}"));
    agent.until_running(&web).await;
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
    assert_eq!(machine.cri.sandbox_count(), 0);
}
