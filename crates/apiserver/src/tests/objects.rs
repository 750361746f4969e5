//! Secrets and ConfigMaps: read when a pod names them, followed while one does.

use std::time::Duration;

use pod::PodUid;
use serde_json::json;
use testing::FakeApiserver;

use super::{client, config_map, secret, settle};
use crate::{ChangeDetection, ObjectRef, Objects};

const PATH: &str = "/api/v1/namespaces/default/configmaps/settings";

fn objects(fake: &FakeApiserver) -> Objects {
    client(fake).objects(ChangeDetection::Watch)
}

fn uid(uid: &str) -> PodUid {
    PodUid::new(uid)
}

async fn value(objects: &Objects, name: &str) -> String {
    let config_map = objects.config_map("default", name).await.expect("there");
    config_map.data.as_ref().and_then(|d| d.get("key")).cloned().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn the_first_get_waits_for_the_first_read_and_later_ones_cost_nothing() {
    let fake = FakeApiserver::new();
    fake.put(config_map("settings", "one"));
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::config_map("default", "settings")]);
    assert_eq!(value(&objects, "settings").await, "one");
    settle().await;
    let before = fake.requests().len();
    assert_eq!(value(&objects, "settings").await, "one");
    assert_eq!(fake.requests().len(), before);
    assert_eq!(before, 2, "one read and one watch");
}

#[tokio::test(start_paused = true)]
async fn every_request_names_one_object() {
    let fake = FakeApiserver::new();
    fake.put(secret("token", "c2VjcmV0"));
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::secret("default", "token"), ObjectRef::config_map("default", "absent")]);
    tokio::time::sleep(Duration::from_secs(700)).await;
    for request in fake.requests() {
        let by_selector = request.query.get("fieldSelector").is_some_and(|s| s.starts_with("metadata.name="));
        assert!(by_selector || request.path.matches('/').count() == 6, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_and_then_read() {
    let fake = FakeApiserver::new();
    fake.put(config_map("settings", "one"));
    let objects = objects(&fake);
    let mut changes = objects.changed();
    objects.hold(&uid("1"), [ObjectRef::config_map("default", "settings")]);
    settle().await;
    assert!(changes.try_recv().is_err(), "a first read is no change");
    fake.put(config_map("settings", "two"));
    assert_eq!(changes.recv().await.unwrap(), ObjectRef::config_map("default", "settings"));
    assert_eq!(value(&objects, "settings").await, "two");
    fake.remove(PATH);
    changes.recv().await.unwrap();
    assert!(objects.config_map("default", "settings").await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_comes_later_is_seen() {
    let fake = FakeApiserver::new();
    let objects = objects(&fake);
    let mut changes = objects.changed();
    objects.hold(&uid("1"), [ObjectRef::config_map("default", "settings")]);
    assert!(objects.config_map("default", "settings").await.unwrap_err().is_not_found());
    settle().await;
    fake.put(config_map("settings", "late"));
    changes.recv().await.unwrap();
    assert_eq!(value(&objects, "settings").await, "late");
}

#[tokio::test(start_paused = true)]
async fn the_last_pod_that_lets_go_closes_the_watch() {
    let fake = FakeApiserver::new();
    fake.put(config_map("settings", "one"));
    let objects = objects(&fake);
    let settings = ObjectRef::config_map("default", "settings");
    objects.hold(&uid("1"), [settings.clone()]);
    objects.hold(&uid("2"), [settings]);
    settle().await;
    assert_eq!(fake.open_watches(), 1);
    objects.release(&uid("1"));
    settle().await;
    assert_eq!(fake.open_watches(), 1);
    objects.release(&uid("2"));
    settle().await;
    assert_eq!(fake.open_watches(), 0);
    assert_eq!(value(&objects, "settings").await, "one", "nobody holds it: read directly");
}

#[tokio::test(start_paused = true)]
async fn an_immutable_object_is_read_once_and_not_watched() {
    let fake = FakeApiserver::new();
    let mut fixed = config_map("settings", "one");
    fixed["immutable"] = json!(true);
    fake.put(fixed);
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::config_map("default", "settings")]);
    assert_eq!(value(&objects, "settings").await, "one");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((fake.requests().len(), fake.open_watches()), (1, 0));
    assert_eq!(value(&objects, "settings").await, "one");
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_that_lags_behind_the_scheduler_is_waited_for() {
    let fake = FakeApiserver::new();
    fake.put(secret("token", "c2VjcmV0"));
    fake.refuse("GET", "/api/v1/namespaces/default/secrets", 403, "Forbidden", Some(2));
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::secret("default", "token")]);
    assert!(objects.secret("default", "token").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_an_error() {
    let fake = FakeApiserver::new();
    fake.refuse("GET", "/api/v1/namespaces/default/secrets", 403, "Forbidden", None);
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::secret("default", "token")]);
    assert!(objects.secret("default", "token").await.unwrap_err().is_forbidden());
}

#[tokio::test(start_paused = true)]
async fn while_the_server_is_away_the_last_contents_stay() {
    let fake = FakeApiserver::new();
    fake.put(config_map("settings", "one"));
    let objects = objects(&fake);
    objects.hold(&uid("1"), [ObjectRef::config_map("default", "settings")]);
    settle().await;
    fake.down();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(value(&objects, "settings").await, "one");
    fake.up();
    fake.put(config_map("settings", "two"));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(value(&objects, "settings").await, "two");
}
