//! The way of a pod whose surroundings do what they should.

use cri::Code;
use pod::{Life, TerminationCause};
use pod_workers::PodCommand;
use serde_json::json;
use testing::{PodBuilder, Restart, pod};
use tokio::time::sleep;

use crate::bed::{Machine, s};

fn web() -> PodBuilder {
    pod("web").container("app", "nginx")
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_and_becomes_running() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    assert!(agent.until_running(&web).await < s(2));
    agent.until("the API knows", || machine.phase(&web) == "Running").await;
    assert_eq!(machine.cri.running(), ["app"]);
    let calls = machine.cri.call_log().len();
    sleep(s(50)).await;
    assert!(machine.cri.call_log().len() < calls + 10, "{:?}", machine.cri.call_log());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_leaves_nothing_and_its_object_goes_last() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.set(&machine.deleted(&web, 30)).await;
    agent.until("its object is gone", || machine.object(&web).is_none()).await;
    assert_eq!(machine.cri.sandbox_count(), 0);
    assert!(!machine.pod_dir(&web.uid).exists());
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_during_an_image_pull_ends_the_pod_at_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("pull_image", s(600));
    agent.set(&web).await;
    agent.until("it pulls", || machine.cri.calls("pull_image") == 1).await;
    agent.set(&machine.deleted(&web, 30)).await;
    assert!(agent.until("its object is gone", || machine.object(&web).is_none()).await < s(3));
    assert_eq!((machine.cri.sandbox_count(), machine.cri.calls("create_container")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_start_is_not_cut_off_by_the_end_of_its_pod() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("start_container", s(3));
    agent.set(&web).await;
    agent.until("it is being started", || machine.cri.calls("start_container") == 1).await;
    let (reason, message) = ("Evicted".to_owned(), "low on memory".to_owned());
    let cause = TerminationCause::Failed { reason, message, disruption: true };
    agent.tell(PodCommand::End { uid: web.uid.clone(), cause, grace: Some(s(30)) }).await;
    agent.until("the API knows", || machine.phase(&web) == "Failed").await;
    let container = machine.cri.container_status(&machine.cri.container(&web.uid, "app").unwrap()).unwrap();
    assert!(container.started_at > 0 && container.finished_at > 0, "{container:?}");
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_stopped_at_once_though_a_start_beside_it_hangs() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().container("side", "nginx"));
    agent.set(&web).await;
    agent.until_running(&web).await;
    machine.cri.delay("create_container", s(100));
    machine.cri.exit(&machine.cri.container(&web.uid, "side").unwrap(), 1);
    agent.until("it is being made anew", || machine.cri.calls("create_container") == 3).await;
    agent.set(&machine.deleted(&web, 30)).await;
    assert!(agent.until("the other is stopped", || machine.cri.running().is_empty()).await < s(2));
    agent.until("its object is gone", || machine.object(&web).is_none()).await;
    agent.removed(&web).await;
    sleep(s(200)).await;
    assert_eq!((machine.cri.running().len(), machine.cri.sandbox_count()), (0, 0), "what came late went");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_while_the_sandbox_is_made_ends_the_pod_at_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("run_podsandbox", s(100));
    agent.tell(PodCommand::SourcesReady).await;
    agent.set(&web).await;
    agent.until("it is being made", || machine.cri.calls("run_podsandbox") == 1).await;
    agent.set(&machine.deleted(&web, 30)).await;
    assert!(agent.until("its object is gone", || machine.object(&web).is_none()).await < s(3));
    agent.removed(&web).await;
    sleep(s(200)).await;
    assert!(machine.cri.calls("stop_podsandbox") > 0, "it came late");
    assert_eq!(machine.cri.sandbox_count(), 0, "and went");
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_comes_after_its_pods_eviction_is_stopped() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("run_podsandbox", s(100));
    agent.set(&web).await;
    agent.until("it is being made", || machine.cri.calls("run_podsandbox") == 1).await;
    let (reason, message) = ("Evicted".to_owned(), "low on memory".to_owned());
    let cause = TerminationCause::Failed { reason, message, disruption: true };
    agent.tell(PodCommand::End { uid: web.uid.clone(), cause, grace: Some(s(3)) }).await;
    agent.until("the API knows", || machine.phase(&web) == "Failed").await;
    agent.until("the sandbox is there", || machine.cri.sandbox_count() == 1).await;
    agent.until("the sandbox is stopped", || machine.cri.calls("stop_podsandbox") == 1).await;
    sleep(s(60)).await;
    assert_eq!((machine.cri.calls("stop_podsandbox"), machine.phase(&web)), (1, "Failed".into()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_by_force_is_stopped_all_the_same() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    machine.api.remove("/api/v1/namespaces/default/pods/web");
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
    assert_eq!(machine.cri.sandbox_count(), 0);
    assert!(!machine.pod_dir(&web.uid).exists());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_makes_a_deletion_under_way_quicker() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().grace(600));
    machine.cri.ignores_stop("app");
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.set(&machine.deleted(&web, 600)).await;
    sleep(s(20)).await;
    assert_eq!(machine.cri.running(), ["app"]);
    agent.set(&machine.deleted(&web, 5)).await;
    assert!(agent.until("its object is gone", || machine.object(&web).is_none()).await < s(10));
}

#[tokio::test(start_paused = true)]
async fn a_completed_pod_keeps_its_dead_container_until_it_is_deleted() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().restart(Restart::Never));
    machine.cri.ends_after("app", s(5), 0);
    agent.set(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Succeeded").await;
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    assert!(machine.cri.container(&web.uid, "app").is_some());
    assert_eq!(machine.cri.calls("run_podsandbox"), 1);
    assert!(machine.object(&web).is_some());
    sleep(s(600)).await;
    assert_eq!(machine.cri.calls("start_container"), 1);
    agent.set(&machine.deleted(&web, 30)).await;
    agent.until("its object is gone", || machine.object(&web).is_none()).await;
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
    assert_eq!(machine.cri.sandbox_count(), 0);
    assert!(!machine.pod_dir(&web.uid).exists());
}

/// Its address is given back by the stop alone, as after a reboot.
#[tokio::test(start_paused = true)]
async fn the_sandbox_of_a_pod_that_ended_with_it_is_stopped_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().restart(Restart::Never));
    agent.set(&web).await;
    agent.until_running(&web).await;
    let sandbox = agent.parts.pleg.snapshot()[0].sandboxes[0].id.clone();
    machine.cri.kill_sandbox(&sandbox);
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    sleep(s(60)).await;
    assert_eq!((machine.cri.calls("stop_podsandbox"), machine.phase(&web)), (1, "Failed".into()));
}

