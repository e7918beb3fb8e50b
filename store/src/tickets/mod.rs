//! The queue's rows as whoever takes a player's wish sees them: put in, withdraw, look up. What the leader does with
//! them is in `allocation`.
//!
//! A party's ticket is one row per member: the head's, whose id everybody knows the ticket by, and the others', which name it.
//! **Invariant:** all rows of a ticket change state together, in one statement that locked them by id; the head's id is the smallest.

mod many;
mod party;
mod wish;

use asobi_proto::mode::ModeSettings;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::Instrument as _;
use uuid::Uuid;

pub(crate) use self::party::{append, event, withdraw_of_party};
pub use self::{
    many::{NewTicket, create_many},
    party::{CreatedForParty, create_party},
    wish::{Wish, WishError, check, largest_party},
};
use crate::{Error, inbox::StoredEvent, sql};

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

/// A player's or a party's wish to be matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    pub id: Uuid,
    /// Who queued.
    pub player_id: Uuid,
    /// All who are matched together, [`Self::player_id`] first.
    pub players: Vec<Uuid>,
    pub party_id: Option<Uuid>,
    pub mode: String,
    pub state: TicketState,
    /// A JSON object, as the client gave it.
    pub properties: serde_json::Value,
    /// What the others must be.
    pub query: Option<String>,
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
    /// As the leader reckoned last for the mode.
    pub estimated_wait_ms: Option<i64>,
    /// From 1, of a new ticket.
    pub position: Option<i64>,
}

