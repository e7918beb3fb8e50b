//! Some nodes of one cluster in this process, each with everything of its own but the runtime.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use asobi_cluster::{Node, NodeAddresses, NodeState, Role};
use asobi_service_kit::{Config, Shutdown, server};
use asobi_session::{
    auth::{Account, Issuer, Verifier},
    hub::{self, Hub, HubDeps},
    link::{Edge, Entered, Entry, FrameKind, LinkError, MatchLink, MovedTo, NearHost, SessionNo},
};
use asobi_store::testing::TestDatabase;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::client::Client;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub db: TestDatabase,
    pub nodes: Vec<Place>,
}

/// One node that serves `/ws`.
pub struct Place {
    pub hub: Arc<Hub>,
    pub node: Node,
    pub issuer: Arc<Issuer>,
    pub verifier: Arc<Verifier>,
    pub ws: String,
    pub shutdown: Shutdown,
    /// The matches of this very process.
    pub mirror: Option<Arc<Mirror>>,
}

impl Cluster {
    pub async fn start(nodes: usize, sets: &[(&str, &str)]) -> anyhow::Result<Self> {
        let db = TestDatabase::create().await?;
        let mut cluster = Self { db, nodes: Vec::new() };
        for n in 0..nodes {
            let place = Place::start(&cluster.db, &format!("gw-{n}"), sets).await?;
            cluster.nodes.push(place);
        }
        Ok(cluster)
    }

    /// A new player.
    pub async fn player(&self, name: &str) -> anyhow::Result<Account> {
        Ok(self.nodes[0].issuer.register(name, "secret123", None).await?)
    }

    /// A new player, connected to a node.
    pub async fn connected(&self, name: &str, node: usize, capabilities: &[&str]) -> anyhow::Result<(Uuid, Client)> {
        let account = self.player(name).await?;
        let mut client = Client::open(&self.nodes[node].ws).await?;
        client.connect(&account.tokens.access_token, capabilities).await?;
        Ok((account.player_id, client))
    }

    pub async fn end(self) -> anyhow::Result<()> {
        for place in self.nodes {
            place.end().await;
        }
        self.db.drop_now().await
    }
}

impl Place {
    pub async fn start(db: &TestDatabase, node_id: &str, sets: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::make(db, node_id, sets, None).await
    }

    /// A node that runs matches itself: each shows every input as a state.
    pub async fn with_matches(db: &TestDatabase, node_id: &str) -> anyhow::Result<Self> {
        Self::make(db, node_id, &[], Some(Arc::default())).await
    }

    async fn make(
        db: &TestDatabase,
        node_id: &str,
        sets: &[(&str, &str)],
        matches: Option<Arc<Mirror>>,
    ) -> anyhow::Result<Self> {
        let own = [
            ("node.id", node_id),
            ("database.url", db.url.as_str()),
            ("chat.global_channels", "[\"lobby\",\"other\"]"),
            ("presence.grace_ms", "300"),
            ("node.lease_ms", "1500"),
        ];
        let config = Arc::new(Config::with_sets(own.iter().chain(sets).copied())?);
        let shutdown = Shutdown::manual(Duration::from_secs(8));
        let (http, address) = server::bind("http.listen", "127.0.0.1:0").await?;
        let nowhere = "127.0.0.1:1".parse()?;
        let addresses = NodeAddresses { http: Some(address), grpc: nowhere, metrics: nowhere };
        let node = Node::join(&config, Role::Gateway, addresses, hub::topics(), &shutdown).await?;
        let verifier = Verifier::start(node.pool.clone(), &node.bus, &config.auth, &shutdown).await?;
        let publisher = node.bus.publisher().clone();
        let issuer = Issuer::start(node.pool.clone(), publisher, Arc::clone(&verifier), &config.auth).await?;
        let identity = node.membership.identity();
        let near = matches.clone().map(|link| NearHost {
            node_id: identity.node_id.clone(),
            incarnation: identity.incarnation,
            link,
        });
        let hub = Hub::start(HubDeps {
            config,
            pool: node.pool.clone(),
            bus: node.bus.clone(),
            membership: Arc::clone(&node.membership),
            directory: Arc::clone(&node.directory),
            channels: node.channels.clone(),
            verifier: Arc::clone(&verifier),
            near,
            shutdown: shutdown.clone(),
        });
        if let Some(matches) = &matches {
            let _ = matches.edge.set(Arc::clone(&hub) as Arc<dyn Edge>);
        }
        let mut listening = node.bus.connected();
        tokio::time::timeout(PATIENCE, listening.wait_for(|yes| *yes)).await??;
        server::serve_http(http, hub.router(), &shutdown);
        node.membership.set_state(NodeState::Ready);
        Ok(Self { hub, node, issuer, verifier, ws: format!("ws://{address}/ws"), shutdown, mirror: matches })
    }

