//! One notification for many players, a few hundred at a time. The row of a job is locked by whoever tells the next ones, for as long as that
//! transaction lives: nobody needs a lease, and who dies lets go.
//!
//! ```text
//!  waiting ──► running ──► done
//!     │           ├──────► failed      tried again and again in vain
//!     └───────────┴──────► cancelled
//! ```
//!
//! **Invariant:** how far a job came is committed with the notifications of those it came to, or not at all.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Cancelled,
    Failed,
}

impl JobState {
    /// As the rows name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    // The column has a CHECK of exactly these; what a newer release adds is nothing to work on here.
    fn of(text: &str) -> Self {
        match text {
            "waiting" => Self::Waiting,
            "running" => Self::Running,
            "done" => Self::Done,
            "cancelled" => Self::Cancelled,
            _ => Self::Failed,
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// Who is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub registered_after: Option<OffsetDateTime>,
    pub registered_before: Option<OffsetDateTime>,
    pub guest: Option<bool>,
    /// In lower case; this one, or what begins with it.
    pub language: Option<String>,
}

impl Filter {
    /// Whether it may pass over many players to find one.
    fn is_narrow(&self) -> bool {
        *self != Self::default()
    }
}

#[derive(Debug, Clone)]
pub struct NewJob {
    pub created_by: String,
    /// Of which each player gets the text of their language.
    pub message: Value,
    pub expires_at: Option<OffsetDateTime>,
    /// These, or all those whom the filter lets pass.
    pub players: Option<Vec<Uuid>>,
    pub filter: Filter,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: Uuid,
    pub created_by: String,
    pub created_at: OffsetDateTime,
    pub state: JobState,
    pub message: Value,
    pub expires_at: Option<OffsetDateTime>,
    /// Whether its players are listed.
    pub listed: bool,
    pub filter: Filter,
    pub total: Option<i64>,
    /// Players it came to.
    pub done: i64,
    /// Of those, who was told.
    pub told: i64,
    /// The last it came to.
    pub after: Option<Uuid>,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
    /// Tries in a row that failed.
    pub failures: i32,
    pub failure: Option<String>,
}

struct Row {
    id: Uuid,
    created_by: String,
    created_at: OffsetDateTime,
    state: String,
    message: Value,
    expires_at: Option<OffsetDateTime>,
    listed: bool,
    registered_after: Option<OffsetDateTime>,
    registered_before: Option<OffsetDateTime>,
    guest: Option<bool>,
    language: Option<String>,
    total: Option<i64>,
    done: i64,
    told: i64,
    after: Option<Uuid>,
    started_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
    failures: i32,
    failure: Option<String>,
}

impl From<Row> for Job {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            created_by: row.created_by,
            created_at: row.created_at,
            state: JobState::of(&row.state),
            message: row.message,
            expires_at: row.expires_at,
            listed: row.listed,
            filter: Filter {
                registered_after: row.registered_after,
                registered_before: row.registered_before,
                guest: row.guest,
                language: row.language,
            },
            total: row.total,
            done: row.done,
            told: row.told,
            after: row.after,
            started_at: row.started_at,
            finished_at: row.finished_at,
            failures: row.failures,
            failure: row.failure,
        }
    }
}

/// Stores a job. None: `most` are open already.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut PgConnection, new: NewJob, most: i64) -> Result<Option<Job>> {
    let players = new.players.map(|mut players| {
        players.sort_unstable();
        players.dedup();
        players
    });
    let total = players.as_ref().and_then(|players| i64::try_from(players.len()).ok());
    let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO notification_jobs (id, created_by, message, expires_at, players, registered_after, registered_before, guest,
             language, total)
           SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
           WHERE (SELECT count(*) FROM notification_jobs WHERE state IN ('waiting', 'running')) < $11
           RETURNING id, created_by, created_at, state, message, expires_at, players IS NOT NULL AS "listed!", registered_after,
             registered_before, guest, language, total, done, told, after, started_at, finished_at, failures, failure"#,
        Uuid::now_v7(),
        new.created_by,
        new.message,
        new.expires_at,
        players.as_deref(),
        new.filter.registered_after,
        new.filter.registered_before,
        new.filter.guest,
        new.filter.language,
        total,
        most
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Job::from))
}

/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, created_by, created_at, state, message, expires_at, players IS NOT NULL AS "listed!", registered_after,
             registered_before, guest, language, total, done, told, after, started_at, finished_at, failures, failure
           FROM notification_jobs WHERE id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(Job::from))
}

