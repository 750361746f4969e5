//! One piece of work: begun, told about, ended by being dropped.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard},
};

use host::Clock;
use pod::{Mono, Now};
use tokio::sync::mpsc;

use crate::{
    Tracer,
    context::{self, Context},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Internal,
    Server,
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Int(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

/// What the exporter gets.
#[derive(Debug)]
pub(crate) struct Ended {
    pub scope: &'static str,
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub context: Context,
    pub parent: Option<u64>,
    pub link: Option<Context>,
    pub begun_nanos: u64,
    pub ended_nanos: u64,
    pub told: Told,
}

#[derive(Debug, Default)]
pub(crate) struct Told {
    pub attributes: Vec<(&'static str, Value)>,
    /// Messages of errors, and when they came.
    pub errors: Vec<(u64, String)>,
    pub failed: Option<String>,
}

/// Ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span {
    context: Option<Context>,
    recording: Option<Box<Recording>>,
}

/// One that several tasks work for: ends with the last of them.
#[derive(Clone, Debug, Default)]
pub struct SharedSpan(Option<Arc<Span>>);

#[derive(Debug)]
struct Recording {
    scope: &'static str,
    name: Cow<'static, str>,
    kind: Kind,
    parent: Option<u64>,
    link: Option<Context>,
    clock: Clock,
    begun: Now,
    told: Mutex<Told>,
    queue: mpsc::Sender<Ended>,
}

impl Span {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn begin(
        tracer: &Tracer,
        scope: &'static str,
        name: Cow<'static, str>,
        kind: Kind,
        parent: Option<Context>,
    ) -> Self {
        let context = parent.map_or_else(|| Context::first(tracer.per_million), Context::child);
        let recording = context.sampled.then(|| {
            Box::new(Recording {
                scope,
                name,
                kind,
                parent: parent.map(|parent| parent.span),
                link: None,
                clock: tracer.clock,
                begun: tracer.clock.now(),
                told: Mutex::default(),
                queue: tracer.queue.clone(),
            })
        });
        Self { context: Some(context), recording }
    }

    /// Whether it is worth to work out what to tell it.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    pub fn context(&self) -> Option<Context> {
        self.context
    }

    pub fn attribute(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &self.recording {
            recording.told().attributes.push((key, value.into()));
        }
    }

    /// That what caused it is another trace's, of somebody who does not decide what is sampled here.
    pub fn link(&mut self, cause: Option<Context>) {
        if let Some(recording) = &mut self.recording {
            recording.link = cause;
        }
    }

    pub fn fail(&self, message: &str) {
        if let Some(recording) = &self.recording {
            let mut told = recording.told();
            told.failed = Some(message.to_owned());
        }
    }

    /// A failure with an event of its own, as errors of a pod's sync are told.
    pub fn record_error(&self, message: &str) {
        if let Some(recording) = &self.recording {
            let at = recording.nanos(recording.clock.mono());
            let mut told = recording.told();
            told.errors.push((at, message.to_owned()));
            told.failed = Some(message.to_owned());
        }
    }

    /// Runs the work for this span: spans that it makes are below this one.
    pub async fn cover<F: Future>(&self, work: F) -> F::Output {
        match self.context {
            Some(context) => context::within(Some(context), work).await,
            None => work.await,
        }
    }

    /// There was nothing to do: it is not told.
    pub fn discard(mut self) {
        self.recording = None;
    }

    pub fn shared(self) -> SharedSpan {
        SharedSpan(self.context.is_some().then(|| Arc::new(self)))
    }
}

impl SharedSpan {
    pub fn get(&self) -> Option<&Span> {
        self.0.as_deref()
    }

    /// Runs the work for this span.
    pub async fn cover<F: Future>(self, work: F) -> F::Output {
        match self.get() {
            Some(span) => span.cover(work).await,
            None => work.await,
        }
    }

    /// Lets go of it; if nobody else works for it, nothing was done and it is not told.
    pub fn release(self) {
        if let Some(span) = self.0.and_then(Arc::into_inner) {
            span.discard();
        }
    }
}

impl Recording {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// By the monotonic clock from the beginning on: a jump of the wall clock stretches no span.
    fn nanos(&self, at: Mono) -> u64 {
        let begun = u64::try_from(self.begun.wall.as_nanosecond()).unwrap_or_default();
        begun + u64::try_from(at.since(self.begun.mono).as_nanos()).unwrap_or_default()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(context), Some(recording)) = (self.context, self.recording.take()) else { return };
        let ended = Ended {
            scope: recording.scope,
            name: recording.name.clone(),
            kind: recording.kind,
            context,
            parent: recording.parent,
            link: recording.link,
            begun_nanos: recording.nanos(recording.begun.mono),
            ended_nanos: recording.nanos(recording.clock.mono()),
            told: std::mem::take(&mut *recording.told()),
        };
        // Full, or nobody exports any more: the work itself goes on.
        let _ = recording.queue.try_send(ended);
    }
}
