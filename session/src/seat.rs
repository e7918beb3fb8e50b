//! Bringing sessions to matches: which way leads there, attaching, joining, following a match that moved, and the offer to
//! migrate to the match's node.
//!
//! Invariant: a client sees frames of a match only after it was told of it (`match.matched`, `match.joined`,
//! `session.connected`): they are held back from before the link is asked until after the announcement was queued.

use std::{sync::Arc, time::Duration};

use asobi_proto::frame;
use asobi_service_kit::config::MigrateVia;
use asobi_store::{
    matches::{self, LiveSeat},
    within,
};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    auth::migration,
    conn::{Conn, Opened, Seat},
    frame::{Frame, FrameKind},
    hub::{Hub, Player},
    link::{Entered, Entry, LinkError, MatchLink, MovedTo},
    relay::Relays,
};

const DEADLINE: Duration = Duration::from_secs(2);
/// How long a client waits for a match that its host does not know: it may be on its way to another, or not quite there.
const SOUGHT: Duration = Duration::from_secs(3);
/// How long it is sought on without anybody waiting, before the seat counts as lost.
const PURSUED: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(40);
const PAUSE_MOST: Duration = Duration::from_millis(400);
/// How long a host that counts as dead may take to prove the opposite before its players' clients are answered without it.
const GLIMPSE: Duration = Duration::from_millis(100);
/// When the queue towards a match is full, what is left is sent so much later.
const RESEND: Duration = Duration::from_millis(20);

impl From<&LiveSeat> for MovedTo {
    fn from(live: &LiveSeat) -> Self {
        Self {
            match_id: live.match_id,
            node_id: live.host_node.clone(),
            incarnation: live.host_incarnation,
            epoch: live.epoch,
        }
    }
}

/// A session is attached, there.
pub(crate) struct Attached {
    pub view: String,
    pub at: MovedTo,
}

/// The way to a host's matches: near where it is this very process, else a relay stream.
pub(crate) fn way(hub: &Arc<Hub>, at: &MovedTo) -> Arc<dyn MatchLink> {
    match &hub.near {
        Some(near) if near.node_id == at.node_id && near.incarnation == at.incarnation => Arc::clone(&near.link),
        _ => Relays::to(hub, &at.node_id, at.incarnation),
    }
}

/// Whether a host refused because it does not know the match, which says nothing about the match.
pub(crate) fn is_unknown(error: &LinkError) -> bool {
    matches!(error, LinkError::Refused { reason, .. } if reason == "match_not_found")
}

fn unknown() -> LinkError {
    LinkError::Refused { reason: "match_not_found".into(), refused_reason: None }
}

/// Attaches a session to its player's seat. Frames of the match are to be held back by the caller.
///
/// # Errors
/// Refused: there is no seat any more. Otherwise it is kept, and the session is brought to it as soon as that is possible.
pub(crate) async fn attach(hub: &Arc<Hub>, conn: &Arc<Conn>, at: MovedTo) -> Result<Attached, LinkError> {
    let match_id = at.match_id;
    match seek(hub, conn, match_id, Some(at), None, SOUGHT).await {
        Ok(attached) => Ok(attached),
        Err(Failure::Refused(error)) => {
            give_up(conn, match_id);
            Err(error)
        }
        Err(Failure::Unanswered | Failure::Elsewhere) => Err(LinkError::Unavailable),
        Err(Failure::NotYet) => {
            hub.spawn("pursue match", pursue(Arc::clone(hub), Arc::clone(conn), match_id, Ending::Untold));
            Err(LinkError::Unavailable)
        }
    }
}

/// As [`attach`], taking a seat first.
///
/// # Errors
/// The session has no seat there, as far as is known here.
pub(crate) async fn join(hub: &Arc<Hub>, conn: &Arc<Conn>, at: MovedTo, ctx: String) -> Result<Attached, LinkError> {
    let match_id = at.match_id;
    let error = match seek(hub, conn, match_id, Some(at), Some(ctx), SOUGHT).await {
        Ok(attached) => return Ok(attached),
        Err(Failure::Elsewhere) => return Err(LinkError::Unavailable),
        Err(Failure::Refused(error)) => error,
        Err(Failure::Unanswered | Failure::NotYet) => LinkError::Unavailable,
    };
    give_up(conn, match_id);
    Err(error)
}

/// Whether a session has heard how its match ended, should it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Told,
    Untold,
}

