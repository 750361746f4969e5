//! The node's own gRPC services, podresources and pods: the same questions to the upstream kubelet and to ours, with
//! the same pods on the same node.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use api_types::kubelet::{
    v1::{
        AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest,
        pod_resources_lister_client::PodResourcesListerClient,
    },
    v1alpha1::{self, GetPodRequest, ListPodsRequest, WatchPodsEvent, WatchPodsRequest, pods_client::PodsClient},
};
use bed::wait;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testing::{decoded_pod, without_defaults};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    series,
    world::{World, expect_eq, shell_container, shell_pod, uid},
};

pub fn same_answers(w: &mut World) -> Result<()> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    w.kubectl().apply(&served().to_string())?;
    w.kubectl().apply(&ended().to_string())?;
    let uid = uid(&w.kubectl().until_ready("served")?);
    w.kubectl().until_pod("ended", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded")?;
    let upstream = w.cluster.cache().bin("kubelet");
    let theirs = Answers::of(w, &executor, Some(&upstream), &uid)?;
    let ours = Answers::of(w, &executor, None, &uid)?;
    expect_eq(ours.resources, theirs.resources, "podresources")?;
    expect_eq(ours.refusals, theirs.refusals, "refusals")?;
    expect_eq(ours.pods, theirs.pods, "pods")?;
    expect_eq(ours.events, theirs.events, "events")?;
    expect_eq(ours.series, theirs.series, "series")?;
    w.delete_pods(&["served", "ended"])
}

