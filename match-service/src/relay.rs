//! `asobi.match.v1`, the host's side: making matches, and one stream per node that holds players.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use asobi_proto::match_v1::{
    CreateMatchRequest, CreateMatchResponse, ProbeRequest, ProbeResponse, RelayDeliver, RelayDropped, RelayEnter,
    RelayEntered, RelayHello, RelayLeft, RelayRequest, RelayResponse, match_host_service_server::MatchHostService,
    relay_request, relay_response::Kind,
};
use asobi_service_kit::telemetry;
use asobi_session::link::{Edge, Entry, FrameKind, LinkError, MatchLink, SessionNo};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::host::{CreateError, Host, HostLink, NewMatch, Port, refused};

/// Messages that may wait in one stream towards a node. States stop at three quarters of it: a later one replaces them. An event that finds no
/// room ends the stream, and the node attaches its sessions again.
const QUEUE: usize = 2048;
const STATES: usize = QUEUE / 4 * 3;
/// Inputs a node may hand over in one message, bytes.
const INPUT_BYTES: usize = 128 * 1024;
/// Players one match can be formed with.
const PLAYERS: usize = 1000;

/// The service.
pub struct HostService {
    pub host: Arc<Host>,
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
        let request = request.into_inner();
        telemetry::set_parent(&tracing::Span::current(), &request.traceparent);
        let new = new_match(request)?;
        match self.host.create(new).await {
            Ok(()) => Ok(Response::new(CreateMatchResponse {})),
            Err(error) => Err(status(&error)),
        }
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let request = request.into_inner();
        let match_id = uuid(&request.match_id, "match_id")?;
        let meant = request.host_incarnation == self.host.incarnation();
        let epoch = self.host.running(match_id).filter(|_| meant);
        Ok(Response::new(ProbeResponse { running: epoch.is_some(), epoch: epoch.unwrap_or(0) }))
    }

    type RelayStream = Outgoing;

    async fn relay(&self, request: Request<Streaming<RelayRequest>>) -> Result<Response<Outgoing>, Status> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let over = self.stop.child_token();
        let edge = Arc::new(RelayEdge { outgoing: Mutex::new(Some(sender)), over: over.clone() });
        let stream = Relay { host: Arc::clone(&self.host), edge, tasks: self.tasks.clone() };
        self.tasks.spawn(stream.run(request.into_inner()));
        Ok(Response::new(Outgoing { queue: ReceiverStream::new(queue), over: Box::pin(over.cancelled_owned()) }))
    }
}

fn new_match(request: CreateMatchRequest) -> Result<NewMatch, Status> {
    if request.players.len() > PLAYERS {
        return Err(Status::invalid_argument("too many players"));
    }
    Ok(NewMatch {
        match_id: uuid(&request.match_id, "match_id")?,
        players: request.players.iter().map(|player| uuid(player, "players")).collect::<Result<_, _>>()?,
        mode: request.mode,
        epoch: request.epoch,
        term: request.term,
        host_incarnation: request.host_incarnation,
    })
}

fn uuid(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| Status::invalid_argument(format!("{field} is not a UUID")))
}

fn status(error: &CreateError) -> Status {
    let message = error.to_string();
    match error {
        CreateError::Fenced(_) => Status::failed_precondition(message),
        CreateError::UnknownMode(_) => Status::not_found(message),
        CreateError::Full => Status::resource_exhausted(message),
        CreateError::Draining | CreateError::Unclaimed => Status::unavailable(message),
        CreateError::Game(_) => Status::internal(message),
    }
}

/// What leaves through one stream.
struct RelayEdge {
    /// None: the stream has ended.
    outgoing: Mutex<Option<mpsc::Sender<Result<RelayResponse, Status>>>>,
    over: CancellationToken,
}

