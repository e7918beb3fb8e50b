//! A match host that speaks the relay's side of the contract and nothing else: it lets everybody in, shows what came, and
//! says what it is told to.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use asobi_cluster::{Node, NodeAddresses, NodeState, Role};
use asobi_proto::match_v1::{
    AdoptMatchRequest, AdoptMatchResponse, CreateMatchRequest, CreateMatchResponse, DrainRequest, DrainResponse,
    FrameKind, MoveMatchRequest, MoveMatchResponse, ProbeRequest, ProbeResponse, RelayApplied, RelayDeliver,
    RelayDropped, RelayEntered, RelayLeft, RelayMoved, RelayRequest, RelayResponse,
    match_host_service_server::{MatchHostService, MatchHostServiceServer},
    relay_request::Kind,
    relay_response,
};
use asobi_service_kit::{Config, Readiness, Shutdown, server};
use asobi_store::testing::TestDatabase;
use parking_lot::Mutex;
use sqlx::Executor as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use uuid::Uuid;

type Outgoing = mpsc::Sender<Result<RelayResponse, Status>>;

/// The last input of each session that a match took, by the session's node and number.
pub type Numbers = HashMap<(String, u64), u64>;

#[derive(Clone)]
pub struct Host {
    state: Arc<Mutex<State>>,
    inputs: mpsc::Sender<(Uuid, u64, String)>,
    pool: sqlx::PgPool,
}

#[derive(Default)]
struct State {
    streams: Vec<Outgoing>,
    /// Attached sessions: stream, number, player, match.
    attached: Vec<(usize, u64, Uuid, Uuid)>,
    detached: usize,
    created: HashMap<Uuid, i64>,
    /// Who is at the other end of each stream: `node_id#incarnation`.
    origins: HashMap<usize, String>,
    /// Everybody who was ever attached: stream, number, match.
    ever: Vec<(usize, u64, Uuid)>,
    numbers: HashMap<Uuid, Numbers>,
    /// Matches that it does not know.
    away: HashSet<Uuid>,
    refused: usize,
    /// It hears nothing and says nothing, and its streams stand.
    stopped: bool,
}

pub struct Running {
    pub host: Host,
    pub inputs: mpsc::Receiver<(Uuid, u64, String)>,
    pub node: Node,
    pub shutdown: Shutdown,
}

impl Running {
    pub async fn start(db: &TestDatabase) -> anyhow::Result<Self> {
        Self::named(db, "host-0").await
    }

    pub async fn named(db: &TestDatabase, node_id: &str) -> anyhow::Result<Self> {
        let sets = [("node.id", node_id), ("database.url", db.url.as_str())];
        let config = Config::with_sets(sets)?;
        let shutdown = Shutdown::manual(Duration::from_secs(2));
        let (listener, grpc) = server::bind("grpc.listen", "127.0.0.1:0").await?;
        let http = Some("127.0.0.1:2".parse()?);
        let node = Node::join(&config, Role::Match, NodeAddresses { http, grpc, metrics: grpc }, [], &shutdown).await?;
        let (sender, inputs) = mpsc::channel(1_000);
        let host = Host { state: Arc::default(), inputs: sender, pool: node.pool.clone() };
        let readiness = Readiness::new();
        let routes = Routes::new(MatchHostServiceServer::new(host.clone()));
        server::serve_grpc(listener, routes, &readiness, node.access.clone(), &shutdown);
        node.membership.set_state(NodeState::Ready);
        Ok(Self { host, inputs, node, shutdown })
    }

    /// A running match with these players seated.
    pub async fn seat(&self, mode: &str, players: &[Uuid]) -> anyhow::Result<Uuid> {
        let id = Uuid::now_v7();
        let identity = self.node.membership.identity();
        let mut rows = format!(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ('{id}', '{mode}', 'running', '{}', {}, 1, 0, '{{}}');",
            identity.node_id, identity.incarnation
        );
        for player in players {
            rows += &format!("INSERT INTO match_players (player_id, match_id) VALUES ('{player}', '{id}');");
        }
        self.node.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
        Ok(id)
    }

