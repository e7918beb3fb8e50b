//! What every request passes: its span and correlation id; under `/api/v1` the rate limit, the deadline, the token and
//! the bound of its body, in this order and before routing decides anything.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use asobi_proto::error::ErrorCode;
use asobi_service_kit::{address::limited_as, telemetry};
use asobi_session::auth::Claims;
use asobi_trace::{Head, KeyValue, SpanKind, Watch};
use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;

use crate::{
    Rest, body,
    error::{ApiError, Result},
    limits,
};

pub(crate) const PREFIX: &str = "/api/v1";
/// How long a request may take; longer than any bound within it.
const DEADLINE: Duration = Duration::from_secs(15);

/// The paths under the prefix that need no token.
pub(crate) const OPEN: [&str; 5] = ["/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/guest"];

/// Opens the request's span, in the caller's trace if it names one, and tells the trace's id with the answer.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let named = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let parent = named.and_then(asobi_trace::parse);
    let span = span(Head::of_client(named), &request);
    let watch = Watch::begin(!span.is_disabled());
    let recorded = asobi_trace::context_of(&span);
    let trace_id = match recorded.as_ref().or(parent.as_ref()) {
        Some(context) => context.trace_id().to_string(),
        None => Uuid::new_v4().simple().to_string(),
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = std::time::Instant::now();
    let answering = telemetry::with_trace_id(&trace_id, next.run(request));
    let mut response = answering.instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    let error = response.status().is_server_error().then_some("server_error");
    if error.is_some() {
        span.record("otel.status_code", "ERROR");
    }
    watch.end(error, parent, || {
        let attributes = vec![
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("url.path", path),
            KeyValue::new("http.response.status_code", i64::from(status)),
            KeyValue::new("asobi.correlation_id", trace_id.clone()),
        ];
        (method.to_string(), SpanKind::Server, attributes)
    });
    observe(&method, status, started.elapsed());
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert("x-correlation-id", value);
    }
    response
}

fn span(head: Head, request: &Request) -> Span {
    asobi_trace::root!(
        head,
        "http",
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %request.method(),
        http.route = Empty,
        http.response.status_code = Empty,
        // Without the query, which may hold a token.
        url.path = request.uri().path(),
    )
}

/// Names the request's span, once it is known which route it takes.
pub(crate) async fn route(request: Request, next: Next) -> Response {
    if asobi_trace::recording()
        && let Some(route) = request.extensions().get::<MatchedPath>()
    {
        let span = Span::current();
        span.record("http.route", route.as_str());
        asobi_trace::rename(&span, format!("{} {}", request.method(), route.as_str()));
    }
    next.run(request).await
}

// Method and status only: paths hold ids, which would make as many series as there are players.
fn observe(method: &Method, status: u16, took: Duration) {
    let labels = [("method", named(method).to_owned()), ("status", status.to_string())];
    metrics::histogram!("asobi_http_request_seconds", &labels).record(took.as_secs_f64());
}

/// Methods of the client's own making have one name.
fn named(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// The gate of the API.
pub(crate) async fn guard(State(rest): State<Arc<Rest>>, request: Request, next: Next) -> Response {
    let Some(path) = api_path(request.uri().path()) else {
        return next.run(request).await;
    };
    let client = limited_as(client(&rest, &request));
    let left = match rest.limits.check(path, client) {
        Ok(left) => left,
        Err(refused) => {
            let mut response = refused.error().into_response();
            limits::write(refused.left(), response.headers_mut());
            return response;
        }
    };
    let mut response = match tokio::time::timeout(DEADLINE, admit(&rest, request, next)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(_) => ApiError::not_ready("This took too long; please try again.").into_response(),
    };
    if let Some(left) = left {
        limits::write(left, response.headers_mut());
    }
    response
}

/// The peer, or whom trusted proxies say it stands for.
fn client(rest: &Rest, request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
    rest.proxies.client(peer, request.headers())
}

/// The path below the prefix, of a request to the API.
pub(crate) fn api_path(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

async fn admit(rest: &Rest, mut request: Request, next: Next) -> Result<Response> {
    let open = api_path(request.uri().path()).is_some_and(|path| OPEN.contains(&path));
    if !open {
        let token = bearer(request.headers()).ok_or_else(ApiError::unauthenticated)?;
        let claims = rest.verifier.verify(token).await?;
        request.extensions_mut().insert(Caller(claims));
    }
    if body::announces_too_much(request.headers()) {
        body::read(request.into_body()).await?;
        return Err(ApiError::new(ErrorCode::PAYLOAD_TOO_LARGE, "The body is larger than 1 MiB."));
    }
    Ok(next.run(request).await)
}

/// The access token of the authorization header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who calls; there on every route that needs a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub Claims);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        parts.extensions.get::<Self>().copied().ok_or_else(ApiError::unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_paths_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer abc"));
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(bearer(&headers), None);
        assert_eq!(api_path("/api/v1/friends"), Some("/friends"));
        assert_eq!(api_path("/api/v1"), Some(""));
        assert_eq!(api_path("/api/v10"), None);
    }
}
