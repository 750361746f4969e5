//! What a collector sees of a pod's life. The tracer is the process's: this test has one of its own.

#[allow(dead_code)] // the other tests of the workers use more of it
#[path = "workers/bed.rs"]
mod bed;

use std::time::Duration;

use api_types::otlp::Span;
use host::Clock;
use testing::{FakeCollector, attribute, pod};
use tokio::time::sleep;

use bed::Machine;

const RUN_SANDBOX: &str = "runtime.v1.RuntimeService/RunPodSandbox";

#[tokio::test(start_paused = true)]
async fn a_pods_life_is_told_in_spans_with_the_runtimes_calls_below() {
    let collector = FakeCollector::start();
    let config = trace::Config {
        endpoint: collector.endpoint(),
        sampling_rate_per_million: 1_000_000,
        host_name: "node-a".to_owned(),
    };
    let exporter = tokio::spawn(trace::start(&config, Clock::start()).unwrap().run());
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(pod("traced").container("app", "nginx"));
    agent.set(&web).await;
    agent.until_running(&web).await;
    agent.set(&machine.deleted(&web, 30)).await;
    agent.until("its object is gone", || machine.object(&web).is_none()).await;

    let spans = spans(&collector, web.uid.as_str()).await;
    let of_pod = |name: &str| -> Vec<&Span> {
        let is = |span: &&Span| attribute(&span.attributes, "k8s.pod.uid") == Some(web.uid.as_str());
        spans.iter().filter(|span| span.name == name).filter(is).collect()
    };
    let below = |name: &str, parents: &[&Span]| {
        let is_below = |span: &Span| parents.iter().any(|parent| parent.span_id == span.parent_span_id);
        spans.iter().any(|span| span.name == name && is_below(span))
    };
    let syncs = of_pod("syncPod");
    for call in [
        RUN_SANDBOX,
        "runtime.v1.ImageService/PullImage",
        "runtime.v1.RuntimeService/CreateContainer",
        "runtime.v1.RuntimeService/StartContainer",
    ] {
        assert!(below(call, &syncs), "{call}: {spans:#?}");
    }
    assert_eq!(attribute(&syncs[0].attributes, "k8s.pod"), Some("default/traced"));
    assert!(below("runtime.v1.RuntimeService/StopContainer", &of_pod("syncTerminatingPod")));
    assert_eq!(of_pod("syncTerminatedPod").len(), 1);

    let patch = spans.iter().find(|span| span.name == "HTTP PATCH").unwrap();
    assert!(attribute(&patch.attributes, "url.path").unwrap().ends_with("/pods/traced/status"));

    let run = spans.iter().find(|span| span.name == RUN_SANDBOX).unwrap();
    assert_eq!(attribute(&run.attributes, "rpc.response.status_code"), Some("OK"));
    let told = machine.cri.traceparents(&format!("/{RUN_SANDBOX}"));
    let id: String = run.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(told.iter().any(|header| header.contains(&id)), "the runtime can go on with it: {told:?}");
    exporter.abort();
}

async fn spans(collector: &FakeCollector, uid: &str) -> Vec<Span> {
    for _ in 0..600 {
        let spans: Vec<Span> = collector.spans().into_iter().map(|(_, span)| span).collect();
        let last =
            |span: &Span| span.name == "syncTerminatedPod" && attribute(&span.attributes, "k8s.pod.uid") == Some(uid);
        if spans.iter().any(last) {
            return spans;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no span of the pod's end");
}