#[tokio::test(start_paused = true)]
async fn a_completed_pod_whose_sandbox_is_gone_leaves_no_directory_when_deleted() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().restart(Restart::Never));
    machine.cri.ends_after("app", s(5), 0);
    agent.set(&web).await;
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    let sandbox = agent.parts.pleg.snapshot()[0].sandboxes[0].id.clone();
    agent.parts.runtime.remove_sandbox(&sandbox).await.unwrap();
    agent.until("that is seen", || agent.parts.pleg.snapshot().is_empty()).await;
    assert!(machine.pod_dir(&web.uid).exists());
    agent.removed(&web).await;
    agent.until_forgotten(&web).await;
    assert!(!machine.pod_dir(&web.uid).exists());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_finds_a_completed_pod_starts_nothing() {
    let machine = Machine::new();
    let web = machine.create(web().restart(Restart::Always).edit(|p| {
        p.status.get_or_insert_default().phase = Some("Failed".to_owned());
    }));
    let agent = machine.agent().await;
    agent.set(&web).await;
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    assert_eq!(machine.cri.calls("run_podsandbox"), 0);
    assert_eq!(machine.phase(&web), "Failed");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_ends_as_failed_with_its_reason() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.ignores_stop("app");
    agent.set(&web).await;
    agent.until_running(&web).await;
    let (reason, message) = ("Evicted".to_owned(), "low on memory".to_owned());
    let cause = TerminationCause::Failed { reason, message, disruption: true };
    agent.tell(PodCommand::End { uid: web.uid.clone(), cause, grace: Some(s(3)) }).await;
    assert!(agent.until("the API knows", || machine.phase(&web) == "Failed").await < s(6));
    assert_eq!(machine.object(&web).unwrap()["status"]["reason"], "Evicted");
    assert!(machine.cri.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_at_its_active_deadline() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().spec(|s| s.active_deadline_seconds = Some(60)));
    agent.set(&web).await;
    agent.until_running(&web).await;
    sleep(s(50)).await;
    assert!(agent.is_running(&web));
    assert!(agent.until("the API knows", || machine.phase(&web) == "Failed").await < s(15));
    assert_eq!(machine.object(&web).unwrap()["status"]["reason"], "DeadlineExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs_and_starts_nothing_twice() {
    let machine = Machine::new();
    let web = machine.create(web());
    let agent = machine.agent().await;
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.stop().await;
    let container = machine.cri.container(&web.uid, "app");
    machine.cri.forget_calls();

    let agent = machine.agent().await;
    agent.set(&web).await;
    agent.tell(PodCommand::SourcesReady).await;
    agent.until_running(&web).await;
    sleep(s(120)).await;
    for operation in ["run_podsandbox", "create_container", "start_container", "stop_container", "stop_podsandbox"] {
        assert_eq!(machine.cri.calls(operation), 0, "{operation}");
    }
    assert_eq!(machine.cri.container(&web.uid, "app"), container);
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_starts_while_the_one_before_still_ends() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let first = machine.create(web().uid("first").grace(300));
    machine.cri.ignores_stop("app");
    agent.set(&first).await;
    agent.until_running(&first).await;
    machine.api.remove("/api/v1/namespaces/default/pods/web");
    agent.removed(&first).await;
    let second = machine.create(web().uid("second"));
    agent.set(&second).await;
    assert!(agent.until_running(&second).await < s(3));
    assert!(matches!(agent.life(&first), Some(Life::Terminating { .. })));
    agent.until_forgotten(&first).await;
    assert_eq!(machine.cri.sandbox_count(), 1);
    assert!(agent.is_running(&second));
}

#[tokio::test(start_paused = true)]
async fn a_container_replaced_for_its_image_ends_for_nobody_whatever_the_policy() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let batch = |image| pod("web").container("app", image).restart(Restart::OnFailure);
    agent.set(&machine.create(batch("nginx"))).await;
    let web = machine.create(batch("nginx"));
    agent.until_running(&web).await;
    let web = machine.create(batch("nginx:2"));
    machine.cri.delay("pull_image", s(5));
    agent.set(&web).await;
    let restarts = || {
        let object = machine.object(&web).unwrap();
        let app = object["status"]["containerStatuses"][0].clone();
        (app["state"].get("running").is_some(), app["restartCount"].as_i64())
    };
    agent.until("the API shows the new one", || restarts() == (true, Some(1))).await;
    assert_eq!(machine.phase(&web), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_replaced_only_at_the_second_try_is_told_to_run_again() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().restart(Restart::OnFailure));
    agent.set(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Running").await;
    let web = machine.changed(&web, |object| object["spec"]["containers"][0]["image"] = json!("nginx:2"));
    machine.cri.fail_next("create_container", Code::Unknown, "no such device");
    agent.set(&web).await;
    // What is told to the API: a status that takes back an end is refused.
    let app = || agent.parts.status.get(&web.uid).unwrap().container_statuses.as_ref().unwrap()[0].clone();
    let state = || app().state.unwrap();
    let reason = || state().waiting.and_then(|w| w.reason);
    agent.until("it says why it waits", || reason().as_deref() == Some("CreateContainerError")).await;
    assert_eq!((app().last_state.unwrap().terminated.map(|end| end.exit_code), app().ready), (Some(0), false));
    assert_eq!(machine.phase(&web), "Running");
    agent.until("the new one is told", || state().running.is_some()).await;
    assert_eq!((app().restart_count, app().ready), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_else_declares_over_is_stopped() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Running").await;
    agent.set(&machine.changed(&web, |object| object["status"]["phase"] = json!("Failed"))).await;
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    assert!(machine.cri.running().is_empty());
    assert_eq!(machine.phase(&web), "Failed");
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_a_pods_own_end_changes_nothing() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().restart(Restart::Never));
    machine.cri.ends_after("app", s(5), 0);
    agent.set(&web).await;
    agent.until("the API knows", || machine.phase(&web) == "Succeeded").await;
    agent.until("all is taken down", || agent.life(&web) == Some(Life::Gone)).await;
    let (status, calls) = (agent.status(&web), machine.cri.call_log().len());
    agent.set(&machine.changed(&web, |_| ())).await;
    sleep(s(2)).await;
    assert_eq!((agent.status(&web), agent.life(&web)), (status, Some(Life::Gone)));
    assert!(machine.cri.call_log().len() < calls + 3, "{:?}", machine.cri.call_log());
}

#[tokio::test(start_paused = true)]
async fn a_reboot_does_not_start_the_active_deadline_over() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let decades = 20 * 365 * 86_400; // no machine has been up for that long
    let web = machine.create(web().spec(|s| s.active_deadline_seconds = Some(decades)));
    agent.set(&machine.changed(&web, |object| object["status"]["startTime"] = json!("2001-01-01T00:00:00Z"))).await;
    agent.until("the API knows", || machine.phase(&web) == "Failed").await;
    assert_eq!(machine.object(&web).unwrap()["status"]["reason"], "DeadlineExceeded");
}
