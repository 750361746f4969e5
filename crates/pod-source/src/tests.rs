//! All sources together, against files in a directory and the fake API server.

use std::{collections::BTreeMap, path::Path, time::Duration};

use apiserver::{ApiServer, ClientOptions};
use host::Clock;
use pod::Source;
use serde_json::{Value, json};
use testing::FakeApiserver;
use tokio::sync::mpsc::Receiver;

use crate::{PodSource, SourceConfig, SourceEvent};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: a, image: {image:?}}}]}}\n"
    )
}

fn config(path: &Path) -> SourceConfig {
    SourceConfig {
        node_name: "node-a".to_owned(),
        static_pod_path: Some(path.to_owned()),
        file_check: Duration::from_secs(20),
        ..SourceConfig::default()
    }
}

fn with_node(fake: &FakeApiserver) {
    fake.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "uid": "node-uid"}}));
}

fn spawn(config: SourceConfig, fake: &FakeApiserver) -> (PodSource, Receiver<SourceEvent>) {
    let api = ApiServer::from_service(fake.clone(), ClientOptions::default());
    PodSource::spawn(config, Some(api), Clock::start())
}

/// What the events add up to.
#[derive(Default)]
struct Reader {
    /// UID to name.
    pods: BTreeMap<String, String>,
    mirrors: BTreeMap<String, Option<String>>,
    synced: Vec<Source>,
    log: Vec<&'static str>,
}

impl Reader {
    fn take(&mut self, events: &mut Receiver<SourceEvent>) {
        while let Ok(event) = events.try_recv() {
            self.note(event);
        }
    }

    fn note(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Set(desired) => {
                self.log.push("set");
                assert!(desired.annotation("kubernetes.io/config.seen").is_some());
                self.pods.insert(desired.uid.to_string(), desired.key.name.to_string());
            }
            SourceEvent::Removed(uid) => {
                self.log.push("removed");
                self.pods.remove(uid.as_str());
            }
            SourceEvent::Mirror { static_uid, mirror } => {
                let uid = mirror.and_then(|m| m.metadata.uid);
                self.mirrors.insert(static_uid.to_string(), uid);
            }
            SourceEvent::Synced(source) => self.synced.push(source),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.pods.values().map(String::as_str).collect()
    }
}

/// On the real clock, since the file system's events come from outside.
async fn until(reader: &mut Reader, events: &mut Receiver<SourceEvent>, done: impl Fn(&Reader) -> bool) {
    while !done(reader) {
        match tokio::time::timeout(Duration::from_secs(10), events.recv()).await {
            Ok(Some(event)) => reader.note(event),
            _ => panic!("it did not come: {:?} {:?} {:?}", reader.pods, reader.mirrors, reader.synced),
        }
    }
}

/// As the workers do when nothing of a pod is left.
fn end(source: &PodSource, pods: &mut BTreeMap<String, String>) {
    for uid in std::mem::take(pods).into_keys() {
        source.mirrors().unwrap().ended(&uid.as_str().into());
    }
}

fn mirror(fake: &FakeApiserver) -> Option<Value> {
    fake.object(&format!("{PODS}/web-node-a"))
}

#[tokio::test]
async fn an_api_server_that_is_away_does_not_hold_static_pods() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("web.yaml"), manifest("i:1")).unwrap();
    let fake = FakeApiserver::new();
    fake.down();
    let (_source, mut events) = spawn(config(dir.path()), &fake);
    let mut reader = Reader::default();
    until(&mut reader, &mut events, |r| r.synced == [Source::File]).await;
    assert_eq!(reader.names(), ["web-node-a"]);
    with_node(&fake);
    fake.up();
    until(&mut reader, &mut events, |r| r.synced.len() == 2 && r.mirrors.values().any(Option::is_some)).await;
}

#[tokio::test]
async fn a_static_pod_has_a_mirror_that_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("web.yaml"), manifest("i:1")).unwrap();
    let fake = FakeApiserver::new();
    with_node(&fake);
    let (_source, mut events) = spawn(config(dir.path()), &fake);
    let mut reader = Reader::default();
    until(&mut reader, &mut events, |r| r.mirrors.len() == 1).await;
    let first = mirror(&fake).unwrap();
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(first["metadata"]["ownerReferences"][0]["uid"], "node-uid");
    fake.remove(&format!("{PODS}/web-node-a"));
    let old = first["metadata"]["uid"].as_str().unwrap().to_owned();
    until(&mut reader, &mut events, |r| r.mirrors.values().flatten().any(|uid| *uid != old)).await;
    assert_eq!(reader.names(), ["web-node-a"], "the mirror's end is not the pod's");
}

