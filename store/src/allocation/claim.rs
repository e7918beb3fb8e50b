//! Step 1 of a match: tickets become seats in an allocating match, many groups in one transaction.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Result, inbox::StoredEvent, tickets};

/// A group about to become a match.
#[derive(Debug, Clone)]
pub struct Forming {
    pub match_id: Uuid,
    pub mode: String,
    pub host_node: String,
    pub host_incarnation: i64,
    /// Ticket's row and player, in seat order. All rows of a party's ticket are among them.
    pub tickets: Vec<(Uuid, Uuid)>,
    /// The players by team; none: no teams.
    pub teams: Option<Vec<Vec<Uuid>>>,
    /// Where its host may be, the best first; empty: anywhere.
    pub regions: Vec<String>,
    /// Of the decision, where a ticket's trace is recorded.
    pub traceparent: Option<String>,
}

/// What [`claim`] did.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Matches that are `allocating` now.
    pub formed: HashSet<Uuid>,
    /// Rows of groups that were broken up which are still pending.
    pub free: HashSet<Uuid>,
    /// Tickets, by their heads, that were withdrawn because a player of theirs has a seat now, or had one already.
    pub withdrawn: Vec<Uuid>,
    /// What the others of such tickets are told of it, to be published after the commit.
    pub told: Vec<StoredEvent>,
}

/// Makes matches of groups: rows `allocating` with epoch 1, a seat for each player, the tickets `matched`, the players' other
/// tickets withdrawn. A group with a ticket that is no longer pending, or a player who has a seat elsewhere, is broken up and
/// leaves no trace.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn claim(conn: &mut PgConnection, groups: &[Forming], term: i64) -> Result<Claimed> {
    insert_matches(conn, groups, term).await?;
    let seated = take_seats(conn, groups).await?;
    let whole = |group: &&Forming| group.tickets.iter().all(|(_, player)| seated.contains(&(group.match_id, *player)));
    let wanted: Vec<(Uuid, Uuid)> =
        groups.iter().filter(whole).flat_map(|g| g.tickets.iter().map(|(ticket, _)| (*ticket, g.match_id))).collect();
    let taken = take_tickets(conn, &wanted).await?;
    let (formed, broken): (Vec<&Forming>, Vec<&Forming>) =
        groups.iter().partition(|g| whole(g) && g.tickets.iter().all(|(ticket, _)| taken.contains(ticket)));
    let mut claimed = Claimed { formed: formed.iter().map(|g| g.match_id).collect(), ..Claimed::default() };
    if !broken.is_empty() {
        break_up(conn, &broken).await?;
    }
    // The players of broken groups too: who had a seat elsewhere keeps no ticket.
    let players: Vec<Uuid> = groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| *player)).collect();
    (claimed.withdrawn, claimed.told) = withdraw(conn, &players).await?;
    if !broken.is_empty() {
        let tickets: Vec<Uuid> = broken.iter().flat_map(|g| g.tickets.iter().map(|(ticket, _)| *ticket)).collect();
        claimed.free = sqlx::query_scalar!("SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending'", &tickets)
            .fetch_all(conn)
            .await?
            .into_iter()
            .collect();
    }
    Ok(claimed)
}

/// Withdraws every ticket by which seated players among these wait; a party's ends whole, and its members without a seat are told.
pub(crate) async fn withdraw(conn: &mut PgConnection, players: &[Uuid]) -> Result<(Vec<Uuid>, Vec<StoredEvent>)> {
    let rows = sqlx::query!(
        r#"WITH heads AS (
             SELECT DISTINCT COALESCE(t.head, t.id) AS head FROM tickets t JOIN match_players s ON s.player_id = t.player_id
             WHERE t.player_id = ANY($1) AND t.state = 'pending'),
           whole AS (SELECT head AS id FROM heads UNION ALL SELECT r.id FROM heads h JOIN tickets r ON r.head = h.head),
           mine AS (SELECT t.id FROM tickets t JOIN whole ON whole.id = t.id WHERE t.state = 'pending' ORDER BY t.id FOR UPDATE OF t)
           UPDATE tickets t SET state = 'cancelled', ended_at = now() FROM mine WHERE t.id = mine.id AND t.state = 'pending'
           RETURNING COALESCE(t.head, t.id) AS "head!", t.player_id,
             EXISTS (SELECT 1 FROM match_players s WHERE s.player_id = t.player_id) AS "seated!""#,
        players,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut heads: Vec<Uuid> = rows.iter().map(|row| row.head).collect();
    heads.sort_unstable();
    heads.dedup();
    let mut events = Vec::new();
    for row in rows.into_iter().filter(|row| !row.seated) {
        let payload = json!({"success": true, "ticket_id": row.head, "reason": "member_in_match"});
        events.push((row.player_id, tickets::event("matchmaker.removed", &payload)?));
    }
    Ok((heads, tickets::append(conn, events).await?))
}

