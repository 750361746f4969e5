//! The server side of a websocket handshake, and what its subprotocols mean.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::{handshake::derive_accept_key, protocol::WebSocketConfig};

use crate::reply::{self, Reply};

pub const V5: &str = "v5.channel.k8s.io";
const TUNNEL_PREFIX: &str = "SPDY/3.1+";
const TUNNEL_SUFFIX: &str = ".k8s.io";

pub fn is_request(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) && super::passthrough::is_upgrade(headers)
}

/// The subprotocols in the client's order.
pub fn protocols(headers: &HeaderMap) -> Vec<&str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty()).collect()
}

/// A websocket request with a subprotocol of that kind.
pub fn offers(headers: &HeaderMap, kind: fn(&str) -> bool) -> bool {
    is_request(headers) && protocols(headers).into_iter().any(kind)
}

/// Remote command with a signal for the end of stdin.
pub fn is_v5(protocol: &str) -> bool {
    protocol == V5
}

pub fn is_tunnel(protocol: &str) -> bool {
    tunnelled(protocol).is_some()
}

/// The SPDY subprotocol inside a tunnel: `portforward.k8s.io` of `SPDY/3.1+portforward.k8s.io`.
pub fn tunnelled(protocol: &str) -> Option<&str> {
    protocol.strip_prefix(TUNNEL_PREFIX).filter(|inner| inner.ends_with(TUNNEL_SUFFIX))
}

pub fn tunnel_of(spdy_protocol: &str) -> String {
    format!("{TUNNEL_PREFIX}{spdy_protocol}")
}

/// 101 with that subprotocol; 400 when the client's part of the handshake is wrong.
pub fn accept(headers: &HeaderMap, protocol: Option<&str>) -> Result<Reply, Reply> {
    let bad = |message: &'static str| reply::text(StatusCode::BAD_REQUEST, message);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the websocket key is missing\n"))?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("the websocket version must be 13\n"));
    }
    let mut reply = Response::new(reply::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = reply.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(Ok(protocol)) = protocol.map(HeaderValue::from_str) {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(reply)
}

/// Clients send up to 32 KiB at a time; that bounds what one connection can make us hold.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(8 << 20)).max_frame_size(Some(8 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (header::CONNECTION, HeaderValue::from_static("Upgrade")),
            (header::UPGRADE, HeaderValue::from_static("WebSocket")),
            (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols)),
            (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")),
            (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        ])
    }

    #[test]
    fn subprotocols_choose_the_way() {
        assert!(offers(&headers("v4.channel.k8s.io, v5.channel.k8s.io"), is_v5));
        assert!(!offers(&headers("v4.channel.k8s.io"), is_v5));
        assert!(offers(&headers("SPDY/3.1+portforward.k8s.io"), is_tunnel));
        assert_eq!(tunnelled("SPDY/3.1+portforward.k8s.io"), Some("portforward.k8s.io"));
        assert!(!is_tunnel("SPDY/3.1+x.example.com"));
    }

    #[test]
    fn the_accept_key_is_that_of_rfc_6455() {
        let reply = accept(&headers(V5), Some(V5)).unwrap();
        assert_eq!(reply.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(reply.headers()[header::SEC_WEBSOCKET_PROTOCOL], V5);
    }
}
