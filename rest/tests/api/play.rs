//! One node's REST side over a fresh database, asked without a network.

use std::{str::FromStr, sync::Arc, time::Duration};

use asobi_bus::{Bus, BusOptions};
use asobi_cluster::Directory;
use asobi_proto::bus::Topic;
use asobi_rest::RestDeps;
use asobi_service_kit::{Config, Shutdown, grpc::Channels, health::Readiness};
use asobi_session::auth::{Issuer, Verifier};
use asobi_store::testing::TestDatabase;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

pub struct Play {
    pub db: TestDatabase,
    pub router: Router,
    pub verifier: Arc<Verifier>,
    pub readiness: Readiness,
    config: Arc<Config>,
    shutdown: Shutdown,
    stop: CancellationToken,
}

/// An answer, as far as tests look at it.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }
}

impl Play {
    pub async fn begin(sets: &[(&str, &str)]) -> anyhow::Result<Self> {
        let db = TestDatabase::create().await?;
        // Limits are off unless a test is about them.
        let off =
            ["limits.register_per_second", "limits.auth_per_second", "limits.requests_per_second"].map(|k| (k, "0"));
        let guest = [("auth.guest", "true"), ("chat.global_channels", "[\"lobby\"]")];
        let config = Config::with_sets(off.iter().chain(&guest).chain(sets).copied())?;
        let shutdown = Shutdown::manual(Duration::from_secs(5));
        let stop = CancellationToken::new();
        let (router, verifier, readiness) = node(&db, Arc::new(config.clone()), &shutdown, &stop).await?;
        Ok(Self { db, router, verifier, readiness, config: Arc::new(config), shutdown, stop })
    }

    /// Another node of the same cluster.
    pub async fn another(&self) -> anyhow::Result<(Router, Arc<Verifier>)> {
        let (router, verifier, _) = node(&self.db, Arc::clone(&self.config), &self.shutdown, &self.stop).await?;
        Ok((router, verifier))
    }

    pub async fn ask(&self, method: &str, path: &str, token: &str, body: impl Into<Option<Value>>) -> Answer {
        let text = body.into().map(|body: Value| body.to_string());
        self.send(request(method, path, token, text.as_deref())).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, "", body).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    pub async fn register(&self, username: &str) -> Answer {
        let body = serde_json::json!({"username": username, "password": "secret123"});
        let answer = self.post("/api/v1/auth/register", body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
    }

    pub async fn end(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.stop.cancel();
        self.shutdown.finished().await;
        self.db.drop_now().await
    }
}

async fn node(
    db: &TestDatabase,
    config: Arc<Config>,
    shutdown: &Shutdown,
    stop: &CancellationToken,
) -> anyhow::Result<(Router, Arc<Verifier>, Readiness)> {
    let options = BusOptions {
        pool: db.pool.clone(),
        direct: PgConnectOptions::from_str(&db.url)?,
        origin: format!("test-{}", uuid::Uuid::now_v7()),
        topics: vec![Topic::Revoked, Topic::Queue],
    };
    let bus = Bus::start(options, stop, &TaskTracker::new());
    let mut connected = bus.connected();
    tokio::time::timeout(Duration::from_secs(20), connected.wait_for(|yes| *yes)).await??;
    let verifier = Verifier::start(db.pool.clone(), &bus, &config.auth, shutdown).await?;
    let publisher = bus.publisher().clone();
    let issuer = Issuer::start(db.pool.clone(), publisher.clone(), Arc::clone(&verifier), &config.auth).await?;
    let readiness = Readiness::new();
    let router = asobi_rest::router(RestDeps {
        config,
        node_id: "test".into(),
        pool: db.pool.clone(),
        publisher,
        directory: Directory::load(&db.pool).await?,
        channels: Channels::new("key"),
        verifier: Arc::clone(&verifier),
        issuer,
        readiness: readiness.clone(),
    });
    Ok((router, verifier, readiness))
}

pub fn request(method: &str, path: &str, token: &str, body: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(path);
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(body.map_or_else(Body::empty, |text| Body::from(text.to_owned()))).expect("a request")
}

pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("a router never fails");
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: parts.status, headers: parts.headers, body }
}
