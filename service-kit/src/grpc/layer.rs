//! What every call passes on its way in: the cluster key's check, a span with the caller's trace, a duration metric.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{Caller, ClusterKey};
use crate::telemetry;

/// Services that answer without the key: probes and tools have none, and they tell nothing that is secret.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

#[derive(Debug, Clone)]
pub(crate) struct ClusterLayer {
    key: ClusterKey,
}

impl ClusterLayer {
    pub(crate) fn new(key: ClusterKey) -> Self {
        Self { key }
    }
}

impl<S> Layer<S> for ClusterLayer {
    type Service = ClusterService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClusterService { inner, key: self.key.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ClusterService<S> {
    inner: S,
    key: ClusterKey,
}

impl<S> Service<Request<Body>> for ClusterService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let open = OPEN.iter().any(|prefix| path.starts_with(prefix));
        if !open && let Err(problem) = self.key.check(request.headers()) {
            metrics::counter!("asobi_grpc_unauthenticated_total").increment(1);
            tracing::debug!(rpc.path = path, "a gRPC call without the right cluster key was refused: {problem}");
            return Box::pin(std::future::ready(Ok(Status::unauthenticated(problem).into_http())));
        }
        // Whoever has no key must not be able to make up label values.
        let method = if open { "health or reflection".to_owned() } else { path.trim_start_matches('/').to_owned() };
        if !open {
            request.extensions_mut().insert(Caller::Node);
        }
        let span = tracing::info_span!("grpc", otel.name = %method, otel.kind = "server", rpc.method = %method);
        if let Some(trace) = request.headers().get("traceparent").and_then(|value| value.to_str().ok()) {
            telemetry::set_parent(&span, trace);
        }
        let begun = Instant::now();
        let answer = self.inner.call(request);
        let timed = async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or("transport", |response| code_name(response));
            metrics::histogram!("asobi_grpc_server_seconds", "method" => method, "code" => code)
                .record(begun.elapsed().as_secs_f64());
            answer
        };
        Box::pin(timed.instrument(span))
    }
}

/// A call that failed before its first message says so in the headers; a stream that fails later counts as begun.
fn code_name(response: &Response<Body>) -> &'static str {
    let code = match response.headers().get("grpc-status") {
        None => Code::Ok,
        Some(value) => Code::from_bytes(value.as_bytes()),
    };
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::Unimplemented => "unimplemented",
        Code::Unavailable => "unavailable",
        Code::Unauthenticated => "unauthenticated",
        _ => "internal",
    }
}
