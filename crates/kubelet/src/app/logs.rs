//! Rotation of containers' logs as configured.

use std::sync::Arc;

use anyhow::bail;
use cri::Cri;
use host::Clock;
use pleg::Pleg;
use pod::quantity::Quantity;
use runtime::{LogRotation, RotationPolicy};

use crate::options::Options;

/// None: a negative containerLogMaxSize leaves logs to somebody else.
pub(super) fn rotation(options: &Options, cri: &Cri, clock: Clock, pleg: &Pleg) -> anyhow::Result<Option<LogRotation>> {
    let Some(policy) = policy(options)? else { return Ok(None) };
    let pleg = pleg.clone();
    Ok(Some(LogRotation::new(cri.clone(), clock, policy, Arc::new(move || pleg.snapshot()))))
}

fn policy(options: &Options) -> anyhow::Result<Option<RotationPolicy>> {
    let config = &options.config;
    let size = match config.container_log_max_size.parse::<Quantity>() {
        Ok(size) => size.value(),
        Err(error) => bail!("containerLogMaxSize {:?} is no quantity: {error:?}", config.container_log_max_size),
    };
    let number = |value: i32| usize::try_from(value).unwrap_or_default();
    Ok(u64::try_from(size).ok().map(|max_size| RotationPolicy {
        max_size,
        max_files: number(config.container_log_max_files),
        workers: number(config.container_log_max_workers),
        interval: config.container_log_monitor_interval.std(),
    }))
}
