//! What is said, reported and told.

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(ToSchema)]
pub(crate) struct ChatMessage {
    id: Uuid,
    #[schema(example = "global:lobby")]
    channel_id: String,
    /// `dm`, or `room` for all others.
    channel_type: String,
    sender_id: Uuid,
    content: String,
    #[schema(value_type = Object)]
    metadata: Value,
    sent_at: OffsetDateTime,
    /// Counts up by one in each channel.
    seq: i64,
    /// There and true where a moderator deleted the message; its content is empty.
    deleted: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct ChatHistory {
    /// Oldest first.
    messages: Vec<ChatMessage>,
}

#[derive(ToSchema)]
pub(crate) struct DirectMessage {
    recipient_id: Uuid,
    /// At most 2000 bytes.
    content: String,
    /// Whoever sends again within ten minutes with the same key sends once.
    #[schema(max_length = 64)]
    idempotency_key: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct DirectSent {
    success: bool,
    channel_id: String,
}

#[derive(ToSchema)]
pub(crate) struct DirectRow {
    sender_id: Uuid,
    content: String,
    /// Unix milliseconds.
    sent_at: i64,
    message_id: Uuid,
    seq: i64,
    /// There and true where a moderator deleted the message; its content is empty.
    deleted: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct DirectHistory {
    channel_id: String,
    /// Oldest first.
    messages: Vec<DirectRow>,
}

#[derive(ToSchema)]
pub(crate) struct NewReport {
    /// Who is reported; may be left out where a message is.
    player_id: Option<Uuid>,
    /// With `seq` or `message_id`: the message that is reported.
    channel_id: Option<String>,
    #[schema(minimum = 1)]
    seq: Option<i64>,
    message_id: Option<Uuid>,
    /// What is wrong, in a word of the game's own: 1 to 32 of a-z, 0-9 and _.
    #[schema(example = "spam", min_length = 1, max_length = 32)]
    kind: String,
    /// At most 1000 bytes.
    note: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Reported {
    id: Uuid,
    player_id: Uuid,
    kind: String,
    #[schema(example = "open")]
    state: String,
    reported_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Notification {
    id: Uuid,
    player_id: Uuid,
    r#type: String,
    subject: String,
    #[schema(value_type = Object)]
    content: Value,
    read: bool,
    sent_at: OffsetDateTime,
    /// After this it is neither shown nor counted; absent: it stays until it is old.
    expires_at: Option<OffsetDateTime>,
}

#[derive(ToSchema)]
pub(crate) struct ReadUpTo {
    /// A notification's id, or a time (RFC 3339); without it, all there are.
    up_to: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Unread {
    /// How many were not read until now.
    marked: i32,
    /// How many are not read now.
    unread: i32,
}

#[derive(ToSchema)]
pub(crate) struct Notifications {
    notifications: Vec<Notification>,
}
