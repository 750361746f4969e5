//! Log lines as klog writes them, text or JSON, from `tracing` events; `-v` and `--vmodule` decide what is logged.
//!
//! Verbosity to level: our INFO is V(0), DEBUG V(4), TRACE V(6). Libraries speak lower: their INFO is V(4), DEBUG
//! V(8), TRACE V(10). Spans are not recorded: a line says all it has to in its own fields.

mod line;
mod output;

use std::{
    panic::Location,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use host::Clock;
use k8s_openapi::jiff::tz::TimeZone;
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter, span, subscriber::Interest};

use self::{line::Line, output::Output};
use crate::config::types::{Logging, VmoduleItem};

/// Our own crates; everything else is a library.
const OURS: [&str; 25] = [
    "api_types",
    "apiserver",
    "certificates",
    "cgroups",
    "cri",
    "eviction",
    "handlers",
    "host",
    "images",
    "join",
    "kubelet",
    "metrics",
    "node",
    "node_api",
    "pleg",
    "pod",
    "pod_source",
    "pod_workers",
    "prober",
    "runtime",
    "server",
    "shutdown",
    "status_manager",
    "trace",
    "volumes",
];

#[derive(Debug)]
struct Shared {
    clock: Clock,
    zone: TimeZone,
    json: bool,
    output: Output,
    verbosity: AtomicU32,
    vmodule: Vec<VmoduleItem>,
}

/// Changes logging while the agent runs.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub fn set_verbosity(&self, level: u32) {
        self.shared.verbosity.store(level, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    pub fn verbosity(&self) -> u32 {
        self.shared.verbosity.load(Ordering::Relaxed)
    }
}

/// `tracing` has one subscriber for the whole process, so this is one too.
static LOGGING: OnceLock<Handle> = OnceLock::new();

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(config: &Logging, clock: Clock) -> Handle {
    let start = || {
        let shared = Arc::new(Shared::new(config, clock));
        // Fails only when a test has set a subscriber of its own before.
        let _ = tracing::subscriber::set_global_default(KlogSubscriber { shared: shared.clone() });
        Handle { shared }
    };
    LOGGING.get_or_init(start).clone()
}

/// What `PUT /debug/flags/v` sets. The error is what the caller is told.
pub fn set_verbosity(level: &str) -> Result<(), String> {
    let level: u32 =
        level.trim().parse().map_err(|_| format!("failed set klog.logging.verbosity {level}: not a number"))?;
    if let Some(logging) = LOGGING.get() {
        logging.set_verbosity(level);
    }
    Ok(())
}

/// What is still in a buffer goes out; for the end of the process.
pub fn flush() {
    if let Some(logging) = LOGGING.get() {
        logging.shared.output.flush();
    }
}

/// The line of a start that failed, whether logging has begun or not.
#[track_caller]
pub fn command_failed(clock: Clock, error: &str) {
    let caller = Location::caller();
    let mut line = Line::new('E', caller.file(), caller.line(), 0);
    line.text("message", "command failed");
    line.text("err", error);
    match LOGGING.get() {
        Some(logging) => logging.shared.write(&line),
        None => Shared::new(&Logging::default(), clock).write(&line),
    }
}

/// By way of `TZ` the whole time zone database would be listed and kept in memory: only where it is set.
fn local_zone() -> TimeZone {
    if std::env::var_os("TZ").is_some() {
        return TimeZone::system();
    }
    let local = std::fs::read("/etc/localtime").ok().and_then(|file| TimeZone::tzif("Local", &file).ok());
    local.unwrap_or(TimeZone::UTC)
}

impl Shared {
    fn new(config: &Logging, clock: Clock) -> Self {
        Self {
            clock,
            zone: local_zone(),
            json: config.format == "json",
            output: Output::new(config),
            verbosity: AtomicU32::new(config.verbosity),
            vmodule: config.vmodule.clone(),
        }
    }

    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && verbosity_of(metadata) <= self.verbosity_for(metadata)
    }

    fn verbosity_for(&self, metadata: &Metadata<'_>) -> u32 {
        let global = self.verbosity.load(Ordering::Relaxed);
        if self.vmodule.is_empty() {
            return global;
        }
        let stem = metadata.file().map_or("", |file| {
            let name = file.rsplit('/').next().unwrap_or(file);
            name.strip_suffix(".rs").unwrap_or(name)
        });
        let named = self.vmodule.iter().find(|item| glob(item.file_pattern.as_bytes(), stem.as_bytes()));
        named.map_or(global, |item| item.verbosity)
    }

    fn write(&self, line: &Line) {
        let now = self.clock.wall();
        let text = if self.json { line.json(now) } else { line.klog(&now.to_zoned(self.zone.clone())) };
        // JSON has no warnings: they are information there.
        let is_info = line.severity == 'I' || (self.json && line.severity == 'W');
        self.output.write(is_info, &text);
    }
}

/// The klog verbosity at which an event is logged.
fn verbosity_of(metadata: &Metadata<'_>) -> u32 {
    let crate_name = metadata.target().split("::").next().unwrap_or_default();
    let levels = if OURS.contains(&crate_name) { [0, 4, 6] } else { [4, 8, 10] };
    match *metadata.level() {
        Level::ERROR | Level::WARN => 0,
        Level::INFO => levels[0],
        Level::DEBUG => levels[1],
        Level::TRACE => levels[2],
    }
}

/// `*` and `?` as in klog's --vmodule.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        ([b'?', pattern @ ..], [_, text @ ..]) => glob(pattern, text),
        ([p, pattern @ ..], [t, text @ ..]) if p == t => glob(pattern, text),
        _ => false,
    }
}

struct KlogSubscriber {
    shared: Arc<Shared>,
}

impl Subscriber for KlogSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.shared.allows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.shared.allows(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let vmodule = self.shared.vmodule.iter().map(|item| item.verbosity).max().unwrap_or(0);
        Some(match vmodule.max(self.shared.verbosity.load(Ordering::Relaxed)) {
            0..4 => LevelFilter::INFO,
            4..6 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let mut line = Line::new(
            severity,
            metadata.file().unwrap_or_default(),
            metadata.line().unwrap_or(0),
            verbosity_of(metadata),
        );
        event.record(&mut line);
        self.shared.write(&line);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_pattern_matches_the_files_name() {
        for (pattern, text, matches) in [
            ("worker", "worker", true),
            ("work*", "worker", true),
            ("w?rker", "worker", true),
            ("*", "", true),
            ("work", "worker", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }
}
