//! logind over D-Bus: how long a shutdown may be held up, the lock that holds it up, the signal that one begins.

use std::{fs, future::Future, path::PathBuf, time::Duration};

use futures::{Stream, StreamExt};
use zbus::{Connection, OwnedFd};

use crate::{Error, Result};

const SIGHUP: i32 = 1;
const LOGIND: &str = "systemd-logind.service";
const OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    // It changes without a signal.
    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> zbus::Result<u64>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
}

/// What is asked of logind; of another one in tests.
pub trait Login: Send + Sync + 'static {
    /// Dropped, it lets the shutdown go on.
    type Lock: Send;
    type Signals: Stream<Item = bool> + Send + Unpin;

    /// True at the begin of a shutdown, false when it is called off. Ends with the connection.
    fn signals(&self) -> impl Future<Output = Result<Self::Signals>> + Send;
    fn delay(&self) -> impl Future<Output = Result<Duration>> + Send;
    /// Asks for a longer delay; it comes about some time later.
    fn set_delay(&self, delay: Duration) -> impl Future<Output = Result<()>> + Send;
    fn inhibit(&self) -> impl Future<Output = Result<Self::Lock>> + Send;
}

/// The one of this machine.
#[derive(Debug)]
pub struct Logind {
    connection: Connection,
}

impl Logind {
    pub async fn connect() -> Result<Self> {
        let connection = Connection::system().await.map_err(during("reach the system bus"))?;
        Ok(Self { connection })
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        ManagerProxy::new(&self.connection).await
    }

    async fn reload(&self) -> zbus::Result<()> {
        SystemdProxy::new(&self.connection).await?.kill_unit(LOGIND, "all", SIGHUP).await
    }
}

impl Login for Logind {
    type Lock = OwnedFd;
    type Signals = std::pin::Pin<Box<dyn Stream<Item = bool> + Send>>;

    async fn signals(&self) -> Result<Self::Signals> {
        let operation = "follow logind";
        let manager = self.manager().await.map_err(during(operation))?;
        let signals = manager.receive_prepare_for_shutdown().await.map_err(during(operation))?;
        Ok(Box::pin(signals.filter_map(async |signal| signal.args().ok().map(|args| *args.start()))))
    }

    async fn delay(&self) -> Result<Duration> {
        let operation = "read logind's InhibitDelayMaxUSec";
        let manager = self.manager().await.map_err(during(operation))?;
        let micros = manager.inhibit_delay_max_usec().await.map_err(during(operation))?;
        Ok(Duration::from_micros(micros))
    }

    async fn set_delay(&self, delay: Duration) -> Result<()> {
        let path = PathBuf::from(OVERRIDE);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder.and_then(|()| fs::write(&path, override_text(delay)));
        written.map_err(|source| Error::Override { path, source })?;
        self.reload().await.map_err(during("have logind read its configuration anew"))
    }

    async fn inhibit(&self) -> Result<OwnedFd> {
        let operation = "take logind's shutdown lock";
        let manager = self.manager().await.map_err(during(operation))?;
        let why = "Kubelet needs time to handle node shutdown";
        manager.inhibit("shutdown", "kubelet", why, "delay").await.map_err(during(operation))
    }
}

fn during(operation: &'static str) -> impl FnOnce(zbus::Error) -> Error {
    move |source| Error::Logind { operation, source: Box::new(source) }
}

/// The file of upstream, to the letter: whichever agent comes next writes the same one.
fn override_text(delay: Duration) -> String {
    format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", delay.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_written_in_seconds() {
        let text = override_text(Duration::from_secs(60));
        assert_eq!(text, "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=60\n");
    }
}
