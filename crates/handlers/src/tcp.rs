//! The TCP handler: the port can be connected to.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use crate::{Outcome, spelling};

pub async fn tcp_connect(host: &str, port: u16, limit: Duration) -> Outcome {
    let address = spelling::host_port(host, port);
    match timeout(limit, connect(host, port)).await {
        Ok(Ok(_)) => Outcome::Success(String::new()),
        Ok(Err(e)) => Outcome::Failure(dial_error(&address, &e)),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

pub(crate) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((host, port)).await
}

pub(crate) fn dial_error(address: &str, e: &io::Error) -> String {
    // A failed look-up has no errno, and Go names no system call for it.
    let call = if e.raw_os_error().is_some() { "connect: " } else { "" };
    format!("dial tcp {address}: {call}{}", spelling::io_error(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_open_port_is_good_and_a_closed_one_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp_connect("127.0.0.1", port, SECOND).await, Outcome::Success(String::new()));
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp_connect("127.0.0.1", port, SECOND).await, Outcome::Failure(refused));
    }
}
