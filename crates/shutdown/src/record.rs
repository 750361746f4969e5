//! When the last shutdown began and ended: kept in a file of upstream's form, shown as metrics.

use std::{path::PathBuf, sync::LazyLock};

use jiff::Timestamp;
use prometheus::Gauge;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// In the agent's root directory.
pub const FILE: &str = "graceful_node_shutdown_state";
/// What Go writes for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

static BEGAN: LazyLock<Gauge> = LazyLock::new(|| {
    let help = "Last graceful shutdown start time since unix epoch in seconds";
    metrics::gauge("kubelet_graceful_shutdown_start_time_seconds", help)
});
static ENDED: LazyLock<Gauge> = LazyLock::new(|| {
    let help = "Last graceful shutdown end time since unix epoch in seconds";
    metrics::gauge("kubelet_graceful_shutdown_end_time_seconds", help)
});

/// Shows both metrics, also on a node that never shuts down gracefully.
pub fn show() {
    LazyLock::force(&BEGAN);
    LazyLock::force(&ENDED);
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Times {
    start_time: String,
    end_time: String,
}

impl Default for Times {
    fn default() -> Self {
        Self { start_time: NEVER.to_owned(), end_time: NEVER.to_owned() }
    }
}

#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
}

impl Record {
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Shows what the agent before this one has written.
    pub fn load(&self) {
        let times: Times = match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %self.path.display(), %error, "the times of the last shutdown can't be read");
                Times::default()
            }),
            Err(_) => return, // there was none
        };
        BEGAN.set(seconds(&times.start_time));
        ENDED.set(seconds(&times.end_time));
    }

    pub fn began(&self, at: Timestamp) {
        BEGAN.set(at.as_second() as f64);
        ENDED.set(0.0);
        self.write(&Times { start_time: at.to_string(), ..Times::default() });
    }

    pub fn ended(&self, began: Timestamp, at: Timestamp) {
        ENDED.set(at.as_second() as f64);
        self.write(&Times { start_time: began.to_string(), end_time: at.to_string() });
    }

    fn write(&self, times: &Times) {
        if let Err(error) = self.try_write(times) {
            tracing::warn!(%error, "the times of the shutdown are not kept");
        }
    }

    fn try_write(&self, times: &Times) -> Result<()> {
        let bytes = serde_json::to_vec(times).map_err(|source| Error::Encode { source })?;
        host::atomic_file::write(&self.path, &bytes, 0o644)
            .map_err(|source| Error::Record { path: self.path.clone(), source })
    }
}

/// 0 for a time that never was.
fn seconds(text: &str) -> f64 {
    text.parse::<Timestamp>().map_or(0.0, |at| at.as_second().max(0) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_kept_in_upstreams_form() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::at(dir.path().join(FILE));
        let text = || std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let (began, ended) = ("2026-11-23T12:00:00Z".parse().unwrap(), "2026-11-23T12:00:09Z".parse().unwrap());
        record.began(began);
        assert_eq!(text(), r#"{"startTime":"2026-11-23T12:00:00Z","endTime":"0001-01-01T00:00:00Z"}"#);
        record.ended(began, ended);
        assert_eq!(text(), r#"{"startTime":"2026-11-23T12:00:00Z","endTime":"2026-11-23T12:00:09Z"}"#);
    }

    #[test]
    fn go_times_of_any_zone_are_read_and_never_is_zero() {
        assert_eq!(seconds("2026-11-23T13:00:00.123456789+01:00"), 1_795_435_200.0);
        assert_eq!(seconds(NEVER), 0.0);
        assert_eq!(seconds(""), 0.0);
    }
}
