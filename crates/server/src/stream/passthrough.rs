//! An upgrade passed on as it is: the runtime answers it, and the two connections are joined.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{Joint, copy, runtime_url::ANSWER, websocket};
use crate::{
    authn::WEBSOCKET_TOKEN,
    dispatch::Call,
    error::ServerError,
    reply::{self, Reply},
};

/// Of a refusal's text.
const MOST_REFUSAL_BYTES: usize = 64 * 1024;

pub async fn serve(call: Call, joint: Joint) -> Reply {
    if !is_upgrade(&call.head.headers) {
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n");
    }
    let request = match request(&joint, call.head.method.clone(), &call.head.headers, call.peer) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let answer = match joint.url.ask(request).await {
        Ok(answer) => answer,
        Err(error) => return error.reply(),
    };
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => join(call, answer, joint),
        status if status.as_u16() >= 400 => relay_refusal(answer).await,
        // Never pass on a redirect or a success that is no upgrade (CVE-2018-1002105).
        status => unexpected(status),
    }
}

pub fn unexpected(status: StatusCode) -> Reply {
    let message = format!("invalid upgrade response: status code {}\n", status.as_u16());
    reply::text(StatusCode::INTERNAL_SERVER_ERROR, message)
}

pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let connections = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(header::UPGRADE)
        && connections.flat_map(|list| list.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// The client's request as the runtime gets it: its own headers, less what proves who the client is.
pub fn request(
    joint: &Joint,
    method: Method,
    headers: &HeaderMap,
    peer: std::net::SocketAddr,
) -> Result<Request<Empty<bytes::Bytes>>, Reply> {
    let uri: Uri = joint.url.path_and_query.parse().map_err(|_| {
        let url = format!("http://{}/...", joint.url.address);
        ServerError::StreamUrl { url, why: "its path is malformed" }.reply()
    })?;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = forwarded(headers, peer);
    request
        .headers_mut()
        .entry(header::HOST)
        .or_insert_with(|| HeaderValue::from_str(&joint.url.address).unwrap_or(HeaderValue::from_static("localhost")));
    Ok(request)
}

fn forwarded(headers: &HeaderMap, peer: std::net::SocketAddr) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [header::AUTHORIZATION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT] {
        headers.remove(name);
    }
    if let Some(protocols) = without_token(&headers) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    let earlier = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let all = earlier.map_or_else(|| peer.ip().to_string(), |earlier| format!("{earlier}, {}", peer.ip()));
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert("x-forwarded-for", value);
    }
    headers
}

/// The offered subprotocols less the one that is a credential; None when there is nothing to change.
fn without_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = websocket::protocols(headers);
    if !offered.iter().any(|protocol| protocol.starts_with(WEBSOCKET_TOKEN)) {
        return None;
    }
    let kept: Vec<_> = offered.into_iter().filter(|protocol| !protocol.starts_with(WEBSOCKET_TOKEN)).collect();
    HeaderValue::from_str(&kept.join(", ")).ok()
}

fn join(call: Call, answer: Response<Incoming>, joint: Joint) -> Reply {
    let mut reply = Response::new(reply::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *reply.headers_mut() = answer.headers().clone();
    let Call { head, body, .. } = call;
    let Joint { idle, stop, tasks, held, .. } = joint;
    tasks.spawn(async move {
        let _held = held;
        let joined = async {
            let client = hyper::upgrade::on(Request::from_parts(head, body)).await?;
            let runtime = hyper::upgrade::on(answer).await?;
            copy::both_ways(TokioIo::new(client), TokioIo::new(runtime), idle).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            () = stop.cancelled() => {}
            joined = joined => if let Err(error) = joined {
                tracing::info!(%error, "an upgrade did not come about");
            },
        }
    });
    reply
}

/// The runtime's own words, and the end of the connection.
pub async fn relay_refusal(answer: Response<Incoming>) -> Reply {
    let (head, body) = answer.into_parts();
    let text = tokio::time::timeout(ANSWER, Limited::new(body, MOST_REFUSAL_BYTES).collect()).await;
    let text = text.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let mut reply = reply::text(head.status, text);
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        reply.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, HeaderValue::from_static("Bearer secret")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io"),
            ),
        ]);
        let passed = forwarded(&headers, "10.0.0.9:1".parse().unwrap());
        assert!(!format!("{passed:?}").contains("secret") && !format!("{passed:?}").contains("c2VjcmV0"));
        assert_eq!(passed[header::SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
        assert_eq!(passed["x-forwarded-for"], "10.0.0.9");
        assert_eq!(passed[header::UPGRADE], "websocket");
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        assert!(!is_upgrade(&headers));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(is_upgrade(&headers));
    }
}
