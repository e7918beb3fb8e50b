//! `session.connect` and `session.heartbeat`.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::frame;
use asobi_store::welcome::Welcome;
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::{
    admission::{Later, Place},
    auth::{AuthError, Claims, migration},
    batch::Unanswered,
    chat::now_ms,
    close::Close,
    conn::{Capabilities, Conn},
    frame::Frame,
    hub::Hub,
    link::LinkError,
    seat,
};

const DEADLINE: Duration = Duration::from_secs(3);

pub(super) fn heartbeat(call: &Call<'_>) -> Option<Work> {
    call.push(pong(call.cid, now_ms()));
    None
}

/// The most frequent answer of all, written into an allocation of just its length.
fn pong(cid: Option<&RawValue>, ts: i64) -> String {
    const PARTS: [&str; 4] = [r#"{"type":"session.heartbeat""#, r#","cid":"#, r#","payload":{"ts":"#, "}}"];
    let [kind, cid_key, payload, end] = PARTS;
    let cid = cid.map_or("", RawValue::get);
    let (cid_key, ts) = (if cid.is_empty() { "" } else { cid_key }, ts.unsigned_abs());
    let digits = ts.checked_ilog10().map_or(1, |log| log as usize + 1);
    let length = kind.len() + cid_key.len() + cid.len() + payload.len() + digits + end.len();
    let mut text = String::with_capacity(length);
    for part in [kind, cid_key, cid, payload] {
        text.push_str(part);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{ts}{end}");
    text
}

enum Proof {
    Token(String),
    Migration(String),
}

pub(super) fn connect(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let proof = match (fields::text(&payload, "token"), fields::text(&payload, "migration_token")) {
        (_, Some(token)) => Proof::Migration(token.to_owned()),
        (Some(token), None) => Proof::Token(token.to_owned()),
        (None, None) => {
            call.error("invalid_token", "The token is missing.");
            return None;
        }
    };
    let asked: Option<Vec<String>> = match payload.get("capabilities") {
        Some(Value::Array(names)) => Some(names.iter().filter_map(|n| n.as_str().map(ToOwned::to_owned)).collect()),
        _ => None,
    };
    let Ok(place) = place(call) else {
        metrics::counter!("asobi_session_refused_total", "reason" => "under_way").increment(1);
        call.conn.close(Close::TryAgainLater);
        return None;
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        authenticate(&hub, &asker, proof, asked).await;
        drop(place);
    }))
}

/// The place a socket came with, or another one if it has hesitated or tries again. A session that refreshes its token needs none.
fn place(call: &Call<'_>) -> Result<Option<Place>, Later> {
    if call.conn.player().is_some() {
        return Ok(None);
    }
    let came_with = call.conn.local().place.take();
    came_with.map_or_else(|| call.hub.admission.enter(Instant::now(), rand::random()), Ok).map(Some)
}

async fn authenticate(hub: &Arc<Hub>, asker: &Asker, proof: Proof, asked: Option<Vec<String>>) {
    let verified = match proof {
        Proof::Token(token) => hub.verifier.verify(&token).await.map(|claims| (claims, None)),
        Proof::Migration(token) => {
            migration::verify(&hub.verifier, &token, &hub.audience()).await.map(|m| (m.session, Some(m)))
        }
    };
    let (claims, carried) = match verified {
        Ok(verified) => verified,
        Err(AuthError::Unavailable(error)) => {
            tracing::warn!(%error, "A token could not be checked.");
            return asker.not_ready();
        }
        Err(AuthError::Invalid | AuthError::Revoked) => {
            return asker.error("invalid_token", "The token is not valid.");
        }
    };
    let to = carried.as_ref().map(|migration| (migration.match_id, migration.epoch));
    let names = asked.or(carried.map(|migration| migration.capabilities));
    let conn = &asker.conn;
    if conn.player().is_some_and(|player| player != claims.player_id) {
        return asker.error("invalid_token", "The token is another player's.");
    }
    if conn.player().is_some() {
        again(hub, asker, claims, names).await;
    } else {
        first(hub, asker, claims, &names.unwrap_or_default()).await;
    }
    if let Some((match_id, epoch)) = to {
        arrived(hub, &asker.conn, match_id, epoch);
    }
}

/// A token that was made for a match that is not here any more, at that epoch, opens the session all the same: it is attached to wherever its
/// player's match is now.
fn arrived(hub: &Hub, conn: &Conn, match_id: Uuid, epoch: i64) {
    let here = conn
        .seat()
        .is_some_and(|seat| seat.match_id == match_id && seat.epoch == epoch && seat.via() == hub.near_via());
    let outcome = if here { "here" } else { "elsewhere" };
    metrics::counter!("asobi_session_migrations_total", "outcome" => outcome).increment(1);
    if !here {
        tracing::debug!(match.id = %match_id, match.epoch = epoch, "A session has migrated to a node where its match is no more.");
    }
}

