//! The task of one relay: keeps the stream up while there are sessions, and looks for their matches when it is down.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_proto::match_v1::{
    RelayDropped, RelayEntered, RelayHello, RelayMoved, RelayRequest, RelayResponse,
    match_host_service_client::MatchHostServiceClient, relay_request, relay_response::Kind,
};
use asobi_store::{matches, within};
use futures_util::FutureExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{QUEUE, Relay, Waiting, enter_request, gathering::Gathering, offer};
use crate::{
    conn::{Conn, Via},
    frame::FrameKind,
    hub::Hub,
    link::{Entered, LinkError, MovedTo, SessionNo},
    seat::{self, Ending},
};

/// How long a link without sessions is kept.
pub(super) const IDLE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(2);
const LOOK_UP: Duration = Duration::from_secs(2);
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MOST: Duration = Duration::from_secs(1);

/// How long a link to an incarnation that is no more is kept without sessions: whoever has just got it has used it by then.
const UNUSED: Duration = Duration::from_secs(3);
/// How long rows may go on naming an incarnation that was replaced: until somebody has judged its matches.
const JUDGED: Duration = Duration::from_secs(30);

/// How often the matches of a host that is not there are looked up.
const LOOK: Duration = Duration::from_millis(500);
/// Messages that came together and are handed on in one go.
const TOGETHER: usize = 256;

pub(super) async fn run(hub: Arc<Hub>, relay: Arc<Relay>) {
    tokio::select! {
        () = keep(&hub, &relay) => {}
        () = watch(&hub, &relay) => {}
    }
}

/// Keeps the stream up, until nobody has needed it for a while.
async fn keep(hub: &Arc<Hub>, relay: &Arc<Relay>) {
    let mut back_off = BACK_OFF_FIRST;
    let mut told = false;
    loop {
        let replaced = is_replaced(hub, relay);
        let idle = if replaced { UNUSED } else { IDLE };
        if relay.is_idle(idle) && hub.relays.retire(relay, idle) {
            return;
        }
        if !replaced {
            match connect(hub, relay).await {
                Ok((outgoing, incoming)) => {
                    (back_off, told) = (BACK_OFF_FIRST, false);
                    serve(hub, relay, outgoing, incoming).await;
                    down(hub, relay);
                    if relay.is_idle(IDLE) && hub.relays.retire(relay, IDLE) {
                        return;
                    }
                    tracing::info!(host.id = relay.node_id, "The relay to a host has ended; it is opened again.");
                }
                // Said once: it is tried every second for as long as there are sessions.
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(host.id = relay.node_id, error, "No relay to a host; it is tried again.");
                }
                Err(error) => tracing::debug!(host.id = relay.node_id, error, "Still no relay to a host."),
            }
            metrics::counter!("asobi_relay_losses_total").increment(1);
        }
        tokio::time::sleep(back_off.mul_f64(rand::random_range(0.5..1.0))).await;
        back_off = (back_off * 2).min(BACK_OFF_MOST);
    }
}

/// Looks for the matches of a host that is not there: a stream that stands says nothing about a host that was stopped, or that a network
/// without a word has swallowed, but its lease does.
async fn watch(hub: &Arc<Hub>, relay: &Relay) {
    let mut replaced: Option<Instant> = None;
    loop {
        let changed = relay.wake.notified();
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(LOOK.mul_f64(rand::random_range(0.8..1.2))) => {}
        }
        if replaced.is_none() && is_replaced(hub, relay) {
            tracing::info!(
                host.id = relay.node_id,
                host.incarnation = relay.incarnation,
                "A host's incarnation was replaced; its sessions are brought to where their matches are now."
            );
            replaced = Some(Instant::now());
        }
        let alive = is_alive(hub, relay);
        if !alive || relay.state.lock().outgoing.is_none() {
            follow(hub, relay, alive, replaced.is_some_and(|since| since.elapsed() >= JUDGED)).await;
        }
    }
}

/// Whether the registry knows a later incarnation of the host. Ours never comes back then. One that is not there at all
/// may be too young for our view of the registry.
fn is_replaced(hub: &Hub, relay: &Relay) -> bool {
    hub.directory.get(&relay.node_id).is_some_and(|host| host.incarnation > relay.incarnation)
}

fn is_alive(hub: &Hub, relay: &Relay) -> bool {
    hub.directory.incarnation(&relay.node_id, relay.incarnation).is_some_and(|host| host.alive)
}

type Opened = (mpsc::Sender<RelayRequest>, Streaming<RelayResponse>);

async fn connect(hub: &Hub, relay: &Relay) -> Result<Opened, String> {
    let host = hub
        .directory
        .incarnation(&relay.node_id, relay.incarnation)
        .ok_or("this incarnation of the host is not in the registry")?;
    let addr = host.grpc_addr.clone().ok_or("the host has no gRPC address")?;
    // Room for everybody who is to be attached at once, and then as much as ever.
    let (outgoing, queue) = mpsc::channel(QUEUE + relay.state.lock().sessions.len());
    let identity = hub.membership.identity();
    let hello = RelayHello { node_id: identity.node_id.clone(), incarnation: identity.incarnation };
    offer(&outgoing, relay_request::Kind::Hello(hello)).map_err(|error| error.to_string())?;
    let mut client = MatchHostServiceClient::new(hub.channels.get(&addr));
    let opening = client.relay(Gathering::new(queue));
    match timeout(CONNECT, opening).await {
        Ok(Ok(response)) => Ok((outgoing, response.into_inner())),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err(format!("no answer within {CONNECT:?}")),
    }
}

