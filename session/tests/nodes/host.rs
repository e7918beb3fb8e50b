//! A match host that speaks the relay's side of the contract and nothing else: it lets everybody in, shows what came, and
//! says what it is told to.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_cluster::{Node, NodeAddresses, NodeState, Role};
use asobi_proto::match_v1::{
    AdoptMatchRequest, AdoptMatchResponse, CreateMatchRequest, CreateMatchResponse, DrainRequest, DrainResponse,
    FrameKind, MoveMatchRequest, MoveMatchResponse, ProbeRequest, ProbeResponse, RelayDeliver, RelayDropped,
    RelayEntered, RelayLeft, RelayRequest, RelayResponse,
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
}

pub struct Running {
    pub host: Host,
    pub inputs: mpsc::Receiver<(Uuid, u64, String)>,
    pub node: Node,
    pub shutdown: Shutdown,
}

impl Running {
    pub async fn start(db: &TestDatabase) -> anyhow::Result<Self> {
        let sets = [("node.id", "host-0"), ("database.url", db.url.as_str())];
        let config = Config::with_sets(sets)?;
        let shutdown = Shutdown::manual(Duration::from_secs(2));
        let (listener, grpc) = server::bind("grpc.listen", "127.0.0.1:0").await?;
        let http = Some("127.0.0.1:2".parse()?);
        let node = Node::join(&config, Role::Match, NodeAddresses { http, grpc, metrics: grpc }, [], &shutdown).await?;
        let (sender, inputs) = mpsc::channel(100);
        let host = Host { state: Arc::default(), inputs: sender, pool: node.pool.clone() };
        let readiness = Readiness::new();
        let routes = Routes::new(MatchHostServiceServer::new(host.clone()));
        server::serve_grpc(listener, routes, &readiness, node.cluster_key.as_str(), &shutdown);
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
        match kind {
            Kind::Enter(enter) => {
                let (player, id) = (Uuid::parse_str(&enter.player_id), Uuid::parse_str(&enter.match_id));
                let (Ok(player), Ok(id)) = (player, id) else { return };
                self.state.lock().attached.push((number, enter.session, player, id));
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
                let found =
                    self.state.lock().attached.iter().find(|a| (a.0, a.1) == (number, input.session)).map(|a| a.2);
                if let Some(player) = found {
                    let text = String::from_utf8_lossy(&input.payload).into_owned();
                    let _ = self.inputs.send((player, input.number, text)).await;
                }
            }
            Kind::Hello(_) => {}
        }
    }
}
