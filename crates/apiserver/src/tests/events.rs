//! Recorded events as the server sees them.

use std::{sync::Arc, time::Duration};

use host::Clock;
use k8s_openapi::api::core::v1::Pod;
use pod::{DesiredPod, Source, mounts::EventType};
use serde_json::{Value, json};
use testing::FakeApiserver;

use super::{client, settle};
use crate::Events;

const EVENTS: &str = "/api/v1/namespaces/default/events";

fn desired() -> DesiredPod {
    let mut object = super::pod("web", "node-a");
    object["metadata"]["uid"] = json!("u-1");
    object["spec"]["initContainers"] = json!([{"name": "prepare"}]);
    let pod: Pod = serde_json::from_value(object).unwrap();
    DesiredPod::new(Source::Api, Arc::new(pod)).unwrap()
}

fn recorder(fake: &FakeApiserver) -> Events {
    Events::spawn(client(fake), Clock::start(), "node-a")
}

#[tokio::test(start_paused = true)]
async fn an_event_has_the_fields_that_readers_look_for() {
    let fake = FakeApiserver::new();
    recorder(&fake).container(&desired(), "prepare", EventType::Normal, "Started", "Container started");
    settle().await;
    let event = fake.objects(EVENTS).pop().expect("one event");
    let about = &event["involvedObject"];
    assert_eq!(about["fieldPath"], "spec.initContainers{prepare}");
    assert_eq!((&about["kind"], &about["uid"]), (&json!("Pod"), &json!("u-1")));
    assert_eq!(event["source"], json!({"component": "kubelet", "host": "node-a"}));
    assert_eq!((&event["reportingComponent"], &event["reportingInstance"]), (&json!("kubelet"), &json!("node-a")));
    assert_eq!((&event["type"], &event["reason"], &event["count"]), (&json!("Normal"), &json!("Started"), &json!(1)));
    let name = event["metadata"]["name"].as_str().unwrap();
    let suffix = name.strip_prefix("web.").expect("named after the pod");
    assert!(u64::from_str_radix(suffix, 16).is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_same_event_again_is_a_patch_of_the_first() {
    let fake = FakeApiserver::new();
    let events = recorder(&fake);
    (0..3).for_each(|_| events.pod(&desired(), EventType::Warning, "BackOff", "again"));
    settle().await;
    let stored = fake.objects(EVENTS);
    assert_eq!(stored.iter().map(|e| &e["count"]).collect::<Vec<_>>(), [&json!(3)]);
    assert_eq!(fake.requests().iter().filter(|r| r.method == "PATCH").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_server_has_forgotten_is_made_anew() {
    let fake = FakeApiserver::new();
    let events = recorder(&fake);
    events.pod(&desired(), EventType::Warning, "BackOff", "again");
    settle().await;
    let name = fake.objects(EVENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    fake.remove(&format!("{EVENTS}/{name}"));
    events.pod(&desired(), EventType::Warning, "BackOff", "again");
    settle().await;
    assert_eq!(fake.objects(EVENTS)[0]["count"], json!(2));
}

#[tokio::test(start_paused = true)]
async fn events_wait_for_a_server_that_is_away_and_the_newest_are_dropped() {
    let fake = FakeApiserver::new();
    fake.down();
    let events = recorder(&fake);
    for n in 0..1500 {
        events.node(EventType::Normal, &format!("r{n}"), "m");
    }
    assert_eq!(events.dropped(), 500);
    fake.up();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stored = fake.objects(EVENTS);
    let about_node = |e: &Value| e["involvedObject"]["kind"] == "Node" && e["involvedObject"]["uid"] == "node-a";
    assert!(!stored.is_empty() && stored.iter().all(about_node));
}