/// Attaches everybody, then hands on what comes until the stream ends or is idle.
async fn serve(
    hub: &Arc<Hub>,
    relay: &Relay,
    outgoing: mpsc::Sender<RelayRequest>,
    mut incoming: Streaming<RelayResponse>,
) {
    if !attach_all(relay, &outgoing) {
        return;
    }
    let mut registry = hub.directory.changes();
    loop {
        // Made before the look, so that no word of a change is missed.
        let changed = relay.wake.notified();
        if relay.state.lock().outgoing.is_none() {
            // The stream was given up from this side.
            return;
        }
        let message = tokio::select! {
            message = incoming.message() => message,
            () = tokio::time::sleep(IDLE) => {
                if relay.is_idle(IDLE) {
                    return;
                }
                continue;
            }
            () = changed => continue,
            // A process that was replaced may live on for a while, and hold matches that are not its own any more.
            seen = registry.changed() => {
                if seen.is_err() || is_replaced(hub, relay) {
                    return;
                }
                continue;
            }
        };
        if !take(hub, relay, message) {
            return;
        }
        // What came with it needs no look at anything else.
        for _ in 0..TOGETHER {
            let Some(message) = incoming.message().now_or_never() else { break };
            if !take(hub, relay, message) {
                return;
            }
        }
    }
}

/// Hands on what came. False: nothing comes any more.
fn take(hub: &Arc<Hub>, relay: &Relay, message: Result<Option<RelayResponse>, Status>) -> bool {
    match message {
        Ok(Some(RelayResponse { kind: Some(kind) })) => handle(hub, relay, kind),
        Ok(Some(RelayResponse { kind: None })) => {}
        Ok(None) => return false,
        Err(status) => {
            tracing::debug!(host.id = relay.node_id, %status, "A relay broke.");
            return false;
        }
    }
    true
}

fn attach_all(relay: &Relay, outgoing: &mpsc::Sender<RelayRequest>) -> bool {
    let mut state = relay.state.lock();
    let sessions: Vec<_> = state.sessions.iter().map(|(no, attached)| (*no, *attached)).collect();
    for (session, attached) in sessions {
        let request = relay.next_request();
        if offer(outgoing, enter_request(session, request, attached, None)).is_err() {
            return false;
        }
        state.waiting.insert(request, Waiting::Again(session, attached.match_id));
    }
    state.outgoing = Some(outgoing.clone());
    drop(state);
    relay.wake.notify_waiters();
    true
}

/// Nobody is answered any more by the stream that has ended, and what was sent into it may be lost: inputs wait until the next one
/// has said what arrived.
fn down(hub: &Hub, relay: &Relay) {
    let (waiting, sessions) = {
        let mut state = relay.state.lock();
        state.outgoing = None;
        let sessions: Vec<SessionNo> = state.sessions.keys().copied().collect();
        (std::mem::take(&mut state.waiting), sessions)
    };
    hub.registry.among(&sessions, |conn| conn.close_gate(Via::of(relay)));
    for (_, waiting) in waiting {
        match waiting {
            Waiting::Enter(answer, ..) => drop(answer.send(Err(LinkError::Unavailable))),
            Waiting::Leave(answer) => drop(answer.send(Err(LinkError::Unavailable))),
            Waiting::Again(..) => {}
        }
    }
    relay.wake.notify_waiters();
}

fn handle(hub: &Arc<Hub>, relay: &Relay, kind: Kind) {
    match kind {
        Kind::Entered(entered) => answered(hub, relay, entered),
        Kind::Left(left) => {
            let waiting = relay.state.lock().waiting.remove(&left.request);
            if let Some(Waiting::Leave(answer)) = waiting {
                drop(answer.send(Ok(())));
            }
        }
        Kind::Deliver(deliver) => {
            let kind = FrameKind::try_from(deliver.kind).unwrap_or(FrameKind::Event);
            let sessions = numbered(deliver.sessions);
            hub.deliver_via(Via::of(relay), &sessions, kind, deliver.frame);
        }
        Kind::Dropped(gone) => dropped(hub, relay, gone),
        Kind::Applied(applied) => {
            for (session, number) in applied.sessions.into_iter().zip(applied.numbers) {
                if let Some(conn) = hub.registry.conn(SessionNo(session)) {
                    conn.safe(number);
                }
            }
        }
        Kind::Moved(gone) => moved(hub, relay, gone),
    }
}

