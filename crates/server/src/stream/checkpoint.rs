//! `/checkpoint/{namespace}/{pod}/{container}`: one at a time, since each may be as large as the container's memory.

use std::sync::Arc;

use http::StatusCode;

use super::target;
use crate::{
    dispatch::{Call, Context},
    reply::{self, Reply},
};

pub async fn checkpoint(context: &Arc<Context>, call: Call) -> Reply {
    let Ok(_only_one) = context.checkpoints.try_acquire() else { return reply::too_many_requests() };
    let (key, container) = (call.key(), call.params.get("container"));
    let Some(row) = context.deps.pods.by_name(&key) else {
        return reply::text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if row.desired.container(container).is_none() {
        return reply::text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let timeout = call.query().all("timeout").last().map_or(Ok(0), str::parse::<i64>);
    let Ok(timeout) = timeout else {
        return reply::text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    };
    let id = match target::running_container(context, &call) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let now = context.deps.clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let file = format!("checkpoint-{}_{}-{container}-{now}.tar", key.name, key.namespace);
    let location = context.config.checkpoints_dir.join(file).display().to_string();
    match context.deps.cri.checkpoint_container(&id, &location, timeout).await {
        Ok(()) => reply::json(&serde_json::json!({ "items": [location] })),
        Err(error) => {
            let message = format!("checkpointing of {key}/{container} failed ({})", error.spelled_out());
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}
