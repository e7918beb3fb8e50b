//! The queue and matches.

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(ToSchema)]
pub(crate) struct NewTicket {
    /// `default` where it is not given.
    mode: Option<String>,
    /// What the mode's strategy and others' queries look at: `skill`, `region`, …
    #[schema(value_type = Option<Object>)]
    properties: Option<Value>,
    /// Queues the whole party; its leader's to do.
    party_id: Option<Uuid>,
    /// A filter over the others' properties.
    query: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Queued {
    ticket_id: Uuid,
    status: String,
    /// The mode's match size.
    #[schema(required = true)]
    players_needed: Option<i64>,
    /// True when the player waited already: this is that ticket.
    already_queued: bool,
    #[schema(required = true)]
    estimated_wait_ms: Option<i64>,
    #[schema(required = true)]
    position: Option<i64>,
}

#[derive(ToSchema)]
pub(crate) struct Ticket {
    id: Uuid,
    mode: String,
    status: String,
    #[schema(value_type = Object)]
    properties: Value,
    /// Unix milliseconds.
    submitted_at: i64,
    #[schema(required = true)]
    party_id: Option<Uuid>,
    players: Vec<Uuid>,
    #[schema(required = true)]
    query: Option<String>,
    #[schema(required = true)]
    estimated_wait_ms: Option<i64>,
    #[schema(required = true)]
    position: Option<i64>,
}

#[derive(ToSchema)]
pub(crate) struct Match {
    id: Uuid,
    mode: String,
    /// `running`, `finished` or `failed`
    status: String,
    /// What the game's script ended with.
    #[schema(required = true)]
    result: Option<Value>,
    #[schema(required = true)]
    started_at: Option<OffsetDateTime>,
    #[schema(required = true)]
    finished_at: Option<OffsetDateTime>,
    inserted_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Matches {
    /// Newest first.
    matches: Vec<Match>,
}

#[derive(ToSchema)]
pub(crate) struct LiveMatch {
    match_id: Uuid,
    mode: String,
    status: String,
    player_count: i64,
    max_players: i64,
    joinable: bool,
}

#[derive(ToSchema)]
pub(crate) struct LiveMatches {
    matches: Vec<LiveMatch>,
}
