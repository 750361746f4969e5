//! Single calls: preconditions, deadlines, errors, and what must not be printed.

use std::time::Duration;

use pod::{PodKey, PodUid};
use serde_json::json;
use testing::FakeApiserver;
use tokio::time::Instant;

use super::{client, pod, settle};
use crate::{ApiServer, ClientOptions, TokenFor};

fn key() -> PodKey {
    PodKey::new("default", "web")
}

#[tokio::test(start_paused = true)]
async fn a_status_patch_never_lands_on_another_pod_of_the_same_name() {
    let fake = FakeApiserver::new();
    fake.put(pod("web", "node-a"));
    let api = client(&fake);
    let patch = json!({"status": {"phase": "Running"}});
    let patched = api.patch_pod_status(&key(), &PodUid::new("uid-1"), &patch).await.unwrap();
    assert_eq!(patched.status.and_then(|s| s.phase).as_deref(), Some("Running"));
    let sent = fake.requests().pop().unwrap();
    assert_eq!(
        (sent.path.as_str(), sent.content_type.as_str()),
        ("/api/v1/namespaces/default/pods/web/status", "application/strategic-merge-patch+json")
    );
    let error = api.patch_pod_status(&key(), &PodUid::new("uid-of-before"), &patch).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_carries_uid_and_grace() {
    let fake = FakeApiserver::new();
    fake.put(pod("web", "node-a"));
    let api = client(&fake);
    assert!(api.delete_pod(&key(), &PodUid::new("another"), Some(0)).await.unwrap_err().is_conflict());
    api.delete_pod(&key(), &PodUid::new("uid-1"), Some(0)).await.unwrap();
    assert!(api.get_pod(&key()).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_shows_that_somebody_is_there_and_silence_that_nobody_is() {
    let fake = FakeApiserver::new();
    let api = client(&fake);
    assert!(!api.reachability().borrow().is_reachable());
    fake.refuse("GET", "/api/v1/nodes", 500, "InternalError", Some(1));
    assert!(api.get_node("node-a").await.unwrap_err().is_server_trouble());
    assert!(api.reachability().borrow().is_reachable());
    fake.down();
    let error = api.get_node("node-a").await.unwrap_err();
    assert!(error.is_unreachable() && !error.is_not_found());
    assert!(!api.reachability().borrow().is_reachable());
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_nodes_identity_however_long_and_reviews_do_not() {
    let fake = FakeApiserver::new();
    fake.put(pod("web", "node-a"));
    let options =
        ClientOptions { awaits_identity: true, request_timeout: Duration::from_secs(5), ..Default::default() };
    let api = ApiServer::from_service(fake.clone(), options);
    let call = tokio::spawn({
        let api = api.clone();
        async move { api.get_pod(&key()).await }
    });
    let services = api.services();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(api.awaits_identity() && !call.is_finished() && fake.requests().is_empty());
    let error = api.token_review("t", &[]).await.unwrap_err();
    assert!(error.to_string().contains("no certificate yet"), "{error}");

    api.identity_came();
    assert!(!api.awaits_identity());
    call.await.unwrap().unwrap();
    settle().await;
    assert!(services.is_synced());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    let silent = tower::service_fn(|_: http::Request<crate::RequestBody>| async {
        std::future::pending::<()>().await;
        Ok::<_, std::convert::Infallible>(http::Response::new(crate::RequestBody::empty()))
    });
    let options = ClientOptions { heartbeat_timeout: Duration::from_secs(10), ..ClientOptions::default() };
    let api = ApiServer::from_service(silent, options);
    let start = Instant::now();
    assert!(api.get_node("node-a").await.unwrap_err().is_deadline());
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(api.get_pod(&key()).await.unwrap_err().is_deadline());
    assert_eq!(start.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_bound_to_its_pod_and_not_printed() {
    let fake = FakeApiserver::new();
    let status = json!({"token": "s3cr3t", "expirationTimestamp": "2030-01-01T00:00:00Z"});
    let path = "/api/v1/namespaces/default/serviceaccounts/builder/token";
    fake.reply("POST", path, json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
    let whom = TokenFor { pod: key(), uid: PodUid::new("u-1") };
    let token = client(&fake).token_request("builder", &["vault".to_owned()], Some(3600), &whom).await.unwrap();
    assert_eq!(token.token, "s3cr3t");
    assert!(!format!("{token:?}").contains("s3cr3t"));
    let sent = fake.requests().pop().unwrap().body;
    assert_eq!(sent["spec"]["boundObjectRef"], json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u-1"}));
}

#[tokio::test(start_paused = true)]
async fn a_token_asked_for_before_the_authorizer_knows_the_pod_costs_no_failed_step() {
    const PATH: &str = "/api/v1/namespaces/default/serviceaccounts/builder/token";
    let fake = FakeApiserver::new();
    let status = json!({"token": "s3cr3t", "expirationTimestamp": "2030-01-01T00:00:00Z"});
    fake.reply("POST", PATH, json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
    fake.refuse_as_unrelated(PATH, 2);
    let (api, whom, start) = (client(&fake), TokenFor { pod: key(), uid: PodUid::new("u-1") }, Instant::now());
    assert_eq!(api.token_request("builder", &[], None, &whom).await.unwrap().token, "s3cr3t");
    assert!(start.elapsed() < Duration::from_millis(200));
    fake.refuse("POST", PATH, 403, "Forbidden", Some(1));
    assert!(api.token_request("builder", &[], None, &whom).await.unwrap_err().is_forbidden());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_can_not_be_read_is_not_quoted() {
    let fake = FakeApiserver::new();
    fake.reply("GET", "/api/v1/namespaces/default/secrets/s", json!({"metadata": {}, "data": "hunter2"}));
    let error = client(&fake).get_secret("default", "s").await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn services_are_kept_without_the_headless_ones() {
    let fake = FakeApiserver::new();
    let service = |name: &str, ip: &str| {
        let spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    fake.put(service("web", "10.0.0.1"));
    fake.put(service("peers", "None"));
    let services = client(&fake).services();
    services.synced().await;
    let names: Vec<_> = services.in_namespace("default").iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["web"]);
    fake.remove("/api/v1/namespaces/default/services/web");
    settle().await;
    assert!(services.get("default", "web").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_node_is_followed() {
    let fake = FakeApiserver::new();
    let mut node = client(&fake).watch_node("node-a");
    settle().await;
    assert!(node.borrow().is_none());
    fake.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}));
    node.wait_for(Option::is_some).await.unwrap();
    fake.remove("/api/v1/nodes/node-a");
    node.wait_for(Option::is_none).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_question_about_a_caller_is_asked_again_after_trouble_but_not_after_a_refusal() {
    const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let fake = FakeApiserver::new();
    let api = client(&fake);
    fake.reply("POST", PATH, json!({"spec": {}, "status": {"allowed": true}}));
    fake.refuse("POST", PATH, 500, "InternalError", Some(2));
    assert!(api.subject_access_review(Default::default()).await.unwrap().allowed);
    assert_eq!(fake.requests().len(), 3);
    fake.refuse("POST", PATH, 403, "Forbidden", Some(1));
    assert!(api.subject_access_review(Default::default()).await.unwrap_err().is_forbidden());
    fake.refuse("POST", PATH, 500, "InternalError", None);
    assert!(api.subject_access_review(Default::default()).await.unwrap_err().is_server_trouble());
    assert_eq!(fake.requests().len(), 3 + 1 + 4);
}