    /// Gives a match to this host, as its row says it then, with what its last host hands over.
    pub async fn adopt(&self, match_id: Uuid, epoch: i64, numbers: Numbers) -> anyhow::Result<()> {
        {
            let mut state = self.host.state.lock();
            state.away.remove(&match_id);
            state.numbers.insert(match_id, numbers);
        }
        self.take_row(match_id, epoch).await
    }

    /// The row names this host from now on.
    pub async fn take_row(&self, match_id: Uuid, epoch: i64) -> anyhow::Result<()> {
        let identity = self.node.membership.identity();
        let row = format!(
            "UPDATE matches SET host_node = '{}', host_incarnation = {}, epoch = {epoch}, failovers = 1 WHERE id = '{match_id}'",
            identity.node_id, identity.incarnation
        );
        self.node.pool.execute(sqlx::AssertSqlSafe(row)).await?;
        Ok(())
    }

    /// Moves a match to another host, live.
    pub async fn hand_over(&self, match_id: Uuid, to: &Self, epoch: i64) -> anyhow::Result<()> {
        let numbers = self.host.freeze(match_id);
        to.adopt(match_id, epoch, numbers).await?;
        let identity = to.node.membership.identity();
        self.host.moved(match_id, &identity.node_id, identity.incarnation, epoch);
        Ok(())
    }

    pub async fn end(self) {
        self.shutdown.begin();
        self.host.state.lock().streams.clear();
        self.shutdown.finished().await;
        self.node.leave().await;
    }
}

impl Host {
    /// Sends one frame to everybody in a match: one message per stream.
    pub fn broadcast(&self, match_id: Uuid, kind: FrameKind, frame: &str) {
        let state = self.state.lock();
        for (n, stream) in state.streams.iter().enumerate() {
            let sessions: Vec<u64> =
                state.attached.iter().filter(|a| a.0 == n && a.3 == match_id).map(|a| a.1).collect();
            if !sessions.is_empty() {
                let deliver = RelayDeliver { sessions, kind: kind.into(), frame: frame.to_owned().into() };
                send(stream, relay_response::Kind::Deliver(deliver));
            }
        }
    }

    pub fn finish(&self, match_id: Uuid) {
        let mut state = self.state.lock();
        let gone: Vec<_> = state.attached.extract_if(.., |a| a.3 == match_id).collect();
        for (stream, session, ..) in gone {
            let dropped = RelayDropped { sessions: vec![session], match_id: match_id.to_string() };
            send(&state.streams[stream], relay_response::Kind::Dropped(dropped));
        }
    }

    /// Takes no more inputs for a match, and answers those that it took.
    pub fn freeze(&self, match_id: Uuid) -> Numbers {
        let mut state = self.state.lock();
        state.away.insert(match_id);
        state.numbers.get(&match_id).cloned().unwrap_or_default()
    }

    /// Tells everybody who is attached that the match runs elsewhere.
    pub fn moved(&self, match_id: Uuid, to_node: &str, to_incarnation: i64, epoch: i64) {
        let mut state = self.state.lock();
        let gone: Vec<_> = state.attached.extract_if(.., |a| a.3 == match_id).collect();
        for (stream, session, ..) in gone {
            let moved = RelayMoved {
                sessions: vec![session],
                match_id: match_id.to_string(),
                to_node: to_node.to_owned(),
                to_incarnation,
                epoch,
            };
            send(&state.streams[stream], relay_response::Kind::Moved(moved));
        }
    }

