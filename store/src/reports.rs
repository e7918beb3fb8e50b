//! What players report of each other. The message reported is kept as a copy.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Result,
    chat::{
        Message,
        deletions::{self, Which},
    },
};

/// Reports of one player that may be open at once.
pub const OPEN: i64 = 100;
pub const KIND_BYTES: usize = 32;
pub const NOTE_BYTES: usize = 1_000;
pub const RESOLUTION_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub id: Uuid,
    /// None: they have been erased.
    pub reporter_id: Option<Uuid>,
    pub player_id: Uuid,
    pub kind: String,
    pub note: String,
    /// None where the player is reported, not a message.
    pub message: Option<Copied>,
    pub resolved: Option<Resolution>,
    pub inserted_at: OffsetDateTime,
}

/// A message as it was when it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub channel_id: String,
    pub seq: i64,
    pub message_id: Uuid,
    pub content: String,
    pub sent_at: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub resolution: String,
    pub remark: String,
    /// As the audit names them.
    pub by: String,
    pub at: OffsetDateTime,
}

struct Row {
    id: Uuid,
    reporter_id: Option<Uuid>,
    player_id: Uuid,
    kind: String,
    note: String,
    channel_id: Option<String>,
    seq: Option<i64>,
    message_id: Option<Uuid>,
    content: Option<String>,
    sent_at: Option<OffsetDateTime>,
    resolution: String,
    remark: String,
    resolved_by: Option<String>,
    resolved_at: Option<OffsetDateTime>,
    inserted_at: OffsetDateTime,
}

impl From<Row> for Report {
    fn from(row: Row) -> Self {
        let message = (|| {
            Some(Copied {
                channel_id: row.channel_id?,
                seq: row.seq?,
                message_id: row.message_id?,
                content: row.content?,
                sent_at: row.sent_at?,
            })
        })();
        let resolved = row.resolved_at.map(|at| Resolution {
            resolution: row.resolution,
            remark: row.remark,
            by: row.resolved_by.unwrap_or_default(),
            at,
        });
        Self {
            id: row.id,
            reporter_id: row.reporter_id,
            player_id: row.player_id,
            kind: row.kind,
            note: row.note,
            message,
            resolved,
            inserted_at: row.inserted_at,
        }
    }
}

/// What is reported.
#[derive(Debug, Clone)]
pub struct NewReport<'a> {
    pub reporter_id: Uuid,
    /// None: the sender of the message.
    pub player_id: Option<Uuid>,
    pub message: Option<(&'a str, Which)>,
    pub kind: &'a str,
    pub note: &'a str,
}

/// Why a report is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is not there, or not there any more.
    NoMessage,
    /// There is no such player: also where a game's script was the sender.
    NoPlayer,
    /// The message is somebody else's.
    NotTheirs,
    Oneself,
    /// The reporter has as many open ones as anybody may have.
    TooMany,
}

/// Keeps a report, or answers the open one that says the same, in the caller's transaction.
///
/// # Errors
/// When the database does not answer.
pub async fn create(conn: &mut PgConnection, new: &NewReport<'_>) -> Result<Result<Report, Refusal>> {
    let message = match new.message {
        None => None,
        Some((channel, which)) => match deletions::find(conn, channel, which).await? {
            None => return Ok(Err(Refusal::NoMessage)),
            found => found,
        },
    };
    let sender = message.as_ref().map(|message| message.sender_id);
    let player = match (new.player_id, sender) {
        (Some(player), Some(sender)) if player != sender => return Ok(Err(Refusal::NotTheirs)),
        (Some(player), _) | (None, Some(player)) => player,
        (None, None) => return Ok(Err(Refusal::NoPlayer)),
    };
    if player == new.reporter_id {
        return Ok(Err(Refusal::Oneself));
    }
    // Both stay until the commit; and two reports of one reporter take turns, so that the bound holds.
    let mut both = [player, new.reporter_id];
    both.sort_unstable();
    let there = sqlx::query_scalar!("SELECT id FROM players WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", &both);
    if there.fetch_all(&mut *conn).await?.len() < 2 {
        return Ok(Err(Refusal::NoPlayer));
    }
    if let Some(open) = same(conn, new, player, message.as_ref()).await? {
        return Ok(Ok(open));
    }
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM reports WHERE reporter_id = $1 AND state = 'open'"#,
        new.reporter_id
    );
    if open.fetch_one(&mut *conn).await? >= OPEN {
        return Ok(Err(Refusal::TooMany));
    }
    insert(conn, new, player, message).await.map(Ok)
}