/// With every kind of container, and values that are easily lost on the way.
fn served() -> Value {
    let mut pod = shell_pod("served", &[("app", "sleep 100000"), ("log", "sleep 100000")]);
    let mut sidecar = shell_container("side", "sleep 100000");
    sidecar["restartPolicy"] = json!("Always");
    pod["spec"]["initContainers"] = json!([shell_container("setup", "true"), sidecar]);
    pod["spec"]["volumes"] =
        json!([{"name": "data", "emptyDir": {}}, {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let app = &mut pod["spec"]["containers"][0];
    app["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    app["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    app["env"] = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "EMPTY"}]);
    app["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

fn ended() -> Value {
    let mut pod = shell_pod("ended", &[("app", "true")]);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

#[derive(Debug)]
struct Answers {
    resources: Vec<String>,
    refusals: Vec<String>,
    pods: Vec<Value>,
    events: Vec<String>,
    series: BTreeSet<String>,
}

impl Answers {
    fn of(w: &World, executor: &Runtime, program: Option<&Path>, uid: &str) -> Result<Self> {
        w.node().stop_kubelet();
        w.node().start_kubelet(program, Some(&w.cluster.dir))?;
        let resources = w.node().root_dir().join("pod-resources/kubelet.sock");
        let pods = w.node().root_dir().join("pods-api/pods-api.sock");
        // Ready, by what this kubelet itself has seen of the pod.
        let mut last = Vec::new();
        wait::until("two equal lists with the pod ready", wait::LONG, || {
            std::thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut last, executor.block_on(list(&pods))?);
            Ok(before == last && last.iter().any(|pod| pod["metadata"]["uid"] == uid && is_ready(pod)))
        })?;
        Ok(Self {
            resources: executor.block_on(of_resources(&resources))?,
            refusals: executor.block_on(refusals(&resources, &pods))?,
            events: followed(w, executor, &pods)?,
            pods: last,
            series: series_of(w)?,
        })
    }
}

async fn channel(path: &Path) -> Result<Channel> {
    let path: PathBuf = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

async fn list(path: &Path) -> Result<Vec<Value>> {
    let listed = PodsClient::new(channel(path).await?).list_pods(ListPodsRequest {}).await?.into_inner().pods;
    listed.iter().map(|bytes| decoded(bytes)).collect()
}

/// Without what a restart changes: the version, which is another after each write of a status, and when the kubelet
/// first saw the pod. And without the pod's own resources in the status, which differ as docs/SUPPORT.md says.
fn decoded(bytes: &[u8]) -> Result<Value> {
    let mut pod = without_defaults(decoded_pod(bytes).context("these bytes are no pod")?);
    if let Some(meta) = pod["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubernetes.io/config.seen");
        }
    }
    if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("resources");
    }
    Ok(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Of all methods of both versions, in order of pods' names.
async fn of_resources(path: &Path) -> Result<Vec<String>> {
    let channel = channel(path).await?;
    let mut client = PodResourcesListerClient::new(channel.clone());
    let mut listed = client.list(ListPodResourcesRequest {}).await?.into_inner().pod_resources;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let asked = GetPodResourcesRequest { pod_name: "served".to_owned(), pod_namespace: "default".to_owned() };
    let one = client.get(asked).await?.into_inner();
    let all = client.get_allocatable_resources(AllocatableResourcesRequest {}).await?.into_inner();
    let mut first = v1alpha1::pod_resources_lister_client::PodResourcesListerClient::new(channel);
    let mut first = first.list(v1alpha1::ListPodResourcesRequest {}).await?.into_inner().pod_resources;
    first.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(vec![format!("{listed:?}"), format!("{one:?}"), format!("{all:?}"), format!("{first:?}")])
}

/// Codes and texts of questions without an answer.
async fn refusals(resources: &Path, pods: &Path) -> Result<Vec<String>> {
    let mut client = PodResourcesListerClient::new(channel(resources).await?);
    let mut told = Vec::new();
    for name in ["ended", "none"] {
        let asked = GetPodResourcesRequest { pod_name: name.to_owned(), pod_namespace: "default".to_owned() };
        told.push(client.get(asked).await.err());
    }
    let mut client = PodsClient::new(channel(pods).await?);
    told.push(client.get_pod(GetPodRequest { pod_uid: "none".to_owned() }).await.err());
    let mut elsewhere = PodsClient::new(channel(resources).await?);
    told.push(elsewhere.list_pods(ListPodsRequest {}).await.err());
    Ok(told.into_iter().flatten().map(|e| format!("{:?} {}", e.code(), e.message())).collect())
}

/// What one who follows is told: the names at the beginning, then the first and last event of a pod that comes and goes.
fn followed(w: &World, executor: &Runtime, path: &Path) -> Result<Vec<String>> {
    let mut stream = executor.block_on(async {
        Ok::<_, anyhow::Error>(
            PodsClient::new(channel(path).await?).watch_pods(WatchPodsRequest {}).await?.into_inner(),
        )
    })?;
    let mut next = || executor.block_on(event(&mut stream));
    let mut told = Vec::new();
    loop {
        let (event, name, _) = next()?;
        told.push(format!("{event} {name}"));
        if event == "INITIAL_SYNC_COMPLETE" {
            break;
        }
    }
    told.sort();
    w.kubectl().apply(&shell_pod("passing", &[("app", "sleep 100000")]).to_string())?;
    let (first, name, pod) = next()?;
    told.push(format!("{first} {name} {}", pod["status"]["phase"]));
    w.kubectl().until_ready("passing")?;
    w.delete_pods(&["passing"])?;
    loop {
        let (event, name, mut pod) = next()?;
        match event.as_str() {
            "MODIFIED" => {}
            _ => {
                pod["metadata"]["uid"].take();
                told.push(format!("{event} {name} {pod}"));
                return Ok(told);
            }
        }
    }
}

async fn event(stream: &mut Streaming<WatchPodsEvent>) -> Result<(String, String, Value)> {
    let Some(event) = timeout(wait::LONG, stream.message()).await.context("no event came")?? else {
        bail!("the stream has ended")
    };
    let pod = decoded(&event.pod)?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok((event.r#type().as_str_name().to_owned(), name, pod))
}

/// Names and labels; how often was asked differs with the waiting.
fn series_of(w: &World) -> Result<BTreeSet<String>> {
    let all = series::get(w, "metrics")?;
    let names = ["kubelet_pod_resources_endpoint_", "kubelet_pod_requests_", "kubelet_pod_watch_events_"];
    let ours = all.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    let failed_while_it_started = |line: &&str| line.contains("FailedPrecondition");
    Ok(ours.filter(|l| !failed_while_it_started(l)).filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned())).collect())
}
