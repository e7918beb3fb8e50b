//! The page to play on, served where `page.enabled`: one HTML file, one script, one style sheet, compiled in. It is also
//! the first example of a client: read `app.js`.

use axum::{
    Router,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::routes::Shared;

/// Nothing from elsewhere, nothing inline; sockets and requests to any node of the cluster, because matches move.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", include_str!("index.html"))))
        .route("/app.js", get(|| file("text/javascript; charset=utf-8", include_str!("app.js"))))
        .route("/style.css", get(|| file("text/css; charset=utf-8", include_str!("style.css"))))
}

#[expect(clippy::unused_async, reason = "a handler")]
async fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, text).into_response()
}
