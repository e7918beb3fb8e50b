//! Inboxes: what a player must be told on every connection, on any node. A counter per player under its row lock, so that
//! commit order is seq order; events live until they expire.

use std::collections::BTreeMap;

use asobi_proto::bus::InboxEvent;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{Error, Result};

/// How long an event waits for the nodes that must tell it, in seconds.
pub const EVENT_LIFE_S: f64 = 120.0;

/// An event as its row holds it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub player_id: Uuid,
    pub seq: i64,
    pub event: InboxEvent,
}

/// Appends events inside the caller's transaction, in one batched step, and answers their sequence numbers in argument
/// order. Players are locked in sorted order, until the transaction's end. After its commit the caller publishes each.
///
/// # Errors
/// When the database refuses; the caller's transaction is then to be rolled back.
pub async fn append(conn: &mut PgConnection, events: &[(Uuid, InboxEvent)]) -> Result<Vec<i64>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut counts: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (player, _) in events {
        *counts.entry(*player).or_default() += 1;
    }
    let players: Vec<Uuid> = counts.keys().copied().collect();
    let added: Vec<i64> = counts.values().copied().collect();
    let rows = sqlx::query!(
        "INSERT INTO inboxes AS i (player_id, seq)
         SELECT p, n FROM UNNEST($1::uuid[], $2::bigint[]) AS t(p, n) ORDER BY p
         ON CONFLICT (player_id) DO UPDATE SET seq = i.seq + excluded.seq
         RETURNING player_id, seq",
        &players,
        &added
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut next: BTreeMap<Uuid, i64> =
        rows.iter().map(|row| (row.player_id, row.seq - counts.get(&row.player_id).copied().unwrap_or(0))).collect();
    let mut seqs = Vec::with_capacity(events.len());
    let mut bodies = Vec::with_capacity(events.len());
    let mut owners = Vec::with_capacity(events.len());
    for (player, event) in events {
        let seq = next.entry(*player).or_default();
        *seq += 1;
        seqs.push(*seq);
        owners.push(*player);
        bodies.push(serde_json::to_value(event).map_err(|source| Error::Corrupt { what: "inbox event", source })?);
    }
    sqlx::query!(
        "INSERT INTO inbox_events (player_id, seq, event, expires_at)
         SELECT p, s, e, now() + make_interval(secs => $4)
         FROM UNNEST($1::uuid[], $2::bigint[], $3::jsonb[]) AS t(p, s, e)",
        &owners,
        &seqs,
        &bodies,
        EVENT_LIFE_S
    )
    .execute(&mut *conn)
    .await?;
    Ok(seqs)
}

/// Has whoever appends to a player's inbox wait for the caller's transaction: what the caller reads then is as it is told next.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, player: Uuid) -> Result<()> {
    sqlx::query!(
        "INSERT INTO inboxes AS i (player_id) VALUES ($1) ON CONFLICT (player_id) DO UPDATE SET seq = i.seq",
        player
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Where these players' inboxes stand; players without one are at 0 and not listed.
///
/// # Errors
/// When the database does not answer.
pub async fn positions(pool: &PgPool, players: &[Uuid]) -> Result<Vec<(Uuid, i64)>> {
    let rows =
        sqlx::query!("SELECT player_id, seq FROM inboxes WHERE player_id = ANY((SELECT $1::uuid[])::uuid[])", players)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|row| (row.player_id, row.seq)).collect())
}

/// The events after each player's cursor, ordered by player and seq, at most `limit` per player. A row that no release can
/// read any more is skipped.
///
/// # Errors
/// When the database does not answer.
pub async fn after(pool: &PgPool, cursors: &[(Uuid, i64)], limit: i64) -> Result<Vec<StoredEvent>> {
    let players: Vec<Uuid> = cursors.iter().map(|c| c.0).collect();
    let seqs: Vec<i64> = cursors.iter().map(|c| c.1).collect();
    let rows = sqlx::query!(
        r#"SELECT e.player_id AS "player_id!", e.seq AS "seq!", e.event AS "event!"
           FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS c(player_id, seq)
           CROSS JOIN LATERAL (
               SELECT i.player_id, i.seq, i.event FROM inbox_events i
               WHERE i.player_id = c.player_id AND i.seq > c.seq AND i.expires_at > now()
               ORDER BY i.seq LIMIT $3
           ) e
           ORDER BY 1, 2"#,
        &players,
        &seqs,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match serde_json::from_value(row.event) {
            Ok(event) => Some(StoredEvent { player_id: row.player_id, seq: row.seq, event }),
            Err(error) => {
                tracing::warn!(player.id = %row.player_id, inbox.seq = row.seq, %error, "skipped an inbox event that cannot be read");
                None
            }
        })
        .collect())
}
