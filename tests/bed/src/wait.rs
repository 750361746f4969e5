//! Waiting for a condition. The limits here end a test that hangs; none judges speed.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks every 100 ms until `done` says yes; after `limit` fails with the last thing `done` complained of.
#[allow(clippy::disallowed_methods)] // a test's own patience, not the agent's time
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let last = match done() {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if begun.elapsed() > limit {
            bail!("gave up after {} s waiting for {what}{last}", limit.as_secs());
        }
        sleep(Duration::from_millis(100));
    }
}

/// The patience of most waits: far above what anything here needs, even on a slow, busy machine.
pub const LONG: Duration = Duration::from_secs(300);
