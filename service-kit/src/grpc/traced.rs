//! The client's side of a call in a trace.

use std::{
    error::Error as _,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{
    Code, TimeoutExpired,
    body::Body,
    service::interceptor::{InterceptedService, ResponseBody, ResponseFuture},
    transport::{Channel, Error, channel},
};
use tower::Service;
use tracing::{Instrument as _, Span, field::Empty};

use super::ClusterInterceptor;

/// A connection to one process of the cluster; made lazily, re-made when it breaks, shared by its clones. Clients take
/// it by value: `MatchHostClient::new(channels.get(addr)?)`. A call within a recorded trace has a span, under which the server's hangs.
#[derive(Debug, Clone)]
pub struct ClusterChannel {
    inner: InterceptedService<Channel, ClusterInterceptor>,
}

impl ClusterChannel {
    pub(super) fn new(channel: Channel, interceptor: ClusterInterceptor) -> Self {
        Self { inner: InterceptedService::new(channel, interceptor) }
    }
}

type Answer = Result<Response<ResponseBody<Body>>, Error>;

/// The answer; boxed only where it is recorded.
pub enum Call {
    Plain(ResponseFuture<channel::ResponseFuture>),
    Recorded(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut *self {
            Self::Plain(call) => Pin::new(call).poll(cx),
            Self::Recorded(call) => call.as_mut().poll(cx),
        }
    }
}

impl Service<Request<Body>> for ClusterChannel {
    type Response = Response<ResponseBody<Body>>;
    type Error = Error;
    type Future = Call;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Call {
        if !asobi_trace::recording() {
            return Call::Plain(self.inner.call(request));
        }
        let span = span(request.uri().path());
        // The interceptor writes the span into the request's metadata.
        let call = span.in_scope(|| self.inner.call(request)).instrument(span.clone());
        Call::Recorded(Box::pin(async move {
            let answer = call.await;
            let code = answer.as_ref().map_or_else(code_of_failure, code_of);
            told(&span, code, code != Code::Ok);
            answer
        }))
    }
}

fn span(path: &str) -> Span {
    let (service, method) = parts(path);
    asobi_trace::child!(
        "grpc call",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    )
}

/// Service and method.
pub(super) fn parts(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap_or((path, ""))
}

/// `error`: as the conventions have it, any code but OK is one for who calls; for who serves only those that are the server's fault.
pub(super) fn told(span: &Span, code: Code, error: bool) {
    span.record("rpc.grpc.status_code", code as i32);
    if error {
        span.record("otel.status_code", "ERROR");
    }
}

/// A call that failed before its first message says so in the headers; a stream that fails later counts as begun.
pub(super) fn code_of<B>(response: &Response<B>) -> Code {
    match response.headers().get("grpc-status") {
        None => Code::Ok,
        Some(value) => Code::from_bytes(value.as_bytes()),
    }
}

/// Of a call that came back with nothing.
fn code_of_failure(error: &Error) -> Code {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        cause = error.source();
    }
    Code::Unavailable
}
