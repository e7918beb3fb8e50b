//! `matchmaker.status`: every few seconds the leader is asked, in one call, where this node's waiting players stand.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_proto::{
    frame,
    matchmaker_v1::{Estimate, ListEstimatesRequest, matchmaker_service_client::MatchmakerServiceClient},
};
use asobi_service_kit::grpc::with_deadline;
use asobi_store::{tickets, within};
use serde_json::json;
use uuid::Uuid;

use crate::{
    conn::Conn,
    frame::{Frame, FrameKind},
    hub::Hub,
};

/// The protocol's promise: no more often.
const PERIOD: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(2);
/// Players of one look at the rows, and tickets of one call; the service takes as many.
const AT_ONCE: usize = 5_000;

pub(super) async fn run(hub: Arc<Hub>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let listeners = listeners(&hub);
        let players: Vec<Uuid> = listeners.keys().copied().collect();
        for players in players.chunks(AT_ONCE) {
            tell(&hub, &listeners, players).await;
        }
    }
}

/// Sessions of this node that want to hear of their place in the queue.
fn listeners(hub: &Hub) -> HashMap<Uuid, Vec<Arc<Conn>>> {
    let mut listeners: HashMap<Uuid, Vec<Arc<Conn>>> = HashMap::new();
    for conn in hub.registry.all() {
        if let Some(player) = conn.player()
            && conn.local().capabilities.queue
        {
            listeners.entry(player).or_default().push(conn);
        }
    }
    listeners
}

async fn tell(hub: &Hub, listeners: &HashMap<Uuid, Vec<Arc<Conn>>>, players: &[Uuid]) {
    let waiting = match within(DEADLINE, tickets::waiting_of(&hub.pool, players)).await {
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::debug!(%error, "Who of this node waits could not be read; they hear of it later.");
            return;
        }
    };
    if waiting.is_empty() {
        return;
    }
    let mut ids: Vec<Uuid> = waiting.iter().map(|(_, ticket)| *ticket).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut estimates: HashMap<Uuid, Estimate> = HashMap::new();
    for ids in ids.chunks(AT_ONCE) {
        let answer = ask(hub, ids).await.unwrap_or_default();
        estimates.extend(answer.into_iter().filter_map(|e| Some((Uuid::try_parse(&e.ticket_id).ok()?, e))));
    }
    for (player, ticket) in waiting {
        let (Some(estimate), Some(conns)) = (estimates.get(&ticket), listeners.get(&player)) else { continue };
        let payload = json!({"ticket_id": ticket, "waited_ms": estimate.waited_ms,
            "estimated_wait_ms": estimate.estimated_wait_ms, "position": estimate.position});
        let frame = Frame::from(frame::push("matchmaker.status", payload));
        for conn in conns {
            // Held back for a session that was not told yet that it is connected.
            conn.outbox.push_from_match(FrameKind::Event, frame.clone());
        }
    }
}

/// Asks the leader. None when there is none, or it does not answer: players hear the next time.
async fn ask(hub: &Hub, tickets: &[Uuid]) -> Option<Vec<Estimate>> {
    let leaders = tokio::time::timeout(DEADLINE, asobi_cluster::ops::leaders(&hub.pool)).await.ok()?.ok()?;
    let addr = leaders
        .keys()
        .filter_map(|(node, incarnation)| hub.directory.incarnation(node, *incarnation))
        .find(|node| node.alive && node.role == asobi_cluster::Role::Matchmaker.as_str())
        .and_then(|node| node.grpc_addr.clone())?;
    let request = ListEstimatesRequest { ticket_ids: tickets.iter().map(Uuid::to_string).collect() };
    let mut client = MatchmakerServiceClient::new(hub.channels.get(&addr));
    let calling = client.list_estimates(with_deadline(request, DEADLINE));
    match tokio::time::timeout(DEADLINE, calling).await {
        Ok(Ok(answer)) => Some(answer.into_inner().estimates),
        Ok(Err(status)) => {
            tracing::debug!(%status, "The leading matchmaker did not say where tickets stand.");
            None
        }
        Err(_) => None,
    }
}
