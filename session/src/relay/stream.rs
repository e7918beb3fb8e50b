//! The task of one relay: keeps the stream up while there are sessions, and looks for their matches when it is down.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_proto::match_v1::{
    RelayEntered, RelayHello, RelayRequest, RelayResponse, match_host_service_client::MatchHostServiceClient,
    relay_request, relay_response::Kind,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use super::{QUEUE, Relay, Waiting, enter_request, offer};
use crate::{
    frame::FrameKind,
    hub::Hub,
    link::{Edge, Entered, LinkError, SessionNo},
    seat::{self, Whereabouts},
};

/// How long a link without sessions is kept.
pub(super) const IDLE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(2);
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MOST: Duration = Duration::from_secs(1);

/// How long a link to an incarnation that is no more is kept without sessions: whoever has just got it has used it by then.
const UNUSED: Duration = Duration::from_secs(3);
/// How long rows may go on naming an incarnation that was replaced: until somebody has judged its matches.
const JUDGED: Duration = Duration::from_secs(30);

pub(super) async fn run(hub: Arc<Hub>, relay: Arc<Relay>) {
    let mut back_off = BACK_OFF_FIRST;
    let mut replaced: Option<Instant> = None;
    let mut told = false;
    loop {
        let idle = if replaced.is_some() { UNUSED } else { IDLE };
        if relay.is_idle(idle) && hub.relays.retire(&relay, idle) {
            return;
        }
        if replaced.is_none() && is_replaced(&hub, &relay) {
            tracing::info!(
                host.id = relay.node_id,
                host.incarnation = relay.incarnation,
                "A host's incarnation was replaced; its sessions are brought to where their matches are now."
            );
            replaced = Some(Instant::now());
        }
        if replaced.is_none() {
            match connect(&hub, &relay).await {
                Ok((outgoing, incoming)) => {
                    (back_off, told) = (BACK_OFF_FIRST, false);
                    serve(&hub, &relay, outgoing, incoming).await;
                    down(&relay);
                    if relay.is_idle(IDLE) && hub.relays.retire(&relay, IDLE) {
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
        follow(&hub, &relay, replaced.is_some_and(|since| since.elapsed() >= JUDGED)).await;
        tokio::time::sleep(back_off.mul_f64(rand::random_range(0.5..1.0))).await;
        back_off = (back_off * 2).min(BACK_OFF_MOST);
    }
}

/// Whether the registry knows a later incarnation of the host. Ours never comes back then. One that is not there at all
/// may be too young for our view of the registry.
fn is_replaced(hub: &Hub, relay: &Relay) -> bool {
    hub.directory.get(&relay.node_id).is_some_and(|host| host.incarnation > relay.incarnation)
}

type Opened = (mpsc::Sender<RelayRequest>, Streaming<RelayResponse>);

async fn connect(hub: &Hub, relay: &Relay) -> Result<Opened, String> {
    let host = hub
        .directory
        .incarnation(&relay.node_id, relay.incarnation)
        .ok_or("this incarnation of the host is not in the registry")?;
    let addr = host.grpc_addr.clone().ok_or("the host has no gRPC address")?;
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let identity = hub.membership.identity();
    let hello = RelayHello { node_id: identity.node_id.clone(), incarnation: identity.incarnation };
    offer(&outgoing, relay_request::Kind::Hello(hello)).map_err(|error| error.to_string())?;
    let mut client = MatchHostServiceClient::new(hub.channels.get(&addr));
    let opening = client.relay(ReceiverStream::new(queue));
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
        match message {
            Ok(Some(RelayResponse { kind: Some(kind) })) => handle(hub, relay, kind),
            Ok(Some(RelayResponse { kind: None })) => {}
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(host.id = relay.node_id, %status, "A relay broke.");
                return;
            }
        }
    }
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

/// Nobody is answered any more by the stream that has ended.
fn down(relay: &Relay) {
    let waiting = {
        let mut state = relay.state.lock();
        state.outgoing = None;
        std::mem::take(&mut state.waiting)
    };
    for (_, waiting) in waiting {
        match waiting {
            Waiting::Enter(answer, ..) => drop(answer.send(Err(LinkError::Unavailable))),
            Waiting::Leave(answer) => drop(answer.send(Err(LinkError::Unavailable))),
            Waiting::Again(..) => {}
        }
    }
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
            let sessions: Vec<SessionNo> = deliver.sessions.into_iter().map(SessionNo).collect();
            Edge::deliver(&**hub, &sessions, kind, deliver.frame);
        }
        Kind::Dropped(dropped) => {
            let Ok(match_id) = Uuid::try_parse(&dropped.match_id) else { return };
            let sessions: Vec<SessionNo> = dropped.sessions.into_iter().map(SessionNo).collect();
            forget(relay, &sessions, match_id);
            hub.dropped(&sessions, match_id);
        }
        Kind::Applied(_) | Kind::Moved(_) => {}
    }
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
        // The seat was lost while the stream was down.
        Some(Waiting::Again(session, match_id)) if result.is_err() => {
            drop(state);
            forget(relay, &[session], match_id);
            hub.dropped(&[session], match_id);
        }
        _ => {}
    }
}

fn forget(relay: &Relay, sessions: &[SessionNo], match_id: Uuid) {
    let mut state = relay.state.lock();
    for no in sessions {
        state.forget(*no, match_id);
    }
    state.used = Some(Instant::now());
}

/// While the host cannot be reached: where are the matches now? One that still is where nobody is any more (`given_up`)
/// counts as gone.
async fn follow(hub: &Arc<Hub>, relay: &Relay, given_up: bool) {
    let mut by_match: HashMap<Uuid, Vec<SessionNo>> = HashMap::new();
    for (no, attached) in &relay.state.lock().sessions {
        by_match.entry(attached.match_id).or_default().push(*no);
    }
    for (match_id, sessions) in by_match {
        match seat::whereabouts(hub, match_id, &relay.node_id, relay.incarnation).await {
            Whereabouts::Unknown => {}
            Whereabouts::Same if !given_up => {}
            whereabouts @ (Whereabouts::Same | Whereabouts::Gone) => {
                forget(relay, &sessions, match_id);
                // A host that dies between the end's commit and its telling leaves that to us.
                if matches!(whereabouts, Whereabouts::Gone)
                    && let Some(finished) = seat::finished(hub, match_id).await
                {
                    hub.deliver(&sessions, FrameKind::Event, &finished);
                }
                hub.dropped(&sessions, match_id);
            }
            Whereabouts::Moved(live) => {
                forget(relay, &sessions, match_id);
                for conn in sessions.iter().filter_map(|no| hub.registry.conn(*no)) {
                    hub.spawn("follow match", seat::follow(Arc::clone(hub), conn, live.clone()));
                }
            }
        }
    }
}