/// Newest first, those before one.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, before: Option<Uuid>, limit: i64) -> Result<Vec<Job>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, created_by, created_at, state, message, expires_at, players IS NOT NULL AS "listed!", registered_after,
             registered_before, guest, language, total, done, told, after, started_at, finished_at, failures, failure
           FROM notification_jobs WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"#,
        before,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Job::from).collect())
}

/// The oldest job that nobody is at, locked for the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn take(conn: &mut PgConnection) -> Result<Option<Job>> {
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE notification_jobs SET state = 'running', started_at = COALESCE(started_at, now())
           WHERE id = (SELECT id FROM notification_jobs WHERE state IN ('waiting', 'running') AND retry_at <= now()
                       ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING id, created_by, created_at, state, message, expires_at, players IS NOT NULL AS "listed!", registered_after,
             registered_before, guest, language, total, done, told, after, started_at, finished_at, failures, failure"#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Job::from))
}

/// Counts the players of a job that lists none.
///
/// # Errors
/// When the database fails, or there are too many to be counted in time.
pub async fn count(pool: &PgPool, job: &Job) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM players p
           WHERE p.inserted_at <= $1 AND ($2::timestamptz IS NULL OR p.inserted_at > $2)
             AND ($3::timestamptz IS NULL OR p.inserted_at < $3) AND ($4::boolean IS NULL OR p.guest = $4)
             AND ($5::text IS NULL OR replace(lower(p.metadata->>'language'), '_', '-') = $5
                  OR starts_with(replace(lower(p.metadata->>'language'), '_', '-'), $5 || '-'))"#,
        job.created_at,
        job.filter.registered_after,
        job.filter.registered_before,
        job.filter.guest,
        job.filter.language
    );
    Ok(count.fetch_one(pool).await?)
}

/// # Errors
/// When the database fails.
pub async fn set_total(pool: &PgPool, id: Uuid, total: i64) -> Result<()> {
    sqlx::query!("UPDATE notification_jobs SET total = $2 WHERE id = $1 AND total IS NULL", id, total)
        .execute(pool)
        .await?;
    Ok(())
}

/// Those whose turn is next.
#[derive(Debug, Default)]
pub struct Next {
    /// With the languages they say, empty where they say none.
    pub players: Vec<(Uuid, String)>,
    /// How far the job came with them.
    pub after: Option<Uuid>,
    pub is_last: bool,
}

/// Players that one look may pass over to find those of a narrow filter.
const LOOK: i64 = 10_000;

/// The next at most `limit` players of a job that the caller has taken.
///
/// # Errors
/// When the database fails.
pub async fn next(conn: &mut PgConnection, job: &Job, limit: i64) -> Result<Next> {
    if job.listed { next_listed(conn, job, limit).await } else { next_filtered(conn, job, limit).await }
}

async fn next_listed(conn: &mut PgConnection, job: &Job, limit: i64) -> Result<Next> {
    let rows = sqlx::query!(
        r#"SELECT l.id AS "id!", COALESCE(p.metadata->>'language', '') AS "language!"
           FROM UNNEST((SELECT players FROM notification_jobs WHERE id = $1)) AS l(id) LEFT JOIN players p ON p.id = l.id
           WHERE $2::uuid IS NULL OR l.id > $2 ORDER BY l.id LIMIT $3"#,
        job.id,
        job.after,
        limit
    )
    .fetch_all(conn)
    .await?;
    let players: Vec<_> = rows.into_iter().map(|row| (row.id, row.language)).collect();
    let is_last = i64::try_from(players.len()).is_ok_and(|n| n < limit);
    Ok(Next { after: players.last().map(|last| last.0).or(job.after), players, is_last })
}

async fn next_filtered(conn: &mut PgConnection, job: &Job, limit: i64) -> Result<Next> {
    let look = if job.filter.is_narrow() { LOOK.max(limit) } else { limit };
    let row = sqlx::query!(
        r#"WITH looked_at AS MATERIALIZED (
               SELECT p.id, p.inserted_at, p.guest, COALESCE(p.metadata->>'language', '') AS language FROM players p
               WHERE $1::uuid IS NULL OR p.id > $1 ORDER BY p.id LIMIT $2
           ), found AS MATERIALIZED (
               SELECT id, language FROM looked_at
               WHERE inserted_at <= $3 AND ($4::timestamptz IS NULL OR inserted_at > $4)
                 AND ($5::timestamptz IS NULL OR inserted_at < $5) AND ($6::boolean IS NULL OR guest = $6)
                 AND ($7::text IS NULL OR replace(lower(language), '_', '-') = $7
                      OR starts_with(replace(lower(language), '_', '-'), $7 || '-'))
               ORDER BY id LIMIT $8
           )
           SELECT (SELECT count(*) FROM looked_at) AS "looked_at!", (SELECT id FROM looked_at ORDER BY id DESC LIMIT 1) AS last,
                  ARRAY(SELECT id FROM found ORDER BY id) AS "ids!", ARRAY(SELECT language FROM found ORDER BY id) AS "languages!""#,
        job.after,
        look,
        job.created_at,
        job.filter.registered_after,
        job.filter.registered_before,
        job.filter.guest,
        job.filter.language,
        limit
    )
    .fetch_one(conn)
    .await?;
    let players: Vec<(Uuid, String)> = row.ids.into_iter().zip(row.languages).collect();
    let full = i64::try_from(players.len()).is_ok_and(|n| n >= limit);
    // Past a full batch there may be more in what was looked at.
    let after = if full { players.last().map(|last| last.0) } else { row.last.or(job.after) };
    Ok(Next { players, after, is_last: !full && row.looked_at < look })
}

