//! A cluster with real matchmakers, a real database and hosts that do as they are told.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use asobi_bus::{Bus, BusOptions, Subscription};
use asobi_cluster::{Node, NodeAddresses, NodeState, Role};
use asobi_proto::{
    bus::{TicketItem, Topic},
    match_v1::{
        AddPlayersRequest, AddPlayersResponse, AdoptMatchRequest, AdoptMatchResponse, CreateMatchRequest,
        CreateMatchResponse, DrainRequest, DrainResponse, MoveMatchRequest, MoveMatchResponse, ProbeRequest,
        ProbeResponse, RelayRequest, RelayResponse,
        match_host_service_server::{MatchHostService, MatchHostServiceServer},
    },
    mode::ModeSettings,
};
use asobi_service_kit::{Config, ConfigArgs, Readiness, Shutdown, config::load, server};
use asobi_store::{
    matches::{self, Fence},
    testing::TestDatabase,
    tickets::{self, Created},
};
use sqlx::Row as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, service::Routes};
use uuid::Uuid;

/// Long enough for a loaded machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(8);

pub struct Stage {
    pub database: TestDatabase,
    pub bus: Bus,
    events: Subscription,
    stop: CancellationToken,
}

impl Stage {
    pub async fn new() -> anyhow::Result<Self> {
        let database = TestDatabase::create().await?;
        let stop = CancellationToken::new();
        let direct = asobi_store::connect_options(&database.url, "asobi/stage", Duration::from_secs(10))?;
        let topics: Vec<Topic> =
            Topic::all_inbox().chain([Topic::Queue, Topic::Nodes, Topic::Leader, Topic::Modes]).collect();
        let options =
            BusOptions { pool: database.pool.clone(), direct, origin: "stage".into(), topics: topics.clone() };
        let bus = Bus::start(options, &stop, &TaskTracker::new());
        let events = bus.subscribe(&topics, 4_096);
        Ok(Self { database, bus, events, stop })
    }

    pub fn config(&self, set: &[&str]) -> Arc<Config> {
        let usual = ["grpc.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0", "node.lease_ms=2000"];
        let set = usual.iter().chain(set).map(|s| (*s).to_owned()).collect();
        let args = ConfigArgs { set, database_url: Some(self.database.url.clone()), ..ConfigArgs::default() };
        let mut config = load(&args).expect("the configuration is right");
        config.name_node("test");
        Arc::new(config)
    }

    /// Starts a matchmaker in this process.
    pub fn matchmaker(&self, set: &[&str]) -> Actor {
        let (config, shutdown) = (self.config(set), Shutdown::manual(GRACE));
        let running = tokio::spawn(asobi_matchmaker::run(config, shutdown.clone()));
        Actor { shutdown, running }
    }

    pub async fn host(&self, acts: Acts, modes: &[(&str, ModeSettings)]) -> anyhow::Result<Host> {
        Host::start(self.config(&[]), acts, announced(modes, "")).await
    }

    pub async fn host_in(&self, region: &str, modes: &[(&str, ModeSettings)]) -> anyhow::Result<Host> {
        Host::start(self.config(&[&format!("node.region={region}")]), Acts::Well, announced(modes, "")).await
    }

    /// A host that plays duels by that version of their script.
    pub async fn duelling(&self, acts: Acts, version: &str) -> anyhow::Result<Host> {
        Host::start(self.config(&[]), acts, announced(&[("duel", duel())], version)).await
    }

