//! One node's REST side over a fresh database, asked without a network.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use asobi_cluster::{Node, NodeAddresses, Role};
use asobi_rest::RestDeps;
use asobi_service_kit::{Config, Shutdown, health::Readiness};
use asobi_session::{
    auth::{Issuer, Verifier},
    hub::{self, Hub, HubDeps},
};
use asobi_store::testing::TestDatabase;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use serde_json::Value;
use tokio::sync::Mutex;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Play {
    pub db: TestDatabase,
    pub router: Router,
    pub verifier: Arc<Verifier>,
    pub readiness: Readiness,
    config: Config,
    shutdown: Shutdown,
    nodes: Mutex<Vec<(Node, Arc<Hub>)>>,
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
        let database = [("database.url", db.url.as_str()), ("database.max_connections", "4")];
        let config = Config::with_sets(off.iter().chain(&guest).chain(&database).chain(sets).copied())?;
        let shutdown = Shutdown::manual(Duration::from_secs(5));
        let Joined { router, verifier, readiness, node, hub } = join(&config, "test-0", &shutdown).await?;
        let nodes = Mutex::new(vec![(node, hub)]);
        Ok(Self { db, router, verifier, readiness, config, shutdown, nodes })
    }

    /// Another node of the same cluster.
    pub async fn another(&self) -> anyhow::Result<(Router, Arc<Verifier>)> {
        let mut nodes = self.nodes.lock().await;
        let joined = join(&self.config, &format!("test-{}", nodes.len()), &self.shutdown).await?;
        nodes.push((joined.node, joined.hub));
        Ok((joined.router, joined.verifier))
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
        for (node, hub) in self.nodes.into_inner() {
            hub.close_all(Duration::ZERO, Duration::from_secs(3)).await;
            node.leave().await;
        }
        self.shutdown.finished().await;
        self.db.drop_now().await
    }
}

struct Joined {
    router: Router,
    verifier: Arc<Verifier>,
    readiness: Readiness,
    node: Node,
    hub: Arc<Hub>,
}

async fn join(config: &Config, name: &str, shutdown: &Shutdown) -> anyhow::Result<Joined> {
    let mut config = config.clone();
    config.node.id = name.into();
    let config = Arc::new(config);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let addresses = NodeAddresses { http: Some(nowhere), grpc: nowhere, metrics: nowhere };
    let node = Node::join(&config, Role::Gateway, addresses, hub::topics(), shutdown).await?;
    let mut connected = node.bus.connected();
    tokio::time::timeout(PATIENCE, connected.wait_for(|yes| *yes)).await??;
    let verifier = Verifier::start(node.pool.clone(), &node.bus, &config.auth, shutdown).await?;
    let publisher = node.bus.publisher().clone();
    let issuer = Issuer::start(node.pool.clone(), publisher, Arc::clone(&verifier), &config.auth).await?;
    let hub = Hub::start(HubDeps {
        config: Arc::clone(&config),
        pool: node.pool.clone(),
        bus: node.bus.clone(),
        membership: Arc::clone(&node.membership),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier: Arc::clone(&verifier),
        near: None,
        shutdown: shutdown.clone(),
    });
    let readiness = Readiness::new();
    let router = asobi_rest::router(RestDeps {
        config,
        node_id: name.into(),
        pool: node.pool.clone(),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier: Arc::clone(&verifier),
        issuer,
        hub: Arc::clone(&hub),
        readiness: readiness.clone(),
    });
    Ok(Joined { router, verifier, readiness, node, hub })
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
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let response = router.clone().oneshot(request).await.expect("a router never fails");
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    crate::documents::check(&method, &path, parts.status.as_u16(), &body);
    Answer { status: parts.status, headers: parts.headers, body }
}
