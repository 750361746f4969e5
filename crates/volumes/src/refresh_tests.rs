//! Tests of what follows the API server: objects that come, change and go; tokens that age; claims.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use apiserver::{ApiServer, ChangeDetection, ClientOptions};
use host::{Clock, RootDir};
use pod::DesiredPod;
use serde_json::{Value, json};
use testing::FakeApiserver;

use super::*;
use crate::{
    Api, MountedSource, MountedVolumes, Volumes, VolumesConfig,
    fixture::{in_own_mounts, pod},
};

struct Node {
    _temp: tempfile::TempDir,
    fake: FakeApiserver,
    volumes: Volumes,
}

fn node() -> Node {
    let temp = tempfile::tempdir().unwrap();
    let root = RootDir::new(fs::canonicalize(temp.path()).unwrap());
    let fake = FakeApiserver::new();
    let server = ApiServer::from_service(fake.clone(), ClientOptions::default());
    let objects = server.objects(ChangeDetection::Watch);
    let volumes = Volumes::new(VolumesConfig {
        root,
        clock: Clock::start(),
        api: Some(Api { server, objects }),
        node_allocatable: Arc::new(Default::default),
    });
    Node { _temp: temp, fake, volumes }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ns"}, "data": {"key": value}})
}

fn with_volume(source: Value) -> DesiredPod {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    pod(json!({"volumes": [volume],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}))
}

fn of_config_map(optional: bool) -> DesiredPod {
    with_volume(json!({"configMap": {"name": "settings", "defaultMode": 420, "optional": optional}}))
}

fn path(mounted: &MountedVolumes) -> PathBuf {
    match &mounted.get("v").unwrap().source {
        MountedSource::Host(path) => path.clone(),
        MountedSource::Image => panic!("an image"),
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Lets everything run that is under way; the paused clock then moves on.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(900)).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_config_map_is_written_at_once() {
    let node = node();
    node.fake.put(config_map("settings", "one"));
    let key = path(&node.volumes.mount(&of_config_map(false)).await.unwrap()).join("key");
    assert_eq!(text(&key).as_deref(), Some("one"));
    settle().await;
    node.fake.put(config_map("settings", "two"));
    settle().await;
    assert_eq!(text(&key).as_deref(), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_fails_the_mount_until_it_is_there() {
    let node = node();
    let pod = of_config_map(false);
    let error = node.volumes.mount(&pod).await.unwrap_err();
    assert_eq!(error.to_string(), "MountVolume.SetUp failed for volume \"v\" : configmap \"settings\" not found");
    node.fake.put(config_map("settings", "late"));
    settle().await;
    let key = path(&node.volumes.mount(&pod).await.unwrap()).join("key");
    assert_eq!(text(&key).as_deref(), Some("late"));
}

#[tokio::test(start_paused = true)]
async fn an_optional_config_map_comes_and_goes() {
    let node = node();
    let key = path(&node.volumes.mount(&of_config_map(true)).await.unwrap()).join("key");
    assert_eq!(text(&key), None);
    settle().await;
    node.fake.put(config_map("settings", "late"));
    settle().await;
    assert_eq!(text(&key).as_deref(), Some("late"));
    node.fake.remove("/api/v1/namespaces/ns/configmaps/settings");
    settle().await;
    assert_eq!(text(&key), None);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_config_map_leaves_the_running_pods_files_alone() {
    let node = node();
    node.fake.put(config_map("settings", "one"));
    let key = path(&node.volumes.mount(&of_config_map(false)).await.unwrap()).join("key");
    settle().await;
    node.fake.remove("/api/v1/namespaces/ns/configmaps/settings");
    settle().await;
    assert_eq!(text(&key).as_deref(), Some("one"));
    node.fake.put(config_map("settings", "back"));
    settle().await;
    assert_eq!(text(&key).as_deref(), Some("back"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_for_a_pod_that_was_taken_down() {
    let node = node();
    node.fake.put(config_map("settings", "one"));
    let pod = of_config_map(false);
    let key = path(&node.volumes.mount(&pod).await.unwrap()).join("key");
    node.volumes.unmount(&pod.uid).await.unwrap();
    node.fake.put(config_map("settings", "two"));
    settle().await;
    assert!(!key.exists());
    assert_eq!(node.fake.open_watches(), 0);
}

fn token_answer(token: &str) -> Value {
    let expires_at = Clock::start().wall() + jiff::SignedDuration::from_secs(3600);
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": {"audiences": []}, "status": {"token": token, "expirationTimestamp": expires_at.to_string()}})
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    if !in_own_mounts("refresh::tests::a_token_is_renewed_before_it_ends") {
        return;
    }
    let node = node();
    let at = "/api/v1/namespaces/ns/serviceaccounts/default/token";
    node.fake.reply("POST", at, token_answer("first"));
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}});
    let pod = with_volume(json!({"projected": {"defaultMode": 420, "sources": [token]}}));
    let file = path(&node.volumes.mount(&pod).await.unwrap()).join("token");
    assert_eq!(text(&file).as_deref(), Some("first"));
    let bound = node.fake.requests().into_iter().find(|r| r.path == at).unwrap().body["spec"]["boundObjectRef"].clone();
    assert_eq!((bound["name"].as_str(), bound["uid"].as_str()), (Some("web"), Some("uid-1")));

    node.fake.reply("POST", at, token_answer("second"));
    tokio::time::sleep(Duration::from_secs(2800)).await;
    assert_eq!(text(&file).as_deref(), Some("first"));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(text(&file).as_deref(), Some("second"));
    // While the API server is away, the token that is there serves on, and is renewed soon after.
    node.fake.down();
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(text(&file).as_deref(), Some("second"));
    node.fake.up();
    node.fake.reply("POST", at, token_answer("third"));
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert_eq!(text(&file).as_deref(), Some("third"));
    node.volumes.remove_pod(&pod.uid).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_leads_to_the_volume_behind_it() {
    let node = node();
    let claim = |phase: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "ns", "uid": "c1"},
        "spec": {"volumeName": "pv"}, "status": {"phase": phase}})
    };
    node.fake.put(claim("Pending"));
    node.fake.put(json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "pv", "annotations": {"pv.beta.kubernetes.io/gid": "77"}},
        "spec": {"claimRef": {"uid": "c1"}, "hostPath": {"path": "/srv"}}}));
    let pod = with_volume(json!({"persistentVolumeClaim": {"claimName": "data", "readOnly": true}}));
    let error = node.volumes.mount(&pod).await.unwrap_err();
    assert_eq!(error.to_string(), "error processing PVC ns/data: PVC is not bound");
    node.fake.put(claim("Bound"));
    let mounted = node.volumes.mount(&pod).await.unwrap();
    assert_eq!((path(&mounted).as_path(), mounted.extra_groups.as_slice()), (Path::new("/srv"), [77].as_slice()));
    assert!(mounted.get("v").unwrap().read_only);
}
