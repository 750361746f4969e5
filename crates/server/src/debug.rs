//! `/debug/flags/v`, and the profiling that this agent does not have.

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::{
    dispatch::{Call, Context},
    reply::{self, Reply},
};

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
