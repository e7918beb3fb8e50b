//! `asobi.match.v1`, the host's side: making matches, and one stream per node that holds players.

mod outgoing;

use std::{pin::Pin, sync::Arc, time::Duration};

use asobi_proto::{
    effect::EffectBody,
    error::ErrorCode,
    match_v1::{
        AddPlayersRequest, AddPlayersResponse, AdoptMatchRequest, AdoptMatchResponse, CreateMatchRequest,
        CreateMatchResponse, DrainRequest, DrainResponse, MoveMatchRequest, MoveMatchResponse, PendingEffect,
        ProbeRequest, ProbeResponse, RelayEnter, RelayEntered, RelayHello, RelayLeft, RelayRequest,
        match_host_service_server::MatchHostService, relay_request, relay_response::Kind,
    },
};
use asobi_service_kit::{Shutdown, grpc};
use asobi_session::link::{Edge, Entered, Entry, LinkError, MatchLink, SessionNo};
use asobi_store::{effects::Effect, matches::Fence};
use bytes::Bytes;
use tokio_stream::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use self::outgoing::{Outgoing, RelayEdge};
use crate::host::{
    AddError, Addition, Adoption, CreateError, Host, HostLink, MoveError, NewMatch, Origin, Port, Target, refused,
};

/// How long a node may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// Inputs a node may hand over in one message, bytes.
const INPUT_BYTES: usize = 128 * 1024;
/// Players one match can be formed with.
const PLAYERS: usize = 1000;

/// The host of a node id, where a match can move there.
type Named = dyn Fn(&str) -> Result<Target, MoveError> + Send + Sync;

/// The service.
pub struct HostService {
    pub host: Arc<Host>,
    /// Finds the host somebody names.
    pub named: Box<Named>,
    pub shutdown: Shutdown,
    /// Ends all streams.
    pub stop: CancellationToken,
    /// Streams and what they wait for.
    pub tasks: TaskTracker,
}

#[tonic::async_trait]
impl MatchHostService for HostService {
    async fn create_match(
        &self,
        request: Request<CreateMatchRequest>,
    ) -> Result<Response<CreateMatchResponse>, Status> {
        let new = new_match(request.into_inner())?;
        match self.host.create(new).await {
            Ok(()) => Ok(Response::new(CreateMatchResponse {})),
            Err(error) => Err(status(&error)),
        }
    }

