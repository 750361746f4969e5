//! Both services over a real socket, and a Pod's bytes beside those that Go writes.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use api_types::kubelet::{
    v1::{AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest, pod_resources_lister_client},
    v1alpha1::{
        self, EventType, GetPodRequest, ListPodsRequest, WatchPodsEvent, WatchPodsRequest, pods_client::PodsClient,
    },
};
use host::Clock;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::{PodBuilder, decoded_pod, pod, without_defaults};
use tokio::{net::UnixStream, task::JoinSet};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::*;

type Resources = pod_resources_lister_client::PodResourcesListerClient<Channel>;

#[test]
fn bytes_of_a_pod_say_what_those_written_by_go_say() {
    let json: Value = serde_json::from_str(include_str!("golden/pod.json")).unwrap();
    let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json).unwrap();
    let ours = encode::object(&serde_json::to_value(typed).unwrap()).unwrap();
    let theirs = decoded_pod(include_bytes!("golden/pod.pb")).unwrap();
    let decoded = decoded_pod(&ours).unwrap();
    assert_eq!(decoded["spec"]["volumes"][0], json!({"name": "empty", "volumeSource": {"emptyDir": {}}}));
    assert_eq!(without_defaults(decoded), without_defaults(theirs));
}

#[test]
fn a_value_of_another_kind_names_its_field() {
    let error = encode::object(&json!({"spec": {"priority": "high"}})).unwrap_err();
    assert_eq!(error.to_string(), "the field priority of PodSpec cannot be \"high\"");
}

/// Both services on sockets of their own, with pods that a test sets.
struct Bed {
    rows: Arc<Mutex<Vec<PodRow>>>,
    changes: watch::Sender<()>,
    complete: watch::Sender<bool>,
    dir: TempDir,
    _tasks: JoinSet<()>,
}

impl Bed {
    fn start(active_only: bool) -> Self {
        let (dir, mut tasks) = (tempfile::tempdir().unwrap(), JoinSet::new());
        let (changes, complete) = (watch::Sender::default(), watch::Sender::new(true));
        let rows = Arc::new(Mutex::new(Vec::<PodRow>::new()));
        let seen = rows.clone();
        let pods = Pods::new(move || seen.lock().unwrap().clone(), changes.subscribe(), complete.subscribe());
        let listen = |name| bind(&dir.path().join(name)).unwrap();
        tasks.spawn(pod_resources(listen("resources"), pods.clone(), Clock::start(), active_only));
        tasks.spawn(pods_api(listen("pods"), pods, Clock::start()));
        Self { rows, changes, complete, dir, _tasks: tasks }
    }

    fn set(&self, rows: Vec<PodRow>) {
        *self.rows.lock().unwrap() = rows;
        self.changes.send_replace(());
    }

    async fn resources(&self) -> Resources {
        Resources::new(channel(&self.dir.path().join("resources")).await)
    }

    async fn pods(&self) -> PodsClient<Channel> {
        PodsClient::new(channel(&self.dir.path().join("pods")).await)
    }
}

