//! What the protocol is, for programs and for people: `/openapi.json` is made from the routes, `/asyncapi.json` from the
//! frames, and `/docs` shows both. Compiled in, nothing from elsewhere.

mod describe;
pub(crate) mod schemas;

use axum::{
    Router,
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::Value;

pub(crate) use describe::described;

use crate::routes::Shared;

/// Nothing from elsewhere, nothing inline, and no requests but for the documents.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The description of the REST side.
#[must_use]
pub fn openapi() -> Value {
    described(crate::routes::all().into_openapi())
}

pub(crate) fn routes(openapi: &Value) -> Router<Shared> {
    let documents = [("/openapi.json", openapi), ("/asyncapi.json", &asobi_session::asyncapi())]
        .map(|(path, document)| (path, Bytes::from(document.to_string())));
    let pages = [
        ("/docs", "text/html; charset=utf-8", include_str!("index.html")),
        ("/docs/view.js", "text/javascript; charset=utf-8", include_str!("view.js")),
        ("/docs/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ]
    .map(|(path, kind, text)| (path, kind, Bytes::from_static(text.as_bytes())));
    let files = documents.into_iter().map(|(path, text)| (path, "application/json", text)).chain(pages);
    files.fold(Router::new(), |router, (path, kind, text)| router.route(path, get(move || file(kind, text))))
}

#[expect(clippy::unused_async, reason = "a handler")]
async fn file(kind: &'static str, text: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
