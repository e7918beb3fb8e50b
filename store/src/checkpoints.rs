//! The last state of each running match, from which another host can go on.
//!
//! A checkpoint's row is its own fence. It holds the epoch of the host that may write it, and whoever gives the match to another host raises
//! that epoch in the transaction that changes the match's row: a late write of the host before finds no row of its epoch.

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error,
    effects::{self, Effect},
    matches::Fence,
};

/// What one match wants written.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub match_id: Uuid,
    pub epoch: i64,
    /// None: only the effects; the body stays what it was.
    pub body: Option<bytes::Bytes>,
    /// Written in the same transaction.
    pub effects: Vec<Effect>,
    /// Somebody is told of what is in it: the commit waits for the disk.
    pub durable: bool,
}

/// Writes many matches' checkpoints with their effects in one transaction. Answers match and epoch of those that were written; the others are
/// not, or no longer, the writer's. What was written before is written again without harm: effects are keyed by match and ordinal.
///
/// # Errors
/// The database did not answer; whether anything was written is unknown.
pub async fn write(pool: &PgPool, checkpoints: &[Checkpoint]) -> Result<HashSet<(Uuid, i64)>, Error> {
    let mut tx = crate::begin(pool).await?;
    // A state that nobody was told of may be lost with the database: the next one follows within a second.
    if !checkpoints.iter().any(|checkpoint| checkpoint.durable) {
        sqlx::query!("SET LOCAL synchronous_commit = off").execute(&mut *tx).await?;
    }
    let written = put(&mut tx, checkpoints).await?;
    let ours = |checkpoint: &&Checkpoint| written.contains(&(checkpoint.match_id, checkpoint.epoch));
    let effects: Vec<(Uuid, &Effect)> = checkpoints
        .iter()
        .filter(ours)
        .flat_map(|checkpoint| checkpoint.effects.iter().map(|effect| (checkpoint.match_id, effect)))
        .collect();
    effects::insert_many(&mut tx, &effects).await?;
    tx.commit().await?;
    Ok(written)
}

async fn put(conn: &mut PgConnection, checkpoints: &[Checkpoint]) -> Result<HashSet<(Uuid, i64)>, Error> {
    let ids: Vec<Uuid> = checkpoints.iter().map(|checkpoint| checkpoint.match_id).collect();
    let epochs: Vec<i64> = checkpoints.iter().map(|checkpoint| checkpoint.epoch).collect();
    let bodies: Vec<Option<&[u8]>> = checkpoints.iter().map(|checkpoint| checkpoint.body.as_deref()).collect();
    let rows = sqlx::query!(
        // Locked in the order of the ids, as whoever takes matches over does.
        "WITH given AS (
           SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bytea[]) AS g (match_id, epoch, body)),
         mine AS (
           SELECT c.match_id FROM match_checkpoints c JOIN given g ON g.match_id = c.match_id AND g.epoch = c.epoch
           ORDER BY c.match_id FOR UPDATE OF c)
         UPDATE match_checkpoints c SET body = coalesce(g.body, c.body), number = c.number + 1, written_at = now()
         FROM given g JOIN mine ON mine.match_id = g.match_id
         WHERE c.match_id = g.match_id AND c.epoch = g.epoch
         RETURNING c.match_id, c.epoch",
        &ids,
        &epochs,
        &bodies as &[Option<&[u8]>],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.match_id, row.epoch)).collect())
}

/// What the match was when it was written last; none: never, or the row is another host's by now.
///
/// # Errors
/// The database did not answer.
pub async fn read(pool: &PgPool, match_id: Uuid, epoch: i64) -> Result<Option<Vec<u8>>, Error> {
    let body =
        sqlx::query_scalar!("SELECT body FROM match_checkpoints WHERE match_id = $1 AND epoch = $2", match_id, epoch)
            .fetch_optional(pool)
            .await?;
    Ok(body.filter(|body| !body.is_empty()))
}

/// A match on its way from one living host to another.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The fence of the host that gives it away.
    pub from: Fence,
    /// Of the one that takes it: the same match, the next epoch.
    pub to: Fence,
    pub body: bytes::Bytes,
    /// Those that no checkpoint has written yet.
    pub effects: Vec<Effect>,
}

/// Takes a running match over from a host that has frozen it: row, checkpoint and effects in one transaction. True also when it had been
/// taken before. False: it is not that host's to give any more.
///
/// # Errors
/// The database did not answer; whether it was taken is unknown and it may be asked again.
pub async fn adopt(pool: &PgPool, adoption: &Adoption) -> Result<bool, Error> {
    let Adoption { from, to, .. } = adoption;
    let mut tx = crate::begin(pool).await?;
    let taken = sqlx::query!(
        "UPDATE matches SET host_node = $5, host_incarnation = $6, epoch = $7
         WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4 AND state = 'running'",
        from.match_id,
        from.host_node,
        from.host_incarnation,
        from.epoch,
        to.host_node,
        to.host_incarnation,
        to.epoch,
    )
    .execute(&mut *tx)
    .await?;
    if taken.rows_affected() == 0 {
        tx.rollback().await?;
        return holds(pool, to).await;
    }
    sqlx::query!(
        "INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ($1, $2, 1, $3)
         ON CONFLICT (match_id) DO UPDATE SET epoch = excluded.epoch, number = match_checkpoints.number + 1,
             body = excluded.body, written_at = now()",
        to.match_id,
        to.epoch,
        &*adoption.body,
    )
    .execute(&mut *tx)
    .await?;
    let effects: Vec<(Uuid, &Effect)> = adoption.effects.iter().map(|effect| (to.match_id, effect)).collect();
    effects::insert_many(&mut tx, &effects).await?;
    tx.commit().await?;
    Ok(true)
}

/// Finds out who has a match whose move has no known outcome: raises the epoch if it is still the fence's, so that a move that is still under
/// way comes to nothing. True: it is this host's, under the next epoch; also when that was asked before.
///
/// # Errors
/// The database did not answer; it may be asked again.
pub async fn reclaim(pool: &PgPool, fence: &Fence) -> Result<bool, Error> {
    let next = Fence { epoch: fence.epoch + 1, ..fence.clone() };
    let mut tx = crate::begin(pool).await?;
    let ours = sqlx::query!(
        "UPDATE matches SET epoch = $5
         WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4 AND state = 'running'",
        fence.match_id,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
        next.epoch,
    )
    .execute(&mut *tx)
    .await?;
    if ours.rows_affected() == 0 {
        tx.rollback().await?;
        return holds(pool, &next).await;
    }
    sqlx::query!("UPDATE match_checkpoints SET epoch = $2 WHERE match_id = $1", fence.match_id, next.epoch)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// Whether the running match is exactly this fence's.
async fn holds(pool: &PgPool, fence: &Fence) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM matches WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4
           AND state = 'running') AS "held!""#,
        fence.match_id,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
    )
    .fetch_one(pool)
    .await?)
}
