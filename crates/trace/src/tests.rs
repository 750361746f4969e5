//! Spans on their way to a collector.

use host::Clock;
use testing::{FakeCollector, attribute};
use tokio::{sync::mpsc, time::sleep};

use crate::{BATCH, Config, Context, Exporter, Kind, QUEUE, Span, Tracer, carry, current};

const SCOPE: &str = "scope";

struct World {
    collector: FakeCollector,
    tracer: Tracer,
}

impl World {
    /// A tracer of its own: that of the process would be shared by all tests.
    fn new(per_million: u32) -> Self {
        let collector = FakeCollector::start();
        let (queue, ended) = mpsc::channel(QUEUE);
        let config = Config {
            endpoint: collector.endpoint(),
            sampling_rate_per_million: per_million,
            host_name: "node-1".to_owned(),
        };
        tokio::spawn(Exporter::new(&config, ended).unwrap().run());
        Self { collector, tracer: Tracer { clock: Clock::start(), per_million, queue } }
    }

    fn span(&self, name: &'static str, parent: Option<Context>) -> Span {
        Span::begin(&self.tracer, SCOPE, name.into(), Kind::Internal, parent)
    }

    async fn collected(&self, spans: usize) -> Vec<(String, api_types::otlp::Span)> {
        for _ in 0..600 {
            let found = self.collector.spans();
            if found.len() >= spans {
                return found;
            }
            sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("only {:?}", self.collector.spans());
    }
}

#[tokio::test(start_paused = true)]
async fn a_span_arrives_with_what_was_told_of_it() {
    let world = World::new(1_000_000);
    let outer = world.span("outer", None);
    outer.attribute("k8s.pod.name", "web");
    sleep(std::time::Duration::from_millis(30)).await;
    drop(world.span("inner", outer.context()));
    outer.record_error("no such volume");
    drop(outer);
    let spans = world.collected(2).await;
    let find = |name: &str| spans.iter().map(|(_, span)| span).find(|span| span.name == name).unwrap();
    let (outer, inner) = (find("outer"), find("inner"));
    assert_eq!(inner.parent_span_id, outer.span_id);
    assert_eq!((inner.trace_id.len(), inner.span_id.len()), (16, 8));
    assert_eq!(inner.trace_id, outer.trace_id);
    assert!(outer.parent_span_id.is_empty());
    assert!(outer.end_time_unix_nano - outer.start_time_unix_nano >= 30_000_000);
    assert_eq!(attribute(&outer.attributes, "k8s.pod.name"), Some("web"));
    assert_eq!(outer.status.as_ref().unwrap().message, "no such volume");
    assert_eq!(attribute(&outer.events[0].attributes, "exception.message"), Some("no such volume"));
    let resource = world.collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), Some("kubelet"));
    assert_eq!(attribute(&resource.attributes, "host.name"), Some("node-1"));
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_only_what_came_sampled_is_recorded() {
    let world = World::new(0);
    let unsampled = world.span("own", None);
    assert!(!unsampled.is_recording() && unsampled.context().is_some(), "it still has a name for others");
    drop(unsampled);
    let parent = Context::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    drop(world.span("asked for", parent));
    let spans = world.collected(1).await;
    assert_eq!((spans.len(), spans[0].1.name.as_str()), (1, "asked for"));
}

#[tokio::test(start_paused = true)]
async fn what_a_span_covers_knows_it_and_so_do_tasks_that_carry_it() {
    let world = World::new(1_000_000);
    let span = world.span("outer", None);
    let within = span.cover(async {
        let spawned = tokio::spawn(carry(async { current() }));
        let bare = tokio::spawn(async { current() });
        (current(), spawned.await.unwrap(), bare.await.unwrap())
    });
    assert_eq!(within.await, (span.context(), span.context(), None));
    assert_eq!(current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_shared_span_ends_with_the_last_who_works_for_it_and_is_not_told_if_nobody_did() {
    let world = World::new(1_000_000);
    world.span("nothing to do", None).shared().release();
    let shared = world.span("work", None).shared();
    let task = tokio::spawn(shared.clone().cover(sleep(std::time::Duration::from_secs(3))));
    shared.release();
    task.await.unwrap();
    let spans = world.collected(1).await;
    assert_eq!((spans.len(), spans[0].1.name.as_str()), (1, "work"));
    assert!(spans[0].1.end_time_unix_nano - spans[0].1.start_time_unix_nano >= 3_000_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_not_ready_gets_them_later_and_a_full_queue_drops() {
    let world = World::new(1_000_000);
    world.collector.refuse(2);
    for _ in 0..QUEUE + 100 {
        drop(world.span("many", None));
    }
    let spans = world.collected(QUEUE).await;
    assert_eq!(spans.len(), QUEUE);
    assert!(world.collector.requests().len() >= QUEUE / BATCH);
}