    /// A checkpoint: everybody attached hears which inputs are safe. Answers what it has.
    pub fn save(&self, match_id: Uuid) -> Numbers {
        let state = self.state.lock();
        let numbers = state.numbers.get(&match_id).cloned().unwrap_or_default();
        for (stream, session, _, _) in state.attached.iter().filter(|a| a.3 == match_id) {
            let Some(origin) = state.origins.get(stream) else { continue };
            let number = numbers.get(&(origin.clone(), *session)).copied().unwrap_or(0);
            let applied = RelayApplied { sessions: vec![*session], numbers: vec![number] };
            send(&state.streams[*stream], relay_response::Kind::Applied(applied));
        }
        numbers
    }

    /// From now on it does not know this match.
    pub fn forget(&self, match_id: Uuid) {
        let mut state = self.state.lock();
        state.away.insert(match_id);
        state.attached.retain(|a| a.3 != match_id);
    }

    pub fn knows(&self, match_id: Uuid) {
        self.state.lock().away.remove(&match_id);
    }

    /// How often it did not know a match.
    pub fn refused(&self) -> usize {
        self.state.lock().refused
    }

    /// As a process that is stopped, or whose network swallows everything: its connections stand.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
    }

    /// Back to life, it speaks to everybody it ever knew, as one that believes it still has the match, and then gives it up.
    pub fn haunt(&self, match_id: Uuid, frame: &str) {
        let mut state = self.state.lock();
        state.stopped = false;
        for (stream, session, _) in state.ever.iter().filter(|e| e.2 == match_id) {
            let deliver = RelayDeliver {
                sessions: vec![*session],
                kind: FrameKind::Event.into(),
                frame: frame.to_owned().into(),
            };
            send(&state.streams[*stream], relay_response::Kind::Deliver(deliver));
            let dropped = RelayDropped { sessions: vec![*session], match_id: match_id.to_string() };
            send(&state.streams[*stream], relay_response::Kind::Dropped(dropped));
        }
    }

    /// Breaks every stream.
    pub fn cut(&self) {
        let mut state = self.state.lock();
        for stream in &state.streams {
            let _ = stream.try_send(Err(Status::unavailable("cut")));
        }
        state.attached.clear();
    }

    pub fn attached(&self, match_id: Uuid) -> usize {
        self.state.lock().attached.iter().filter(|a| a.3 == match_id).count()
    }

    pub fn detached(&self) -> usize {
        self.state.lock().detached
    }

    pub fn created(&self) -> usize {
        self.state.lock().created.len()
    }
}

fn send(stream: &Outgoing, kind: relay_response::Kind) {
    let _ = stream.try_send(Ok(RelayResponse { kind: Some(kind) }));
}