async fn channel(path: &Path) -> Channel {
    let path: PathBuf = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn row(pod: PodBuilder, phase: &str) -> PodRow {
    let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
    let active = !matches!(phase, "Succeeded" | "Failed");
    PodRow { desired: pod.desired(), status: Arc::new(status), active, gone: false }
}

fn web() -> PodBuilder {
    pod("web").uid("w").sidecar("proxy", "p").init("setup", "s").container("app", "a").container("log", "l")
}

fn names(pods: &[api_types::kubelet::v1::PodResources]) -> Vec<(&str, Vec<&str>)> {
    pods.iter().map(|p| (&*p.name, p.containers.iter().map(|c| &*c.name).collect())).collect()
}

#[tokio::test]
async fn containers_that_go_on_running_are_listed_with_empty_resources() {
    let bed = Bed::start(true);
    bed.set(vec![row(web(), "Running"), row(pod("job").uid("j").container("app", "a"), "Succeeded")]);
    let mut client = bed.resources().await;
    let listed = client.list(ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
    assert_eq!(names(&listed), [("web", vec!["proxy", "app", "log"])]);
    assert_eq!(listed[0].namespace, "default");
    assert!(listed[0].containers.iter().all(|c| c.devices.is_empty() && c.cpu_ids.is_empty() && c.memory.is_empty()));
    let all = client.get_allocatable_resources(AllocatableResourcesRequest {}).await.unwrap().into_inner();
    assert_eq!(all, api_types::kubelet::v1::AllocatableResourcesResponse::default());
}

#[tokio::test]
async fn pods_that_have_ended_are_listed_only_with_the_gate_off_or_in_the_first_version() {
    let bed = Bed::start(false);
    bed.set(vec![row(web(), "Failed")]);
    let mut client = bed.resources().await;
    let listed = client.list(ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
    assert_eq!(listed.len(), 1);
    let mut first = v1alpha1::pod_resources_lister_client::PodResourcesListerClient::new(
        channel(&bed.dir.path().join("resources")).await,
    );
    let listed = first.list(v1alpha1::ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
    let containers: Vec<_> = listed[0].containers.iter().map(|c| &*c.name).collect();
    assert_eq!(containers, ["app", "log"]);
}

#[tokio::test]
async fn one_pod_is_found_by_name_while_it_is_active() {
    let bed = Bed::start(true);
    bed.set(vec![
        row(web().uid("old"), "Failed"),
        row(web(), "Running"),
        row(pod("job").container("a", "a"), "Failed"),
    ]);
    let mut client = bed.resources().await;
    let asked = |name: &str| GetPodResourcesRequest { pod_name: name.to_owned(), pod_namespace: "default".to_owned() };
    let found = client.get(asked("web")).await.unwrap().into_inner().pod_resources;
    assert_eq!(names(&found.into_iter().collect::<Vec<_>>()), [("web", vec!["proxy", "app", "log"])]);
    let refused = client.get(asked("job")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "pod job in namespace default not found"));
}

#[tokio::test]
async fn who_asks_too_often_is_told_so() {
    let bed = Bed::start(true);
    let client = bed.resources().await;
    let mut asked = JoinSet::new();
    for _ in 0..500 {
        let mut client = client.clone();
        asked.spawn(async move {
            client.list(ListPodResourcesRequest {}).await.map_err(|e| (e.code(), e.message().to_owned()))
        });
    }
    let refused: Vec<_> = asked.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty() && refused.len() <= 490, "{}", refused.len());
    assert!(refused.iter().all(|e| *e == (Code::ResourceExhausted, "rejected by rate limit".to_owned())));
}

#[tokio::test]
async fn a_service_that_is_not_here_is_unimplemented() {
    let bed = Bed::start(true);
    let mut client = PodsClient::new(channel(&bed.dir.path().join("resources")).await);
    let refused = client.list_pods(ListPodsRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, "unknown service v1alpha1.Pods"));
}

#[tokio::test]
async fn pods_are_listed_by_uid_with_the_status_that_the_agent_gives_them() {
    let bed = Bed::start(true);
    bed.set(vec![row(web().uid("2"), "Running"), row(pod("job").uid("1").container("app", "a"), "Succeeded")]);
    let mut client = bed.pods().await;
    let listed = client.list_pods(ListPodsRequest {}).await.unwrap().into_inner().pods;
    let told: Vec<Value> = listed.iter().map(|bytes| decoded_pod(bytes).unwrap()).collect();
    let short = |pod: &Value| (pod["metadata"]["name"].clone(), pod["status"]["phase"].clone());
    assert_eq!(
        told.iter().map(short).collect::<Vec<_>>(),
        [(json!("job"), json!("Succeeded")), (json!("web"), json!("Running"))]
    );
    let one = client.get_pod(GetPodRequest { pod_uid: "2".to_owned() }).await.unwrap().into_inner();
    assert_eq!(decoded_pod(&one.pod).unwrap(), told[1]);
    let refused = client.get_pod(GetPodRequest { pod_uid: "3".to_owned() }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "pod with UID 3 not found"));
}

#[tokio::test]
async fn until_all_sources_are_heard_nothing_is_told() {
    let bed = Bed::start(true);
    bed.complete.send_replace(false);
    let mut client = bed.pods().await;
    let refused = client.list_pods(ListPodsRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "Kubelet is initializing"));
    assert_eq!(client.get_pod(GetPodRequest::default()).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.watch_pods(WatchPodsRequest {}).await.unwrap_err().code(), Code::FailedPrecondition);
    bed.complete.send_replace(true);
    assert!(client.list_pods(ListPodsRequest {}).await.is_ok());
}

