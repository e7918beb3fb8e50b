//! Bringing sessions to matches: which way leads there, attaching, joining, following a match that moved, and the offer to
//! migrate to the match's node.
//!
//! Invariant: a client sees frames of a match only after it was told of it (`match.matched`, `match.joined`,
//! `session.connected`): they are held back from before the link is asked until after the announcement was queued.

use std::{sync::Arc, time::Duration};

use asobi_proto::frame;
use asobi_store::{
    matches::{self, LiveSeat},
    within,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    auth::migration,
    conn::{Conn, Seat},
    frame::{Frame, FrameKind},
    hub::{Hub, Player},
    link::{Entered, Entry, LinkError, MatchLink},
    relay::Relays,
};

const DEADLINE: Duration = Duration::from_secs(2);

/// The way to a host's matches: near where it is this very process, else a relay stream.
fn way(hub: &Arc<Hub>, live: &LiveSeat) -> Arc<dyn MatchLink> {
    match &hub.near {
        Some(near) if near.node_id == live.host_node && near.incarnation == live.host_incarnation => {
            Arc::clone(&near.link)
        }
        _ => Relays::to(hub, &live.host_node, live.host_incarnation),
    }
}

/// Attaches a session to its player's seat. Frames of the match are to be held back by the caller.
pub(crate) async fn attach(hub: &Arc<Hub>, conn: &Arc<Conn>, live: &LiveSeat) -> Result<Entered, LinkError> {
    enter(hub, conn, live, None).await
}

/// As [`attach`], taking a seat first.
pub(crate) async fn join(hub: &Arc<Hub>, conn: &Arc<Conn>, live: &LiveSeat, ctx: String) -> Result<Entered, LinkError> {
    enter(hub, conn, live, Some(ctx)).await
}

async fn enter(hub: &Arc<Hub>, conn: &Arc<Conn>, live: &LiveSeat, join: Option<String>) -> Result<Entered, LinkError> {
    let Some(player_id) = conn.player() else { return Err(LinkError::Unavailable) };
    let (link, joining) = (way(hub, live), join.is_some());
    let seat = Seat { match_id: live.match_id, link: Arc::clone(&link) };
    // Set before the host is asked: what it says right after its answer must find it, and so must the socket's end.
    let before = conn.local().seat.replace(seat);
    if let Some(before) = before.filter(|before| !Arc::ptr_eq(&before.link, &link)) {
        before.link.detach(conn.no);
    }
    if hub.registry.conn(conn.no).is_none() {
        conn.clear_seat(live.match_id);
        return Err(LinkError::Unavailable);
    }
    let entered = link.enter(Entry { session: conn.no, player_id, match_id: live.match_id, join }).await;
    // Meanwhile the socket may have ended, or another task have brought the session elsewhere.
    let elsewhere = conn.local().seat.as_ref().is_some_and(|seat| !Arc::ptr_eq(&seat.link, &link));
    if elsewhere || hub.registry.conn(conn.no).is_none() {
        link.detach(conn.no);
    }
    match &entered {
        Ok(_) => {}
        // The seat may be held for all we know: the relay goes on trying to attach.
        Err(LinkError::Unavailable) if !joining => {}
        Err(_) => {
            if conn.clear_seat(live.match_id).is_some() {
                link.detach(conn.no);
            }
        }
    }
    entered
}

/// The player was matched: every session is attached, then told, then offered to migrate.
pub(crate) async fn matched(hub: &Arc<Hub>, player: &Arc<Player>, match_id: Uuid, frame: Option<Frame>) {
    let live = match within(DEADLINE, matches::live(&hub.pool, match_id)).await {
        Ok(live) => live,
        Err(error) => {
            tracing::warn!(%error, match.id = %match_id, "A match that was made could not be looked up; its player is told all the same.");
            None
        }
    };
    let conns = player.conns();
    for conn in &conns {
        conn.outbox.hold();
    }
    if let Some(live) = &live {
        for conn in &conns {
            if let Err(error) = attach(hub, conn, live).await {
                tracing::warn!(%error, match.id = %match_id, session.no = conn.no.0, "A session could not be attached to its match.");
            }
        }
    }
    for conn in &conns {
        conn.outbox.announce(frame.clone());
    }
    if let Some(live) = &live {
        for conn in &conns {
            offer_migration(hub, conn, live, "matched");
        }
    }
}

