//! The queue's rows as whoever takes a player's wish sees them: put in, withdraw, look up. What the leader does with
//! them is in `allocation`.

use asobi_proto::mode::ModeSettings;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Error;

/// Where a ticket is: `pending` until it is claimed or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketState {
    Pending,
    Matched,
    Cancelled,
    Expired,
    Failed,
}

impl TicketState {
    /// As the rows and the client protocol name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Matched => "matched",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    // The column has a CHECK of exactly these; a newer release's state is over as far as this one can tell.
    fn of(text: &str) -> Self {
        match text {
            "pending" => Self::Pending,
            "matched" => Self::Matched,
            "cancelled" => Self::Cancelled,
            "expired" => Self::Expired,
            _ => Self::Failed,
        }
    }
}

/// A player's wish to be matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    pub id: Uuid,
    pub player_id: Uuid,
    pub mode: String,
    pub state: TicketState,
    /// A JSON object, as the client gave it.
    pub properties: serde_json::Value,
    pub submitted_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    /// Once it was claimed.
    pub match_id: Option<Uuid>,
}

/// What [`create`] answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    pub ticket: Ticket,
    /// The player waited in this mode already; it is that ticket.
    pub already_queued: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("the queue of this mode is full")]
    QueueFull,
    #[error("the player is in a match")]
    AlreadyInMatch,
    #[error(transparent)]
    Db(#[from] Error),
}

#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// Never there, ended, or claimed for a match.
    #[error("no such ticket waits")]
    NotFound,
    #[error("the ticket is another player's")]
    NotOwner,
    #[error(transparent)]
    Db(#[from] Error),
}

impl From<sqlx::Error> for TicketError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

impl From<sqlx::Error> for CancelError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Queues a player, in one statement and so in one transaction. The caller has checked that player and mode exist, and
/// publishes a `TicketItem` afterwards.
///
/// The bound of the queue: up to [`COUNTED`] it is counted exactly (an index-only walk that short), above it the number the
/// leader writes every second is believed while it is fresh, so that a queue of a hundred thousand costs its newcomers nothing;
/// such a bound is overshot by at most a second's arrivals. Simultaneous callers may overshoot either by their number.
///
/// # Errors
/// The queue is full, the player has a seat in a live match, or the database failed.
pub async fn create(
    pool: &PgPool,
    player: Uuid,
    mode: &str,
    properties: &serde_json::Value,
    settings: &ModeSettings,
    max_queue: i64,
) -> Result<Created, TicketError> {
    // A simultaneous twin (or its end) may be committed between the statement's snapshot and its insert: look again.
    for _ in 0..3 {
        let seen = insert(pool, player, mode, properties, settings, max_queue).await?;
        if seen.seated {
            return Err(TicketError::AlreadyInMatch);
        }
        if let Some(created) = seen.created {
            return Ok(created);
        }
        if !seen.room {
            return Err(TicketError::QueueFull);
        }
    }
    Err(TicketError::Db(Error::Sql(sqlx::Error::RowNotFound)))
}

/// Bounds up to this are counted for every newcomer.
pub const COUNTED: i64 = 2_000;

struct Seen {
    seated: bool,
    room: bool,
    created: Option<Created>,
}