    /// The same, to be killed. Its lease is a long one: nobody waits for its end here.
    pub async fn mortal(&self, version: &str) -> anyhow::Result<Mortal> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (config, modes) = (self.config(&["node.lease_ms=60000"]), announced(&[("duel", duel())], version));
        let host = runtime.spawn(Host::start(config, Acts::Well, modes)).await;
        Ok(Mortal { host: host??, runtime })
    }

    /// A player who is there, with a session on that host's node.
    pub async fn player(&self, host: &Host) -> anyhow::Result<Uuid> {
        let player = Uuid::now_v7();
        sqlx::query("INSERT INTO sessions (session_id, player_id, node_id, incarnation) VALUES ($1, $2, $3, $4)")
            .bind(Uuid::now_v7())
            .bind(player)
            .bind(&host.id().0)
            .bind(host.id().1)
            .execute(&self.database.pool)
            .await?;
        Ok(player)
    }

    pub async fn queue(&self, player: Uuid, mode: &str, settings: &ModeSettings) -> anyhow::Result<Created> {
        let created =
            tickets::create(&self.database.pool, player, mode, &serde_json::json!({}), settings, 100_000).await?;
        self.bus
            .publisher()
            .publish(Topic::Queue, &TicketItem { ticket_id: created.ticket.id, gone: false, backfill: false })?;
        Ok(created)
    }

    /// Queues players, with what they say of themselves, by one ticket: as a party where they are several. Answers its id.
    pub async fn queue_as(&self, players: &[Uuid], mode: &str, properties: serde_json::Value) -> anyhow::Result<Uuid> {
        let head = Uuid::now_v7();
        let mut tx = self.database.pool.begin().await?;
        for (n, player) in players.iter().enumerate() {
            sqlx::query(
                "INSERT INTO tickets (id, player_id, mode, properties, state, expires_at, head)
                 VALUES ($1, $2, $3, $4, 'pending', now() + interval '1 minute', $5)",
            )
            .bind(if n == 0 { head } else { Uuid::now_v7() })
            .bind(player)
            .bind(mode)
            .bind(&properties)
            .bind((n > 0).then_some(head))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        self.bus.publisher().publish(Topic::Queue, &TicketItem { ticket_id: head, ..TicketItem::default() })?;
        Ok(head)
    }

    /// A match that runs on the host with these players, who know it; it asks for `wanted` more.
    pub async fn running(&self, host: &Host, mode: &str, players: &[Uuid], wanted: i32) -> anyhow::Result<Uuid> {
        let match_id = Uuid::now_v7();
        sqlx::query(
            "WITH made AS (INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, told)
               VALUES ($1, $2, 'running', $3, $4, 1, 1, $5, true) RETURNING id)
             INSERT INTO match_players (player_id, match_id) SELECT UNNEST($5), id FROM made",
        )
        .bind(match_id)
        .bind(mode)
        .bind(host.id().0)
        .bind(host.id().1)
        .bind(players)
        .execute(&self.database.pool)
        .await?;
        if wanted > 0 {
            asobi_store::backfill::request(&self.database.pool, match_id, wanted, &serde_json::json!({})).await?;
            let item = TicketItem { ticket_id: match_id, backfill: true, ..TicketItem::default() };
            self.bus.publisher().publish(Topic::Queue, &item)?;
        }
        Ok(match_id)
    }

    /// The frames in a player's inbox, in order.
    pub async fn frames(&self, player: Uuid) -> anyhow::Result<Vec<serde_json::Value>> {
        let rows = sqlx::query(
            "SELECT event->'f' AS frame FROM inbox_events WHERE player_id = $1 AND event ? 'f' ORDER BY seq",
        )
        .bind(player)
        .fetch_all(&self.database.pool)
        .await?;
        Ok(rows.iter().map(|row| row.get("frame")).collect())
    }

    /// Waits until a player's sessions have been sent to where their match runs now.
    pub async fn moved(&mut self, player: Uuid, match_id: Uuid) -> anyhow::Result<()> {
        self.until(&format!("{player} is moved with {match_id}"), async |stage: &Self| {
            let sql = "SELECT count(*) FROM inbox_events WHERE player_id = $1 AND event->'a'->>'k' = 'moved'
                         AND event->'a'->>'match_id' = $2 AND event->'f' IS NULL";
            let moves: i64 =
                sqlx::query_scalar(sql).bind(player).bind(match_id.to_string()).fetch_one(&stage.database.pool).await?;
            Ok((moves > 0).then_some(()))
        })
        .await
    }

    /// Waits until a player has been sent a frame of that type; answers its payload.
    pub async fn told(&mut self, player: Uuid, kind: &str) -> anyhow::Result<serde_json::Value> {
        self.until(&format!("{player} is sent {kind}"), async |stage: &Self| {
            let frames = stage.frames(player).await?;
            Ok(frames.into_iter().find(|f| f["type"] == kind).map(|mut f| f["payload"].take()))
        })
        .await
    }

    /// Looks whenever the bus stirs, and now and then for what is not announced.
    pub async fn until<T>(
        &mut self,
        what: &str,
        look: impl AsyncFn(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let looking = async {
            loop {
                if let Some(seen) = look(self).await? {
                    return Ok(seen);
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), self.events.next()).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| anyhow::bail!("in vain: {what}"))
    }

    pub async fn one<T>(&self, sql: &'static str, id: Uuid) -> anyhow::Result<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        Ok(sqlx::query_scalar(sql).bind(id).fetch_one(&self.database.pool).await?)
    }

    pub async fn leader(&self) -> anyhow::Result<(Option<String>, i64)> {
        let row = sqlx::query("SELECT node_id, term FROM leader").fetch_one(&self.database.pool).await?;
        Ok((row.get("node_id"), row.get("term")))
    }

    pub async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.database.drop_now().await
    }
}