/// A token refresh on a socket that is authenticated.
async fn again(hub: &Arc<Hub>, asker: &Asker, claims: Claims, names: Option<Vec<String>>) {
    let (had, has) = {
        let mut local = asker.conn.local();
        let had = local.capabilities;
        local.claims = Some(claims);
        if let Some(names) = &names {
            local.capabilities = Capabilities::granted(names.iter().map(String::as_str));
        }
        (had, local.capabilities)
    };
    let match_id = asker.conn.seat().map(|seat| seat.match_id);
    let unread = hub.look_ups.welcomes.ask(claims.player_id, DEADLINE).await.map_or(0, |welcome| welcome.unread);
    connected(hub, asker, claims.player_id, has, match_id, unread);
    hub.close_if_revoked(&asker.conn);
    if has.presence && !had.presence {
        hub.presence.snapshot(hub, &asker.conn, claims.player_id).await;
    } else if had.presence && !has.presence {
        hub.presence.unwatch(&asker.conn);
    }
}

async fn first(hub: &Arc<Hub>, asker: &Asker, claims: Claims, names: &[String]) {
    let (conn, player) = (&asker.conn, claims.player_id);
    let patience = hub.config.session.connect_wait();
    // In this order: events from the cursor on are told, and what came before it shows in the rows read after it.
    // An event that slips in between cursor and registration is found by the second look.
    let cursor = match hub.look_ups.inboxes.ask(player, patience).await {
        Ok(cursor) => cursor,
        Err(Unanswered::Late) => return too_late(conn),
        Err(Unanswered::Failed) => return asker.not_ready(),
    };
    let capabilities = Capabilities::granted(names.iter().map(String::as_str));
    if !conn.set_player(player) {
        return asker.error("invalid_token", "The token is another player's.");
    }
    {
        let mut local = conn.local();
        local.claims = Some(claims);
        local.capabilities = capabilities;
        local.since = cursor;
    }
    // Whatever comes for the player now waits until the client knows that it is connected.
    conn.outbox.hold();
    let here = hub.registry.join(player, conn);
    here.mailbox.place(hub, &here, cursor);
    hub.presence.arrive(conn.session_id, player);
    let Welcome { seq, unread, live, party } = match hub.look_ups.welcomes.ask(player, patience).await {
        Ok(welcome) => welcome,
        // Better not connected than connected without one's match: nothing would bring the session to it later.
        Err(Unanswered::Late) => return too_late(conn),
        // The database went away since the first question. The client comes again on another socket, as this one is half let in.
        Err(Unanswered::Failed) => return conn.close(Close::TryAgainLater),
    };
    if seq > cursor {
        here.mailbox.offer(hub, &here, seq, None);
    }
    let mut match_id = None;
    if let Some(live) = live {
        let attached = seat::attach(hub, conn, (&live).into()).await;
        // A host that does not answer is tried on; one that refuses says that the seat is no more.
        if !matches!(attached, Err(LinkError::Refused { .. })) {
            match_id = Some(live.match_id);
        }
    }
    connected(hub, asker, player, capabilities, match_id, unread);
    if let Some(party) = party {
        conn.push(Frame::from(frame::push("party.state", party.payload())));
    }
    conn.outbox.release();
    hub.admission.served(Instant::now());
    hub.close_if_revoked(conn);
    if capabilities.presence {
        hub.presence.snapshot(hub, conn, player).await;
    }
}

/// So many come at once that this one has waited for too long.
fn too_late(conn: &Conn) {
    metrics::counter!("asobi_session_refused_total", "reason" => "waited").increment(1);
    conn.close(Close::TryAgainLater);
}

fn connected(hub: &Hub, asker: &Asker, player: Uuid, capabilities: Capabilities, match_id: Option<Uuid>, unread: i64) {
    asker.reply(
        "session.connected",
        json!({"player_id": player, "wire": "json", "node_id": hub.node_id(), "match_id": match_id,
               "capabilities": capabilities.names(), "unread": unread}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_written_as_any_other_reply() {
        let cid = RawValue::from_string("\"h1\"".into()).expect("JSON");
        for cid in [None, Some(&*cid)] {
            for ts in [0, 9, 10, 1_795_349_847_609] {
                let text = pong(cid, ts);
                assert_eq!(text.capacity(), text.len());
                assert_eq!(text, asobi_proto::frame::reply("session.heartbeat", cid, json!({"ts": ts})));
            }
        }
    }
}