impl Created {
    /// The payload of `matchmaker.queued`, and REST's answer.
    #[must_use]
    pub fn payload(&self, settings: &ModeSettings) -> serde_json::Value {
        serde_json::json!({
            "ticket_id": self.ticket.id, "status": self.ticket.state.as_str(), "players_needed": settings.match_size,
            "already_queued": self.already_queued, "estimated_wait_ms": self.estimated_wait_ms, "position": self.position,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("the queue of this mode is full")]
    QueueFull,
    /// Or, of a party, one of its members.
    #[error("the player is in a match")]
    AlreadyInMatch,
    /// Or the player is not in it.
    #[error("there is no such party")]
    PartyNotFound,
    #[error("only the party's leader queues it")]
    NotPartyLeader,
    #[error("at most {0} of this mode's players can come together")]
    PartyTooLarge(u32),
    /// By themselves, or with another party.
    #[error("a member of the party waits in this mode already")]
    MemberQueued,
    #[error(transparent)]
    Db(#[from] Error),
}

impl TicketError {
    /// The client protocol's reason string and a sentence for people; none when the database failed.
    #[must_use]
    pub fn reason(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::QueueFull => ("queue_full", "The queue of this mode is full; try again later."),
            Self::AlreadyInMatch => ("already_in_match", "You, or a member of your party, are in a match."),
            Self::PartyNotFound => ("party_not_found", "You are in no such party."),
            Self::NotPartyLeader => ("not_party_leader", "Only the party's leader may do this."),
            Self::PartyTooLarge(_) => ("party_full", "The party is too large for this mode."),
            Self::MemberQueued => ("already_queued", "A member of the party waits in this mode already."),
            Self::Db(_) => return None,
        })
    }
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

/// Queues a player, in the caller's trace, in one statement and so in one transaction. The caller has checked that player and mode exist and that the wish makes
/// sense ([`check`]), and publishes a `TicketItem` afterwards. A member of a party that waits in the mode is answered the party's ticket.
///
/// The bound of the queue: up to [`COUNTED`] it is counted exactly (an index-only walk that short), above it the number the
/// leader writes every second is believed while it is fresh, so that a queue of a hundred thousand costs its newcomers nothing;
/// such a bound is overshot by at most a second's arrivals. Simultaneous callers may overshoot either by their number.
///
/// # Errors
/// The queue is full, the player has a seat in a live match, or the database failed.
pub async fn create<'a>(
    pool: &PgPool,
    player: Uuid,
    mode: &str,
    wish: impl Into<Wish<'a>>,
    settings: &ModeSettings,
    max_queue: i64,
) -> Result<Created, TicketError> {
    let wish = wish.into();
    let traceparent = asobi_trace::traceparent();
    // A simultaneous twin (or its end) may be committed between the statement's snapshot and its insert: look again.
    for _ in 0..3 {
        let inserting = insert(pool, player, mode, wish, settings, max_queue, traceparent.as_deref());
        let seen = inserting.instrument(sql::statement("INSERT", "tickets")).await?;
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
    wish: Wish<'_>,
    settings: &ModeSettings,
    max_queue: i64,
    traceparent: Option<&str>,
) -> Result<Seen, TicketError> {
    let row = sqlx::query!(
        r#"WITH seat AS (SELECT 1 FROM match_players WHERE player_id = $2),
             held AS (SELECT COALESCE(head, id) AS id, properties, submitted_at, expires_at, party_id, query FROM tickets
                      WHERE player_id = $2 AND mode = $3 AND state = 'pending'),
             room AS (SELECT CASE
                 WHEN $6::bigint > $7::bigint AND COALESCE((SELECT queued_at > now() - interval '5 s' FROM modes WHERE mode = $3), false)
                 THEN (SELECT queued FROM modes WHERE mode = $3)::bigint
                 ELSE (SELECT count(*) FROM (SELECT 1 FROM tickets WHERE mode = $3 AND state = 'pending' LIMIT $6) AS waiting)
                 END AS waiting),
             made AS (INSERT INTO tickets (id, player_id, mode, properties, query, state, expires_at, traceparent)
                 SELECT $1, $2, $3, $4, $8, 'pending', now() + make_interval(secs => $5), $9
                 WHERE NOT EXISTS (SELECT 1 FROM seat) AND NOT EXISTS (SELECT 1 FROM held) AND (SELECT waiting < $6 FROM room)
                 ON CONFLICT (player_id, mode) WHERE state = 'pending' DO NOTHING
                 RETURNING id, properties, submitted_at, expires_at, party_id, query)
           SELECT EXISTS (SELECT 1 FROM seat) AS "seated!", (SELECT waiting FROM room) AS "waiting!",
                  (SELECT estimated_wait_ms FROM modes WHERE mode = $3) AS estimated_wait_ms,
                  t.id AS "id?", t.properties AS "properties?", t.submitted_at AS "submitted_at?", t.expires_at AS "expires_at?",
                  t.party_id AS "party_id?", t.query AS "query?", COALESCE(t.held, false) AS "held!"
           FROM (SELECT 1) AS one LEFT JOIN
                (SELECT *, true AS held FROM held UNION ALL SELECT *, false FROM made) AS t ON true"#,
        Uuid::now_v7(),
        player,
        mode,
        wish.properties,
        f64::from(settings.max_wait_seconds),
        max_queue,
        COUNTED,
        wish.query,
        traceparent,
    )
    .fetch_one(pool)
    .await?;
    let created = match (row.id, row.properties, row.submitted_at, row.expires_at) {
        (Some(id), Some(properties), Some(submitted_at), Some(expires_at)) => Some(Created {
            ticket: Ticket {
                id,
                player_id: player,
                players: vec![player],
                party_id: row.party_id,
                mode: mode.to_owned(),
                state: TicketState::Pending,
                properties,
                query: row.query,
                submitted_at,
                expires_at,
                match_id: None,
            },
            already_queued: row.held,
            estimated_wait_ms: row.estimated_wait_ms,
            position: (!row.held).then_some(row.waiting + 1),
        }),
        _ => None,
    };
    Ok(Seen { seated: row.seated, room: row.waiting < max_queue, created })
}

/// What [`cancel`] did: what the other members of a party are told, for the caller to publish.
#[derive(Debug, Default)]
pub struct Cancelled {
    pub told: Vec<StoredEvent>,
}

/// Withdraws a ticket for its player; a party's for its leader or for whoever queued it. The caller publishes a `TicketItem` that says gone.
///
/// # Errors
/// It does not wait (any more), it is another's, or the database failed.
pub async fn cancel(pool: &PgPool, ticket_id: Uuid, player: Uuid) -> Result<Cancelled, CancelError> {
    let row = sqlx::query!(
        r#"WITH own AS (UPDATE tickets SET state = 'cancelled', ended_at = now()
             WHERE id = $1 AND player_id = $2 AND party_id IS NULL AND state = 'pending' RETURNING 1 AS one)
           SELECT EXISTS (SELECT 1 FROM own) AS "done!", t.party_id,
                  t.player_id = $2 OR EXISTS (SELECT 1 FROM parties p WHERE p.id = t.party_id AND p.leader_id = $2) AS "mine!"
           FROM tickets t WHERE t.id = $1 AND t.head IS NULL AND t.state = 'pending'"#,
        ticket_id,
        player,
    )
    .fetch_optional(pool)
    .await?
    .ok_or(CancelError::NotFound)?;
    if row.done {
        return Ok(Cancelled::default());
    }
    if !row.mine {
        return Err(CancelError::NotOwner);
    }
    // Somebody was faster with a ticket of one's own, or it is a party's.
    match row.party_id {
        Some(_) => cancel_any(pool, ticket_id).await?.ok_or(CancelError::NotFound),
        None => Err(CancelError::NotFound),
    }
}

/// Withdraws a ticket whoever's it is, and tells all of a party. None when it does not wait.
///
/// # Errors
/// When the database fails.
pub async fn cancel_any(pool: &PgPool, ticket_id: Uuid) -> crate::Result<Option<Cancelled>> {
    let mut tx = crate::begin(pool).await?;
    let ended = party::end(&mut tx, &[ticket_id]).await?;
    if ended.is_empty() {
        return Ok(None);
    }
    let told = append(&mut tx, party::news(&ended, "withdrawn")?).await?;
    tx.commit().await?;
    Ok(Some(Cancelled { told }))
}

/// A ticket in whatever state, until the leader's purge some minutes after its end. A party's is known by its head's id.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, ticket_id: Uuid) -> crate::Result<Option<Ticket>> {
    let row = sqlx::query!(
        r#"SELECT id, player_id, mode, properties, query, party_id, state, match_id, submitted_at, expires_at,
             ARRAY (SELECT m.player_id FROM tickets m WHERE m.head = t.id ORDER BY m.id) AS "others!"
           FROM tickets t WHERE id = $1 AND head IS NULL"#,
        ticket_id,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Ticket {
        id: row.id,
        player_id: row.player_id,
        players: std::iter::once(row.player_id).chain(row.others).collect(),
        party_id: row.party_id,
        mode: row.mode,
        state: TicketState::of(&row.state),
        properties: row.properties,
        query: row.query,
        submitted_at: row.submitted_at,
        expires_at: row.expires_at,
        match_id: row.match_id,
    }))
}

