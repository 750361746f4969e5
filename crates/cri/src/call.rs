//! One call: its deadline, its metrics, its error.

use std::{future::Future, time::Duration};

use tokio::time::Instant;
use tonic::{Code, Response, Status};

use crate::error::{CriError, Result};

/// Runs a call to its end. Without a `deadline` it takes as long as the runtime wants.
pub(crate) async fn call<T>(
    operation: &'static str,
    object: &str,
    deadline: impl Into<Option<Duration>>,
    reply: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> Result<T> {
    let started = Instant::now();
    let result = match deadline.into() {
        None => reply.await.map_err(|s| CriError::from_status(operation, object, &s)),
        Some(limit) => match tokio::time::timeout(limit, reply).await {
            Ok(reply) => reply.map_err(|s| CriError::from_status(operation, object, &s)),
            Err(_) => {
                let message = format!("no answer from the runtime within {limit:?}");
                Err(CriError::new(operation, object, Code::DeadlineExceeded, message))
            }
        },
    };
    metrics::runtime_operations::observe(operation, started.elapsed(), result.is_ok());
    result.map(Response::into_inner)
}