/// Brings a session back to a match whose host does not know it, for as long as the row says that there is a seat: the match is on its
/// way to another host.
pub(crate) async fn pursue(hub: Arc<Hub>, conn: Arc<Conn>, match_id: Uuid, ending: Ending) {
    match seek(&hub, &conn, match_id, None, None, PURSUED).await {
        Ok(attached) => offer_migration(&hub, &conn, &attached.at, "failed_over"),
        Err(Failure::Unanswered | Failure::Elsewhere) => {}
        Err(Failure::Refused(_)) if ending == Ending::Untold => over(&hub, &conn, match_id).await,
        Err(Failure::Refused(_)) => give_up(&conn, match_id),
        Err(Failure::NotYet) => {
            tracing::warn!(match.id = %match_id, session.no = conn.no.0, "A session's match is nowhere to be found; the session goes on without.");
            give_up(&conn, match_id);
        }
    }
}

fn give_up(conn: &Conn, match_id: Uuid) {
    if let Some(seat) = conn.clear_seat(match_id) {
        seat.link.detach(conn.no, false);
    }
}

/// Why a session is not attached.
enum Failure {
    /// The match said no, or is over, or the seat is gone.
    Refused(LinkError),
    /// The host did not answer; where there was a seat already, its relay goes on trying.
    Unanswered,
    /// Somebody else brought the session elsewhere meanwhile, or it is gone.
    Elsewhere,
    /// There is a row, but its host does not know the match, or has no time for more sessions.
    NotYet,
}