/// Event, name and phase.
type Short = (EventType, String, String);

async fn event(stream: &mut Streaming<WatchPodsEvent>) -> Option<Short> {
    let next = tokio::time::timeout(Duration::from_millis(200), stream.message()).await.ok()?;
    let event = next.unwrap()?;
    let pod = decoded_pod(&event.pod).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some((event.r#type(), text(&pod["metadata"]["name"]), text(&pod["status"]["phase"])))
}

fn told(event: EventType, name: &str, phase: &str) -> Option<Short> {
    Some((event, name.to_owned(), phase.to_owned()))
}

#[tokio::test]
async fn who_follows_is_told_what_is_there_and_then_what_changes() {
    let bed = Bed::start(true);
    bed.set(vec![row(web(), "Pending")]);
    let mut stream = bed.pods().await.watch_pods(WatchPodsRequest {}).await.unwrap().into_inner();
    assert_eq!(event(&mut stream).await, told(EventType::Added, "web", "Pending"));
    assert_eq!(event(&mut stream).await, told(EventType::InitialSyncComplete, "", ""));
    bed.set(vec![row(web(), "Running"), row(pod("job").uid("j").container("a", "a"), "Pending")]);
    assert_eq!(event(&mut stream).await, told(EventType::Added, "job", "Pending"));
    assert_eq!(event(&mut stream).await, told(EventType::Modified, "web", "Running"));
    // A new version of the object alone is no news.
    let versioned = web().edit(|pod| pod.metadata.resource_version = Some("8".to_owned()));
    bed.set(vec![
        row(versioned, "Running"),
        PodRow { gone: true, ..row(pod("job").uid("j").container("a", "a"), "Failed") },
    ]);
    assert_eq!(event(&mut stream).await, told(EventType::Deleted, "job", ""));
    bed.set(vec![row(web(), "Running")]);
    bed.set(vec![]);
    assert_eq!(event(&mut stream).await, told(EventType::Deleted, "web", ""));
    assert_eq!(event(&mut stream).await, None);
}

#[tokio::test]
async fn a_static_pod_that_is_put_back_with_its_uid_is_told_as_a_new_one() {
    let bed = Bed::start(true);
    bed.set(vec![row(web(), "Succeeded")]);
    let mut stream = bed.pods().await.watch_pods(WatchPodsRequest {}).await.unwrap().into_inner();
    assert_eq!(event(&mut stream).await, told(EventType::Added, "web", "Succeeded"));
    assert_eq!(event(&mut stream).await, told(EventType::InitialSyncComplete, "", ""));
    let gone = || PodRow { gone: true, ..row(web(), "Succeeded") };
    bed.set(vec![gone()]);
    assert_eq!(event(&mut stream).await, told(EventType::Deleted, "web", ""));
    bed.set(vec![gone()]);
    assert_eq!(event(&mut stream).await, None, "told once");
    // Both before the follower looks again.
    bed.set(vec![]);
    bed.set(vec![row(web(), "Pending")]);
    assert_eq!(event(&mut stream).await, told(EventType::Added, "web", "Pending"));
    bed.set(vec![row(web(), "Running")]);
    assert_eq!(event(&mut stream).await, told(EventType::Modified, "web", "Running"));
}

#[tokio::test]
async fn requests_are_counted_by_version_and_outcome() {
    let bed = Bed::start(true);
    let mut client = bed.pods().await;
    let mut stream = client.watch_pods(WatchPodsRequest {}).await.unwrap().into_inner();
    assert_eq!(event(&mut stream).await, told(EventType::InitialSyncComplete, "", ""));
    drop(stream);
    let series = "kubelet_pod_requests_watch_total{server_api_version=\"v1alpha1\",status_code=\"Canceled\"}";
    for _ in 0..50 {
        if ::metrics::gather().contains(series) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(::metrics::gather().contains(series));
    let _ = bed.resources().await.get(GetPodResourcesRequest::default()).await;
    let text = ::metrics::gather();
    for name in ["requests_total", "requests_get", "errors_get"] {
        let series = format!("kubelet_pod_resources_endpoint_{name}{{server_api_version=\"v1\"}}");
        assert!(text.contains(&series), "{series}");
    }
}
