//! Tickets of parties: one row per member, written and ended together.

use asobi_proto::{bus::InboxEvent, frame, mode::ModeSettings};
use serde_json::{json, value::RawValue};
use sqlx::{PgConnection, PgPool};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{COUNTED, Created, Ticket, TicketError, TicketState, Wish, largest_party};
use crate::{
    Error, Result,
    inbox::{self, StoredEvent},
    parties, sql,
};

/// What [`create_party`] answers.
#[derive(Debug)]
pub struct CreatedForParty {
    pub created: Created,
    /// What the other members are told, for the caller to publish.
    pub told: Vec<StoredEvent>,
}

/// Queues a whole party for its leader, all members or none, and tells the others in the same transaction. What is said of callers and
/// bounds at [`super::create`] holds here too.
///
/// # Errors
/// See [`TicketError`].
pub async fn create_party(
    pool: &PgPool,
    party: Uuid,
    leader: Uuid,
    mode: &str,
    wish: Wish<'_>,
    settings: &ModeSettings,
    max_queue: i64,
) -> Result<CreatedForParty, TicketError> {
    // A ticket that a member writes at the same moment is seen by the next look.
    for _ in 0..3 {
        let mut tx = crate::begin(pool).await?;
        // Locked: who comes or goes meanwhile finds the ticket.
        let roster = parties::lock(&mut tx, party).await?.ok_or(TicketError::PartyNotFound)?;
        if !roster.members.contains(&leader) {
            return Err(TicketError::PartyNotFound);
        }
        if roster.leader_id != leader {
            return Err(TicketError::NotPartyLeader);
        }
        let most = largest_party(settings);
        if roster.members.len() > most as usize {
            return Err(TicketError::PartyTooLarge(most));
        }
        let mut players = vec![leader];
        players.extend(roster.members.iter().filter(|member| **member != leader));
        if seated(&mut tx, &players).await? {
            return Err(TicketError::AlreadyInMatch);
        }
        if let Some(held) = held(&mut tx, party, mode, &players).await? {
            return Ok(CreatedForParty { created: held?, told: Vec::new() });
        }
        let new = New { party, mode, wish, settings, max_queue, traceparent: asobi_trace::traceparent() };
        let inserting = insert(&mut tx, new, players);
        let Some(created) = inserting.instrument(sql::statement("INSERT", "tickets")).await? else { continue };
        let told = tell_queued(&mut tx, &created, settings).await?;
        tx.commit().await?;
        return Ok(CreatedForParty { created, told });
    }
    Err(TicketError::Db(Error::Sql(sqlx::Error::RowNotFound)))
}

async fn seated(conn: &mut PgConnection, players: &[Uuid]) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM match_players WHERE player_id = ANY($1)) AS "seated!""#,
        players,
    )
    .fetch_one(conn)
    .await?)
}

/// The ticket by which exactly these wait in the mode with this party; an error when some wait otherwise.
async fn held(
    conn: &mut PgConnection,
    party: Uuid,
    mode: &str,
    players: &[Uuid],
) -> Result<Option<Result<Created, TicketError>>> {
    let rows = sqlx::query!(
        r#"SELECT COALESCE(t.head, t.id) AS "ticket_id!", t.party_id, t.properties, t.query, t.submitted_at, t.expires_at,
             (SELECT estimated_wait_ms FROM modes WHERE mode = $2) AS estimated_wait_ms
           FROM tickets t WHERE t.player_id = ANY($1) AND t.mode = $2 AND t.state = 'pending' ORDER BY t.id"#,
        players,
        mode,
    )
    .fetch_all(conn)
    .await?;
    let count = rows.len();
    if count == 0 {
        return Ok(None);
    }
    let own = count == players.len() && rows.iter().all(|row| row.party_id == Some(party));
    let first = rows.into_iter().next().filter(|_| own);
    Ok(Some(first.ok_or(TicketError::MemberQueued).map(|row| Created {
        ticket: Ticket {
            id: row.ticket_id,
            player_id: players[0],
            players: players.to_vec(),
            party_id: Some(party),
            mode: mode.to_owned(),
            state: TicketState::Pending,
            properties: row.properties,
            query: row.query,
            submitted_at: row.submitted_at,
            expires_at: row.expires_at,
            match_id: None,
        },
        already_queued: true,
        estimated_wait_ms: row.estimated_wait_ms,
        position: None,
    })))
}

