//! The agent against an API server of one page and no runtime at all.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::{ApiServer, ClientOptions, Events, RequestBody};
use bytes::Bytes;
use cri::Cri;
use host::{Clock, addresses::NodeIp};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{NodeAgent, NodeConfig, NodeParts, Pressure, status::tests::machine};

/// What was asked, and the objects that are there.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
    node: Arc<Mutex<Option<Value>>>,
}

impl Server {
    fn api(&self) -> ApiServer {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<RequestBody>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        ApiServer::from_service(service, ClientOptions::default())
    }

    async fn answer(&self, request: Request<RequestBody>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (method, path) = (head.method, head.uri.path().to_owned());
        if head.uri.query().unwrap_or_default().contains("watch=") {
            std::future::pending::<()>().await;
        }
        let answer = self.answer_to(&method, &path, &body);
        self.requests.lock().unwrap().push((method, path, body));
        let (code, value) = answer;
        Response::builder().status(code).body(Full::new(Bytes::from(value.to_string()))).unwrap()
    }

    fn answer_to(&self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut node = self.node.lock().unwrap();
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind":"Status","apiVersion":"v1","status":"Failure","reason":reason,"message":reason,"code":code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        match (method.as_str(), path, node.clone()) {
            ("GET", "/api/v1/nodes", there) => {
                let items: Vec<Value> = there.into_iter().collect();
                (
                    StatusCode::OK,
                    json!({"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":items}),
                )
            }
            ("POST", "/api/v1/nodes", None) => {
                let mut made = body.clone();
                made["metadata"]["uid"] = json!("node-uid");
                made["metadata"]["resourceVersion"] = json!("10");
                *node = Some(made.clone());
                (StatusCode::CREATED, made)
            }
            ("POST", "/api/v1/nodes", Some(_)) => failure(409, "AlreadyExists"),
            ("GET" | "PATCH", _, Some(there)) if path.starts_with("/api/v1/nodes/n") => (StatusCode::OK, there),
            ("GET", _, _) => failure(404, "NotFound"),
            _ => (StatusCode::OK, body.clone()),
        }
    }

    fn asked(&self, method: &Method, path: &str) -> Vec<Value> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(m, p, _)| m == method && p == path).map(|(_, _, body)| body.clone()).collect()
    }
}

fn parts(api: Option<ApiServer>) -> NodeParts {
    NodeParts {
        api,
        events: Events::log_only(),
        cri: Cri::connect("/nonexistent/runtime.sock", "", Duration::from_secs(1)).unwrap(),
        clock: Clock::start(),
        images: Arc::new(|| Box::pin(async { Vec::new() })),
        volumes_in_use: Arc::new(|| None),
        pleg_health: Arc::new(|| Ok(())),
        pressure: watch::channel(Pressure::default()).1,
        shutting_down: watch::channel(false).1,
    }
}

fn config() -> NodeConfig {
    // An address for a name needs neither DNS nor a network.
    NodeConfig { host_name: "192.0.2.2".into(), node_ip: NodeIp::Unset, root_dir: "/".into(), ..NodeConfig::new("n") }
}

async fn run_for(server: &Server, config: NodeConfig, time: Duration) {
    let agent = NodeAgent::new(config, parts(Some(server.api())), machine()).await.unwrap();
    let _ = tokio::time::timeout(time, agent.run()).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_registered_with_its_status_and_labels() {
    let server = Server::default();
    run_for(&server, config(), Duration::from_secs(1)).await;
    let posted = &server.asked(&Method::POST, "/api/v1/nodes")[0];
    assert_eq!(posted["metadata"]["labels"]["kubernetes.io/hostname"], "192.0.2.2");
    assert_eq!(posted["status"]["nodeInfo"]["kubeletVersion"], "v1.37.2");
    assert_eq!(posted["status"]["capacity"]["pods"], "110");
    let conditions = posted["status"]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), &conditions[3]["status"]), (4, &json!("False")));
}

#[tokio::test(start_paused = true)]
async fn an_existing_node_is_taken_over() {
    let server = Server::default();
    *server.node.lock().unwrap() =
        Some(json!({"metadata":{"name":"n","uid":"node-uid","resourceVersion":"5","labels":{"own":"1"}},"status":{}}));
    run_for(&server, config(), Duration::from_secs(1)).await;
    let patch = &server.asked(&Method::PATCH, "/api/v1/nodes/n/status")[0];
    assert_eq!(patch["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert!(patch["metadata"]["labels"].get("own").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_lease_belongs_to_the_node_and_is_renewed() {
    let server = Server::default();
    *server.node.lock().unwrap() = Some(json!({"metadata":{"name":"n","uid":"node-uid","resourceVersion":"5"}}));
    run_for(&server, config(), Duration::from_secs(25)).await;
    let made = &server.asked(&Method::POST, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")[0];
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "node-uid");
    assert_eq!((&made["spec"]["holderIdentity"], &made["spec"]["leaseDurationSeconds"]), (&json!("n"), &json!(40)));
    assert!(made["spec"]["renewTime"].as_str().unwrap().ends_with('Z'));
    let renewals = server.asked(&Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n");
    assert_eq!(renewals.len(), 2);
    let csi_node = &server.asked(&Method::POST, "/apis/storage.k8s.io/v1/csinodes")[0];
    assert_eq!(csi_node["metadata"]["ownerReferences"][0]["uid"], "node-uid");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_node_is_reported_on_but_not_made() {
    let server = Server::default();
    *server.node.lock().unwrap() = Some(json!({"metadata":{"name":"n","uid":"node-uid","resourceVersion":"5"}}));
    run_for(&server, NodeConfig { register: false, ..config() }, Duration::from_secs(2)).await;
    assert!(server.asked(&Method::POST, "/api/v1/nodes").is_empty());
    let patch = &server.asked(&Method::PATCH, "/api/v1/nodes/n/status")[0];
    assert_eq!(patch["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
}

#[tokio::test(start_paused = true)]
async fn a_standalone_agent_runs_on_facts_alone() {
    let agent = NodeAgent::new(config(), parts(None), machine()).await.unwrap();
    let facts = agent.facts();
    let _ = tokio::time::timeout(Duration::from_secs(1), agent.run()).await;
    assert_eq!(facts.borrow().host_ips, ["192.0.2.2"]);
    assert!(!facts.borrow().runtime_ready);
}

#[tokio::test(start_paused = true)]
async fn reserving_more_than_there_is_fails_at_start() {
    let kube_reserved = [("memory".to_owned(), "64Gi".parse().unwrap())].into();
    let agent = NodeAgent::new(NodeConfig { kube_reserved, ..config() }, parts(None), machine()).await;
    assert!(agent.is_err());
}
