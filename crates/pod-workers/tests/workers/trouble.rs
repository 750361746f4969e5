//! What fails is tried again, not too often, and holds nobody up who wants to go.

use std::sync::Arc;

use cri::Code;
use node::NodeFacts;
use pod::Life;
use serde_json::json;
use testing::{PodBuilder, pod};
use tokio::time::sleep;

use crate::bed::{Machine, facts, s};

fn web() -> PodBuilder {
    pod("web").container("app", "nginx")
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_at_once_and_then_with_back_off() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.ends_after("app", s(1), 1);
    let starts = || machine.cri.calls("start_container");
    agent.set(&web).await;
    agent.until("the first start", || starts() == 1).await;
    assert!(agent.until("the second start", || starts() == 2).await < s(2));
    agent.until("it is held back", || agent.waits_for(&web).as_deref() == Some("CrashLoopBackOff")).await;
    let waited = agent.until("the third start", || starts() == 3).await;
    assert!(waited > s(9) && waited < s(11), "{waited:?}");
    let waited = agent.until("the fourth start", || starts() == 4).await;
    assert!(waited > s(20) && waited < s(22), "{waited:?}");
    let restarts = agent.status(&web).unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
    assert!(restarts >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_fails_is_tried_again() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.fail_next("run_podsandbox", Code::Unknown, "no network plugin");
    agent.set(&web).await;
    let waited = agent.until_running(&web).await;
    assert!(waited > s(8) && waited < s(13), "{waited:?}");
    assert_eq!(machine.cri.calls("run_podsandbox"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_says_why_and_is_tried_again() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.fail_next("create_container", Code::Unknown, "no such device");
    agent.set(&web).await;
    agent.until("it says so", || agent.waits_for(&web).as_deref() == Some("CreateContainerError")).await;
    agent.until_running(&web).await;
    assert_eq!(machine.cri.calls("create_container"), 2);
}

/// What was made counts as a run: the first one more comes at once, as after any end.
#[tokio::test(start_paused = true)]
async fn a_container_that_was_made_but_does_not_start_is_soon_tried_again() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.fail_next("start_container", Code::Unknown, "no such program");
    agent.set(&web).await;
    agent.until("it says so", || agent.waits_for(&web).as_deref() == Some("RunContainerError")).await;
    assert!(agent.until_running(&web).await < s(3));
}

#[tokio::test(start_paused = true)]
async fn a_failing_stop_is_not_tried_again_at_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let pod = machine.create(web());
    agent.set(&pod).await;
    agent.until_running(&pod).await;
    machine.cri.fail_next("stop_container", Code::Unknown, "cannot");
    let changed = machine.create(web().with(|c| c.image = Some("nginx:2".to_owned())));
    agent.set(&changed).await;
    let stops = || machine.cri.calls("stop_container");
    agent.until("a stop", || stops() == 1).await;
    sleep(s(8)).await;
    assert_eq!(stops(), 1);
    agent.until("the new one runs", || machine.cri.calls("start_container") == 2).await;
    assert_eq!(stops(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_torn_down_is_not_tried_again_at_once() {
    let machine = Machine::new();
    let web = machine.create(web());
    machine.cri.seed(&web);
    machine.cri.seed(&web); // two of them: both must go
    for _ in 0..2 {
        machine.cri.fail_next("stop_podsandbox", Code::Unknown, "cannot");
    }
    let agent = machine.agent().await;
    agent.set(&web).await;
    let stops = || machine.cri.calls("stop_podsandbox");
    agent.until("a try", || stops() == 1).await;
    sleep(s(8)).await;
    assert_eq!(stops(), 1);
    agent.until("a new one is made", || machine.cri.calls("run_podsandbox") == 1).await;
    agent.until_running(&web).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_at_once_though_its_volume_waits_for_the_next_try() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web().spec(|s| {
        let config_map = serde_json::json!({"name": "v", "configMap": {"name": "missing"}});
        s.volumes = Some(vec![serde_json::from_value(config_map).unwrap()]);
        let mount = serde_json::json!({"name": "v", "mountPath": "/v"});
        s.containers[0].volume_mounts = Some(vec![serde_json::from_value(mount).unwrap()]);
    }));
    agent.set(&web).await;
    sleep(s(400)).await; // two minutes between tries by now
    assert_eq!(machine.cri.calls("run_podsandbox"), 0);
    agent.set(&machine.deleted(&web, 30)).await;
    assert!(agent.until("its object is gone", || machine.object(&web).is_none()).await < s(3));
}

#[tokio::test(start_paused = true)]
async fn a_failing_termination_is_tried_again_until_it_succeeds() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    for _ in 0..3 {
        machine.cri.fail_next("stop_container", Code::Unknown, "cannot");
    }
    machine.cri.fail_next("remove_podsandbox", Code::Unknown, "cannot");
    agent.set(&machine.deleted(&web, 30)).await;
    let waited = agent.until("its object is gone", || machine.object(&web).is_none()).await;
    assert!(waited > s(3) && waited < s(10), "{waited:?}");
    assert_eq!(machine.cri.calls("stop_container"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_removed_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    machine.cri.delay("remove_podsandbox", s(5));
    for sandboxes in 1..=3 {
        agent
            .until("it is up", || machine.cri.calls("start_container") == sandboxes && machine.cri.running().len() == 1)
            .await;
        sleep(s(60)).await;
        if sandboxes < 3 {
            let newest = agent.parts.pleg.snapshot()[0].sandboxes[0].id.clone();
            machine.cri.kill_sandbox(&newest);
        }
    }
    assert_eq!((machine.cri.calls("remove_podsandbox"), machine.cri.sandbox_count()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_container_that_cannot_be_removed_is_tried_again_later() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.ends_after("app", s(1), 1);
    machine.cri.fail_next("remove_container", Code::Unknown, "cannot");
    agent.set(&web).await;
    agent.until("a try", || machine.cri.calls("remove_container") == 1).await;
    sleep(s(5)).await;
    assert_eq!(machine.cri.calls("remove_container"), 1);
    agent.until("another", || machine.cri.calls("remove_container") == 2).await;
}

/// Its start, begun by an agent that ended, came to pass after the last look.
#[tokio::test(start_paused = true)]
async fn a_container_that_runs_by_now_is_not_discarded_as_one_that_never_ran() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("start_container", s(4));
    agent.set(&web).await;
    agent.until("it is being started", || machine.cri.calls("start_container") == 1).await;
    agent.stop().await;
    machine.cri.mute_events(true);
    let agent = machine.agent().await;
    let container = machine.cri.container(&web.uid, "app");
    assert_eq!(agent.parts.pleg.snapshot()[0].newest("app").unwrap().state, pod::ContainerState::Created);
    sleep(s(5)).await;
    assert_eq!(machine.cri.running(), ["app"], "nobody has seen that yet");
    agent.set(&web).await;
    agent.until_running(&web).await;
    assert_eq!(machine.cri.container(&web.uid, "app"), container);
    assert_eq!((machine.cri.calls("remove_container"), machine.cri.calls("start_container")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_nodes_network() {
    let machine = Machine::new();
    let mut node = facts();
    (node.network_ready, node.network_message) = (false, "no plugin".to_owned());
    let agent = machine.agent_that(node, false).await;
    let web = machine.create(web());
    agent.set(&web).await;
    sleep(s(60)).await;
    assert_eq!(machine.cri.calls("run_podsandbox"), 0);
    agent.facts.send_replace(facts().into());
    assert!(agent.until_running(&web).await < s(2));
}

/// A static pod may start before the node knows an address.
#[tokio::test(start_paused = true)]
async fn a_pod_of_the_hosts_network_is_probed_when_the_node_has_an_address() {
    let machine = Machine::new();
    let nowhere = NodeFacts { host_ips: Vec::new(), ..facts() };
    let agent = machine.agent_that(nowhere, false).await;
    let web = machine.create(web().host_network().with(|app| {
        let probe = serde_json::json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
        app.liveness_probe = Some(serde_json::from_value(probe).unwrap());
    }));
    agent.set(&web).await;
    agent.until_running(&web).await;
    sleep(s(60)).await;
    assert_eq!(machine.cri.calls("stop_container"), 0, "nothing has been probed");
    // Nothing listens there.
    agent.facts.send_replace(NodeFacts { host_ips: vec!["127.0.0.1".to_owned()], ..facts() }.into());
    assert!(agent.until("it has failed", || machine.cri.calls("stop_container") > 0).await < s(5));
    assert_eq!(agent.status(&web).unwrap().host_ip.as_deref(), Some("127.0.0.1"));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_delays_a_deletion_and_no_more() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    machine.cri.down();
    agent.set(&machine.deleted(&web, 30)).await;
    sleep(s(60)).await;
    assert!(matches!(agent.life(&web), Some(Life::Terminating { .. })));
    machine.cri.up();
    agent.until("its object is gone", || machine.object(&web).is_none()).await;
    assert_eq!(machine.cri.sandbox_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_gives_its_address_back_before_a_new_one_takes_another() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    let old = agent.parts.pleg.snapshot()[0].sandboxes[0].id.clone();
    machine.cri.forget_calls();
    // As after a reboot: neither the sandbox nor a container runs, yet its network is still set up.
    machine.cri.kill_sandbox(&old);
    agent.until("a new one is made", || machine.cri.calls("run_podsandbox") == 1).await;
    let log = machine.cri.call_log();
    let at = |call: &str| log.iter().position(|c| c.starts_with(call));
    assert!(at("stop_podsandbox").is_some_and(|stop| stop < at("run_podsandbox").unwrap()), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_does_not_wait_for_the_one_before() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let crashing = machine.create(web());
    machine.cri.ends_after("app", s(1), 1);
    agent.set(&crashing).await;
    let waits = |reason: &str| agent.waits_for(&crashing).as_deref() == Some(reason);
    for starts in 2..5 {
        agent.until("it runs again", || machine.cri.calls("start_container") == starts).await;
        agent.until("it is held back", || waits("CrashLoopBackOff")).await;
    }
    let starts = machine.cri.calls("start_container");
    agent.set(&machine.changed(&crashing, |o| o["spec"]["containers"][0]["image"] = json!("nginx:2"))).await;
    assert!(agent.until("the new one starts", || machine.cri.calls("start_container") > starts).await < s(1));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_after_a_change_of_the_image_does_not_hold_the_new_one_back() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    machine.cri.delay("pull_image", s(5));
    machine.cri.fail_next("pull_image", Code::NotFound, "no such image");
    agent.set(&web).await;
    agent.until("it pulls", || machine.cri.calls("pull_image") == 1).await;
    let changed = |image: &str| machine.changed(&web, |o| o["spec"]["containers"][0]["image"] = json!(image));
    agent.set(&changed("nginx:2")).await;
    assert!(agent.until("it pulls the new one", || machine.cri.calls("pull_image") == 2).await < s(6));
    machine.cri.fail_next("pull_image", Code::NotFound, "no such image");
    agent.until("it says so", || agent.waits_for(&web).is_some_and(|r| r.starts_with("ErrImage"))).await;
    agent.set(&changed("nginx:3")).await;
    assert!(agent.until("it pulls the third", || machine.cri.calls("pull_image") >= 3).await < s(1));
}

#[tokio::test(start_paused = true)]
async fn a_new_address_of_the_node_is_told_at_once() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(web());
    agent.set(&web).await;
    agent.until_running(&web).await;
    sleep(s(60)).await;
    let moved = vec!["192.0.2.7".to_owned(), "2001:db8::7".to_owned()];
    agent.facts.send_replace(Arc::new(NodeFacts { host_ips: moved, ..facts() }));
    let ip = || agent.status(&web).and_then(|s| s.host_ip.clone());
    assert!(agent.until("it is told", || ip().as_deref() == Some("192.0.2.7")).await < s(1));
}
