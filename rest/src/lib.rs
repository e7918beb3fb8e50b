//! The REST side of the client protocol, served by every node that serves `/ws`.

mod body;
mod docs;
mod error;
mod extract;
mod limits;
mod listeners;
mod middleware;
mod page;
mod render;
mod routes;
mod social;

use std::sync::Arc;

use asobi_cluster::Directory;
use asobi_service_kit::{Config, address::Proxies, grpc::Channels, health::Readiness};
use asobi_session::{
    auth::{Issuer, Verifier},
    hub::Hub,
};
use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method},
};
use sqlx::PgPool;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

pub use docs::openapi;
pub use listeners::Listeners;
pub use routes::board_entry;

/// What the routes need of the process they are served by.
pub struct RestDeps {
    pub config: Arc<Config>,
    pub node_id: String,
    pub pool: PgPool,
    pub directory: Arc<Directory>,
    pub channels: Channels,
    pub verifier: Arc<Verifier>,
    pub issuer: Arc<Issuer>,
    pub hub: Arc<Hub>,
    pub readiness: Readiness,
}

/// What every route shares.
pub(crate) struct Rest {
    config: Arc<Config>,
    node_id: String,
    pool: PgPool,
    verifier: Arc<Verifier>,
    issuer: Arc<Issuer>,
    hub: Arc<Hub>,
    readiness: Readiness,
    social: social::Social,
    limits: limits::Limits,
    proxies: Proxies,
    started: std::time::Instant,
}

/// All that a node serves to clients: `/api/v1/*`, `/health`, `/ready`, `/live`, `/docs` and its documents unless `http.docs`
/// is off, `/` where the page is enabled, and the hub's `/ws`. Served with `ConnectInfo<SocketAddr>`.
pub fn router(deps: RestDeps) -> Router {
    let cors = cors(&deps.config.http.cors_origins);
    let (page, docs) = (deps.config.page.enabled, deps.config.http.docs);
    // Beside the API's guard and CORS, which are none of a socket's business.
    let sockets = deps.hub.router().method_not_allowed_fallback(|| async { error::ApiError::no_method() });
    let rest = Arc::new(Rest {
        limits: limits::Limits::new(&deps.config.limits, Arc::clone(&deps.directory)),
        social: social::Social::new(deps.directory, deps.channels, deps.config.social.timeout()),
        proxies: Proxies::new(&deps.config.http.trusted_proxies),
        config: deps.config,
        node_id: deps.node_id,
        pool: deps.pool,
        verifier: deps.verifier,
        issuer: deps.issuer,
        hub: deps.hub,
        readiness: deps.readiness,
        started: std::time::Instant::now(),
    });
    let (mut routes, described) = routes::all().split_for_parts();
    if docs {
        routes = routes.merge(docs::routes(&docs::described(described)));
    }
    if page {
        routes = routes.merge(page::routes());
    }
    let routes = routes
        .route_layer(axum::middleware::from_fn(middleware::route))
        .fallback(|| async { error::ApiError::no_route() })
        .method_not_allowed_fallback(|| async { error::ApiError::no_method() })
        .with_state(Arc::clone(&rest));
    // A router around the router: what the guard refuses shows nothing of the routes, not even an `allow` header.
    Router::new()
        .fallback_service(routes)
        .layer(axum::middleware::from_fn_with_state(rest, middleware::guard))
        .layer(cors)
        .merge(sockets)
        .layer(axum::middleware::from_fn(middleware::trace))
}

/// Open by default; closed to a list where `http.cors_origins` has one.
fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.is_empty() || origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let exposed = ["x-correlation-id", "retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS])
        // Not a wildcard, which would not cover the authorization header.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(std::time::Duration::from_secs(3_600))
}
