//! gRPC over a unix socket.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};

use crate::error::{CriError, Result};

/// Enough for a large list in one go; the peer is on the same machine.
const WINDOW: u32 = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel that connects at its first call and again after each loss.
pub(crate) fn channel(endpoint: &str) -> Result<Channel> {
    let path = socket_path(endpoint)?;
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority "localhost": some servers refuse a socket's path there.
    Ok(Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .connect_with_connector_lazy(connector))
}

fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = match endpoint.split_once("://") {
        Some(("unix", path)) => path,
        Some(_) => return Err(refused(endpoint, "only unix sockets are supported")),
        // An old spelling without slashes that flags still carry.
        None => endpoint.strip_prefix("unix:").unwrap_or(endpoint),
    };
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(refused(endpoint, "the socket's path is not absolute"))
    }
}

fn refused(endpoint: &str, why: &str) -> CriError {
    CriError::new("connect", endpoint, Code::InvalidArgument, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_url_or_a_path() {
        let path = |e: &str| socket_path(e).map(|p| p.to_string_lossy().into_owned());
        assert_eq!(path("unix:///run/containerd/containerd.sock").unwrap(), "/run/containerd/containerd.sock");
        assert_eq!(path("unix:/run/c.sock").unwrap(), "/run/c.sock");
        assert_eq!(path("/run/c.sock").unwrap(), "/run/c.sock");
        assert!(path("tcp://127.0.0.1:1").is_err());
        assert!(path("run/c.sock").is_err());
        assert!(path("").is_err());
    }
}
