//! A websocket client on one side, a scripted SPDY streaming server on the other.

use std::collections::HashMap;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::stream::spdy::{Frame, tests::read_block};

const ALL: StreamParameters = StreamParameters { stdin: true, stdout: true, stderr: true, tty: false };

/// The runtime's side: accepts what the client opens and then does what the test says.
struct Runtime {
    wire: DuplexStream,
    by_type: HashMap<String, u32>,
}

impl Runtime {
    async fn accept(mut wire: DuplexStream, streams: usize) -> Self {
        let mut by_type = HashMap::new();
        while by_type.len() < streams {
            let Some(Frame::SynStream { stream, block, .. }) = Frame::read(&mut wire).await.unwrap() else {
                panic!("data before the streams were accepted is lost by real servers")
            };
            let headers = read_block(&block);
            assert_eq!(headers[0].0, "streamtype");
            by_type.insert(headers[0].1.clone(), stream);
            let mut runtime = Self { wire, by_type: HashMap::new() };
            runtime.send(Frame::SynReply { stream, last: false }).await;
            wire = runtime.wire;
        }
        Self { wire, by_type }
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        self.wire.write_all(&out).await.unwrap();
    }

    async fn write(&mut self, stream: &str, data: &str) {
        let stream = self.by_type[stream];
        self.send(Frame::Data { stream, last: false, data: Bytes::copy_from_slice(data.as_bytes()) }).await;
    }

    async fn read(&mut self) -> (String, String, bool) {
        let Some(Frame::Data { stream, last, data }) = Frame::read(&mut self.wire).await.unwrap() else {
            panic!("only data is expected")
        };
        let kind = self.by_type.iter().find(|(_, id)| **id == stream).unwrap().0.clone();
        (kind, String::from_utf8(data.to_vec()).unwrap(), last)
    }

    /// As a streaming server ends: status, resets, farewell.
    async fn end(mut self, status: &str) {
        self.write("error", status).await;
        for stream in self.by_type.clone().into_values() {
            self.send(Frame::Reset { stream, status: 5 }).await;
        }
        self.send(Frame::GoAway).await;
    }
}

