//! Who did what: appended in the transaction of the deed, so that neither is there without the other.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// What is written down of a deed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `token:<name>`, `cert:<name>`, `player:<id>`, `node`, or whoever was refused.
    pub actor: String,
    /// `Service/Method`
    pub action: String,
    /// What it was done to; empty: nothing that has a name.
    pub subject: String,
    pub done: bool,
    pub request_id: Option<String>,
    /// An object.
    pub detail: Value,
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub id: i64,
    pub at: OffsetDateTime,
    pub entry: Entry,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub actor: Option<String>,
    pub subject: Option<String>,
    pub action: Option<String>,
    /// Entries before this one.
    pub before: Option<i64>,
    /// Written then or later.
    pub from: Option<OffsetDateTime>,
    /// Written before then.
    pub until: Option<OffsetDateTime>,
}

/// # Errors
/// When the database fails.
pub async fn append(conn: &mut PgConnection, entry: &Entry) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit (actor, action, subject, outcome, request_id, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        entry.actor,
        entry.action,
        entry.subject,
        if entry.done { "done" } else { "refused" },
        entry.request_id,
        entry.detail
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Kept>> {
    let rows = sqlx::query!(
        "SELECT id, at, actor, action, subject, outcome, request_id, detail FROM audit
         WHERE ($1::text IS NULL OR actor = $1) AND ($2::text IS NULL OR (subject = $2 AND subject <> ''))
           AND ($3::text IS NULL OR action = $3) AND ($4::bigint IS NULL OR id < $4)
           AND ($5::timestamptz IS NULL OR at >= $5) AND ($6::timestamptz IS NULL OR at < $6)
         ORDER BY id DESC LIMIT $7",
        filter.actor,
        filter.subject,
        filter.action,
        filter.before,
        filter.from,
        filter.until,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Kept {
            id: row.id,
            at: row.at,
            entry: Entry {
                actor: row.actor,
                action: row.action,
                subject: row.subject,
                done: row.outcome == "done",
                request_id: row.request_id,
                detail: row.detail,
            },
        })
        .collect())
}

/// What an operator asked under a request id, to be done once.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> {
    pub actor: &'a str,
    /// 1 to [`REQUEST_ID_BYTES`] bytes.
    pub request_id: &'a str,
    /// Of the method and the message.
    pub hash: &'a [u8],
}

pub const REQUEST_ID_BYTES: usize = 128;

/// Whether a request is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is the first under its id: do it, then [`finish_request`] in the same transaction.
    New,
    /// It was done; what was answered.
    Done(Vec<u8>),
    /// Another request has that id.
    Taken,
}

/// Takes a request id inside the transaction of the deed. Whoever sends the same at the same time waits here for that transaction's end.
///
/// # Errors
/// When the database fails.
pub async fn begin_request(conn: &mut PgConnection, key: RequestKey<'_>) -> Result<Begun> {
    let taken = sqlx::query!(
        "INSERT INTO operator_requests (actor, request_id, request_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        key.actor,
        key.request_id,
        key.hash
    )
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(Begun::New);
    }
    let row = sqlx::query!(
        "SELECT request_hash, response FROM operator_requests WHERE actor = $1 AND request_id = $2",
        key.actor,
        key.request_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(match row {
        Some(row) if row.request_hash == key.hash => row.response.map_or(Begun::Taken, Begun::Done),
        _ => Begun::Taken,
    })
}

/// Keeps what the request was answered.
///
/// # Errors
/// When the database fails.
pub async fn finish_request(conn: &mut PgConnection, key: RequestKey<'_>, response: &[u8]) -> Result<()> {
    sqlx::query!(
        "UPDATE operator_requests SET response = $3 WHERE actor = $1 AND request_id = $2",
        key.actor,
        key.request_id,
        response
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets requests of more than a day ago, at most a thousand; answers how many. Several may do so at once.
///
/// # Errors
/// When the database fails.
pub async fn sweep_requests(conn: &mut PgConnection) -> Result<u64> {
    let swept = sqlx::query!(
        "DELETE FROM operator_requests WHERE (actor, request_id) IN (
             SELECT actor, request_id FROM operator_requests WHERE at < now() - interval '1 day'
             ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    );
    Ok(swept.execute(conn).await?.rows_affected())
}

/// An id for whoever gave none: the request is then done each time it is sent.
#[must_use]
pub fn fresh_request_id() -> String {
    Uuid::now_v7().to_string()
}
