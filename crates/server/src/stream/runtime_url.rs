//! The address that the runtime gave, and a connection to it.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::ServerError;

/// How long the runtime may take to answer: it upgrades before it does anything.
pub const ANSWER: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeUrl {
    /// `host:port`.
    pub address: String,
    pub path_and_query: String,
}

impl RuntimeUrl {
    /// A URL without scheme is http. TLS to the runtime is not spoken: it serves on the loopback interface.
    pub fn parse(url: &str) -> Result<Self, ServerError> {
        let refused = |why| ServerError::StreamUrl { url: without_token(url), why };
        let absolute = if url.starts_with("//") { format!("http:{url}") } else { url.to_owned() };
        let parsed = url::Url::parse(&absolute).map_err(|_| refused("it is no URL"))?;
        if parsed.scheme() != "http" {
            return Err(refused("only http is supported"));
        }
        let host = parsed.host_str().ok_or_else(|| refused("it names no host"))?;
        let address = format!("{host}:{}", parsed.port_or_known_default().unwrap_or(80));
        let query = parsed.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { address, path_and_query: format!("{}{query}", parsed.path()) })
    }

    /// Sends the request and returns the reply, whose connection may be taken over after a 101.
    pub async fn ask(&self, request: Request<Empty<bytes::Bytes>>) -> Result<Response<Incoming>, ServerError> {
        let silent = |_| ServerError::RuntimeSilent { address: self.address.clone() };
        tokio::time::timeout(ANSWER, self.answer(request)).await.map_err(silent)?
    }

    async fn answer(&self, request: Request<Empty<bytes::Bytes>>) -> Result<Response<Incoming>, ServerError> {
        let dial = |source| ServerError::DialRuntime { address: self.address.clone(), source };
        let socket = TcpStream::connect(&self.address).await.map_err(dial)?;
        let _ = socket.set_nodelay(true);
        let upgrade = |source| ServerError::Upgrade { source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(upgrade)?;
        // Ends by itself: with the reply, or by handing the socket over to the upgrade.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(upgrade)
    }
}

/// The last part of the path lets anyone run the request: not for logs.
fn without_token(url: &str) -> String {
    url.rsplit_once('/').map_or_else(String::new, |(rest, _)| format!("{rest}/..."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_and_path_are_taken_apart() {
        let url = RuntimeUrl::parse("http://127.0.0.1:41731/exec/TOKEN?x=1").unwrap();
        assert_eq!((url.address.as_str(), url.path_and_query.as_str()), ("127.0.0.1:41731", "/exec/TOKEN?x=1"));
        assert_eq!(RuntimeUrl::parse("//[::1]:10010/attach/T").unwrap().address, "[::1]:10010");
    }

    #[test]
    fn a_refused_url_does_not_show_its_token() {
        let error = RuntimeUrl::parse("https://127.0.0.1:1/exec/TOKEN").unwrap_err().to_string();
        assert!(!error.contains("TOKEN") && error.contains("only http"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_does_not_answer_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = RuntimeUrl::parse(&format!("http://{}/exec/TOKEN", silent.local_addr().unwrap())).unwrap();
        let asked = tokio::time::timeout(2 * ANSWER, url.ask(Request::new(Empty::new()))).await.unwrap();
        assert!(matches!(asked, Err(ServerError::RuntimeSilent { .. })));
    }
}
