//! Sends events to the API server.
//!
//! Reads: the recorder's queue. Writes: events. Wakes on: the queue. Ends when the last recorder is gone.

use std::time::Duration;

use host::Clock;
use k8s_openapi::api::core::v1::Event;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    correlate::{Correlated, Correlator},
    text,
};
use crate::{
    ApiError, ApiServer,
    backoff::random_fraction,
    budget::Budget,
    reachability::with_causes,
    request::{Call, path},
};

const TRIES: u32 = 12;
const BETWEEN_TRIES: Duration = Duration::from_secs(10);

pub(super) async fn run(api: ApiServer, clock: Clock, mut queue: mpsc::Receiver<Box<Event>>) {
    let mut correlator = Correlator::default();
    while let Some(event) = queue.recv().await {
        match correlator.correlate(*event, clock.mono()) {
            Correlated::Dropped => {}
            Correlated::Create { event, key } => record(&api, &mut correlator, key, event, false).await,
            Correlated::Repeat { event, key } => record(&api, &mut correlator, key, event, true).await,
        }
    }
}

/// Until it is there, refused, or tried too often.
async fn record(api: &ApiServer, correlator: &mut Correlator, key: u64, event: Event, known: bool) {
    for attempt in 1..=TRIES {
        let result = if known { repeat(api, &event).await } else { create(api, &event).await };
        match result {
            Ok(()) => return,
            // An earlier attempt got through, and only its answer was lost.
            Err(error) if error.is_already_exists() => return,
            Err(error) if !error.is_unreachable() => {
                tracing::debug!(event = text(&event.metadata.name), %error, "event refused");
                return correlator.lost(key);
            }
            Err(error) => {
                let event = text(&event.metadata.name);
                tracing::debug!(event, error = %with_causes(&error), attempt, "event not sent yet");
            }
        }
        if attempt < TRIES {
            let jitter = if attempt == 1 { random_fraction() } else { 1.0 };
            tokio::time::sleep(BETWEEN_TRIES.mul_f64(jitter)).await;
        }
    }
    correlator.lost(key);
}

async fn create(api: &ApiServer, event: &Event) -> Result<(), ApiError> {
    let call = Call::create(path::namespaced(text(&event.metadata.namespace), "events"), object(event), event)?;
    send(api, call).await
}

/// Raises the count of a known event; makes it anew when the server has dropped it (they live an hour).
async fn repeat(api: &ApiServer, event: &Event) -> Result<(), ApiError> {
    let path = path::named(text(&event.metadata.namespace), "events", text(&event.metadata.name));
    let patch = json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
    match send(api, Call::strategic_patch(path, object(event), &patch)?).await {
        Err(error) if error.is_not_found() => create(api, event).await,
        done => done,
    }
}

/// What it answers is what was sent: nobody reads that.
async fn send(api: &ApiServer, call: Call) -> Result<(), ApiError> {
    api.tell(call.paid_by(Budget::Events)).await
}

fn object(event: &Event) -> String {
    format!("event {}/{}", text(&event.metadata.namespace), text(&event.metadata.name))
}
