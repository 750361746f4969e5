//! Against the fake API server of `testing`.

use std::time::Duration;

use apiserver::ClientOptions;
use serde_json::{Value, json};
use testing::FakeApiserver;

use super::*;

const PATH: &str = "/api/v1/namespaces/default/pods/web";

fn api_pod(uid: &str, extra: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": uid},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "nginx"}]}, "status": {"phase": "Pending"}});
    for (k, v) in extra.as_object().unwrap() {
        pod[k] = v.clone();
    }
    pod
}

struct Bed {
    fake: FakeApiserver,
    manager: StatusManager,
}

fn bed(object: Value) -> Bed {
    let fake = FakeApiserver::new();
    fake.put(object);
    let api = ApiServer::from_service(fake.clone(), ClientOptions::default());
    Bed { manager: StatusManager::spawn(Some(api), Clock::start()), fake }
}

impl Bed {
    fn desired(&self) -> DesiredPod {
        let object = self.fake.object(PATH).unwrap();
        DesiredPod::new(pod::Source::Api, Arc::new(serde_json::from_value(object).unwrap())).unwrap()
    }
    fn set(&self, status: Value, finished: bool) {
        self.set_for(self.desired(), status, finished);
    }
    fn set_for(&self, pod: DesiredPod, status: Value, finished: bool) {
        let status = Arc::new(serde_json::from_value(status).unwrap());
        self.manager.set(StatusUpdate { pod, status, finished });
    }
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    fn sent(&self) -> Vec<String> {
        let all = self.fake.requests();
        all.into_iter()
            .map(|r| format!("{} {}", r.method, r.path.trim_start_matches("/api/v1/namespaces/default/pods/")))
            .collect()
    }
    fn phase(&self) -> Value {
        self.fake.object(PATH).unwrap()["status"]["phase"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_404_that_is_not_the_api_servers_own_ends_nothing() {
    let bed = bed(api_pod("u1", json!({})));
    bed.fake.refuse("PATCH", PATH, 404, "", Some(1)); // a load balancer without a backend
    bed.set(json!({"phase": "Running"}), false);
    bed.settle().await;
    assert_eq!(bed.phase(), "Pending");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bed.phase(), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_status_is_sent_once_and_an_equal_one_never_again() {
    let bed = bed(api_pod("u1", json!({})));
    bed.set(json!({"phase": "Running"}), false);
    bed.settle().await;
    assert_eq!((bed.phase(), bed.sent()), (json!("Running"), vec!["PATCH web/status".to_owned()]));
    let body = &bed.fake.requests()[0].body;
    assert_eq!(*body, json!({"metadata": {"uid": "u1"}, "status": {"phase": "Running"}}));
    bed.set(json!({"phase": "Running"}), false);
    bed.settle().await;
    assert_eq!(bed.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_is_away_only_the_newest_status_is_kept() {
    let bed = bed(api_pod("u1", json!({})));
    let pod = bed.desired();
    bed.fake.down();
    bed.set_for(pod.clone(), json!({"phase": "Pending", "message": "a"}), false);
    bed.settle().await;
    bed.set_for(pod, json!({"phase": "Running"}), false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bed.fake.up();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((bed.phase(), bed.sent().len()), (json!("Running"), 1));
}

#[tokio::test(start_paused = true)]
async fn a_recreated_pod_does_not_get_its_predecessors_status() {
    let bed = bed(api_pod("u1", json!({})));
    let old = bed.desired();
    bed.fake.remove(PATH);
    bed.fake.put(api_pod("u2", json!({})));
    bed.set_for(old, json!({"phase": "Running"}), false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bed.phase(), json!("Pending"));
    assert_eq!(bed.sent(), ["PATCH web/status", "GET web"]);
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_that_was_deleted_goes_once_its_phase_is_final() {
    let deleted = json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let bed = bed(api_pod("u1", deleted));
    bed.set(json!({"phase": "Running"}), false);
    bed.settle().await;
    assert_eq!(bed.sent(), ["PATCH web/status"]);
    bed.fake.refuse("DELETE", PATH, 500, "InternalError", Some(2));
    bed.set(json!({"phase": "Succeeded"}), true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bed.fake.object(PATH).is_none());
    let last = bed.fake.requests().pop().unwrap();
    assert_eq!(last.body["gracePeriodSeconds"], json!(0));
    assert_eq!(last.body["preconditions"]["uid"], json!("u1"));
    let sent = bed.sent().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bed.sent().len(), sent, "nothing more to do");
}

#[tokio::test(start_paused = true)]
async fn the_sandboxs_end_is_told_only_where_a_deleted_pods_object_remains() {
    let sandbox = |message: &str| {
        json!({"phase": "Failed", "conditions": [
            {"type": "PodReadyToStartContainers", "status": "False", "message": message}]})
    };
    for (finalizers, wanted) in [
        (json!([]), vec!["PATCH web/status", "DELETE web"]),
        (json!(["a/b"]), vec!["PATCH web/status", "PATCH web/status", "DELETE web"]),
    ] {
        let deleted = json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
        let bed = bed(api_pod("u1", deleted));
        let pod = bed.desired();
        bed.set_for(pod.clone(), sandbox("pod sandbox is not ready"), false);
        bed.settle().await;
        bed.set_for(pod.clone(), sandbox("no pod sandbox exists"), false);
        bed.settle().await;
        bed.set_for(pod, sandbox("no pod sandbox exists"), true);
        bed.settle().await;
        assert_eq!(bed.sent(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_that_nobody_deleted_stays() {
    let bed = bed(api_pod("u1", json!({})));
    bed.set(json!({"phase": "Succeeded"}), true);
    bed.settle().await;
    assert_eq!(bed.phase(), json!("Succeeded"));
    let mut object = bed.fake.object(PATH).unwrap();
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bed.fake.put(object);
    bed.set(json!({"phase": "Succeeded"}), true);
    bed.settle().await;
    assert!(bed.fake.object(PATH).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_overwrote_is_said_again() {
    let bed = bed(api_pod("u1", json!({})));
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    bed.set(ready.clone(), false);
    bed.settle().await;
    let mut object = bed.fake.object(PATH).unwrap();
    object["status"]["conditions"][0]["status"] = json!("False");
    bed.fake.put(object);
    bed.set(ready, false);
    bed.settle().await;
    assert_eq!(bed.fake.object(PATH).unwrap()["status"]["conditions"][0]["status"], json!("True"));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ended_for_good_is_not_brought_back() {
    let bed = bed(api_pod("u1", json!({})));
    let container = |state: Value| {
        json!({"phase": "Running", "containerStatuses": [
        {"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    };
    bed.set(container(json!({"terminated": {"exitCode": 0}})), false);
    bed.settle().await;
    bed.set(container(json!({"running": {}})), false);
    bed.settle().await;
    assert_eq!(bed.sent().len(), 1);
    let kept = bed.manager.get(&"u1".into()).unwrap();
    assert!(kept.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().terminated.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_static_pods_status_goes_to_its_mirror() {
    let bed = bed(api_pod("mirror", json!({})));
    let mirror = bed.desired().pod;
    let mut manifest = (*mirror).clone();
    manifest.metadata.uid = Some("static".into());
    let pod = DesiredPod::new(pod::Source::File, Arc::new(manifest)).unwrap();
    bed.set_for(pod.clone(), json!({"phase": "Running"}), false);
    bed.settle().await;
    assert!(bed.sent().is_empty(), "there is no mirror yet");
    bed.manager.mirror(&pod.uid, Some(mirror));
    bed.settle().await;
    assert_eq!(bed.phase(), json!("Running"));
    bed.set_for(pod, json!({"phase": "Failed"}), true);
    bed.settle().await;
    assert_eq!(bed.phase(), json!("Failed"), "a mirror pod is not deleted by its status");
}

#[test]
fn an_answer_to_a_pod_that_ended_says_nothing_of_the_same_pod_put_back() {
    let mirror: Arc<Pod> = Arc::new(serde_json::from_value(api_pod("mirror", json!({}))).unwrap());
    let manifest = Arc::new(serde_json::from_value(api_pod("static", json!({}))).unwrap());
    let pod = DesiredPod::new(pod::Source::File, manifest).unwrap();
    let mut book = Book::default();
    let set = |book: &mut Book, phase: &str| {
        let status = Arc::new(serde_json::from_value(json!({"phase": phase})).unwrap());
        book.set(StatusUpdate { pod: pod.clone(), status, finished: false }, pod::Mono::default())
    };
    let begin = |book: &mut Book, phase: &str| {
        set(book, phase);
        book.set_mirror(&pod.uid, Some(mirror.clone()), pod::Mono::default());
        book.take_due(pod::Mono::from_secs(1)).unwrap()
    };
    for phase in ["Pending", "Running"] {
        set(&mut book, phase);
    }
    let old = begin(&mut book, "Failed");
    book.forget(&pod.uid);
    let new = begin(&mut book, "Pending");
    for job in [new, old] {
        book.done(&job, Outcome::Synced(mirror.clone()), pod::Mono::from_secs(2));
    }
    assert!(set(&mut book, "Running"), "it is still to be told");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_mirror_tells_since_when_a_static_pods_conditions_hold() {
    let ready = |since: &str| {
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
        json!({"phase": "Running", "startTime": since, "conditions": [condition]})
    };
    let bed = bed(api_pod("mirror", json!({"status": ready("2026-01-01T00:00:00Z")})));
    let mirror = bed.desired().pod;
    let manifest = api_pod("static", json!({}));
    let pod = DesiredPod::new(pod::Source::File, Arc::new(serde_json::from_value(manifest).unwrap())).unwrap();
    bed.set_for(pod.clone(), ready("2026-01-02T00:00:00Z"), false);
    bed.manager.mirror(&pod.uid, Some(mirror));
    bed.settle().await;
    let told = serde_json::to_value(&*bed.manager.get(&pod.uid).unwrap()).unwrap();
    assert_eq!((told, bed.sent().len()), (ready("2026-01-01T00:00:00Z"), 0));
    let unready = json!({"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-03T00:00:00Z"});
    bed.set_for(pod, json!({"phase": "Running", "conditions": [unready]}), false);
    bed.settle().await;
    assert_eq!(bed.fake.object(PATH).unwrap()["status"]["conditions"], json!([unready]));
}

#[tokio::test(start_paused = true)]
async fn standalone_it_only_remembers() {
    let manager = StatusManager::spawn(None, Clock::start());
    let pod: Pod = serde_json::from_value(api_pod("u1", json!({}))).unwrap();
    let pod = DesiredPod::new(pod::Source::File, Arc::new(pod)).unwrap();
    let status = Arc::new(PodStatus { phase: Some("Running".into()), ..PodStatus::default() });
    manager.set(StatusUpdate { pod, status, finished: false });
    assert_eq!(manager.get(&"u1".into()).unwrap().phase.as_deref(), Some("Running"));
    manager.forget(&"u1".into());
    assert!(manager.get(&"u1".into()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_step_of_a_pods_start_is_told_with_the_next() {
    let bed = bed(api_pod("u1", json!({})));
    let pod = bed.desired();
    bed.set_for(pod.clone(), json!({"phase": "Pending"}), false);
    bed.settle().await;
    bed.set_for(pod.clone(), json!({"phase": "Pending", "podIP": "10.0.0.1"}), false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.set_for(pod, json!({"phase": "Running", "podIP": "10.0.0.1"}), false);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((bed.phase(), bed.sent().len()), (json!("Running"), 1));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_no_other_follows_is_told_all_the_same() {
    let bed = bed(api_pod("u1", json!({})));
    let pod = bed.desired();
    bed.set_for(pod.clone(), json!({"phase": "Pending", "message": "m"}), false);
    bed.settle().await;
    bed.set_for(pod.clone(), json!({"phase": "Pending", "message": "m", "podIP": "10.0.0.1"}), false);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(bed.fake.object(PATH).unwrap()["status"]["podIP"], json!("10.0.0.1"));
}
