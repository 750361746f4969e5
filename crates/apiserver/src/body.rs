//! Answers' bodies: whole, or line by line.

use bytes::Buf;
use futures::StreamExt;
use http::Response;
use http_body_util::{BodyDataStream, BodyExt};
use kube::client::Body;
use serde::Deserialize;

use crate::{ApiError, Refusal, managed_fields, request::Call};

/// Reads a body to its end. Objects come without managedFields.
pub(crate) async fn whole(call: &Call, body: Body) -> Result<Vec<u8>, ApiError> {
    let collected = body.collect().await.map_err(|e| broken_off(call, &e))?;
    let mut rest = collected.aggregate();
    let mut bytes = Vec::with_capacity(rest.remaining());
    while rest.has_remaining() {
        let chunk = rest.chunk();
        let length = chunk.len();
        bytes.extend_from_slice(chunk);
        rest.advance(length);
    }
    managed_fields::blank(&mut bytes);
    Ok(bytes)
}

/// The answer itself when it is a success, else the refusal that its body spells out.
pub(crate) async fn accepted(call: &Call, response: Response<Body>) -> Result<Body, ApiError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let body = whole(call, response.into_body()).await?;
    let said = serde_json::from_slice::<StatusBody>(&body).ok().filter(|s| s.kind == "Status");
    let refusal = said.map_or_else(
        || Refusal { code: status.as_u16(), reason: String::new(), message: foreign_text(&body), retry_after: None },
        |said| said.refusal(status.as_u16()),
    );
    Err(ApiError::Refused { operation: call.operation, object: call.object.clone(), refusal })
}

/// A proxy's error page, cut to a size that fits a log line.
fn foreign_text(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned()
}

fn broken_off(call: &Call, error: &dyn std::error::Error) -> ApiError {
    let detail = crate::reachability::with_causes(error);
    ApiError::BrokenOff { operation: call.operation, object: call.object.clone(), detail }
}

/// The parts of metav1.Status that are of use.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct StatusBody {
    kind: String,
    code: u16,
    reason: String,
    message: String,
    details: StatusDetails,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct StatusDetails {
    retry_after_seconds: u32,
}

impl StatusBody {
    pub(crate) fn refusal(self, http_code: u16) -> Refusal {
        let seconds = self.details.retry_after_seconds;
        let retry_after = (seconds > 0).then(|| std::time::Duration::from_secs(seconds.into()));
        let code = if self.code == 0 { http_code } else { self.code };
        Refusal { code, reason: self.reason, message: self.message, retry_after }
    }
}

/// Splits a body into lines as they arrive.
pub(crate) struct Lines {
    body: BodyDataStream<Body>,
    buffer: Vec<u8>,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), buffer: Vec::new(), searched: 0 }
    }

    /// The next line without its end and without managedFields; None at the end of the body, where an unfinished line is dropped.
    pub(crate) async fn next(&mut self, call: &Call) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + end;
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                managed_fields::blank(&mut line);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(broken_off(call, &error)),
                None => return Ok(None),
            }
        }
    }
}
