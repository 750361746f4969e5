//! The wire to the runtime with a span for each call, named and told about as otelgrpc does. Without tracing it is the
//! bare wire.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{HeaderValue, Request, Response};
use tonic::{
    Code,
    body::Body,
    transport::{Channel, Error, channel::ResponseFuture},
};
use tower::Service;
use trace::{Kind, Span};

const SCOPE: &str = "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc";

#[derive(Clone, Debug)]
pub struct Traced(Channel);

impl Traced {
    pub fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

type Answer = Result<Response<Body>, Error>;

impl Service<Request<Body>> for Traced {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<ResponseFuture, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !trace::is_on() {
            return Either::Left(self.0.call(request));
        }
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = trace::span(SCOPE, method.clone(), Kind::Client);
        let Some(context) = span.context() else { return Either::Left(self.0.call(request)) };
        if let Ok(value) = HeaderValue::from_str(&context.traceparent()) {
            request.headers_mut().insert(trace::TRACEPARENT, value);
        }
        if span.is_recording() {
            span.attribute("rpc.system.name", "grpc");
            span.attribute("rpc.method", method);
            span.attribute("server.address", "localhost");
        }
        let answer = self.0.call(request);
        Either::Right(Box::pin(async move {
            let cut_off = CutOff(Some(span));
            let answer = answer.await;
            cut_off.end(&answer);
            answer
        }))
    }
}

/// A call whose future is dropped was given up, mostly at its deadline.
struct CutOff(Option<Span>);

impl CutOff {
    fn end(mut self, answer: &Answer) {
        let Some(span) = self.0.take() else { return };
        match answer {
            // A unary call that fails has its status here; one that succeeds has it behind the message.
            Ok(response) => {
                let status = tonic::Status::from_header_map(response.headers());
                match status.filter(|status| status.code() != Code::Ok) {
                    Some(status) => fail(&span, status.code(), status.message()),
                    None => span.attribute("rpc.response.status_code", name_of_code(Code::Ok)),
                }
            }
            Err(error) => fail(&span, Code::Unavailable, &error.to_string()),
        }
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            fail(&span, Code::Cancelled, "given up");
        }
    }
}

fn fail(span: &Span, code: Code, message: &str) {
    span.attribute("rpc.response.status_code", name_of_code(code));
    span.fail(message);
}

fn name_of_code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