    async fn add_players(&self, request: Request<AddPlayersRequest>) -> Result<Response<AddPlayersResponse>, Status> {
        let request = request.into_inner();
        if request.players.len() > PLAYERS {
            return Err(Status::invalid_argument("too many players"));
        }
        let addition = Addition {
            match_id: uuid(&request.match_id, "match_id")?,
            epoch: request.epoch,
            term: request.term,
            host_incarnation: request.host_incarnation,
            players: uuids(&request.players)?,
        };
        match self.host.add_players(addition).await {
            Ok(seated) => {
                let seated = seated.iter().map(Uuid::to_string).collect();
                Ok(Response::new(AddPlayersResponse { seated }))
            }
            Err(error @ AddError::Fenced(_)) => Err(Status::failed_precondition(error.to_string())),
            Err(error @ AddError::NotHere) => Err(Status::not_found(error.to_string())),
            Err(error @ AddError::Unanswered) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let request = request.into_inner();
        let match_id = uuid(&request.match_id, "match_id")?;
        let meant = request.host_incarnation == self.host.incarnation();
        let epoch = self.host.running(match_id).filter(|_| meant);
        Ok(Response::new(ProbeResponse { running: epoch.is_some(), epoch: epoch.unwrap_or(0) }))
    }

    async fn adopt_match(&self, request: Request<AdoptMatchRequest>) -> Result<Response<AdoptMatchResponse>, Status> {
        let new = adoption(request.into_inner())?;
        match self.host.create(new).await {
            Ok(()) => Ok(Response::new(AdoptMatchResponse {})),
            // The match stays where it is: nothing was written here.
            Err(error @ (CreateError::Draining | CreateError::Game(_))) => Err(Status::aborted(error.to_string())),
            Err(error) => Err(status(&error)),
        }
    }

    async fn move_match(&self, request: Request<MoveMatchRequest>) -> Result<Response<MoveMatchResponse>, Status> {
        let request = request.into_inner();
        let match_id = uuid(&request.match_id, "match_id")?;
        let target = (self.named)(&request.to_node).map_err(|error| refusal(&error))?;
        match self.host.move_match(match_id, target).await {
            Ok(epoch) => Ok(Response::new(MoveMatchResponse { epoch })),
            Err(error) => Err(refusal(&error)),
        }
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        tracing::info!("An operator drains this host.");
        self.shutdown.begin();
        Ok(Response::new(DrainResponse { matches: u32::try_from(self.host.count()).unwrap_or(u32::MAX) }))
    }

    type RelayStream = Outgoing;

    async fn relay(&self, request: Request<Streaming<RelayRequest>>) -> Result<Response<Outgoing>, Status> {
        let (edge, outgoing) = outgoing::new(self.stop.child_token());
        let stream = Relay { host: Arc::clone(&self.host), edge, tasks: self.tasks.clone() };
        self.tasks.spawn(stream.run(request.into_inner()));
        Ok(Response::new(outgoing))
    }
}

fn new_match(request: CreateMatchRequest) -> Result<NewMatch, Status> {
    if request.players.len() > PLAYERS {
        return Err(Status::invalid_argument("too many players"));
    }
    let players = uuids(&request.players)?;
    let teams: Vec<Vec<Uuid>> = request.teams.iter().map(|team| uuids(&team.players)).collect::<Result<_, _>>()?;
    if !teams.iter().flatten().all(|player| players.contains(player)) {
        return Err(Status::invalid_argument("a team has a player whom the match has not"));
    }
    Ok(NewMatch {
        match_id: uuid(&request.match_id, "match_id")?,
        players,
        teams,
        mode: request.mode,
        epoch: request.epoch,
        term: request.term,
        host_incarnation: request.host_incarnation,
        origin: if request.restore { Origin::Checkpoint } else { Origin::New },
    })
}

fn adoption(request: AdoptMatchRequest) -> Result<NewMatch, Status> {
    let match_id = uuid(&request.match_id, "match_id")?;
    let from = Fence {
        match_id,
        host_node: request.from_node,
        host_incarnation: request.from_incarnation,
        epoch: request.epoch,
    };
    let effects = request.effects.iter().map(effect).collect::<Result<_, _>>()?;
    let adoption = Adoption { from, snapshot: request.snapshot, effects, version: request.version };
    Ok(NewMatch {
        match_id,
        mode: request.mode,
        epoch: request.epoch + 1,
        term: 0,
        host_incarnation: request.host_incarnation,
        players: Vec::new(),
        teams: Vec::new(),
        origin: Origin::Adopted(adoption),
    })
}

fn effect(pending: &PendingEffect) -> Result<Effect, Status> {
    let wrong = || Status::invalid_argument("an effect cannot be read");
    let body = serde_json::from_slice(&pending.body).map_err(|_| wrong())?;
    let body = EffectBody::read(&pending.kind, &body).ok().flatten().ok_or_else(wrong)?;
    Ok(Effect { ordinal: pending.ordinal, body })
}

fn refusal(error: &MoveError) -> Status {
    let message = error.to_string();
    match error {
        MoveError::NotHere => grpc::status(ErrorCode::MATCH_NOT_FOUND, message),
        MoveError::Unanswered(_) => grpc::status(ErrorCode::NOT_READY, message),
        MoveError::NoSuchHost(_) => grpc::status(ErrorCode::INVALID_PAYLOAD, message),
        MoveError::Ending | MoveError::Unsavable(_) | MoveError::Refused(_) | MoveError::InDoubt => {
            grpc::refusal(ErrorCode::WS_REQUEST_FAILED.as_str(), message)
        }
    }
}

fn uuids(players: &[String]) -> Result<Vec<Uuid>, Status> {
    players.iter().map(|player| uuid(player, "players")).collect()
}

fn uuid(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| grpc::invalid(field, "is not a UUID"))
}

fn status(error: &CreateError) -> Status {
    let message = error.to_string();
    match error {
        CreateError::Fenced(_) => Status::failed_precondition(message),
        CreateError::UnknownMode(_) => Status::not_found(message),
        CreateError::Full => Status::resource_exhausted(message),
        CreateError::Draining | CreateError::Unclaimed | CreateError::Unread => Status::unavailable(message),
        CreateError::Game(_) => Status::internal(message),
    }
}

/// One stream.
struct Relay {
    host: Arc<Host>,
    edge: Arc<RelayEdge>,
    tasks: TaskTracker,
}

