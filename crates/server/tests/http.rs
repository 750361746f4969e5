//! The servers as clients meet them: over TLS with and without credentials, on the plain ports, a log that is followed,
//! and streams that a scripted runtime serves. No containerd, no API server.

mod support;

use std::time::Duration;

use api_types::otlp::Span;
use host::Clock;
use http::StatusCode;
use server::routes::Endpoint;
use support::{Node, STREAMING};
use testing::{FakeCollector, attribute};

#[tokio::test]
async fn nobody_gets_in_without_a_name() {
    let node = Node::start(|_| {}).await;
    let reply = node.anonymous("GET", "/pods").await;
    assert_eq!((reply.status, reply.text.as_str()), (StatusCode::UNAUTHORIZED, "Unauthorized"));
    let reply = node.with_foreign_certificate("GET", "/pods").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "a bad certificate is no failed handshake");
}

#[tokio::test]
async fn who_may_not_is_told_what_was_asked() {
    let node = Node::start(|_| {}).await;
    let reply = node.as_user("guest", "GET", "/pods").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let expected = "Forbidden (user=guest, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!(reply.text, expected);
    let reply = node.as_user("guest", "GET", "/nothing").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "unknown paths tell nothing either");
}

#[tokio::test]
async fn an_admin_reads_and_wrong_methods_say_what_is_right() {
    let node = Node::start(|_| {}).await;
    let pods = node.as_user("admin", "GET", "/pods").await;
    assert_eq!(pods.status, StatusCode::OK);
    assert!(pods.text.contains("\"kind\":\"PodList\"") && pods.text.contains("\"name\":\"web\""), "{}", pods.text);
    let reply = node.as_user("admin", "DELETE", "/pods").await;
    assert_eq!((reply.status, reply.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("GET")));
    let reply = node.as_user("admin", "GET", "/nothing").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let reply = node.as_user("admin", "GET", "/configz").await;
    assert_eq!(reply.text, r#"{"kubeletconfig":{"port":10250}}"#);
    let healthz = node.as_user("admin", "GET", "/healthz").await;
    assert_eq!((healthz.text.as_str(), healthz.header("content-length")), ("ok", Some("2")));
    assert_eq!(node.as_user("admin", "GET", "/healthz/syncloop").await.text, "ok");
    let slis = node.as_user("admin", "GET", "/metrics/slis").await;
    assert!(slis.text.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 1"), "{}", slis.text);
    let metrics = node.as_user("admin", "GET", "/metrics").await;
    assert!(metrics.text.contains("kubelet_http_requests_total{") && !metrics.text.contains("kubernetes_healthcheck"));
    node.log("1970-01-01T00:00:01Z stdout F hello\n");
    let metrics = node.as_user("admin", "GET", "/metrics").await;
    let logs = "kubelet_container_log_filesystem_used_bytes{container=\"app\",namespace=\"ns\",pod=\"web\",uid=";
    assert!(metrics.text.contains(logs), "{}", metrics.text);
    let summary = node.as_user("admin", "GET", "/stats/summary?only_cpu_and_memory=true").await;
    assert!(summary.text.contains("\"nodeName\":\"node-1\""), "{}", summary.text);
    assert!(summary.text.contains("\"name\":\"runtime\",\"startTime\""), "{}", summary.text);
    assert!(summary.text.contains("\"usageNanoCores\""), "the first answer has rates: {}", summary.text);
    let machine = node.as_user("admin", "GET", "/metrics/cadvisor").await;
    assert!(machine.text.contains("machine_cpu_cores{"), "{}", machine.text);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_does_not_keep_a_place() {
    let node = Node::start(|_| {}).await;
    assert!(node.hangs_up_on_the_silent(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn the_plain_ports_have_reads_only() {
    let node = Node::start(|_| {}).await;
    assert_eq!(node.read_only("/pods").await.status, StatusCode::OK);
    for path in ["/exec/ns/web/app", "/containerLogs/ns/web/app", "/logs/", "/runningpods/"] {
        assert_eq!(node.read_only(path).await.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    for path in ["/configz", "/checkpoint/ns/web/app", "/debug/flags/v"] {
        assert_eq!(node.read_only(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(node.healthz("/healthz").await.text, "ok");
    assert_eq!(node.healthz("/metrics").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_the_main_port_tells_that_the_agents_loop_stands_still() {
    let node = Node::start(|_| {}).await;
    node.stall();
    assert_eq!(node.as_user("admin", "GET", "/healthz").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let alive = node.healthz("/healthz").await;
    assert_eq!((alive.status, alive.text.as_str()), (StatusCode::OK, "ok"));
}

#[tokio::test]
async fn debugging_handlers_can_be_off() {
    let node = Node::start(|config| config.enable_debugging_handlers = false).await;
    let reply = node.as_user("admin", "GET", "/containerLogs/ns/web/app").await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n")
    );
    assert_eq!(node.as_user("admin", "GET", "/pods").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_hangs_on_a_gate_that_is_off_is_not_there() {
    let node = Node::start(|config| config.gated_off = vec![Endpoint::Statusz]).await;
    assert_eq!(node.as_user("admin", "GET", "/statusz").await.status, StatusCode::NOT_FOUND);
    assert_eq!(node.as_user("admin", "GET", "/flagz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn logs_are_read_and_refusals_say_why() {
    let node = Node::start(|_| {}).await;
    node.log("1970-01-01T00:00:01Z stdout F hello\n");
    let reply = node.as_user("admin", "GET", "/containerLogs/ns/web/app").await;
    assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, "hello\n"));
    let cases = [
        ("/containerLogs/ns/none/app", StatusCode::NOT_FOUND, "pod \"none\" does not exist"),
        ("/containerLogs/ns/web/none", StatusCode::NOT_FOUND, "container \"none\" not found in pod \"web\""),
        (
            "/containerLogs/ns/web/app?previous=true",
            StatusCode::BAD_REQUEST,
            "previous terminated container \"app\" in pod \"web\" not found",
        ),
        (
            "/containerLogs/ns/web/slow",
            StatusCode::BAD_REQUEST,
            "container \"slow\" in pod \"web\" is waiting to start: ContainerCreating",
        ),
    ];
    for (path, status, text) in cases {
        let reply = node.as_user("admin", "GET", path).await;
        assert_eq!((reply.status, reply.text.as_str()), (status, text), "{path}");
    }
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let node = Node::start(|_| {}).await;
    node.log("1970-01-01T00:00:01Z stdout F one\n");
    let mut follower = node.follow("/containerLogs/ns/web/app?follow=true").await;
    assert_eq!(follower.next().await.as_deref(), Some("one\n"));
    node.log("1970-01-01T00:00:02Z stdout F two\n");
    assert_eq!(follower.next().await.as_deref(), Some("two\n"));
    node.container_exits();
    assert_eq!(follower.next().await, None);
}

#[tokio::test]
async fn a_log_is_one_of_the_streams_for_as_long_as_its_client_reads() {
    let logs = tempfile::tempdir().unwrap();
    std::fs::write(logs.path().join("big"), vec![b'x'; 32 << 20]).unwrap();
    let node = Node::start(|config| {
        config.system_logs_dir = logs.path().into();
        config.limits.streams = 1;
    })
    .await;
    node.log(&"1970-01-01T00:00:01Z stdout F hello\n".repeat(1 << 20));
    for (slow, other) in [("/logs/big", "/containerLogs/ns/web/app"), ("/containerLogs/ns/web/app", "/logs/big")] {
        let mut reader = node.follow(slow).await;
        assert!(reader.next().await.is_some());
        assert_eq!(node.as_user("admin", "GET", other).await.status, StatusCode::TOO_MANY_REQUESTS, "beside {slow}");
        assert_eq!(node.as_user("admin", "GET", "/logs/").await.status, StatusCode::OK, "a listing is no stream");
        drop(reader);
        while node.status("admin", "GET", other).await == StatusCode::TOO_MANY_REQUESTS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_log_loses_its_place() {
    let logs = tempfile::tempdir().unwrap();
    std::fs::write(logs.path().join("big"), vec![b'x'; 32 << 20]).unwrap();
    let node = Node::start(|config| {
        config.system_logs_dir = logs.path().into();
        config.limits.streams = 1;
        config.limits.stalled_log_time = Duration::from_millis(300);
    })
    .await;
    let mut stalled = node.follow("/logs/big").await;
    let freed = async {
        while node.status("admin", "GET", "/logs/big").await == StatusCode::TOO_MANY_REQUESTS {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("the place is free again");
    let mut bytes = 0;
    while let Some(piece) = stalled.next_or_broken().await {
        bytes += piece.len();
    }
    assert!(bytes < 32 << 20, "it sees that this was not all");
}

#[tokio::test]
async fn an_upgrade_reaches_the_runtime_and_bytes_come_back() {
    let node = Node::start(|_| {}).await;
    let headers =
        [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];
    let mut stream = node.upgrade("POST", "/exec/ns/web/app?command=id&output=1", &headers).await;
    assert_eq!(stream.head("upgrade").as_deref(), Some("SPDY/3.1"));
    assert_eq!(stream.echo(b"bytes").await, b"bytes");
    let mut stream = node.upgrade("POST", "/portForward/ns/web", &headers).await;
    assert_eq!(stream.echo(b"more").await, b"more");
    let asked = STREAMING.lock().unwrap().clone();
    assert!(asked.iter().all(|head| !head.to_lowercase().contains("authorization")), "{asked:?}");
    let plain = node.as_user("admin", "POST", "/exec/ns/web/app?command=id&output=1").await;
    assert_eq!((plain.status, plain.text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n"));
    let none = node.as_user("admin", "POST", "/exec/ns/web/app?command=id").await;
    assert_eq!(none.text, "you must specify at least 1 of stdin, stdout, stderr");
    let missing = node.as_user("admin", "POST", "/exec/ns/web/slow?command=id&output=1").await;
    assert_eq!(missing.text, "container not found (\"slow\")");
}

/// Of this label set no other test has a request, since all tests of a process share the metrics.
async fn until_in_flight(labels: &str, wanted: u32) {
    let line = format!("kubelet_http_inflight_requests{{{labels},server_type=\"readwrite\"}} {wanted}\n");
    while !metrics::gather().contains(&line) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_stream_is_a_request_in_flight_until_it_has_ended() {
    let node = Node::start(|_| {}).await;
    let exec = "long_running=\"true\",method=\"GET\",path=\"exec\"";
    let ended = format!("kubelet_http_requests_duration_seconds_count{{{exec},server_type=\"readwrite\"}}");
    let headers = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let mut stream = node.upgrade("GET", "/exec/ns/web/app?command=id&output=1", &headers).await;
    assert_eq!(stream.echo(b"bytes").await, b"bytes");
    until_in_flight(exec, 1).await;
    assert!(!metrics::gather().contains(&ended), "how long it takes is not known yet");
    drop(stream);
    until_in_flight(exec, 0).await;
    assert!(metrics::gather().contains(&format!("{ended} 1\n")));
}

#[tokio::test]
async fn a_client_of_a_stream_may_pause() {
    const BYTES: usize = 32 << 20;
    let node = Node::start(|config| config.limits.short_request_time = Duration::from_millis(100)).await;
    let headers = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let stream = node.upgrade("POST", "/exec/ns/web/app?command=id&output=1", &headers).await;
    assert_eq!(stream.echo_late(BYTES, Duration::from_millis(500)).await, BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_a_span_that_is_linked_to_the_callers_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let collector = FakeCollector::start();
    let config = trace::Config {
        endpoint: collector.endpoint(),
        sampling_rate_per_million: 1_000_000,
        host_name: "node-1".to_owned(),
    };
    let exporter = tokio::spawn(trace::start(&config, Clock::start()).unwrap().run());
    let node = Node::start(|_| {}).await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    assert_eq!(node.traced("/runningpods/", &traceparent).await.status, StatusCode::OK);
    assert_eq!(node.as_user("admin", "GET", "/metrics").await.status, StatusCode::OK);
    let is_it = |span: &Span| span.name.starts_with("/runningpods");
    let mut found = None;
    while found.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = collector.spans().into_iter().map(|(_, span)| span).find(is_it);
    }
    let span = found.unwrap();
    let hex: String = span.links[0].trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, TRACE);
    assert_ne!(span.trace_id, span.links[0].trace_id, "a caller does not decide what is sampled");
    assert_eq!(attribute(&span.attributes, "http.request.method"), Some("GET"));
    assert!(!collector.spans().iter().any(|(_, span)| span.name == "/metrics"), "upstream traces no scrapes");
    exporter.abort();
}
