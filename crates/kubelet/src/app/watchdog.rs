//! systemd's watchdog (WatchdogSec= of the unit): told of life for as long as the agent is healthy, so that systemd
//! starts it anew when it is not.

use std::time::Duration;

use anyhow::bail;
use node::Health;
use sd_notify::NotifyState;

/// A shorter time would end a healthy agent on a busy machine.
const LEAST: Duration = Duration::from_secs(1);

/// The time between two signs of life; None: systemd wants none.
pub(super) fn interval() -> anyhow::Result<Option<Duration>> {
    match sd_notify::watchdog_enabled() {
        None => Ok(None),
        Some(limit) if limit <= LEAST => bail!("configure watchdog timeout too small: {limit:?}"),
        Some(limit) => Ok(Some(limit / 2)),
    }
}

/// Task.
pub(super) async fn run(interval: Duration, health: Health) {
    tracing::info!(?interval, "systemd watches over the agent");
    let mut beat = tokio::time::interval(interval);
    loop {
        beat.tick().await;
        if let Err(reason) = health() {
            tracing::error!(reason, "systemd is not told of life: the agent is not healthy");
            continue;
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "systemd can't be told of life");
        }
    }
}