impl Relay {
    async fn run(self, mut incoming: Streaming<RelayRequest>) {
        // Made once: it is looked at beside every message.
        let over = self.edge.over();
        tokio::pin!(over);
        if let Some(hello) = Self::hello(&mut incoming, over.as_mut()).await {
            let origin = format!("{}#{}", hello.node_id, hello.incarnation);
            tracing::info!(node.id = hello.node_id, "A node relays its players' matches.");
            let edge: Arc<dyn Edge> = Arc::clone(&self.edge) as _;
            let link = Arc::new(HostLink { host: Arc::clone(&self.host), port: Port::new(origin, edge) });
            while let Some(kind) = next(&mut incoming, over.as_mut()).await {
                self.handle(&link, kind);
            }
            link.port.close();
            tracing::info!(node.id = hello.node_id, "A node's relay has ended.");
        }
        self.edge.close();
    }

    async fn hello(
        incoming: &mut Streaming<RelayRequest>,
        over: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<RelayHello> {
        match tokio::time::timeout(HELLO, next(incoming, over)).await {
            Ok(Some(relay_request::Kind::Hello(hello))) => Some(hello),
            _ => None,
        }
    }

    fn handle(&self, link: &Arc<HostLink>, kind: relay_request::Kind) {
        match kind {
            relay_request::Kind::Hello(_) => {}
            relay_request::Kind::Enter(enter) => self.enter(link, enter),
            relay_request::Kind::Leave(leave) => {
                let request = leave.request;
                let leaving = link.start_leave(SessionNo(leave.session));
                let (edge, link) = (Arc::clone(&self.edge), Arc::clone(link));
                self.tasks.spawn(async move {
                    let left = match leaving {
                        Some(leaving) => link.finish_leave(leaving).await,
                        None => Ok(()),
                    };
                    // Without an answer the node asks nobody else and gives up in time.
                    if left.is_ok() {
                        edge.send(Kind::Left(RelayLeft { request }));
                    }
                });
            }
            relay_request::Kind::Detach(detach) => link.detach(SessionNo(detach.session), detach.follows),
            relay_request::Kind::Input(input) => {
                let span = asobi_trace::under!(
                    input.traceparent.as_deref(),
                    "match.input",
                    otel.kind = "consumer",
                    asobi.session.no = input.session,
                );
                let _entered = span.enter();
                if input.payload.len() <= INPUT_BYTES {
                    // An input that finds no room is lost, as the edge cannot be told any more; it is counted there.
                    let _ = link.input(SessionNo(input.session), input.number, input.payload);
                }
            }
        }
    }

    fn enter(&self, link: &Arc<HostLink>, enter: RelayEnter) {
        let request = enter.request;
        let entering = entry(enter).ok_or_else(|| refused("match_not_found")).and_then(|entry| link.start_enter(entry));
        let (edge, link) = (Arc::clone(&self.edge), Arc::clone(link));
        self.tasks.spawn(async move {
            let entered = match entering {
                Ok(entering) => link.finish_enter(entering).await,
                Err(error) => Err(error),
            };
            edge.send(Kind::Entered(answer(request, entered)));
        });
    }
}

/// The next message; none when the stream has ended, from either side.
async fn next(
    incoming: &mut Streaming<RelayRequest>,
    over: Pin<&mut impl Future<Output = ()>>,
) -> Option<relay_request::Kind> {
    tokio::select! {
        message = incoming.next() => match message {
            Some(Ok(RelayRequest { kind })) => kind,
            Some(Err(status)) => {
                tracing::debug!(%status, "A relay broke.");
                None
            }
            None => None,
        },
        () = over => None,
    }
}

fn entry(enter: RelayEnter) -> Option<Entry> {
    let join = if enter.join { Some(String::from_utf8(enter.ctx_json.to_vec()).ok()?) } else { None };
    Some(Entry {
        session: SessionNo(enter.session),
        player_id: Uuid::try_parse(&enter.player_id).ok()?,
        match_id: Uuid::try_parse(&enter.match_id).ok()?,
        join,
    })
}

fn answer(request: u64, entered: Result<Entered, LinkError>) -> RelayEntered {
    let mut answer = RelayEntered { request, ..RelayEntered::default() };
    match entered {
        Ok(entered) => {
            answer.view = Bytes::from(entered.view);
            answer.applied = entered.applied;
        }
        Err(LinkError::Refused { reason, refused_reason }) => {
            answer.refusal = reason;
            answer.refused_reason = refused_reason.unwrap_or_default();
        }
        Err(LinkError::Unavailable | LinkError::Full) => answer.refusal = "internal_error".into(),
    }
    answer
}
