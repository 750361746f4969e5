//! A bad line to the API server: a TCP proxy on the loopback of a network namespace that lets bytes through slowly and
//! cuts every connection now and then.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::AsFd,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, oneshot},
    time::{interval, sleep},
};

#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// What passes at once; then `pause` goes by.
    pub chunk: usize,
    pub pause: Duration,
    /// How often every connection is cut.
    pub cut_every: Duration,
}

/// Ends with its owner.
pub struct BadLine {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BadLine {
    /// To `target`, from a free port of `netns`.
    pub fn start(netns: &str, target: SocketAddr, faults: Faults) -> Result<Self> {
        let path = format!("/var/run/netns/{netns}");
        let space = File::open(&path).with_context(|| path.clone())?;
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        // A thread of its own: its network is another than the rest of the process has.
        let thread = std::thread::spawn(move || {
            let listening = listen(&space);
            let address = listening.as_ref().map(|(_, address)| *address).map_err(|e| format!("{e:#}"));
            let _ = tell.send(address);
            if let Ok((listener, _)) = listening {
                serve_until(listener, target, faults, stopped);
            }
        });
        let address = told.recv()?.map_err(anyhow::Error::msg).context("a proxy for a bad line")?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(space: &File) -> Result<(StdListener, SocketAddr)> {
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn serve_until(listener: StdListener, target: SocketAddr, faults: Faults, stopped: oneshot::Receiver<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let (cut, _) = broadcast::channel::<()>(1);
        let mut cuts = interval(faults.cut_every);
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                _ = cuts.tick() => drop(cut.send(())),
                accepted = listener.accept() => {
                    let Ok((client, _)) = accepted else { continue };
                    tokio::spawn(carry(client, target, faults, cut.subscribe()));
                }
            }
        }
    });
}

async fn carry(client: TcpStream, target: SocketAddr, faults: Faults, mut cut: broadcast::Receiver<()>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = cut.recv() => {}
        _ = trickle(from_client, to_server, faults) => {}
        _ = trickle(from_server, to_client, faults) => {}
    }
}

async fn trickle(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    faults: Faults,
) -> std::io::Result<()> {
    let mut buffer = vec![0; faults.chunk];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        sleep(faults.pause).await;
        to.write_all(&buffer[..n]).await?;
    }
}
