//! Exec, attach, port-forward: the runtime serves them; this finds where, and joins the client to it.
//!
//! SPDY and older websocket subprotocols pass through byte by byte. `v5.channel.k8s.io` is translated to SPDY
//! (the runtime does not speak it), and a tunnel of SPDY in websocket frames is unwrapped.

mod checkpoint;
pub mod client;
mod copy;
mod parameters;
mod passthrough;
mod remote_command;
mod runtime_url;
mod session;
mod spdy;
mod target;
mod translate;
mod tunnel;
mod websocket;

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    dispatch::{Call, Context, Counted},
    reply::{self, Reply},
    routes::Endpoint,
};
pub use checkpoint::checkpoint;
use parameters::{StreamParameters, forwarded_ports};
use runtime_url::RuntimeUrl;

/// What a joined connection needs besides its two ends; when it ends, its slot is free again and its request is over.
pub struct Joint {
    pub url: RuntimeUrl,
    pub idle: std::time::Duration,
    pub stop: tokio_util::sync::CancellationToken,
    pub tasks: tokio_util::task::TaskTracker,
    pub held: (OwnedSemaphorePermit, Counted),
}

pub async fn handle(context: &Arc<Context>, endpoint: Endpoint, call: Call) -> Reply {
    let Ok(slot) = context.streams.clone().try_acquire_owned() else { return reply::too_many_requests() };
    let held = (slot, call.counted.clone());
    let result = match endpoint {
        Endpoint::PortForward => port_forward(context, call, held).await,
        _ => process(context, endpoint, call, held).await,
    };
    result.unwrap_or_else(|refusal| refusal)
}

async fn process(
    context: &Context,
    endpoint: Endpoint,
    call: Call,
    held: (OwnedSemaphorePermit, Counted),
) -> Result<Reply, Reply> {
    let query = call.query();
    let parameters = StreamParameters::parse(&query).map_err(bad_request)?;
    let url = if endpoint == Endpoint::Exec {
        let command: Vec<String> = query.all("command").map(str::to_owned).collect();
        target::exec(context, &call, &command, parameters).await?
    } else {
        target::attach(context, &call, parameters).await?
    };
    let joint = joint(context, &url, held)?;
    if context.config.extend_websockets && websocket::offers(&call.head.headers, websocket::is_v5) {
        let subresource = if endpoint == Endpoint::Exec { "exec" } else { "attach" };
        metrics::http::WEBSOCKET_STREAMING.with_label_values(&[subresource]).inc();
        return Ok(translate::serve(call, joint, parameters));
    }
    Ok(passthrough::serve(call, joint).await)
}

async fn port_forward(context: &Context, call: Call, held: (OwnedSemaphorePermit, Counted)) -> Result<Reply, Reply> {
    let tunnel = context.config.extend_websockets && websocket::offers(&call.head.headers, websocket::is_tunnel);
    // SPDY clients name the port per stream; older websockets in the query.
    let ports = if !tunnel && websocket::is_request(&call.head.headers) {
        forwarded_ports(&call.query()).map_err(bad_request)?
    } else {
        Vec::new()
    };
    let url = target::port_forward(context, &call, &ports).await?;
    let joint = joint(context, &url, held)?;
    if tunnel {
        metrics::http::WEBSOCKET_STREAMING.with_label_values(&["portforward"]).inc();
        return Ok(tunnel::serve(call, joint).await);
    }
    Ok(passthrough::serve(call, joint).await)
}

fn joint(context: &Context, url: &str, held: (OwnedSemaphorePermit, Counted)) -> Result<Joint, Reply> {
    Ok(Joint {
        url: RuntimeUrl::parse(url).map_err(|error| error.reply())?,
        idle: context.config.streaming_connection_idle_timeout,
        stop: context.stop.clone(),
        tasks: context.tasks.clone(),
        held,
    })
}

fn bad_request(message: String) -> Reply {
    reply::text(StatusCode::BAD_REQUEST, message)
}

/// `/run`: a command to its end, its output as the reply.
pub async fn run(context: &Arc<Context>, call: Call) -> Reply {
    let Ok(slot) = context.streams.clone().try_acquire_owned() else { return reply::too_many_requests() };
    let query = call.query();
    let command: Vec<String> = query.first("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let container = match target::running_container(context, &call) {
        Ok(container) => container,
        Err(refusal) => return refusal,
    };
    match context.deps.cri.exec_sync(&container, &command, std::time::Duration::ZERO).await {
        Ok(output) if output.exit_code == 0 => {
            let said = [output.stdout, output.stderr].concat();
            // As large as a reply of the runtime may be: the slot is taken until the client has read it.
            reply::typed(StatusCode::OK, reply::JSON, said).map(|body| reply::holding(body, slot))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let command = command.join(" ");
            let message = format!("command '{command}' exited with {}: {said}", output.exit_code);
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.spelled_out()),
    }
}