/// Tells a client that can where its match runs, with a token that opens a session there.
pub(crate) fn offer_migration(hub: &Hub, conn: &Conn, live: &LiveSeat, reason: &str) {
    let (capabilities, session) = {
        let local = conn.local();
        (local.capabilities, local.claims)
    };
    let identity = hub.membership.identity();
    let here = identity.node_id == live.host_node && identity.incarnation == live.host_incarnation;
    let Some(session) = session.filter(|_| capabilities.migrate && !here) else { return };
    let Some(host) = hub.directory.incarnation(&live.host_node, live.host_incarnation) else { return };
    let Some(url) = host.ws_url.as_deref() else { return };
    let migration = migration::Migration {
        session,
        match_id: live.match_id,
        epoch: live.epoch,
        capabilities: capabilities.names().into_iter().map(ToOwned::to_owned).collect(),
    };
    match migration::mint(&hub.verifier, &migration, &migration::audience(&live.host_node, live.host_incarnation)) {
        Ok((token, expires_at)) => {
            let node = &live.host_node;
            let payload = json!({"match_id": live.match_id, "node_id": node, "url": url, "token": token,
                "expires_at": expires_at, "reason": reason,
                "affinity": {"cookie": format!("asobi_node={node}"), "query": format!("node={node}")}});
            // Not before the client knows of its session and its match.
            conn.outbox.push_from_match(FrameKind::Event, Frame::from(frame::push("match.migrate", payload)));
            metrics::counter!("asobi_session_migrations_offered_total").increment(1);
        }
        Err(error) => tracing::warn!(%error, "No migration token could be made; the session stays relayed."),
    }
}

/// Where a match runs now, as far as a broken way needs to know.
pub(crate) enum Whereabouts {
    /// At the host we know.
    Same,
    Moved(LiveSeat),
    Gone,
    Unknown,
}

pub(crate) async fn whereabouts(hub: &Hub, match_id: Uuid, host_node: &str, host_incarnation: i64) -> Whereabouts {
    match within(DEADLINE, matches::live(&hub.pool, match_id)).await {
        Ok(Some(live)) if live.host_node == host_node && live.host_incarnation == host_incarnation => Whereabouts::Same,
        Ok(Some(live)) => Whereabouts::Moved(live),
        Ok(None) => Whereabouts::Gone,
        Err(_) => Whereabouts::Unknown,
    }
}

/// `match.finished` of a match that has ended by its own rules. What became of one that was lost with its host, its players' inboxes say.
pub(crate) async fn finished(hub: &Hub, match_id: Uuid) -> Option<Frame> {
    let row = within(DEADLINE, matches::by_id(&hub.pool, match_id)).await.ok()??;
    let payload = json!({"match_id": match_id, "result": row.result});
    (row.state == "finished").then(|| Frame::from(frame::push("match.finished", payload)))
}

/// Brings a session to where its match runs now, unless it has left it meanwhile.
pub(crate) async fn follow(hub: Arc<Hub>, conn: Arc<Conn>, live: LiveSeat) {
    let still = conn.local().seat.as_ref().is_some_and(|seat| seat.match_id == live.match_id);
    if !still {
        return;
    }
    match attach(&hub, &conn, &live).await {
        Ok(_) => offer_migration(&hub, &conn, &live, "failed_over"),
        Err(error) => {
            tracing::warn!(%error, match.id = %live.match_id, "A session could not follow its match.");
        }
    }
}