struct Client(WebSocketStream<DuplexStream>);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.send(Message::Binary(Bytes::copy_from_slice(bytes))).await.unwrap();
    }

    /// The next message's channel and text.
    async fn read(&mut self) -> Option<(u8, String)> {
        match self.0.next().await?.ok()? {
            Message::Binary(data) => Some((data[0], String::from_utf8(data[1..].to_vec()).unwrap())),
            _ => None,
        }
    }

    async fn status(&mut self) -> Value {
        let (channel, text) = self.read().await.unwrap();
        assert_eq!(channel, ERROR, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

async fn start(wanted: StreamParameters) -> (Client, DuplexStream) {
    let (client, server) = duplex(64 * 1024);
    let (runtime, ours) = duplex(64 * 1024);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, Some(websocket::config())).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    tokio::spawn(translate(server, async move { Ok(ours) }, wanted, Duration::from_secs(3600)));
    let mut client = Client(client);
    assert_eq!(client.read().await, Some((STDOUT, String::new())), "the sign that it stands");
    (client, runtime)
}

#[tokio::test]
async fn a_command_gets_its_input_and_the_client_output_and_status() {
    let (mut client, wire) = start(ALL).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    client.send(b"\x00hello").await;
    assert_eq!(runtime.read().await, ("stdin".into(), "hello".into(), false));
    client.send(&[END_OF_CHANNEL, STDIN]).await;
    assert_eq!(runtime.read().await, ("stdin".into(), String::new(), true));
    runtime.write("stdout", "out").await;
    assert_eq!(client.read().await, Some((STDOUT, "out".into())));
    runtime.write("stderr", "err").await;
    assert_eq!(client.read().await, Some((STDERR, "err".into())));
    runtime.end(r#"{"metadata":{},"status":"Success"}"#).await;
    assert_eq!(client.status().await["status"], "Success");
    assert_eq!(client.read().await, None, "then it is closed");
}

#[tokio::test]
async fn input_after_the_end_of_the_command_loses_neither_output_nor_status() {
    const ALL_OF_IT: usize = 100 * 1024;
    let (client, wire) = start(ALL).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    let command = tokio::spawn(async move {
        for _ in 0..ALL_OF_IT / 4096 {
            runtime.write("stdout", &"o".repeat(4096)).await;
        }
        runtime.end(r#"{"metadata":{},"status":"Success"}"#).await;
    });
    let (mut input, mut output) = client.0.split();
    let typing = tokio::spawn(async move {
        while input.send(Message::Binary(Bytes::from_static(&[STDIN; 1024]))).await.is_ok() {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    let (mut bytes, mut status) = (0, Value::Null);
    while let Some(Ok(Message::Binary(data))) = output.next().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
        match data[0] {
            STDOUT => bytes += data.len() - 1,
            ERROR => status = serde_json::from_slice(&data[1..]).unwrap(),
            channel => panic!("channel {channel} has nothing to say"),
        }
    }
    typing.abort();
    command.await.unwrap();
    assert_eq!(bytes, ALL_OF_IT);
    assert_eq!(status["status"], "Success");
}

#[tokio::test]
async fn an_exit_code_comes_through() {
    let (mut client, wire) = start(StreamParameters { stdin: false, ..ALL }).await;
    let runtime = Runtime::accept(wire, 3).await;
    let status = r#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"m",
        "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
    runtime.end(status).await;
    assert_eq!(client.status().await["details"]["causes"][0]["message"], "42");
}

#[tokio::test]
async fn a_terminal_has_no_stderr_and_can_be_resized() {
    let (mut client, wire) = start(StreamParameters { stderr: false, tty: true, ..ALL }).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    assert!(!runtime.by_type.contains_key("stderr"));
    client.send(b"\x04{\"Width\":80,\"Height\":24}").await;
    assert_eq!(runtime.read().await, ("resize".into(), "{\"Width\":80,\"Height\":24}\n".into(), false));
}

#[tokio::test]
async fn a_lost_runtime_is_a_failure_and_not_success() {
    let (mut client, wire) = start(ALL).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    runtime.write("stdout", "half").await;
    drop(runtime);
    assert_eq!(client.read().await, Some((STDOUT, "half".into())));
    assert_eq!(client.status().await["status"], "Failure");
}

#[tokio::test]
async fn a_client_that_goes_ends_the_command() {
    let (client, wire) = start(ALL).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    drop(client);
    assert!(matches!(Frame::read(&mut runtime.wire).await, Ok(None) | Err(_)));
}

#[tokio::test]
async fn pings_are_answered() {
    let (_client, wire) = start(ALL).await;
    let mut runtime = Runtime::accept(wire, 4).await;
    runtime.send(Frame::Ping(2)).await;
    assert_eq!(Frame::read(&mut runtime.wire).await.unwrap(), Some(Frame::Ping(2)));
}

#[tokio::test]
async fn a_runtime_that_cannot_be_reached_is_told_as_status() {
    let (client, server) = duplex(1024);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut client = Client(WebSocketStream::from_raw_socket(client, Role::Client, None).await);
    let refused = async { Err::<DuplexStream, _>("connection refused".to_owned()) };
    tokio::spawn(translate(server, refused, ALL, Duration::ZERO));
    client.read().await;
    let status = client.status().await;
    assert_eq!(status["message"], "Internal error occurred: connection refused");
    assert_eq!(status["code"], 500);
}

/// Joined with a client that reads nothing more, while the command fills all there is between the two.
async fn stuck(idle: Duration, ends: bool) -> (Client, tokio::task::JoinHandle<()>) {
    let (client, server) = duplex(1024);
    let (runtime, ours) = duplex(1024);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, Some(websocket::config())).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let joined = tokio::spawn(translate(server, async move { Ok(ours) }, ALL, idle));
    let mut client = Client(client);
    client.read().await;
    let mut runtime = Runtime::accept(runtime, 4).await;
    tokio::spawn(async move {
        for _ in 0..4 {
            runtime.write("stdout", &"o".repeat(1000)).await;
        }
        if ends {
            return runtime.end(r#"{"metadata":{},"status":"Success"}"#).await;
        }
        let mut more = BytesMut::new();
        let data = Bytes::from_static(&[b'o'; 1000]);
        Frame::Data { stream: runtime.by_type["stdout"], last: false, data }.encode(&mut more);
        while runtime.wire.write_all(&more).await.is_ok() {}
    });
    (client, joined)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_stopped_reading_is_given_up_when_idle() {
    const IDLE: Duration = Duration::from_secs(600);
    for ends in [false, true] {
        let (_client, joined) = stuck(IDLE, ends).await;
        assert!(tokio::time::timeout(IDLE + 4 * FAREWELL, joined).await.is_ok(), "command ended: {ends}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_all_output_and_the_status_of_a_command_that_has_ended() {
    let (mut client, joined) = stuck(Duration::from_secs(600), true).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert_eq!(client.read().await.unwrap().1.len(), 1000);
    }
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(client.status().await["status"], "Success");
    drop(client);
    joined.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_never_answers_is_told_as_status() {
    let (client, server) = duplex(1024);
    let (_runtime, ours) = duplex(16);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut client = Client(WebSocketStream::from_raw_socket(client, Role::Client, None).await);
    tokio::spawn(translate(server, async move { Ok(ours) }, ALL, Duration::ZERO));
    client.read().await;
    let status = tokio::time::timeout(2 * STREAM_CREATION, client.status()).await.unwrap();
    assert_eq!(status["code"], 500);
}
