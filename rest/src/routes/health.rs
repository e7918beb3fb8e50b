//! Probes, for load balancers and people. No token, no rate limit.

use std::time::Duration;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared};
use crate::docs::schemas;

const PROBE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready)).routes(routes!(live))
}

#[utoipa::path(
    get,
    path = "/live",
    tag = "probes",
    summary = "Whether this process runs",
    responses((status = 200, body = schemas::Alive)),
)]
async fn live() -> Json {
    axum::Json(json!({"status": "alive"}))
}

#[utoipa::path(
    get,
    path = "/ready",
    tag = "probes",
    summary = "Whether this node takes players",
    responses((status = 200, body = schemas::Readiness), (status = 503, body = schemas::Readiness)),
)]
async fn ready(State(rest): State<Shared>) -> Response {
    if rest.readiness.ready() {
        return axum::Json(json!({"status": "ready"})).into_response();
    }
    let body = json!({"status": "not_ready", "reasons": rest.readiness.reasons()});
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
}

/// What this node depends on, and how that is.
#[utoipa::path(
    get,
    path = "/health",
    tag = "probes",
    summary = "What this node depends on, and how that is",
    responses((status = 200, body = schemas::Health), (status = 503, body = schemas::Health)),
)]
async fn health(State(rest): State<Shared>) -> Response {
    let probe = asobi_store::within(PROBE, async {
        sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&rest.pool).await?;
        Ok(())
    });
    let database = if probe.await.is_ok() { "healthy" } else { "unhealthy" };
    let social = if rest.social.is_there() { "healthy" } else { "unhealthy" };
    let healthy = database == "healthy";
    let body = json!({
        "status": if healthy { "healthy" } else { "unhealthy" },
        "node": rest.node_id,
        "sockets": rest.hub.session_count(),
        "uptime_seconds": rest.started.elapsed().as_secs(),
        "dependencies": {
            "primary_db": {"name": "primary_db", "status": database, "connections": rest.pool.size()},
            "social_service": {"name": "social_service", "status": social},
        },
    });
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}