/// What a party's ticket is to say.
struct New<'a> {
    party: Uuid,
    mode: &'a str,
    wish: Wish<'a>,
    settings: &'a ModeSettings,
    max_queue: i64,
    /// Of whoever queues it, where their trace is recorded.
    traceparent: Option<String>,
}

/// None when a member's own ticket came in between; the transaction is then to be rolled back.
async fn insert(conn: &mut PgConnection, new: New<'_>, players: Vec<Uuid>) -> Result<Option<Created>, TicketError> {
    let New { party, mode, wish, settings, max_queue, traceparent } = new;
    let ids: Vec<Uuid> = players.iter().map(|_| Uuid::now_v7()).collect();
    let head = ids[0];
    let rows = sqlx::query!(
        r#"WITH room AS (SELECT CASE
                 WHEN $8::bigint > $9::bigint AND COALESCE((SELECT queued_at > now() - interval '5 s' FROM modes WHERE mode = $4), false)
                 THEN (SELECT queued FROM modes WHERE mode = $4)::bigint
                 ELSE (SELECT count(*) FROM (SELECT 1 FROM tickets WHERE mode = $4 AND state = 'pending' LIMIT $8) AS waiting)
                 END AS waiting),
             made AS (INSERT INTO tickets (id, player_id, mode, properties, query, state, expires_at, head, party_id, traceparent)
                 SELECT t.id, t.player_id, $4, $5, $6, 'pending', now() + make_interval(secs => $7), NULLIF($1, t.id), $10, $11
                 FROM UNNEST($2::uuid[], $3::uuid[]) AS t (id, player_id)
                 WHERE (SELECT waiting < $8 FROM room) ORDER BY t.player_id
                 ON CONFLICT (player_id, mode) WHERE state = 'pending' DO NOTHING
                 RETURNING submitted_at, expires_at)
           SELECT (SELECT waiting FROM room) AS "waiting!", (SELECT count(*) FROM made) AS "made!",
                  (SELECT estimated_wait_ms FROM modes WHERE mode = $4) AS estimated_wait_ms,
                  (SELECT min(submitted_at) FROM made) AS submitted_at, (SELECT min(expires_at) FROM made) AS expires_at"#,
        head,
        &ids,
        &players,
        mode,
        wish.properties,
        wish.query,
        f64::from(settings.max_wait_seconds),
        max_queue,
        COUNTED,
        party,
        traceparent,
    )
    .fetch_one(conn)
    .await?;
    if rows.waiting >= max_queue {
        return Err(TicketError::QueueFull);
    }
    let whole = usize::try_from(rows.made).is_ok_and(|made| made == players.len());
    let (Some(submitted_at), Some(expires_at), true) = (rows.submitted_at, rows.expires_at, whole) else {
        return Ok(None);
    };
    Ok(Some(Created {
        ticket: Ticket {
            id: head,
            player_id: players[0],
            players,
            party_id: Some(party),
            mode: mode.to_owned(),
            state: TicketState::Pending,
            properties: wish.properties.clone(),
            query: wish.query.map(ToOwned::to_owned),
            submitted_at,
            expires_at,
            match_id: None,
        },
        already_queued: false,
        estimated_wait_ms: rows.estimated_wait_ms,
        position: Some(rows.waiting + 1),
    }))
}