async fn insert_matches(conn: &mut PgConnection, groups: &[Forming], term: i64) -> Result<()> {
    let ids: Vec<Uuid> = groups.iter().map(|g| g.match_id).collect();
    let modes: Vec<String> = groups.iter().map(|g| g.mode.clone()).collect();
    let hosts: Vec<String> = groups.iter().map(|g| g.host_node.clone()).collect();
    let incarnations: Vec<i64> = groups.iter().map(|g| g.host_incarnation).collect();
    let teams: Vec<Option<Value>> = groups.iter().map(|g| g.teams.as_ref().map(|teams| json!(teams))).collect();
    let regions: Vec<Value> = groups.iter().map(|g| json!(g.regions)).collect();
    let traces: Vec<Option<String>> = groups.iter().map(|g| g.traceparent.clone()).collect();
    let (of, players): (Vec<Uuid>, Vec<Uuid>) =
        groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| (g.match_id, *player))).unzip();
    sqlx::query!(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, teams, regions, traceparent)
         SELECT g.id, g.mode, 'allocating', g.host, g.incarnation, 1, $5, s.players, g.teams,
           ARRAY(SELECT jsonb_array_elements_text(g.regions)), g.traceparent
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $8::jsonb[], $9::jsonb[], $10::text[])
           AS g (id, mode, host, incarnation, teams, regions, traceparent)
         JOIN (SELECT match_id, array_agg(player_id ORDER BY place) AS players
               FROM UNNEST($6::uuid[], $7::uuid[]) WITH ORDINALITY AS f (match_id, player_id, place) GROUP BY match_id) AS s
           ON s.match_id = g.id",
        &ids,
        &modes,
        &hosts,
        &incarnations,
        term,
        &of,
        &players,
        &teams as &[Option<Value>],
        &regions,
        &traces as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The seats that could be taken, as (match, player).
async fn take_seats(conn: &mut PgConnection, groups: &[Forming]) -> Result<HashSet<(Uuid, Uuid)>> {
    let (of, players): (Vec<Uuid>, Vec<Uuid>) =
        groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| (g.match_id, *player))).unzip();
    let rows = sqlx::query!(
        "INSERT INTO match_players (player_id, match_id)
         SELECT player_id, match_id FROM UNNEST($1::uuid[], $2::uuid[]) AS s (player_id, match_id) ORDER BY player_id
         ON CONFLICT (player_id) DO NOTHING RETURNING match_id, player_id",
        &players,
        &of,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.match_id, row.player_id)).collect())
}

async fn take_tickets(conn: &mut PgConnection, wanted: &[(Uuid, Uuid)]) -> Result<HashSet<Uuid>> {
    let (tickets, matches): (Vec<Uuid>, Vec<Uuid>) = wanted.iter().copied().unzip();
    let rows = sqlx::query_scalar!(
        // Locked in the order of ids, as whoever cancels a party's ticket does.
        "WITH mine AS (SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending' ORDER BY id FOR UPDATE)
         UPDATE tickets t SET state = 'matched', match_id = w.match_id, ended_at = now()
         FROM UNNEST($1::uuid[], $2::uuid[]) AS w (id, match_id) JOIN mine ON mine.id = w.id
         WHERE t.id = w.id AND t.state = 'pending' RETURNING t.id",
        &tickets,
        &matches,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

async fn break_up(conn: &mut PgConnection, broken: &[&Forming]) -> Result<()> {
    let ids: Vec<Uuid> = broken.iter().map(|g| g.match_id).collect();
    // Their seats go with them.
    sqlx::query!("DELETE FROM matches WHERE id = ANY($1)", &ids).execute(&mut *conn).await?;
    let tickets: Vec<Uuid> = broken.iter().flat_map(|g| g.tickets.iter().map(|(ticket, _)| *ticket)).collect();
    sqlx::query!(
        "UPDATE tickets SET state = 'pending', match_id = NULL, ended_at = NULL
         WHERE id = ANY($1) AND state = 'matched' AND match_id = ANY($2)",
        &tickets,
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(())
}