/// Enters a match where it is said to run. Where the host there does not know it, its row is asked where it runs now, again and again
/// while it may be on its way.
async fn seek(
    hub: &Arc<Hub>,
    conn: &Arc<Conn>,
    match_id: Uuid,
    mut said: Option<MovedTo>,
    join: Option<String>,
    patience: Duration,
) -> Result<Attached, Failure> {
    let (until, mut pause) = (Instant::now() + patience, PAUSE_FIRST);
    let mut tried: Option<MovedTo> = None;
    loop {
        let at = match said.take() {
            Some(at) => Some(at),
            None => match look_up(hub, conn, match_id, join.is_some()).await {
                Row::Live(at) => Some(at),
                Row::Over => return Err(Failure::Refused(unknown())),
                Row::Unread => tried.clone(),
            },
        };
        // Where the row names another host than before there is no need to wait.
        if at == tried {
            if Instant::now() + pause >= until {
                return Err(Failure::NotYet);
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
        let Some(at) = at else { continue };
        match enter(hub, conn, &at, join.clone()).await {
            Ok(entered) => return Ok(Attached { view: entered.view, at }),
            Err(failure @ (Failure::Refused(_) | Failure::Elsewhere)) => return Err(failure),
            Err(Failure::Unanswered) if join.is_some() || !is_here(hub, &at) => return Err(Failure::Unanswered),
            // Nobody but us tries again to enter a match of this very process.
            Err(Failure::Unanswered | Failure::NotYet) => tried = Some(at),
        }
    }
}

async fn enter(hub: &Arc<Hub>, conn: &Arc<Conn>, at: &MovedTo, join: Option<String>) -> Result<Entered, Failure> {
    let Some(player_id) = conn.player() else { return Err(Failure::Elsewhere) };
    let seat = Seat::new(at, way(hub, at));
    // Set before the host is asked: what it says right after its answer must find it, and so must the socket's end.
    let Ok(before) = conn.sit(seat.clone()) else { return Err(Failure::Elsewhere) };
    if let Some(before) = before.filter(|before| before.via() != seat.via()) {
        before.link.detach(conn.no, false);
    }
    if hub.registry.conn(conn.no).is_none() {
        conn.clear_seat(at.match_id);
        return Err(Failure::Elsewhere);
    }
    let joining = join.is_some();
    let entering = seat.link.enter(Entry { session: conn.no, player_id, match_id: at.match_id, join });
    let entered = if !joining && is_dead(hub, at) {
        // The relay knows of the session now, and looks for where its match goes on.
        tokio::time::timeout(GLIMPSE, entering).await.unwrap_or(Err(LinkError::Unavailable))
    } else {
        entering.await
    };
    // Meanwhile the socket may have ended, or another task have brought the session elsewhere.
    let now = conn.seat();
    if now.as_ref().is_some_and(|now| now.via() != seat.via()) || hub.registry.conn(conn.no).is_none() {
        seat.link.detach(conn.no, false);
    }
    match entered {
        Ok(entered) => {
            open(hub, conn, &seat, entered.applied);
            Ok(entered)
        }
        Err(_) if !now.is_some_and(|now| now.is(&seat)) => Err(Failure::Elsewhere),
        Err(LinkError::Unavailable) => Err(Failure::Unanswered),
        Err(error) if is_unknown(&error) => Err(Failure::NotYet),
        Err(LinkError::Full) if !joining => Err(Failure::NotYet),
        Err(error) => Err(Failure::Refused(error)),
    }
}

/// Whether a host's lease is over, as far as is known here.
fn is_dead(hub: &Hub, at: &MovedTo) -> bool {
    !is_here(hub, at) && hub.directory.incarnation(&at.node_id, at.incarnation).is_some_and(|host| !host.alive)
}

fn is_here(hub: &Hub, at: &MovedTo) -> bool {
    hub.near.as_ref().is_some_and(|near| near.node_id == at.node_id && near.incarnation == at.incarnation)
}

/// What came after `applied` is sent, then whatever comes next.
pub(crate) fn open(hub: &Hub, conn: &Arc<Conn>, seat: &Seat, applied: u64) {
    if let Opened::Partly(mut rest) = conn.open(seat, applied) {
        let (conn, seat) = (Arc::clone(conn), seat.clone());
        hub.spawn("resend inputs", async move {
            loop {
                tokio::time::sleep(RESEND).await;
                match conn.resume(&seat, rest) {
                    Opened::Partly(more) => rest = more,
                    Opened::Open | Opened::No => return,
                }
            }
        });
    }
}

/// What a match's row says of a session.
enum Row {
    Live(MovedTo),
    /// The match is over, or the player has no seat in it.
    Over,
    Unread,
}

async fn look_up(hub: &Hub, conn: &Conn, match_id: Uuid, joining: bool) -> Row {
    let Some(player) = conn.player() else { return Row::Over };
    let read = within(DEADLINE, async {
        if joining {
            matches::live(&hub.pool, match_id).await
        } else {
            Ok(matches::live_of(&hub.pool, player).await?.filter(|live| live.match_id == match_id))
        }
    });
    match read.await {
        Ok(Some(live)) => Row::Live((&live).into()),
        Ok(None) => Row::Over,
        Err(error) => {
            tracing::debug!(%error, match.id = %match_id, "A match could not be looked up.");
            Row::Unread
        }
    }
}

/// Gives up a session's seat, wherever its match is by now.
///
/// # Errors
/// The match could not be reached.
pub(crate) async fn leave(hub: &Arc<Hub>, conn: &Arc<Conn>, match_id: Uuid) -> Result<(), LinkError> {
    let until = Instant::now() + SOUGHT;
    while let Some(seat) = conn.seat().filter(|seat| seat.match_id == match_id) {
        if Instant::now() >= until {
            return Err(LinkError::Unavailable);
        }
        // A host that the session has not reached yet does not know what to give up.
        if !conn.is_open(&seat) {
            let at = match look_up(hub, conn, match_id, false).await {
                Row::Live(at) => at,
                Row::Over => break,
                Row::Unread => return Err(LinkError::Unavailable),
            };
            match attach(hub, conn, at).await {
                Ok(_) => continue,
                Err(LinkError::Refused { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        match seat.link.leave(conn.no).await {
            // A refusal means that there is no seat to give up; unless the match went elsewhere meanwhile.
            Ok(()) | Err(LinkError::Refused { .. }) if conn.is_open(&seat) => break,
            Ok(()) | Err(LinkError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    conn.clear_seat(match_id);
    Ok(())
}

/// The player was matched: every session is attached, then told, then offered to migrate.
pub(crate) async fn matched(hub: &Arc<Hub>, player: &Arc<Player>, match_id: Uuid, frame: Option<Frame>) {
    let read = hub.look_ups.whereabouts.ask(match_id, DEADLINE).await;
    let unread = read.is_err();
    if unread {
        tracing::warn!(
            match.id = %match_id,
            "A match that was made could not be looked up; its player is told all the same, and brought there later."
        );
    }
    let live = read.ok().flatten();
    let conns = player.conns();
    for conn in &conns {
        conn.outbox.hold();
    }
    let mut places = Vec::new();
    if let Some(live) = &live {
        for conn in &conns {
            match attach(hub, conn, live.into()).await {
                Ok(attached) => places.push((conn, attached.at)),
                Err(error) => {
                    tracing::warn!(%error, match.id = %match_id, session.no = conn.no.0, "A session could not be attached to its match.");
                    places.push((conn, live.into()));
                }
            }
        }
    }
    for conn in &conns {
        conn.outbox.announce(frame.clone());
    }
    for (conn, at) in places {
        offer_migration(hub, conn, &at, "matched");
    }
    // Nothing else would: this was the only time that the match is heard of.
    for conn in conns.iter().filter(|_| unread) {
        hub.spawn("pursue match", pursue(Arc::clone(hub), Arc::clone(conn), match_id, Ending::Untold));
    }
}

/// Tells a client that can where its match runs, with a token that opens a session there.
pub(crate) fn offer_migration(hub: &Hub, conn: &Conn, at: &MovedTo, reason: &str) {
    let (capabilities, session) = {
        let local = conn.local();
        (local.capabilities, local.claims)
    };
    // Another offer is on its way where the match has gone on meanwhile.
    if conn.seat().is_none_or(|seat| seat.match_id != at.match_id || seat.epoch != at.epoch) {
        return;
    }
    let identity = hub.membership.identity();
    let here = identity.node_id == at.node_id && identity.incarnation == at.incarnation;
    let Some(session) = session.filter(|_| capabilities.migrate && !here && hub.config.migrate.via != MigrateVia::Off)
    else {
        return;
    };
    let Some(host) = hub.directory.incarnation(&at.node_id, at.incarnation) else { return };
    let Some(url) = host.ws_url.as_deref() else { return };
    let migration = migration::Migration {
        session,
        match_id: at.match_id,
        epoch: at.epoch,
        capabilities: capabilities.names().into_iter().map(ToOwned::to_owned).collect(),
    };
    match migration::mint(&hub.verifier, &migration, &migration::audience(&at.node_id, at.incarnation)) {
        Ok((token, expires_at)) => {
            let (node, names) = (&at.node_id, &hub.config.migrate);
            let payload = json!({"match_id": at.match_id, "node_id": node, "url": url, "token": token,
                "expires_at": expires_at, "reason": reason,
                "affinity": {"cookie": format!("{}={node}", names.cookie), "query": format!("{}={node}", names.query)}});
            // Not before the client knows of its session and its match.
            conn.outbox.push_from_match(FrameKind::Event, Frame::from(frame::push("match.migrate", payload)));
            conn.local().offered = Some(std::time::Instant::now());
            metrics::counter!("asobi_session_migrations_offered_total").increment(1);
        }
        Err(error) => tracing::warn!(%error, "No migration token could be made; the session stays relayed."),
    }
}

/// Brings a session to where its match runs now, unless it is, or is on its way, there already, or in another match.
pub(crate) async fn follow(hub: Arc<Hub>, conn: Arc<Conn>, at: MovedTo, reason: &'static str) {
    let due = conn.seat().is_some_and(|seat| {
        seat.match_id == at.match_id && seat.epoch <= at.epoch && !seat.is(&Seat::new(&at, way(&hub, &at)))
    });
    if due {
        arrive(hub, conn, at, reason).await;
    }
}

/// As [`follow`], for a session that was given its new seat.
pub(crate) async fn arrive(hub: Arc<Hub>, conn: Arc<Conn>, at: MovedTo, reason: &'static str) {
    let match_id = at.match_id;
    match attach(&hub, &conn, at).await {
        Ok(attached) => offer_migration(&hub, &conn, &attached.at, reason),
        Err(LinkError::Refused { .. }) => {
            if let Some(finished) = finished(&hub, match_id).await {
                conn.outbox.push_from_match(FrameKind::Event, finished);
            }
        }
        Err(error) => tracing::debug!(%error, match.id = %match_id, "A session is not where its match is yet."),
    }
}

/// A match goes on elsewhere after its host was lost: the player's sessions follow it.
pub(crate) async fn failed_over(hub: &Arc<Hub>, player: &Arc<Player>, match_id: Uuid) {
    let live = match within(DEADLINE, matches::live_of(&hub.pool, player.id)).await {
        Ok(live) => live,
        Err(error) => {
            tracing::warn!(%error, match.id = %match_id, "A match that goes on elsewhere could not be looked up; its relay finds it.");
            return;
        }
    };
    let Some(at) = live.filter(|live| live.match_id == match_id).map(|live| MovedTo::from(&live)) else { return };
    for conn in player.conns() {
        // Without a seat: its host gave it up before it was known to be lost.
        if conn.seat().is_none() {
            hub.spawn("follow match", arrive(Arc::clone(hub), conn, at.clone(), "failed_over"));
        } else {
            hub.spawn("follow match", follow(Arc::clone(hub), conn, at.clone(), "failed_over"));
        }
    }
}

/// `match.finished` of a match that has ended by its own rules. What became of one that was lost with its host, its players' inboxes say.
pub(crate) async fn finished(hub: &Hub, match_id: Uuid) -> Option<Frame> {
    let row = within(DEADLINE, matches::by_id(&hub.pool, match_id)).await.ok()??;
    let payload = json!({"match_id": match_id, "result": row.result});
    (row.state == "finished").then(|| Frame::from(frame::push("match.finished", payload)))
}

/// The seat is over: the session hears how the match ended, if it still waits for that.
async fn over(hub: &Hub, conn: &Conn, match_id: Uuid) {
    if conn.seat().is_none_or(|seat| seat.match_id != match_id) {
        return;
    }
    if let Some(finished) = finished(hub, match_id).await {
        conn.outbox.push_from_match(FrameKind::Event, finished);
    }
    give_up(conn, match_id);
}