async fn same(
    conn: &mut PgConnection,
    new: &NewReport<'_>,
    player: Uuid,
    message: Option<&Message>,
) -> Result<Option<Report>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, reporter_id, player_id, kind, note, channel_id, seq, message_id, content, sent_at, resolution, remark,
                resolved_by, resolved_at, inserted_at
         FROM reports
         WHERE reporter_id = $1 AND player_id = $2 AND message_id IS NOT DISTINCT FROM $3 AND state = 'open'",
        new.reporter_id,
        player,
        message.map(|message| message.message_id)
    );
    Ok(row.fetch_optional(conn).await?.map(Into::into))
}

async fn insert(
    conn: &mut PgConnection,
    new: &NewReport<'_>,
    player: Uuid,
    message: Option<Message>,
) -> Result<Report> {
    let (channel_id, seq, message_id, content, sent_at) = match message {
        Some(m) => (Some(m.channel_id), Some(m.seq), Some(m.message_id), Some(m.content), Some(m.sent_at)),
        None => (None, None, None, None, None),
    };
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO reports (id, reporter_id, player_id, kind, note, channel_id, seq, message_id, content, sent_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         RETURNING id, reporter_id, player_id, kind, note, channel_id, seq, message_id, content, sent_at, resolution, remark,
                   resolved_by, resolved_at, inserted_at",
        Uuid::now_v7(),
        new.reporter_id,
        player,
        new.kind,
        new.note,
        channel_id,
        seq,
        message_id,
        content,
        sent_at
    );
    Ok(row.fetch_one(conn).await?.into())
}

/// Which reports are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// None: of any state.
    pub open: Option<bool>,
    pub player_id: Option<Uuid>,
    pub reporter_id: Option<Uuid>,
    /// Only those before this one.
    pub before: Option<Uuid>,
}

/// Newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Report>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, reporter_id, player_id, kind, note, channel_id, seq, message_id, content, sent_at, resolution, remark,
                resolved_by, resolved_at, inserted_at
         FROM reports
         WHERE ($1::bool IS NULL OR (state = 'open') = $1) AND ($2::uuid IS NULL OR player_id = $2)
           AND ($3::uuid IS NULL OR reporter_id = $3) AND ($4::uuid IS NULL OR id < $4)
         ORDER BY id DESC LIMIT $5",
        filter.open,
        filter.player_id,
        filter.reporter_id,
        filter.before,
        limit
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Into::into).collect())
}

/// # Errors
/// When the database does not answer.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Report>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, reporter_id, player_id, kind, note, channel_id, seq, message_id, content, sent_at, resolution, remark,
                resolved_by, resolved_at, inserted_at
         FROM reports WHERE id = $1",
        id
    );
    Ok(row.fetch_optional(conn).await?.map(Into::into))
}

/// What came of resolving a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    Now(Box<Report>),
    /// Somebody did before; it stays as they said.
    Before,
    Unknown,
}

/// Resolves a report that is open.
///
/// # Errors
/// When the database does not answer.
pub async fn resolve(conn: &mut PgConnection, id: Uuid, resolution: &str, remark: &str, by: &str) -> Result<Resolved> {
    let resolved = sqlx::query!(
        "UPDATE reports SET state = 'resolved', resolution = $2, remark = $3, resolved_by = $4, resolved_at = now()
         WHERE id = $1 AND state = 'open'",
        id,
        resolution,
        remark,
        by
    )
    .execute(&mut *conn)
    .await?;
    Ok(match get(conn, id).await? {
        None => Resolved::Unknown,
        Some(report) if resolved.rows_affected() == 1 => Resolved::Now(Box::new(report)),
        Some(_) => Resolved::Before,
    })
}

/// Takes out what a player wrote in reports of others, before their row goes. Reports about them go with that row.
pub(crate) async fn erase(conn: &mut PgConnection, player: Uuid) -> Result<()> {
    sqlx::query!("UPDATE reports SET note = '' WHERE reporter_id = $1", player).execute(conn).await?;
    Ok(())
}
