//! What every call passes on its way in: who makes it and whether they may, a span with the caller's trace, a duration metric.

use std::{
    future::Future,
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};

use asobi_trace::{Head, KeyValue, SpanContext, SpanKind, Watch};

use super::{
    Access, Caller, PeerCertificate,
    access::{Credential, exists},
    guard::Guarded,
    traced::{code_of, parts, told},
};

/// Services that anybody may call: probes and tools have no key, and they tell nothing that is secret.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// The other side of a connection, with each of its calls.
#[derive(Clone)]
pub(crate) struct Peer {
    pub address: Option<SocketAddr>,
    /// The one it has shown.
    pub certificate: Option<Arc<PeerCertificate>>,
}

#[derive(Debug, Clone)]
pub(crate) struct ClusterLayer {
    access: Access,
}

impl ClusterLayer {
    pub(crate) fn new(access: Access) -> Self {
        Self { access }
    }
}

impl<S> Layer<S> for ClusterLayer {
    type Service = ClusterService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClusterService { inner, access: self.access.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ClusterService<S> {
    inner: S,
    access: Access,
}

impl<S> Service<Request<Body>> for ClusterService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that has said it is ready goes with the call; a clone has not.
        let ready = self.inner.clone();
        let inner = mem::replace(&mut self.inner, ready);
        let path = request.uri().path();
        if OPEN.iter().any(|prefix| path.starts_with(prefix)) {
            // Whoever shows nothing must not be able to make up label values.
            let method = "health or reflection".to_owned();
            return Box::pin(told_at_its_end(inner, request, Told::of(method, Span::none(), Watch::none(), None)));
        }
        let path = path.to_owned();
        let peer = request.extensions().get::<Peer>();
        let from = peer.and_then(|peer| peer.address).map(|address| address.ip().to_canonical());
        let shown = Credential::of(request.headers(), peer.and_then(|peer| peer.certificate.as_ref()));
        let (access, mut request) = (self.access.clone(), request);
        Box::pin(async move {
            let caller = match access.admit(shown.clone(), &path, from).await {
                Ok(caller) => caller,
                Err(refused) => return Ok(refused.into_http()),
            };
            let operator = matches!(caller, Caller::Operator { .. });
            // Only of those who were let in.
            let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
            let head = match caller {
                // A node sends what it records, and nothing of what it has decided not to.
                Caller::Node => Head::kept(traceparent),
                Caller::Operator { .. } => Head::of_caller(traceparent),
            };
            let parent = traceparent.and_then(asobi_trace::parse);
            let span = span(head, &path);
            let watch = Watch::begin(!span.is_disabled());
            request.extensions_mut().insert(caller);
            // A process may call what a newer one would answer; its names are no label either.
            let method = if exists(&path) { path.trim_start_matches('/') } else { "other" };
            let told = Told::of(method.to_owned(), span, watch, parent);
            let answer = told_at_its_end(inner, request, told).await?;
            let ended = operator.then(|| access.ended(shown, from));
            Ok(match ended {
                Some(ended) => answer.map(|body| Body::new(Guarded::new(body, ended))),
                None => answer,
            })
        })
    }
}

fn span(head: Head, path: &str) -> Span {
    let (service, method) = parts(path);
    asobi_trace::root!(
        head,
        "grpc",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    )
}

async fn told_at_its_end<S>(mut inner: S, request: Request<Body>, mut told: Told) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let span = told.span.clone();
    let answer = async move { inner.call(request).await }.instrument(span).await;
    told.code = answer.as_ref().map_or(Code::Unavailable, code_of);
    answer
}

/// A call under way. What became of it is told when this is dropped, since one whose caller does not wait any longer ends so, too.
struct Told {
    method: String,
    span: Span,
    watch: Watch,
    /// As its caller names it, recorded or not.
    parent: Option<SpanContext>,
    begun: Instant,
    code: Code,
}

impl Told {
    fn of(method: String, span: Span, watch: Watch, parent: Option<SpanContext>) -> Self {
        Self { method, span, watch, parent, begun: Instant::now(), code: Code::Cancelled }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let ours = matches!(self.code, Code::Unknown | Code::Internal | Code::DataLoss);
        told(&self.span, self.code, ours);
        self.watch.end(ours.then_some("internal"), self.parent.take(), || {
            let (service, name) = parts(&self.method);
            let attributes = vec![
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service.to_owned()),
                KeyValue::new("rpc.method", name.to_owned()),
                KeyValue::new("rpc.grpc.status_code", i64::from(self.code as i32)),
            ];
            (self.method.clone(), SpanKind::Server, attributes)
        });
        let method = std::mem::take(&mut self.method);
        metrics::histogram!("asobi_grpc_server_seconds", "method" => method, "code" => name_of(self.code))
            .record(self.begun.elapsed().as_secs_f64());
    }
}

fn name_of(code: Code) -> &'static str {
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