/// A service in this process.
pub struct Actor {
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Actor {
    /// Drains it and waits for its end, which must be a clean one.
    pub async fn drain(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.running.await??;
        self.shutdown.finished().await;
        anyhow::ensure!(!self.shutdown.failed() && !self.shutdown.cut().is_cancelled(), "it did not end well");
        Ok(())
    }
}

/// How a host answers `CreateMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts {
    Well,
    /// It has no room.
    Refuses,
    /// It claims the match and never answers.
    Claims,
    /// It takes matches, and nobody who is to join one.
    TurnsAway,
    /// It takes matches, and does not say whom it seats in one that runs.
    IsSlow,
    /// Nobody listens at its address. It lives.
    IsDeaf,
}

fn announced(modes: &[(&str, ModeSettings)], version: &str) -> Vec<(String, ModeSettings, String)> {
    modes.iter().map(|(mode, settings)| ((*mode).to_owned(), settings.clone(), version.to_owned())).collect()
}

/// A host in a runtime of its own.
pub struct Mortal {
    pub host: Host,
    runtime: tokio::runtime::Runtime,
}

impl Mortal {
    /// All of its sockets close, as those of a killed process do, and it says goodbye to nobody.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}

pub struct Host {
    node: Arc<Node>,
    shutdown: Shutdown,
    calls: Arc<Mutex<Vec<CreateMatchRequest>>>,
    joins: Arc<Mutex<Vec<AddPlayersRequest>>>,
    moves: Arc<Mutex<Vec<MoveMatchRequest>>>,
}

impl Host {
    async fn start(
        config: Arc<Config>,
        acts: Acts,
        modes: Vec<(String, ModeSettings, String)>,
    ) -> anyhow::Result<Self> {
        let shutdown = Shutdown::manual(GRACE);
        let (grpc, grpc_addr) = server::bind("grpc.listen", "127.0.0.1:0").await?;
        let addresses = NodeAddresses { http: None, grpc: grpc_addr, metrics: grpc_addr };
        let node = Arc::new(Node::join(&config, Role::Match, addresses, [], &shutdown).await?);
        let (calls, joins, moves) = <(Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>)>::default();
        let service = Service {
            node: Arc::clone(&node),
            acts,
            calls: Arc::clone(&calls),
            joins: Arc::clone(&joins),
            moves: Arc::clone(&moves),
        };
        let readiness = Readiness::new();
        let routes = Routes::new(MatchHostServiceServer::new(service));
        if acts == Acts::IsDeaf {
            drop(grpc);
        } else {
            server::serve_grpc(grpc, routes, &readiness, node.access.clone(), &shutdown);
        }
        let me = node.membership.identity();
        asobi_store::modes::publish(&node.pool, &me.node_id, me.incarnation, &modes).await?;
        readiness.set_ready(true);
        node.membership.set_state(NodeState::Ready);
        node.bus.publisher().publish(Topic::Modes, &asobi_proto::bus::WakeItem {})?;
        Ok(Self { node, shutdown, calls, joins, moves })
    }

