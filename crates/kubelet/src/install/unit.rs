//! The unit of the node's systemd that runs the agent.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result};
use zbus::{OwnedObjectPath, connection::Builder};

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
}

/// Returns what was done.
pub async fn restart(root: &Path, program: &Path, unit: &str) -> Result<String> {
    let socket = root.join("run/dbus/system_bus_socket");
    let address = format!("unix:path={}", socket.display());
    let bus = Builder::address(address.as_str()).build().await;
    let bus = bus.with_context(|| format!("can't reach the node's system bus at {}", socket.display()))?;
    let manager = ManagerProxy::new(&bus).await?;
    let object = manager.get_unit(unit).await.with_context(|| format!("the node's systemd has no unit {unit}"))?;
    let pid = ServiceProxy::builder(&bus).path(object).build().await?.main_pid().await?;
    let program = root.join(program.strip_prefix("/").unwrap_or(program));
    if pid != 0 && is_running(root, pid, &program) {
        return Ok(format!("{unit} runs it already"));
    }
    manager.restart_unit(unit, "replace").await.with_context(|| format!("systemd did not restart {unit}"))?;
    Ok(format!("{unit} is being restarted"))
}

/// A file that was replaced since is another one.
fn is_running(root: &Path, pid: u32, program: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let running = file(&root.join(format!("proc/{pid}/exe")));
    running.is_some() && running == file(program)
}