#[tonic::async_trait]
impl MatchHostService for Host {
    async fn create_match(
        &self,
        request: Request<CreateMatchRequest>,
    ) -> Result<Response<CreateMatchResponse>, Status> {
        let request = request.into_inner();
        let id = Uuid::try_parse(&request.match_id).map_err(|_| Status::invalid_argument("id"))?;
        self.state.lock().created.insert(id, request.epoch);
        let rows = format!(
            "UPDATE matches SET state = 'running' WHERE id = '{id}';
             INSERT INTO match_listings VALUES ('{id}', '{}', 'waiting', 0, 4, true, true);",
            request.mode
        );
        self.pool.execute(sqlx::AssertSqlSafe(rows)).await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CreateMatchResponse {}))
    }

    async fn add_players(
        &self,
        _: tonic::Request<asobi_proto::match_v1::AddPlayersRequest>,
    ) -> Result<tonic::Response<asobi_proto::match_v1::AddPlayersResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not yet"))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { running: true, epoch: 1 }))
    }

    async fn adopt_match(&self, _: Request<AdoptMatchRequest>) -> Result<Response<AdoptMatchResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn move_match(&self, _: Request<MoveMatchRequest>) -> Result<Response<MoveMatchResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    type RelayStream = ReceiverStream<Result<RelayResponse, Status>>;

    async fn relay(&self, request: Request<Streaming<RelayRequest>>) -> Result<Response<Self::RelayStream>, Status> {
        let mut incoming = request.into_inner();
        let (outgoing, responses) = mpsc::channel(1_000);
        let number = {
            let mut state = self.state.lock();
            state.streams.push(outgoing.clone());
            state.streams.len() - 1
        };
        let host = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(RelayRequest { kind: Some(kind) })) = incoming.message().await {
                host.handle(number, &outgoing, kind).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl Host {
    async fn handle(&self, number: usize, outgoing: &Outgoing, kind: Kind) {
        if self.state.lock().stopped {
            return;
        }
        match kind {
            Kind::Enter(enter) => {
                let (player, id) = (Uuid::parse_str(&enter.player_id), Uuid::parse_str(&enter.match_id));
                let (Ok(player), Ok(id)) = (player, id) else { return };
                let applied = self.let_in(number, enter.session, player, id);
                let Some(applied) = applied else {
                    let refusal = "match_not_found".to_owned();
                    let refused = RelayEntered { request: enter.request, refusal, ..RelayEntered::default() };
                    return send(outgoing, relay_response::Kind::Entered(refused));
                };
                // A state before the answer: the client must see it after what announces the match.
                let early = RelayDeliver {
                    sessions: vec![enter.session],
                    kind: FrameKind::State.into(),
                    frame: r#"{"type":"match.state","payload":{"early":true}}"#.into(),
                };
                send(outgoing, relay_response::Kind::Deliver(early));
                let view = format!(r#"{{"match_id":"{id}","joined":{}}}"#, enter.join);
                send(
                    outgoing,
                    relay_response::Kind::Entered(RelayEntered {
                        request: enter.request,
                        view: view.into(),
                        applied,
                        ..RelayEntered::default()
                    }),
                );
            }
            Kind::Leave(leave) => {
                self.state.lock().attached.retain(|a| (a.0, a.1) != (number, leave.session));
                send(outgoing, relay_response::Kind::Left(RelayLeft { request: leave.request }));
            }
            Kind::Detach(detach) => {
                let mut state = self.state.lock();
                state.attached.retain(|a| (a.0, a.1) != (number, detach.session));
                state.detached += 1;
            }
            Kind::Input(input) => {
                if let Some(player) = self.apply(number, input.session, input.number) {
                    let text = String::from_utf8_lossy(&input.payload).into_owned();
                    let _ = self.inputs.send((player, input.number, text)).await;
                }
            }
            Kind::Hello(hello) => {
                let origin = format!("{}#{}", hello.node_id, hello.incarnation);
                self.state.lock().origins.insert(number, origin);
            }
        }
    }

    /// The session's last input that the match took; none: it does not know the match.
    fn let_in(&self, stream: usize, session: u64, player: Uuid, match_id: Uuid) -> Option<u64> {
        let mut state = self.state.lock();
        if state.away.contains(&match_id) {
            state.refused += 1;
            return None;
        }
        state.attached.retain(|a| (a.0, a.1) != (stream, session));
        state.attached.push((stream, session, player, match_id));
        state.ever.push((stream, session, match_id));
        let origin = state.origins.get(&stream)?.clone();
        Some(state.numbers.get(&match_id).and_then(|numbers| numbers.get(&(origin, session))).copied().unwrap_or(0))
    }

    /// Whose input it is, if the match takes it: it is attached, and this number was not there before.
    fn apply(&self, stream: usize, session: u64, number: u64) -> Option<Uuid> {
        let mut state = self.state.lock();
        let (.., player, match_id) = *state.attached.iter().find(|a| (a.0, a.1) == (stream, session))?;
        let origin = state.origins.get(&stream)?.clone();
        if state.away.contains(&match_id) {
            return None;
        }
        let last = state.numbers.entry(match_id).or_default().entry((origin, session)).or_insert(0);
        if number <= *last {
            return None;
        }
        *last = number;
        Some(player)
    }
}
