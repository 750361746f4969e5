//! The pod watch ends with the true set, whatever happens to the server.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use testing::FakeApiserver;
use tokio::sync::mpsc::Receiver;

use super::{client, pod, settle};
use crate::PodEvent;

const POD: &str = "/api/v1/namespaces/default/pods/";

/// The set that a reader of the events believes in.
#[derive(Default)]
struct Reader {
    names: BTreeSet<String>,
    applied: usize,
    synced: usize,
}

impl Reader {
    fn take(&mut self, events: &mut Receiver<PodEvent>) {
        while let Ok(event) = events.try_recv() {
            match event {
                PodEvent::Synced(pods) => {
                    self.synced += 1;
                    self.names = pods.iter().filter_map(|p| p.metadata.name.clone()).collect();
                }
                PodEvent::Applied(pod) => {
                    self.applied += 1;
                    assert!(pod.metadata.managed_fields.is_none());
                    self.names.insert(pod.metadata.name.clone().unwrap());
                }
                PodEvent::Deleted { key, .. } => drop(self.names.remove(&*key.name)),
            }
        }
    }
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn only_this_nodes_pods_are_told_first_as_a_set_then_one_by_one() {
    let fake = FakeApiserver::new();
    fake.put(pod("mine", "node-a"));
    fake.put(pod("other", "node-b"));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!((reader.names(), reader.synced), (vec!["mine"], 1));

    fake.put(pod("second", "node-a"));
    fake.remove(&format!("{POD}mine"));
    settle().await;
    reader.take(&mut events);
    assert_eq!(reader.names(), ["second"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_read_page_by_page() {
    let fake = FakeApiserver::new();
    (0..600).for_each(|n| drop(fake.put(pod(&format!("p{n}"), "node-a"))));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!(reader.names.len(), 600);
    assert!(fake.requests().iter().filter(|r| !r.is_watch()).count() >= 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_connection_what_vanished_is_told_and_what_stayed_is_not() {
    let fake = FakeApiserver::new();
    fake.put(pod("gone", "node-a"));
    fake.put(pod("stays", "node-a"));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);

    fake.down();
    fake.remove(&format!("{POD}gone"));
    fake.put(pod("new", "node-a"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    reader.take(&mut events);
    assert_eq!(reader.names(), ["gone", "stays"], "nothing is told while nobody answers");
    fake.up();
    tokio::time::sleep(Duration::from_secs(11)).await;
    reader.take(&mut events);
    assert_eq!((reader.names(), reader.applied, reader.synced), (vec!["new", "stays"], 1, 1));
}

#[tokio::test(start_paused = true)]
async fn too_old_a_version_leads_to_a_new_list() {
    let fake = FakeApiserver::new();
    fake.put(pod("a", "node-a"));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    fake.compact();
    fake.put(pod("b", "node-a"));
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!(reader.names(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_restored_from_a_backup_is_believed() {
    let fake = FakeApiserver::new();
    fake.put(pod("old", "node-a"));
    let backup = fake.backup();
    let mut events = client(&fake).watch_pods("node-a");
    (0..5).for_each(|n| drop(fake.put(pod(&format!("late-{n}"), "node-a"))));
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!(reader.names.len(), 6);
    fake.restore(backup);
    settle().await;
    fake.put(pod("after", "node-a"));
    settle().await;
    reader.take(&mut events);
    assert_eq!(reader.names(), ["after", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_made_anew_under_its_name_is_first_gone_and_then_there() {
    let fake = FakeApiserver::new();
    fake.put(pod("web", "node-a"));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    drop(events.recv().await);
    fake.down();
    fake.remove(&format!("{POD}web"));
    fake.put(pod("web", "node-a"));
    fake.up();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(matches!(events.recv().await, Some(PodEvent::Deleted { uid, .. }) if uid.as_str() == "uid-1"));
    let Some(PodEvent::Applied(new)) = events.recv().await else { panic!("no new pod") };
    assert_eq!(new.metadata.uid.as_deref(), Some("uid-2"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_can_not_be_read_hides_no_other() {
    let fake = FakeApiserver::new();
    let mut broken = pod("broken", "node-a");
    broken["spec"]["containers"] = json!("none");
    fake.put(broken);
    fake.put(pod("fine", "node-a"));
    let mut events = client(&fake).watch_pods("node-a");
    settle().await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!(reader.names(), ["fine"]);
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_with_its_receiver() {
    let fake = FakeApiserver::new();
    let events = client(&fake).watch_pods("node-a");
    settle().await;
    assert_eq!(fake.open_watches(), 1);
    drop(events);
    settle().await;
    assert_eq!(fake.open_watches(), 0);
}