    pub async fn end(self) {
        self.shutdown.begin();
        self.hub.close_all(Duration::ZERO, Duration::from_secs(5)).await;
        self.shutdown.finished().await;
        self.node.leave().await;
    }
}

/// Matches of this process that show every input as a state.
#[derive(Default)]
pub struct Mirror {
    edge: OnceLock<Arc<dyn Edge>>,
    state: Mutex<Reflection>,
}

#[derive(Default)]
struct Reflection {
    attached: HashMap<SessionNo, Uuid>,
    /// The last input that each session's match took.
    numbers: HashMap<SessionNo, u64>,
    /// Every input that was taken: its number and what it said.
    taken: Vec<(u64, String)>,
    away: HashSet<Uuid>,
}

impl Mirror {
    /// The numbers of all inputs that were taken, in order.
    pub fn taken(&self) -> Vec<u64> {
        self.state.lock().taken.iter().map(|input| input.0).collect()
    }

    /// Takes no more inputs for a match, and answers the last of each session.
    pub fn freeze(&self, match_id: Uuid) -> HashMap<SessionNo, u64> {
        let mut state = self.state.lock();
        state.away.insert(match_id);
        state.numbers.clone()
    }

    /// Goes on with a match that another host has frozen.
    pub fn adopt(&self, numbers: impl IntoIterator<Item = (SessionNo, u64)>) {
        self.state.lock().numbers.extend(numbers);
    }

    /// Tells the node that a match of its sessions runs elsewhere.
    pub fn moved(&self, to: &MovedTo) {
        let gone: Vec<SessionNo> = {
            let mut state = self.state.lock();
            state.attached.extract_if(|_, match_id| *match_id == to.match_id).map(|(session, _)| session).collect()
        };
        if let Some(edge) = self.edge.get() {
            edge.moved(&gone, to);
        }
    }
}

#[async_trait::async_trait]
impl MatchLink for Mirror {
    async fn enter(&self, entry: Entry) -> Result<Entered, LinkError> {
        let mut state = self.state.lock();
        if state.away.contains(&entry.match_id) {
            return Err(LinkError::Refused { reason: "match_not_found".into(), refused_reason: None });
        }
        state.attached.insert(entry.session, entry.match_id);
        let applied = state.numbers.get(&entry.session).copied().unwrap_or(0);
        Ok(Entered { view: format!(r#"{{"match_id":"{}"}}"#, entry.match_id), applied })
    }

    async fn leave(&self, _: SessionNo) -> Result<(), LinkError> {
        Ok(())
    }

    fn input(&self, session: SessionNo, number: u64, payload: bytes::Bytes) -> Result<(), LinkError> {
        let text = String::from_utf8_lossy(&payload).into_owned();
        let frame = asobi_proto::frame::push_raw("match.state", &text);
        {
            let mut state = self.state.lock();
            let attached = state.attached.get(&session).is_some_and(|match_id| !state.away.contains(match_id));
            if !attached || state.numbers.get(&session).is_some_and(|last| *last >= number) {
                return Ok(());
            }
            state.numbers.insert(session, number);
            state.taken.push((number, text));
        }
        self.edge.get().ok_or(LinkError::Unavailable)?.deliver(&[session], FrameKind::State, frame.into());
        Ok(())
    }

    fn detach(&self, session: SessionNo, _: bool) {
        self.state.lock().attached.remove(&session);
    }
}
