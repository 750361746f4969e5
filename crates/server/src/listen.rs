//! Task: accepts connections and serves HTTP/1.1 on them.
//!
//! Reads: the listeners. Wakes on: connections, shutdown. Every connection and every upgraded stream is owned by the
//! server: `shutdown` ends them. HTTP/1.1 only, since upgrades exist only there.

mod stall;

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ServerConfig, ServerDeps,
    dispatch::{Dispatcher, Peer, Port},
    error::ServerError,
};
use stall::{Pace, Paced, Stallable};

/// As upstream: an idle connection lives 90 s; the time to send a request's head counts as idle too.
const IDLE: Duration = Duration::from_secs(90);
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// Who has never asked for anything may not keep others from a place for long.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
const MOST_HEADER_BYTES: usize = 1 << 20;

/// Gives the TLS configuration of the moment, asked per connection, so that a rotated certificate counts at once.
pub type TlsProvider = dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync;

pub struct TlsListener {
    pub listener: TcpListener,
    pub tls: Arc<TlsProvider>,
}

/// The sockets to serve on; each may be absent.
#[derive(Default)]
pub struct Listeners {
    /// 10250.
    pub main: Option<TlsListener>,
    /// 10255: plain, unauthenticated, reads only.
    pub read_only: Option<TcpListener>,
    /// 10248: one path.
    pub healthz: Option<TcpListener>,
}

/// The running servers. Dropping it stops them.
pub struct Server {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub fn spawn(deps: ServerDeps, config: ServerConfig, listeners: Listeners) -> Self {
        let server = Self { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let most = config.limits.connections;
        let dispatcher = Arc::new(Dispatcher::new(deps, config, server.stop.clone(), server.tasks.clone()));
        let Listeners { main, read_only, healthz } = listeners;
        if let Some(TlsListener { listener, tls }) = main {
            server.serve(listener, Some(tls), Port::Main, &dispatcher, most);
        }
        if let Some(listener) = read_only {
            server.serve(listener, None, Port::ReadOnly, &dispatcher, most);
        }
        if let Some(listener) = healthz {
            server.serve(listener, None, Port::Healthz, &dispatcher, 64);
        }
        server
    }

    /// Stops accepting, ends streams, and waits at most that long for replies under way.
    pub async fn shutdown(self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "server stopped with connections left");
        }
    }

    fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Arc<TlsProvider>>,
        port: Port,
        dispatcher: &Arc<Dispatcher>,
        most: usize,
    ) {
        let acceptor = Acceptor {
            tls,
            port,
            dispatcher: dispatcher.clone(),
            slots: Arc::new(Semaphore::new(most)),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(acceptor.run(listener));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

/// How long an address in use is waited for: an agent that was replaced may be a moment from its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Binds, with the address in the error.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let give_up = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < give_up => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%address, "the address is in use, waiting a little for it to become free");
                }
                sleep(Duration::from_millis(100)).await;
            }
            outcome => return outcome.map_err(|source| ServerError::Listen { address: address.to_string(), source }),
        }
    }
}

struct Acceptor {
    tls: Option<Arc<TlsProvider>>,
    port: Port,
    dispatcher: Arc<Dispatcher>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let slot = tokio::select! {
                () = self.stop.cancelled() => return,
                slot = self.slots.clone().acquire_owned() => slot.expect("never closed"),
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, address)) => self.connection(socket, address, slot),
                Err(error) => {
                    // Out of file descriptors, say: trying again at once would only burn the processor.
                    tracing::warn!(%error, port = ?self.port, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn connection(&self, socket: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        let _ = socket.set_nodelay(true);
        let (dispatcher, stop, port) = (self.dispatcher.clone(), self.stop.clone(), self.port);
        let tls = self.tls.as_ref().map(|current| tokio_rustls::TlsAcceptor::from(current()));
        let pace = Pace::default();
        let socket = Stallable::new(socket, pace.clone());
        self.tasks.spawn(async move {
            let _slot = slot;
            let Some(tls) = tls else {
                let peer = Peer { address, certificates: Vec::new() };
                return http(socket, pace, peer, port, dispatcher, stop).await;
            };
            let handshake = tokio::select! {
                () = stop.cancelled() => return,
                handshake = tokio::time::timeout(TLS_HANDSHAKE, tls.accept(socket)) => handshake,
            };
            match handshake {
                Ok(Ok(socket)) => {
                    let certificates: Vec<CertificateDer<'static>> = socket
                        .get_ref()
                        .1
                        .peer_certificates()
                        .unwrap_or_default()
                        .iter()
                        .cloned()
                        .map(CertificateDer::into_owned)
                        .collect();
                    http(socket, pace, Peer { address, certificates }, port, dispatcher, stop).await;
                }
                Ok(Err(error)) => tracing::info!(%error, %address, "TLS handshake failed"),
                Err(_) => tracing::info!(%address, "TLS handshake timed out"),
            }
        });
    }
}

async fn http<S>(socket: S, pace: Pace, peer: Peer, port: Port, dispatcher: Arc<Dispatcher>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let asked = CancellationToken::new();
    let asks = asked.clone();
    let replies = pace.clone();
    let service = service_fn(move |request| {
        asks.cancel();
        let (dispatcher, peer, pace) = (dispatcher.clone(), peer.clone(), replies.clone());
        async move {
            let reply = dispatcher.handle(request, &peer, port).await;
            pace.allow(dispatcher.patience(&reply));
            Ok::<_, std::convert::Infallible>(reply.map(|body| Paced::new(body, pace)))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::pin!(connection);
    let silent = async {
        if tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = silent => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // What it was upgraded to has an idle timeout of its own.
    pace.allow(Duration::ZERO);
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_waited_for() {
        let before = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = before.local_addr().unwrap();
        let waits = tokio::spawn(bind(address));
        tokio::task::yield_now().await;
        drop(before);
        assert_eq!(waits.await.unwrap().unwrap().local_addr().unwrap(), address);
    }
}
