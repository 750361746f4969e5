//! `/statusz`, `/flagz`, `/debug/flags/v`, and the profiling that this agent does not have.

use std::fmt::Write as _;

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::{
    dispatch::{Call, Context},
    reply::{self, Reply},
    routes::{ROUTES, Reach},
};

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
const MOST_LEVEL_BYTES: usize = 256;

/// Go profiles make no sense here; say so rather than answer something else.
pub fn pprof(context: &Context) -> Reply {
    if !context.config.enable_profiling_handler {
        return reply::text(StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n");
    }
    reply::text(StatusCode::NOT_IMPLEMENTED, "this kubelet is not written in Go and has no pprof profiles\n")
}

/// `PUT /debug/flags/v` with the level as body.
pub async fn verbosity(context: &Context, call: Call) -> Reply {
    if !context.config.enable_debug_flags_handler {
        return reply::text(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.\n");
    }
    if call.head.method != Method::PUT {
        return reply::text(StatusCode::NOT_ACCEPTABLE, "unsupported http method\n");
    }
    let Ok(body) = Limited::new(call.body, MOST_LEVEL_BYTES).collect().await else {
        return reply::text(StatusCode::BAD_REQUEST, "the level could not be read\n");
    };
    let body = body.to_bytes();
    let level = std::str::from_utf8(&body).unwrap_or_default().trim();
    match (context.deps.set_verbosity)(level) {
        Ok(()) => reply::text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {level}")),
        Err(reason) => reply::text(
            StatusCode::BAD_REQUEST,
            format!("failed to set klog.logging.verbosity to {level:?}: {reason}\n"),
        ),
    }
}

pub fn statusz(context: &Context) -> Reply {
    let uptime = context.deps.clock.mono().since(context.started).as_secs();
    let (hours, minutes, seconds) = (uptime / 3600, uptime / 60 % 60, uptime % 60);
    let version = &context.config.version;
    let mut text = format!("\nkubelet statusz\n{WARNING}\n\n");
    let _ = writeln!(text, "Up: {hours} hr {minutes:02} min {seconds:02} sec");
    let _ = writeln!(text, "Binary version: {version}");
    let paths: std::collections::BTreeSet<_> = ROUTES
        .iter()
        .filter(|route| route.reach != Reach::Debugging)
        .map(|route| route.pattern.split("/{").next().unwrap_or_default())
        .collect();
    let _ = writeln!(text, "Paths: {}", paths.into_iter().collect::<Vec<_>>().join(" "));
    reply::text(StatusCode::OK, text)
}

pub fn flagz(context: &Context) -> Reply {
    let mut text = format!("\nkubelet flagz\n{WARNING}\n\n");
    for (name, value) in (context.deps.flags)() {
        let _ = writeln!(text, "{name}={value}");
    }
    reply::text(StatusCode::OK, text)
}
