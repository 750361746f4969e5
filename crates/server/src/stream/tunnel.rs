//! Task: port-forward's SPDY connection inside a websocket (`SPDY/3.1+portforward.k8s.io`): the bytes of binary messages
//! go to the runtime's upgraded connection, and its bytes come back the same way.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{Joint, copy::Activity, passthrough, websocket};
use crate::{
    dispatch::Call,
    reply::{self, Reply},
};

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const BUFFER: usize = 32 * 1024;

pub async fn serve(call: Call, joint: Joint) -> Reply {
    let request = match passthrough::request(&joint, http::Method::POST, &spdy_headers(&call.head.headers), call.peer) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let answer = match joint.url.ask(request).await {
        Ok(answer) => answer,
        Err(error) => return error.reply(),
    };
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => join(call, answer, joint),
        status if status.as_u16() >= 400 => passthrough::relay_refusal(answer).await,
        status => passthrough::unexpected(status),
    }
}

/// The client's request as the SPDY upgrade that is inside.
fn spdy_headers(headers: &HeaderMap) -> HeaderMap {
    let mut spdy = headers.clone();
    for name in [
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_EXTENSIONS,
    ] {
        spdy.remove(name);
    }
    spdy.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    spdy.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    spdy.remove(STREAM_PROTOCOL);
    for inner in websocket::protocols(headers).into_iter().filter_map(websocket::tunnelled) {
        if let Ok(inner) = HeaderValue::from_str(inner) {
            spdy.append(STREAM_PROTOCOL, inner);
        }
    }
    spdy
}

fn join(call: Call, answer: Response<Incoming>, joint: Joint) -> Reply {
    let upgraded = answer.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !upgraded.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(SPDY)) {
        let message = "unable to upgrade: missing upgrade headers in response\n";
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    let chosen = answer.headers().get(STREAM_PROTOCOL).and_then(|value| value.to_str().ok()).map(websocket::tunnel_of);
    let accepted = match websocket::accept(&call.head.headers, chosen.as_deref()) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal,
    };
    let Call { head, body, .. } = call;
    let Joint { idle, stop, tasks, held, .. } = joint;
    tasks.spawn(async move {
        let _held = held;
        let joined = async {
            let client = TokioIo::new(hyper::upgrade::on(Request::from_parts(head, body)).await?);
            let runtime = TokioIo::new(hyper::upgrade::on(answer).await?);
            let client = WebSocketStream::from_raw_socket(client, Role::Server, Some(websocket::config())).await;
            tunnel(client, runtime, idle).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            () = stop.cancelled() => {}
            joined = joined => if let Err(error) = joined {
                tracing::info!(%error, "a tunnel did not come about");
            },
        }
    });
    accepted
}

async fn tunnel<C, R>(client: WebSocketStream<C>, runtime: R, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut sink, mut incoming) = client.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let activity = Activity::begin();
    let inward = async {
        while let Some(Ok(message)) = incoming.next().await {
            match message {
                Message::Binary(data) => {
                    activity.note();
                    if to_runtime.write_all(&data).await.is_err() || to_runtime.flush().await.is_err() {
                        return;
                    }
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                Message::Text(_) | Message::Close(_) => return,
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = from_runtime.read(&mut buffer).await {
            activity.note();
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = activity.idle_for(idle) => tracing::info!(?idle, "a port-forward was idle too long"),
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Message::Close(Some(normal)))).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn the_inner_request_is_a_spdy_upgrade() {
        let headers = HeaderMap::from_iter([
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("k")),
            (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("SPDY/3.1+portforward.k8s.io, x")),
        ]);
        let spdy = spdy_headers(&headers);
        assert_eq!(spdy[header::UPGRADE], SPDY);
        assert_eq!(spdy[STREAM_PROTOCOL], "portforward.k8s.io");
        assert!(!spdy.contains_key(header::SEC_WEBSOCKET_PROTOCOL) && !spdy.contains_key(header::SEC_WEBSOCKET_KEY));
    }

    #[tokio::test]
    async fn bytes_cross_in_binary_messages() {
        let (client, server) = duplex(1024);
        let (mut runtime, ours) = duplex(1024);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        tokio::spawn(tunnel(server, ours, Duration::ZERO));
        client.send(Message::Binary(Bytes::from_static(b"frame"))).await.unwrap();
        let mut buffer = [0; 5];
        runtime.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"frame");
        runtime.write_all(b"reply").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"reply")));
        drop(runtime);
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
    }
}