#[tokio::test]
async fn an_edited_manifest_is_another_pod_with_another_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, manifest("i:1")).unwrap();
    let fake = FakeApiserver::new();
    with_node(&fake);
    let (source, mut events) = spawn(config(dir.path()), &fake);
    let mut reader = Reader::default();
    until(&mut reader, &mut events, |r| r.mirrors.len() == 1).await;
    reader.log.clear();
    let first = reader.mirrors.clone();
    let mut on_node = reader.pods.clone();
    std::fs::write(&file, manifest("i:2")).unwrap();
    until(&mut reader, &mut events, |r| r.log.len() == 2).await;
    assert_eq!(mirror(&fake).unwrap()["spec"]["containers"][0]["image"], "i:1", "it stays while its pod ends");
    assert_eq!(reader.mirrors, first);
    end(&source, &mut on_node);
    // A pod that has left has no mirror; nobody remembers one for each edition.
    until(&mut reader, &mut events, |r| r.mirrors.values().flatten().count() == 1 && r.mirrors.len() == 2).await;
    assert!(first.keys().all(|uid| reader.mirrors[uid].is_none()), "{:?}", reader.mirrors);
    assert_eq!(reader.log, ["removed", "set"]);
    assert_eq!(mirror(&fake).unwrap()["spec"]["containers"][0]["image"], "i:2");
    on_node = reader.pods.clone();
    std::fs::remove_file(&file).unwrap();
    until(&mut reader, &mut events, |r| r.pods.is_empty()).await;
    assert!(mirror(&fake).is_some());
    end(&source, &mut on_node);
    until(&mut reader, &mut events, |r| r.mirrors.values().all(Option::is_none)).await;
    let mirror_gone = async {
        while mirror(&fake).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), mirror_gone).await.expect("the mirror goes too");
}

#[tokio::test]
async fn a_pod_whose_manifest_was_put_back_unchanged_hears_of_its_mirror_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, manifest("i:1")).unwrap();
    let fake = FakeApiserver::new();
    with_node(&fake);
    let (source, mut events) = spawn(config(dir.path()), &fake);
    let mut reader = Reader::default();
    until(&mut reader, &mut events, |r| r.mirrors.len() == 1).await;
    let mut on_node = reader.pods.clone();
    std::fs::remove_file(&file).unwrap();
    until(&mut reader, &mut events, |r| r.pods.is_empty()).await;
    std::fs::write(&file, manifest("i:1")).unwrap();
    until(&mut reader, &mut events, |r| r.pods == on_node).await;
    let told = std::mem::take(&mut reader.mirrors);
    // The writer of status forgets the pod that ended, and its mirror.
    end(&source, &mut on_node);
    until(&mut reader, &mut events, |r| r.mirrors == told).await;
}

#[tokio::test(start_paused = true)]
async fn a_mirror_stays_until_its_source_has_been_read() {
    let fake = FakeApiserver::new();
    with_node(&fake);
    let annotations = json!({"kubernetes.io/config.mirror": "h", "kubernetes.io/config.source": "http"});
    let metadata = json!({"name": "web-node-a", "namespace": "default", "annotations": annotations});
    let spec = json!({"nodeName": "node-a", "containers": [{"name": "a", "image": "i"}]});
    fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    // Nobody listens on that port, so that the source never delivers.
    let url = Some("http://127.0.0.1:1/pods".to_owned());
    let with_url = SourceConfig { node_name: "node-a".to_owned(), static_pod_url: url, ..SourceConfig::default() };
    let (source, mut events) = spawn(with_url, &fake);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!(reader.synced, [Source::Api]);
    assert!(mirror(&fake).is_some());
    drop(source);
    // Without the source the mirror is left over.
    let (_source, _events) = spawn(SourceConfig { node_name: "node-a".to_owned(), ..SourceConfig::default() }, &fake);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(mirror(&fake).is_none());
}

#[tokio::test(start_paused = true)]
async fn api_pods_are_set_until_they_are_gone_and_mirrors_are_no_pods() {
    let fake = FakeApiserver::new();
    let spec = json!({"nodeName": "node-a", "containers": [{"name": "a", "image": "i"}]});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "default"}, "spec": spec});
    fake.put(pod);
    let (_source, mut events) = spawn(SourceConfig { node_name: "node-a".to_owned(), ..Default::default() }, &fake);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut reader = Reader::default();
    reader.take(&mut events);
    assert_eq!((reader.names(), reader.synced.as_slice()), (vec!["app"], &[Source::Api][..]));
    let mut deleted = fake.object(&format!("{PODS}/app")).unwrap();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fake.put(deleted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    reader.take(&mut events);
    assert_eq!((reader.names(), reader.log.as_slice()), (vec!["app"], &["set", "set"][..]));
    fake.remove(&format!("{PODS}/app"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    reader.take(&mut events);
    assert!(reader.names().is_empty());
}

#[tokio::test]
async fn without_an_api_server_the_files_are_all() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("web.json"), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","image":"i"}]}}"#).unwrap();
    // Another manifest of the same pod name: the last in order counts.
    std::fs::write(dir.path().join("zz.yaml"), manifest("i:9")).unwrap();
    let (_source, mut events) = PodSource::spawn(config(dir.path()), None, Clock::start());
    let mut reader = Reader::default();
    until(&mut reader, &mut events, |r| r.synced == [Source::File]).await;
    assert_eq!(reader.pods.len(), 1);
}