async fn tell_queued(conn: &mut PgConnection, created: &Created, settings: &ModeSettings) -> Result<Vec<StoredEvent>> {
    let mut payload = created.payload(settings);
    // Who did not ask does not know for what.
    payload["mode"] = json!(created.ticket.mode);
    payload["party_id"] = json!(created.ticket.party_id);
    let event = event("matchmaker.queued", &payload)?;
    let events = created.ticket.players.iter().skip(1).map(|player| (*player, event.clone())).collect();
    append(conn, events).await
}

/// A ticket that was ended: its head's id, and its players, a party's or the one.
#[derive(Debug)]
pub(crate) struct Ended {
    pub ticket_id: Uuid,
    pub players: Vec<Uuid>,
}

/// Ends tickets by their heads' ids, those of them that wait.
pub(super) async fn end(conn: &mut PgConnection, heads: &[Uuid]) -> Result<Vec<Ended>> {
    let rows = sqlx::query!(
        r#"WITH mine AS (SELECT id FROM tickets WHERE (id = ANY($1) OR head = ANY($1)) AND state = 'pending' ORDER BY id FOR UPDATE)
           UPDATE tickets t SET state = 'cancelled', ended_at = now() FROM mine
           WHERE t.id = mine.id AND t.state = 'pending' RETURNING COALESCE(t.head, t.id) AS "ticket_id!", t.player_id"#,
        heads,
    )
    .fetch_all(conn)
    .await?;
    let mut ended: Vec<Ended> = Vec::new();
    for row in rows {
        match ended.iter_mut().find(|known| known.ticket_id == row.ticket_id) {
            Some(known) => known.players.push(row.player_id),
            None => ended.push(Ended { ticket_id: row.ticket_id, players: vec![row.player_id] }),
        }
    }
    Ok(ended)
}

/// What all players of tickets hear that these ended: `withdrawn`, or because the party changed.
pub(super) fn news(ended: &[Ended], reason: &str) -> Result<Vec<(Uuid, InboxEvent)>> {
    let mut events = Vec::new();
    for ticket in ended {
        let payload = json!({"success": true, "ticket_id": ticket.ticket_id, "reason": reason});
        let event = event("matchmaker.removed", &payload)?;
        events.extend(ticket.players.iter().map(|player| (*player, event.clone())));
    }
    Ok(events)
}

/// Withdraws the tickets of a party whose members change. Answers the tickets and what their players are to be told: the caller appends
/// everything at once, since inboxes are locked in order.
pub(crate) async fn withdraw_of_party(
    conn: &mut PgConnection,
    party: Uuid,
    members: &[Uuid],
) -> Result<(Vec<Uuid>, Vec<(Uuid, InboxEvent)>)> {
    let heads = sqlx::query_scalar!(
        r#"SELECT DISTINCT COALESCE(head, id) AS "head!" FROM tickets
           WHERE player_id = ANY($1) AND party_id = $2 AND state = 'pending'"#,
        members,
        party,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ended = if heads.is_empty() { Vec::new() } else { end(conn, &heads).await? };
    let events = news(&ended, "party_changed")?;
    Ok((ended.into_iter().map(|ticket| ticket.ticket_id).collect(), events))
}

/// An event that pushes one frame.
pub(crate) fn event(kind: &str, payload: &serde_json::Value) -> Result<InboxEvent> {
    let frame = RawValue::from_string(frame::push(kind, payload));
    Ok(InboxEvent { frame: Some(frame.map_err(|source| Error::Corrupt { what: "frame", source })?), action: None })
}

/// Appends events and answers them as they are to be published after the commit.
pub(crate) async fn append(conn: &mut PgConnection, events: Vec<(Uuid, InboxEvent)>) -> Result<Vec<StoredEvent>> {
    let seqs = inbox::append(conn, &events).await?;
    Ok(events.into_iter().zip(seqs).map(|((player_id, event), seq)| StoredEvent { player_id, seq, event }).collect())
}