/// Writes down how far a job came, in the transaction of those it came to. After the last one it is done, and its total is what it came to.
///
/// # Errors
/// When the database fails.
pub async fn advance(conn: &mut PgConnection, job: Uuid, next: &Next, told: i64) -> Result<()> {
    sqlx::query!(
        "UPDATE notification_jobs SET after = $2, done = done + $3, told = told + $4, failures = 0, failure = NULL,
           state = CASE WHEN $5 THEN 'done' ELSE state END, finished_at = CASE WHEN $5 THEN now() END,
           total = CASE WHEN $5 THEN done + $3 ELSE total END
         WHERE id = $1",
        job,
        next.after,
        i64::try_from(next.players.len()).unwrap_or(i64::MAX),
        told,
        next.is_last
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a job that is not over, as cancelled or failed; as it is then. None: there is no such job.
///
/// # Errors
/// When the database fails.
pub async fn end(conn: &mut PgConnection, id: Uuid, state: JobState, why: Option<&str>) -> Result<Option<Job>> {
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE notification_jobs SET
             state = CASE WHEN state IN ('waiting', 'running') THEN $2 ELSE state END,
             failure = CASE WHEN state IN ('waiting', 'running') THEN $3 ELSE failure END,
             finished_at = COALESCE(finished_at, now())
           WHERE id = $1
           RETURNING id, created_by, created_at, state, message, expires_at, players IS NOT NULL AS "listed!", registered_after,
             registered_before, guest, language, total, done, told, after, started_at, finished_at, failures, failure"#,
        id,
        state.as_str(),
        why
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Job::from))
}

/// Writes down that a try failed: it is made again later, and after `most` in a row no more.
///
/// # Errors
/// When the database fails.
pub async fn put_off(pool: &PgPool, id: Uuid, why: &str, wait_s: f64, most: i32) -> Result<()> {
    sqlx::query!(
        "UPDATE notification_jobs SET failures = failures + 1, failure = $2, retry_at = now() + make_interval(secs => $3),
           state = CASE WHEN failures + 1 >= $4 THEN 'failed' ELSE state END,
           finished_at = CASE WHEN failures + 1 >= $4 THEN now() END
         WHERE id = $1 AND state IN ('waiting', 'running')",
        id,
        why,
        wait_s,
        most
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets jobs that were over so many days ago, at most `limit`; answers how many. Several may do so at once.
///
/// # Errors
/// When the database fails.
pub async fn expire(pool: &PgPool, days: i32, limit: i64) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM notification_jobs WHERE id IN (
             SELECT id FROM notification_jobs WHERE finished_at < now() - make_interval(days => $1)
             ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)",
        days,
        limit
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// The members of a group whom a filter lets pass.
///
/// # Errors
/// When the database fails.
pub async fn members(conn: &mut PgConnection, group: Uuid, filter: &Filter) -> Result<Vec<Uuid>> {
    let players = sqlx::query_scalar!(
        "SELECT p.id FROM group_members m JOIN players p ON p.id = m.player_id
         WHERE m.group_id = $1 AND ($2::timestamptz IS NULL OR p.inserted_at > $2)
           AND ($3::timestamptz IS NULL OR p.inserted_at < $3) AND ($4::boolean IS NULL OR p.guest = $4)
           AND ($5::text IS NULL OR replace(lower(p.metadata->>'language'), '_', '-') = $5
                OR starts_with(replace(lower(p.metadata->>'language'), '_', '-'), $5 || '-'))",
        group,
        filter.registered_after,
        filter.registered_before,
        filter.guest,
        filter.language
    );
    Ok(players.fetch_all(conn).await?)
}