/// Where a waiting ticket stands, as far as the rows say; the leader knows better ([`asobi_proto::matchmaker_v1::Estimate`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// As the leader reckoned last for the mode.
    pub estimated_wait_ms: Option<i64>,
    /// From 1, by age; none beyond [`COUNTED`].
    pub position: Option<i64>,
}

/// Where a ticket stands, in one bounded read.
///
/// # Errors
/// When the database fails.
pub async fn place(pool: &PgPool, ticket: &Ticket) -> crate::Result<Place> {
    let row = sqlx::query!(
        r#"SELECT (SELECT estimated_wait_ms FROM modes WHERE mode = $1) AS estimated_wait_ms,
             (SELECT count(*) FROM (SELECT 1 FROM tickets WHERE mode = $1 AND state = 'pending' AND head IS NULL
                AND submitted_at < $2 LIMIT $3) AS before) AS "before!""#,
        ticket.mode,
        ticket.submitted_at,
        COUNTED,
    )
    .fetch_one(pool)
    .await?;
    let position = (row.before < COUNTED).then_some(row.before + 1);
    Ok(Place { estimated_wait_ms: row.estimated_wait_ms, position })
}

/// The tickets by which these players wait, each with its player; a party's by its head's id.
///
/// # Errors
/// When the database fails.
pub async fn waiting_of(pool: &PgPool, players: &[Uuid]) -> crate::Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        r#"SELECT player_id, COALESCE(head, id) AS "ticket_id!" FROM tickets WHERE player_id = ANY($1) AND state = 'pending'"#,
        players,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.player_id, row.ticket_id)).collect())
}