    pub fn id(&self) -> (String, i64) {
        let me = self.node.membership.identity();
        (me.node_id.clone(), me.incarnation)
    }

    pub fn calls(&self) -> Vec<CreateMatchRequest> {
        self.calls.lock().expect("no panic").clone()
    }

    /// Who it was asked to seat in running matches.
    pub fn joins(&self) -> Vec<AddPlayersRequest> {
        self.joins.lock().expect("no panic").clone()
    }

    /// The moves it was asked for.
    pub fn moves(&self) -> Vec<MoveMatchRequest> {
        self.moves.lock().expect("no panic").clone()
    }

    /// It leaves its matches behind.
    pub async fn die(self) {
        self.shutdown.begin();
        self.node.leave().await;
    }
}

struct Service {
    node: Arc<Node>,
    acts: Acts,
    calls: Arc<Mutex<Vec<CreateMatchRequest>>>,
    joins: Arc<Mutex<Vec<AddPlayersRequest>>>,
    moves: Arc<Mutex<Vec<MoveMatchRequest>>>,
}

#[tonic::async_trait]
impl MatchHostService for Service {
    async fn create_match(
        &self,
        request: Request<CreateMatchRequest>,
    ) -> Result<Response<CreateMatchResponse>, Status> {
        let request = request.into_inner();
        self.calls.lock().expect("no panic").push(request.clone());
        if self.acts == Acts::Refuses {
            return Err(Status::resource_exhausted("full"));
        }
        let me = self.node.membership.identity();
        let fence = Fence {
            match_id: Uuid::parse_str(&request.match_id).expect("an id"),
            host_node: me.node_id.clone(),
            host_incarnation: me.incarnation,
            epoch: request.epoch,
        };
        match matches::claim(&self.node.pool, &[(fence, String::new())]).await.expect("the database answers") {
            mine if mine.is_empty() => Err(Status::failed_precondition("not mine")),
            _ if self.acts == Acts::Claims => std::future::pending().await,
            _ => Ok(Response::new(CreateMatchResponse {})),
        }
    }

    async fn add_players(&self, request: Request<AddPlayersRequest>) -> Result<Response<AddPlayersResponse>, Status> {
        let request = request.into_inner();
        self.joins.lock().expect("no panic").push(request.clone());
        match self.acts {
            Acts::TurnsAway => Ok(Response::new(AddPlayersResponse { seated: Vec::new() })),
            Acts::IsSlow => Err(Status::unavailable("slow")),
            _ => Ok(Response::new(AddPlayersResponse { seated: request.players })),
        }
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { running: true, epoch: 1 }))
    }

    async fn adopt_match(&self, _: Request<AdoptMatchRequest>) -> Result<Response<AdoptMatchResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn move_match(&self, request: Request<MoveMatchRequest>) -> Result<Response<MoveMatchResponse>, Status> {
        self.moves.lock().expect("no panic").push(request.into_inner());
        Err(Status::failed_precondition("only asked for here"))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    type RelayStream = futures_util::stream::Empty<Result<RelayResponse, Status>>;

    async fn relay(&self, _: Request<tonic::Streaming<RelayRequest>>) -> Result<Response<Self::RelayStream>, Status> {
        Ok(Response::new(futures_util::stream::empty()))
    }
}

/// Settings of a mode for two.
pub fn duel() -> ModeSettings {
    ModeSettings::default()
}

/// Runs a play on a stage of its own.
pub async fn play<F: Future<Output = anyhow::Result<Stage>>>(play: impl FnOnce(Stage) -> F) -> anyhow::Result<()> {
    play(Stage::new().await?).await?.close().await
}