impl RelayEdge {
    fn send(&self, kind: Kind) {
        let response = RelayResponse { kind: Some(kind) };
        let full = match &*self.outgoing.lock() {
            Some(outgoing) => matches!(outgoing.try_send(Ok(response)), Err(mpsc::error::TrySendError::Full(_))),
            None => false,
        };
        if full {
            metrics::counter!("asobi_match_relay_overflows_total").increment(1);
            tracing::warn!("A node does not keep up with its matches; its stream is ended.");
            self.over.cancel();
        }
    }

    fn has_room_for_states(&self) -> bool {
        self.outgoing.lock().as_ref().is_some_and(|outgoing| outgoing.capacity() > QUEUE - STATES)
    }
}

impl Edge for RelayEdge {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        if kind == FrameKind::State && !self.has_room_for_states() {
            metrics::counter!("asobi_match_relay_states_dropped_total").increment(1);
            return;
        }
        self.send(Kind::Deliver(RelayDeliver {
            sessions: sessions.iter().map(|session| session.0).collect(),
            kind: kind.into(),
            frame,
        }));
    }

    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        self.send(Kind::Dropped(RelayDropped {
            sessions: sessions.iter().map(|session| session.0).collect(),
            match_id: match_id.hyphenated().to_string(),
        }));
    }
}

/// What a node reads: the queue, until it is over.
pub struct Outgoing {
    queue: ReceiverStream<Result<RelayResponse, Status>>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Outgoing {
    type Item = Result<RelayResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // What is queued goes first: the last words of matches that have just ended.
        match Pin::new(&mut self.queue).poll_next(cx) {
            Poll::Ready(item) => Poll::Ready(item),
            Poll::Pending => self.over.as_mut().poll(cx).map(|()| None),
        }
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
        if let Some(hello) = self.hello(&mut incoming).await {
            let origin = format!("{}#{}", hello.node_id, hello.incarnation);
            tracing::info!(node.id = hello.node_id, "A node relays its players' matches.");
            let edge: Arc<dyn Edge> = Arc::clone(&self.edge) as _;
            let link = Arc::new(HostLink { host: Arc::clone(&self.host), port: Port::new(origin, edge) });
            while let Some(kind) = self.next(&mut incoming).await {
                self.handle(&link, kind);
            }
            link.port.close();
            tracing::info!(node.id = hello.node_id, "A node's relay has ended.");
        }
        self.edge.outgoing.lock().take();
        self.edge.over.cancel();
    }

    async fn hello(&self, incoming: &mut Streaming<RelayRequest>) -> Option<RelayHello> {
        match self.next(incoming).await {
            Some(relay_request::Kind::Hello(hello)) => Some(hello),
            _ => None,
        }
    }

    /// The next message; none when the stream has ended, from either side.
    async fn next(&self, incoming: &mut Streaming<RelayRequest>) -> Option<relay_request::Kind> {
        tokio::select! {
            message = incoming.next() => match message {
                Some(Ok(RelayRequest { kind })) => kind,
                Some(Err(status)) => {
                    tracing::debug!(%status, "A relay broke.");
                    None
                }
                None => None,
            },
            () = self.edge.over.cancelled() => None,
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
            relay_request::Kind::Detach(detach) => link.detach(SessionNo(detach.session)),
            relay_request::Kind::Input(input) => {
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

fn entry(enter: RelayEnter) -> Option<Entry> {
    let join = if enter.join { Some(String::from_utf8(enter.ctx_json.to_vec()).ok()?) } else { None };
    Some(Entry {
        session: SessionNo(enter.session),
        player_id: Uuid::try_parse(&enter.player_id).ok()?,
        match_id: Uuid::try_parse(&enter.match_id).ok()?,
        join,
    })
}

fn answer(request: u64, entered: Result<String, LinkError>) -> RelayEntered {
    let mut answer = RelayEntered { request, ..RelayEntered::default() };
    match entered {
        Ok(view) => answer.view = Bytes::from(view),
        Err(LinkError::Refused { reason, refused_reason }) => {
            answer.refusal = reason;
            answer.refused_reason = refused_reason.unwrap_or_default();
        }
        Err(LinkError::Unavailable | LinkError::Full) => answer.refusal = "internal_error".into(),
    }
    answer
}
