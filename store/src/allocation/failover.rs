//! Matches whose host is gone: which they are, giving them to another host, and giving them up.

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::clear;
use crate::Result;

/// An open match whose host does not hold its lease.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub id: Uuid,
    pub mode: String,
    pub state: String,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
    pub told: bool,
    /// How often it went on elsewhere already: its players know it, whatever `told` says.
    pub failovers: i32,
    /// Of the script it started with; empty: unknown, or of no importance.
    pub version: String,
    /// Where its host may be, the best first; empty: anywhere.
    pub regions: Vec<String>,
    /// Where that very incarnation may still answer a probe; none: it was replaced, or has stopped.
    pub grpc_addr: Option<String>,
}

/// Open matches of hosts that were replaced, have stopped, or let their lease run out by the database's clock. Without those that a leader
/// has given to a host and that are not claimed: they are with the creates.
///
/// # Errors
/// When the database fails.
pub async fn orphans(pool: &PgPool, limit: i64) -> Result<Vec<Orphan>> {
    Ok(sqlx::query_as!(
        Orphan,
        r#"SELECT m.id, m.mode, m.state, m.host_node, m.host_incarnation, m.epoch, m.told, m.failovers, m.version, m.regions,
             n.grpc_addr AS "grpc_addr?"
           FROM matches m
           LEFT JOIN nodes n ON n.node_id = m.host_node AND n.incarnation = m.host_incarnation AND n.state <> 'stopped'
           WHERE m.state IN ('allocating', 'running') AND (m.state = 'running' OR m.term = 0) AND (n.node_id IS NULL OR n.lease_until <= now())
           ORDER BY m.id LIMIT $1"#,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// A match that another host shall go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    pub id: Uuid,
    /// As it was read.
    pub epoch: i64,
    pub host_node: String,
    pub host_incarnation: i64,
}

/// Gives orphaned running matches to other hosts: `allocating` again under the next epoch, untold, and their checkpoints' epoch raised with
/// them, so that what the host before still writes finds nothing. Answers those that were given; the others have moved on, or their host
/// has renewed its lease. The hosts before are held, see `asobi_cluster::death::hold`.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn fail_over(conn: &mut PgConnection, rescues: &[Rescue], term: i64) -> Result<HashSet<Uuid>> {
    let ids: Vec<Uuid> = rescues.iter().map(|r| r.id).collect();
    let epochs: Vec<i64> = rescues.iter().map(|r| r.epoch).collect();
    let hosts: Vec<String> = rescues.iter().map(|r| r.host_node.clone()).collect();
    let incarnations: Vec<i64> = rescues.iter().map(|r| r.host_incarnation).collect();
    let moved = sqlx::query_scalar!(
        // Not FOR UPDATE: a first checkpoint's foreign key must not wait for us while we wait for its row.
        r#"WITH mine AS (
             SELECT m.id, m.epoch FROM matches m JOIN UNNEST($1::uuid[], $2::bigint[]) AS g (id, epoch) ON m.id = g.id AND m.epoch = g.epoch
             WHERE m.state = 'running' AND (m.told OR m.failovers > 0)
               AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = m.host_node AND n.incarnation = m.host_incarnation
                               AND n.state <> 'stopped' AND n.lease_until > now())
             ORDER BY m.id FOR NO KEY UPDATE OF m)
           UPDATE matches m SET host_node = g.host, host_incarnation = g.incarnation, epoch = m.epoch + 1, state = 'allocating', term = $5,
             attempts = 1, told = false, failovers = m.failovers + 1
           FROM UNNEST($1::uuid[], $3::text[], $4::bigint[]) AS g (id, host, incarnation) JOIN mine ON mine.id = g.id
           WHERE m.id = g.id RETURNING m.id"#,
        &ids,
        &epochs,
        &hosts,
        &incarnations,
        term,
    )
    .fetch_all(&mut *conn)
    .await?;
    raise_checkpoints(conn, &moved).await?;
    Ok(moved.into_iter().collect())
}

/// Raises the epoch of matches' checkpoints to that of their rows, which the caller has changed in this transaction.
pub(super) async fn raise_checkpoints(conn: &mut PgConnection, matches: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "WITH mine AS (SELECT match_id FROM match_checkpoints WHERE match_id = ANY($1) ORDER BY match_id FOR NO KEY UPDATE)
         UPDATE match_checkpoints c SET epoch = m.epoch FROM mine JOIN matches m ON m.id = mine.match_id WHERE c.match_id = mine.match_id",
        matches,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Those of the matches that players were claimed for whose host has not answered for them.
///
/// # Errors
/// When the database fails.
pub async fn claimed(pool: &PgPool, matches: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!("SELECT DISTINCT match_id FROM backfill_claims WHERE match_id = ANY($1)", matches)
        .fetch_all(pool)
        .await?)
}

/// Fails orphaned matches, named by id and epoch, whose host has not renewed its lease since, and answers how many they were and who sat
/// where. Players who were claimed for one ([`claimed`]) are to be put back before, see [`crate::backfill::put_back`].
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn fail_orphans(conn: &mut PgConnection, matches: &[(Uuid, i64)]) -> Result<(usize, Vec<(Uuid, Uuid)>)> {
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = matches.iter().copied().unzip();
    let ended = sqlx::query_scalar!(
        r#"UPDATE matches m SET state = 'failed', told = true, finished_at = now(), result = '{"error":"host_lost"}'
           FROM UNNEST($1::uuid[], $2::bigint[]) AS g (id, epoch)
           WHERE m.id = g.id AND m.epoch = g.epoch AND m.state IN ('allocating', 'running')
             AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = m.host_node AND n.incarnation = m.host_incarnation
                             AND n.state <> 'stopped' AND n.lease_until > now())
           RETURNING m.id"#,
        &ids,
        &epochs,
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok((ended.len(), clear(conn, &ended).await?))
}

/// Fails matches, named by id and epoch, that were to go on elsewhere and that no host has claimed; as [`fail_orphans`] otherwise.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn fail_stranded(conn: &mut PgConnection, matches: &[(Uuid, i64)]) -> Result<(usize, Vec<(Uuid, Uuid)>)> {
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = matches.iter().copied().unzip();
    let ended = sqlx::query_scalar!(
        r#"UPDATE matches m SET state = 'failed', told = true, finished_at = now(), result = '{"error":"host_lost"}'
           FROM UNNEST($1::uuid[], $2::bigint[]) AS g (id, epoch)
           WHERE m.id = g.id AND m.epoch = g.epoch AND m.state = 'allocating' AND m.failovers > 0
           RETURNING m.id"#,
        &ids,
        &epochs,
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok((ended.len(), clear(conn, &ended).await?))
}
