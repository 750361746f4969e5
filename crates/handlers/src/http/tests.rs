//! Against a server of canned answers on loopback.

use super::*;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod::api::HTTPHeader;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SECOND: Duration = Duration::from_secs(1);

/// Answers each connection with the next of `answers`; yields the requests seen.
async fn serve(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    });
    (port, task)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn action(port: u16, path: &str) -> HTTPGetAction {
    HTTPGetAction { port: IntOrString::Int(port.into()), path: Some(path.into()), ..Default::default() }
}

fn request(action: &HTTPGetAction) -> HttpRequest {
    HttpRequest::new(action, &Container::default(), "127.0.0.1", Purpose::Probe).unwrap()
}

#[tokio::test]
async fn a_good_answer_is_a_success_with_its_body() {
    let (port, task) = serve(vec![answer("200 OK", "", "fine")]).await;
    let outcome = http_get(&request(&action(port, "/healthz?full=1")), SECOND).await;
    assert_eq!(outcome, Outcome::Success("fine".into()));
    let seen = task.await.unwrap().remove(0);
    assert!(seen.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{seen}");
    for line in [&*format!("Host: 127.0.0.1:{port}"), "User-Agent: kube-probe/1.37", "Accept: */*", "Connection: close"]
    {
        assert!(seen.contains(line), "{line} in {seen}");
    }
}

#[tokio::test]
async fn a_bad_status_fails_without_showing_the_body() {
    let (port, _) = serve(vec![answer("500 Oops", "", "secret")]).await;
    let outcome = http_get(&request(&action(port, "/")), SECOND).await;
    assert_eq!(outcome, Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
}

#[tokio::test]
async fn the_spec_overrides_host_and_user_agent_and_removes_an_empty_accept() {
    let (port, task) = serve(vec![answer("200 OK", "", "")]).await;
    let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
    let headers =
        vec![header("Host", "example.com"), header("user-agent", "me"), header("Accept", ""), header("X-A", "1")];
    let action = HTTPGetAction { http_headers: Some(headers), ..action(port, "/") };
    assert!(http_get(&request(&action), SECOND).await.is_good());
    let seen = task.await.unwrap().remove(0);
    assert!(
        seen.contains("Host: example.com\r\n") && seen.contains("User-Agent: me\r\n") && seen.contains("X-A: 1"),
        "{seen}"
    );
    assert!(!seen.contains("Accept"), "{seen}");
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed() {
    let (port, task) = serve(vec![answer("302 Found", "Location: /b\r\n", ""), answer("200 OK", "", "b")]).await;
    let outcome = http_get(&request(&action(port, "/a")), SECOND).await;
    assert_eq!(outcome, Outcome::Success("b".into()));
    assert!(task.await.unwrap()[1].starts_with("GET /b "));
}

#[tokio::test]
async fn a_redirect_to_another_host_is_a_warning() {
    let (port, _) = serve(vec![answer("302 Found", "Location: http://0.0.0.0/\r\n", "see 0.0.0.0")]).await;
    let outcome = http_get(&request(&action(port, "/")), SECOND).await;
    assert_eq!(outcome, Outcome::Warning("Probe terminated redirects, Response body: see 0.0.0.0".into()));
}

#[tokio::test]
async fn redirects_in_a_circle_are_given_up() {
    let (port, _) = serve(vec![answer("302 Found", "Location: /\r\n", ""); 11]).await;
    let outcome = http_get(&request(&action(port, "/")), SECOND).await;
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://127.0.0.1:{port}/\": stopped after 10 redirects")));
}

#[tokio::test]
async fn a_refused_connection_fails_with_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let outcome = http_get(&request(&action(port, "x")), SECOND).await;
    let text = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(outcome, Outcome::Failure(text));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_runs_into_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let outcome = http_get(&request(&action(port, "/")), SECOND).await;
    assert!(outcome.text().ends_with("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"));
}

#[tokio::test]
async fn a_body_is_read_up_to_ten_kibibytes() {
    let (port, _) = serve(vec![answer("200 OK", "", &"a".repeat(20_000))]).await;
    let outcome = http_get(&request(&action(port, "/")), SECOND).await;
    assert_eq!(outcome.text().len(), crate::MAX_OUTPUT);
}

#[tokio::test]
async fn https_to_a_plain_server_is_told_apart() {
    let (port, _) = serve(vec![answer("400 Bad Request", "", "no TLS here")]).await;
    let action = HTTPGetAction { scheme: Some("HTTPS".into()), ..action(port, "/") };
    let error = http_hook(&request(&action)).await.unwrap_err();
    assert!(matches!(error, HttpError::PlainHttp { .. }), "{error}");
}

#[test]
fn paths_are_escaped_as_a_browser_would() {
    for (path, sent) in [
        ("", "/"),
        ("healthz", "/healthz"),
        ("/a b?q=1#frag", "/a%20b?q=1"),
        ("/100%", "/100%25"),
        ("/ok%20x", "/ok%20x"),
        ("http://other:1/p?x", "/p?x"),
    ] {
        assert_eq!(escaped_path(path), sent);
    }
}