async fn insert(
    pool: &PgPool,
    player: Uuid,
    mode: &str,
    properties: &serde_json::Value,
    settings: &ModeSettings,
    max_queue: i64,
) -> Result<Seen, TicketError> {
    let row = sqlx::query!(
        r#"WITH seat AS (SELECT 1 FROM match_players WHERE player_id = $2),
             held AS (SELECT id, properties, submitted_at, expires_at FROM tickets
                      WHERE player_id = $2 AND mode = $3 AND state = 'pending'),
             room AS (SELECT CASE
                 WHEN $6::bigint > $7::bigint AND COALESCE((SELECT queued_at > now() - interval '5 s' FROM modes WHERE mode = $3), false)
                 THEN (SELECT queued FROM modes WHERE mode = $3) < $6
                 ELSE (SELECT count(*) FROM (SELECT 1 FROM tickets WHERE mode = $3 AND state = 'pending' LIMIT $6) AS waiting) < $6
                 END AS free),
             made AS (INSERT INTO tickets (id, player_id, mode, properties, state, expires_at)
                 SELECT $1, $2, $3, $4, 'pending', now() + make_interval(secs => $5)
                 WHERE NOT EXISTS (SELECT 1 FROM seat) AND NOT EXISTS (SELECT 1 FROM held) AND (SELECT free FROM room)
                 ON CONFLICT (player_id, mode) WHERE state = 'pending' DO NOTHING
                 RETURNING id, properties, submitted_at, expires_at)
           SELECT EXISTS (SELECT 1 FROM seat) AS "seated!", (SELECT free FROM room) AS "room!",
                  t.id AS "id?", t.properties AS "properties?", t.submitted_at AS "submitted_at?",
                  t.expires_at AS "expires_at?", COALESCE(t.held, false) AS "held!"
           FROM (SELECT 1) AS one LEFT JOIN
                (SELECT *, true AS held FROM held UNION ALL SELECT *, false FROM made) AS t ON true"#,
        Uuid::now_v7(),
        player,
        mode,
        properties,
        f64::from(settings.max_wait_seconds),
        max_queue,
        COUNTED,
    )
    .fetch_one(pool)
    .await?;
    let created = match (row.id, row.properties, row.submitted_at, row.expires_at) {
        (Some(id), Some(properties), Some(submitted_at), Some(expires_at)) => Some(Created {
            ticket: Ticket {
                id,
                player_id: player,
                mode: mode.to_owned(),
                state: TicketState::Pending,
                properties,
                submitted_at,
                expires_at,
                match_id: None,
            },
            already_queued: row.held,
        }),
        _ => None,
    };
    Ok(Seen { seated: row.seated, room: row.room, created })
}

/// Withdraws a player's own ticket. The caller publishes a `TicketItem` that says gone.
///
/// # Errors
/// It does not wait (any more), it is another's, or the database failed.
pub async fn cancel(pool: &PgPool, ticket_id: Uuid, player: Uuid) -> Result<(), CancelError> {
    let owner = sqlx::query_scalar!(
        r#"WITH own AS (UPDATE tickets SET state = 'cancelled', ended_at = now()
             WHERE id = $1 AND player_id = $2 AND state = 'pending' RETURNING player_id)
           SELECT player_id AS "player_id!" FROM own
           UNION ALL SELECT player_id FROM tickets WHERE id = $1 AND player_id <> $2 AND state = 'pending'"#,
        ticket_id,
        player,
    )
    .fetch_optional(pool)
    .await?;
    match owner {
        Some(owner) if owner == player => Ok(()),
        Some(_) => Err(CancelError::NotOwner),
        None => Err(CancelError::NotFound),
    }
}

/// Withdraws a ticket whoever's it is, for internal tools. False when it does not wait.
///
/// # Errors
/// When the database fails.
pub async fn cancel_any(pool: &PgPool, ticket_id: Uuid) -> crate::Result<bool> {
    let done = sqlx::query!(
        "UPDATE tickets SET state = 'cancelled', ended_at = now() WHERE id = $1 AND state = 'pending'",
        ticket_id,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A ticket in whatever state, until the leader's purge some minutes after its end.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, ticket_id: Uuid) -> crate::Result<Option<Ticket>> {
    let row = sqlx::query!(
        "SELECT id, player_id, mode, properties, state, match_id, submitted_at, expires_at FROM tickets WHERE id = $1",
        ticket_id,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Ticket {
        id: row.id,
        player_id: row.player_id,
        mode: row.mode,
        state: TicketState::of(&row.state),
        properties: row.properties,
        submitted_at: row.submitted_at,
        expires_at: row.expires_at,
        match_id: row.match_id,
    }))
}