fn dropped(hub: &Arc<Hub>, relay: &Relay, dropped: RelayDropped) {
    let Ok(match_id) = Uuid::try_parse(&dropped.match_id) else { return };
    let (sessions, via) = (numbered(dropped.sessions), Via::of(relay));
    forget(relay, &sessions, match_id);
    if is_alive(hub, relay) {
        return hub.dropped_via(via, &sessions, match_id);
    }
    // A host that stops what it may no longer own: others go on with it.
    let kept = |conn: &Arc<Conn>| conn.seat().is_some_and(|seat| seat.match_id == match_id && seat.via() == via);
    for conn in sessions.iter().filter_map(|no| hub.registry.conn(*no)).filter(kept) {
        conn.close_gate(via);
        hub.spawn("pursue match", seat::pursue(Arc::clone(hub), conn, match_id, Ending::Told));
    }
}

fn moved(hub: &Arc<Hub>, relay: &Relay, moved: RelayMoved) {
    let Ok(match_id) = Uuid::try_parse(&moved.match_id) else { return };
    let sessions = numbered(moved.sessions);
    let to = MovedTo { match_id, node_id: moved.to_node, incarnation: moved.to_incarnation, epoch: moved.epoch };
    forget(relay, &sessions, match_id);
    hub.moved_via(Via::of(relay), &sessions, &to);
}

fn numbered(sessions: Vec<u64>) -> Vec<SessionNo> {
    sessions.into_iter().map(SessionNo).collect()
}

fn answered(hub: &Arc<Hub>, relay: &Relay, entered: RelayEntered) {
    let result = if entered.refusal.is_empty() {
        let view = String::from_utf8(entered.view.to_vec()).map_err(|_| LinkError::Unavailable);
        view.map(|view| Entered { view, applied: entered.applied })
    } else {
        let refused_reason = (!entered.refused_reason.is_empty()).then_some(entered.refused_reason);
        Err(LinkError::Refused { reason: entered.refusal, refused_reason })
    };
    let mut state = relay.state.lock();
    match state.waiting.remove(&entered.request) {
        // Here and not where the answer is awaited: the host may say that the session is dropped right after it.
        Some(Waiting::Enter(answer, session, attached)) => {
            match &result {
                Ok(_) if !answer.is_closed() => drop(state.sessions.insert(session, attached)),
                // Whoever asked is gone; their end has detached them, which reached the host after what it answers here.
                Ok(_) => {}
                Err(_) => state.forget(session, attached.match_id),
            }
            drop(state);
            drop(answer.send(result));
        }
        Some(Waiting::Again(session, match_id)) => {
            if result.is_err() {
                state.forget(session, match_id);
            }
            drop(state);
            let Some(conn) = hub.registry.conn(session) else { return };
            let Some(seat) = conn.seat().filter(|s| s.match_id == match_id && s.via() == Via::of(relay)) else {
                return;
            };
            match result {
                Ok(entered) => seat::open(hub, &conn, &seat, entered.applied),
                // The seat was lost while the stream was down, unless the match is only on its way to another host.
                Err(error) if seat::is_unknown(&error) => {
                    hub.spawn("pursue match", seat::pursue(Arc::clone(hub), conn, match_id, Ending::Untold));
                }
                Err(_) => hub.dropped_via(Via::of(relay), &[session], match_id),
            }
        }
        Some(Waiting::Leave(_)) | None => {}
    }
}

fn forget(relay: &Relay, sessions: &[SessionNo], match_id: Uuid) {
    let mut state = relay.state.lock();
    for no in sessions {
        state.forget(*no, match_id);
    }
    state.used = Some(Instant::now());
}

/// Where are the matches now of a host that is not there? One that still is where nobody is any more (`given_up`) counts as gone.
async fn follow(hub: &Arc<Hub>, relay: &Relay, alive: bool, given_up: bool) {
    let mut by_match: HashMap<Uuid, Vec<SessionNo>> = HashMap::new();
    for (no, attached) in &relay.state.lock().sessions {
        by_match.entry(attached.match_id).or_default().push(*no);
    }
    let ids: Vec<Uuid> = by_match.keys().copied().collect();
    if ids.is_empty() {
        return;
    }
    let Ok(live) = within(LOOK_UP, matches::whereabouts(&hub.pool, &ids)).await else { return };
    let mut live: HashMap<Uuid, MovedTo> = live.iter().map(|live| (live.match_id, live.into())).collect();
    for (match_id, sessions) in by_match {
        match live.remove(&match_id) {
            Some(at) if at.node_id == relay.node_id && at.incarnation == relay.incarnation => {
                if given_up {
                    forget(relay, &sessions, match_id);
                    hub.dropped_via(Via::of(relay), &sessions, match_id);
                }
            }
            Some(at) => {
                forget(relay, &sessions, match_id);
                let reason = if alive { "drained" } else { "failed_over" };
                for conn in sessions.iter().filter_map(|no| hub.registry.conn(*no)) {
                    hub.spawn("follow match", seat::follow(Arc::clone(hub), conn, at.clone(), reason));
                }
            }
            None => {
                forget(relay, &sessions, match_id);
                // A host that dies between the end's commit and its telling leaves that to us.
                if let Some(finished) = seat::finished(hub, match_id).await {
                    hub.hand_out(Via::of(relay), &sessions, FrameKind::Event, &finished);
                }
                hub.dropped_via(Via::of(relay), &sessions, match_id);
            }
        }
    }
}
