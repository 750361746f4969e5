//! The gRPC handler: `grpc.health.v1.Health/Check` answers SERVING.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{
    Code, Request, Status,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{Outcome, spelling, tcp};

/// How long a refused connection waits before the next try, as gRPC clients do.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl ServingStatus {
    fn name(status: i32) -> String {
        match ServingStatus::try_from(status) {
            Ok(ServingStatus::Unknown) => "UNKNOWN".to_owned(),
            Ok(ServingStatus::Serving) => "SERVING".to_owned(),
            Ok(ServingStatus::NotServing) => "NOT_SERVING".to_owned(),
            Ok(ServingStatus::ServiceUnknown) => "SERVICE_UNKNOWN".to_owned(),
            Err(_) => status.to_string(),
        }
    }
}

pub async fn grpc_health(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let address = spelling::host_port(host, port);
    let text = spelling::duration(limit);
    let no_connection =
        format!("timeout: failed to connect service {address:?} within {text}: context deadline exceeded");
    let mut is_grpc = true;
    loop {
        let Ok(channel) = timeout_at(deadline, connect(host, port)).await else {
            return Outcome::Failure(no_connection);
        };
        match timeout_at(deadline, check(channel, service)).await {
            Ok(Ok(status)) => return judge(status),
            Ok(Err(status)) if is_no_http2(&status) => {
                is_grpc = false;
                let _ = timeout_at(deadline, sleep(RECONNECT)).await;
            }
            Ok(Err(status)) => return Outcome::Failure(explain(&status, limit)),
            Err(_) if is_grpc => return Outcome::Failure(explain(&Status::deadline_exceeded(""), limit)),
            Err(_) => return Outcome::Failure(no_connection),
        }
    }
}

/// What listens there answers in another protocol: to gRPC clients that is no connection. A status that the server
/// sent has no source.
fn is_no_http2(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::Unknown) && std::error::Error::source(status).is_some()
}

/// Tries until it is connected: the caller bounds the time.
async fn connect(host: &str, port: u16) -> Channel {
    loop {
        let host = host.to_owned();
        let dial = service_fn(move |_: Uri| {
            let host = host.clone();
            async move { tcp::connect(&host, port).await.map(TokioIo::new) }
        });
        // The connector dials; this URI only fills the :authority header.
        let endpoint = Endpoint::from_static("http://localhost");
        let endpoint = endpoint.user_agent("kube-probe/1.37").expect("a valid header value");
        match timeout(RECONNECT * 20, endpoint.connect_with_connector(dial)).await {
            Ok(Ok(channel)) => return channel,
            _ => sleep(RECONNECT).await,
        }
    }
}

async fn check(channel: Channel, service: &str) -> Result<i32, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    client.unary(request, path, codec).await.map(|r| r.into_inner().status)
}

fn judge(status: i32) -> Outcome {
    if status == ServingStatus::Serving as i32 {
        return Outcome::Success("service healthy".to_owned());
    }
    Outcome::Failure(format!("service unhealthy (responded with {:?})", ServingStatus::name(status)))
}

fn explain(status: &Status, limit: Duration) -> String {
    match status.code() {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        Code::DeadlineExceeded => {
            format!("timeout: health rpc did not complete within {}", spelling::duration(limit))
        }
        code => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serving_is_healthy() {
        assert_eq!(judge(1), Outcome::Success("service healthy".into()));
        assert_eq!(judge(2), Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into()));
        assert_eq!(judge(9), Outcome::Failure("service unhealthy (responded with \"9\")".into()));
    }

    #[test]
    fn a_missing_health_service_is_said_so() {
        let text = explain(&Status::unimplemented("unknown service"), Duration::from_secs(1));
        let head = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
        assert_eq!(text, format!("{head}unknown service"));
    }

    #[tokio::test]
    async fn a_server_of_another_protocol_is_no_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 64]).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            }
        });
        let outcome = grpc_health("127.0.0.1", port, "", Duration::from_millis(100)).await;
        let text =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 100ms: context deadline exceeded");
        assert_eq!(outcome, Outcome::Failure(text));
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_nobody_listens_on_times_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let outcome = grpc_health("127.0.0.1", port, "", Duration::from_secs(2)).await;
        let text =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 2s: context deadline exceeded");
        assert_eq!(outcome, Outcome::Failure(text));
    }
}
