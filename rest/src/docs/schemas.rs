//! The bodies of requests and answers, for their description. Handlers read and write JSON themselves, because clients of the
//! first release send what no type would take; the tests hold every answer against these.

#![expect(dead_code, reason = "they describe; nothing is made of them")]

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// What goes into every failure.
#[derive(ToSchema)]
pub(crate) struct ErrorBody {
    /// One of a closed set; what a program decides by.
    #[schema(example = "player.not_found")]
    code: String,
    /// Prose for people; it may change.
    message: String,
    #[schema(value_type = Object)]
    details: Value,
}

#[derive(ToSchema)]
pub(crate) struct Failure {
    error: ErrorBody,
    /// With a 429, seconds until another try can succeed.
    #[schema(minimum = 1)]
    retry_after: Option<u32>,
    /// With a 422 of register and login, the problems of each field.
    #[schema(value_type = Option<Object>)]
    fields: Option<Value>,
    /// With any other 422, the problems of each field.
    #[schema(value_type = Option<Object>)]
    errors: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct Success {
    success: bool,
}

#[derive(ToSchema)]
pub(crate) struct Registration {
    /// Of `A-Za-z0-9_-`.
    #[schema(min_length = 3, max_length = 32)]
    username: String,
    #[schema(min_length = 8)]
    password: String,
    display_name: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Credentials {
    username: String,
    password: String,
}

#[derive(ToSchema)]
pub(crate) struct GuestDevice {
    #[schema(min_length = 1, max_length = 128)]
    device_id: String,
    /// 32 to 128 random bytes that never leave the device, as base64.
    device_secret: String,
}

#[derive(ToSchema)]
pub(crate) struct Account {
    player_id: Uuid,
    #[schema(required = true)]
    username: Option<String>,
    access_token: String,
    refresh_token: String,
    /// Of a guest's log-in: true.
    guest: Option<bool>,
    /// True when this log-in made the guest.
    created: Option<bool>,
    /// True when this turned a guest into an account.
    upgraded: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct RefreshToken {
    refresh_token: String,
}

#[derive(ToSchema)]
pub(crate) struct Tokens {
    access_token: String,
    /// Single use: whoever presents it twice loses the whole family.
    refresh_token: String,
}

#[derive(ToSchema)]
pub(crate) struct Logout {
    refresh_token: Option<String>,
    /// Ends every log-in of the player.
    everywhere: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct Player {
    id: Uuid,
    #[schema(required = true)]
    username: Option<String>,
    #[schema(required = true)]
    display_name: Option<String>,
    #[schema(required = true)]
    avatar_url: Option<String>,
    #[schema(value_type = Object)]
    metadata: Value,
    inserted_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct PlayerChanges {
    /// Null empties it.
    #[schema(max_length = 64)]
    display_name: Option<String>,
    #[schema(max_length = 2048)]
    avatar_url: Option<String>,
    /// At most 16 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct Confirmation {
    /// Needed where the account has one.
    password: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Deleted {
    deleted: bool,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum FriendStatus {
    Pending,
    Accepted,
    Blocked,
}

/// A friendship as the player who owns the row sees it.
#[derive(ToSchema)]
pub(crate) struct Friend {
    id: Uuid,
    player_id: Uuid,
    friend_id: Uuid,
    status: FriendStatus,
    inserted_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Friends {
    friends: Vec<Friend>,
}

#[derive(ToSchema)]
pub(crate) struct FriendRequest {
    friend_id: Uuid,
}

#[derive(ToSchema)]
pub(crate) struct FriendAnswer {
    /// `accepted` or `blocked`
    status: FriendStatus,
}

#[derive(ToSchema)]
pub(crate) struct NewGroup {
    #[schema(min_length = 2, max_length = 64)]
    name: String,
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// 50 where it is not given.
    #[schema(minimum = 1, maximum = 1000)]
    max_members: Option<i32>,
    /// Whether players join without being asked; false where it is not given.
    open: Option<bool>,
    /// At most 16 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct GroupChanges {
    #[schema(min_length = 2, max_length = 64)]
    name: Option<String>,
    /// Null empties it.
    #[schema(max_length = 1000)]
    description: Option<String>,
    #[schema(minimum = 1, maximum = 1000)]
    max_members: Option<i32>,
    open: Option<bool>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct Group {
    id: Uuid,
    name: String,
    #[schema(required = true)]
    description: Option<String>,
    max_members: i32,
    open: bool,
    /// Null when they were erased.
    #[schema(required = true)]
    creator_id: Option<Uuid>,
    #[schema(value_type = Object)]
    metadata: Value,
    inserted_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

/// A group in a list.
#[derive(ToSchema)]
pub(crate) struct ListedGroup {
    #[serde(flatten)]
    group: Group,
    member_count: i32,
}

#[derive(ToSchema)]
pub(crate) struct Groups {
    groups: Vec<ListedGroup>,
    /// The `after` of the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<String>,
}

/// A group one is in.
#[derive(ToSchema)]
pub(crate) struct OwnGroup {
    #[serde(flatten)]
    group: Group,
    member_count: i32,
    role: Role,
    joined_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct OwnGroups {
    groups: Vec<OwnGroup>,
    /// The `after` of the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Invited {
    player_id: Uuid,
}

#[derive(ToSchema)]
pub(crate) struct Invite {
    group_id: Uuid,
    group_name: String,
    /// Who is invited.
    player_id: Uuid,
    invited_by: Uuid,
    invited_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Invites {
    invites: Vec<Invite>,
}

#[derive(ToSchema)]
pub(crate) struct NewAnnouncement {
    #[schema(max_length = 128)]
    subject: Option<String>,
    /// At most 2000 bytes.
    #[schema(min_length = 1, max_length = 2000)]
    content: String,
}

#[derive(ToSchema)]
pub(crate) struct Announcement {
    id: Uuid,
    group_id: Uuid,
    /// Null when they were erased.
    #[schema(required = true)]
    author_id: Option<Uuid>,
    /// Empty: it has none.
    subject: String,
    content: String,
    announced_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Announcements {
    announcements: Vec<Announcement>,
}

#[derive(ToSchema)]
pub(crate) struct Joined {
    success: bool,
    group_id: Uuid,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Role {
    Owner,
    Admin,
    Moderator,
    Member,
}

#[derive(ToSchema)]
pub(crate) struct Member {
    id: Uuid,
    group_id: Uuid,
    player_id: Uuid,
    role: Role,
    joined_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct Members {
    members: Vec<Member>,
}

#[derive(ToSchema)]
pub(crate) struct NewRole {
    /// `owner` hands the group over.
    role: Role,
}

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
pub(crate) struct DirectHistory {
    channel_id: String,
    /// Oldest first.
    messages: Vec<DirectRow>,
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

#[derive(ToSchema)]
pub(crate) struct Score {
    score: f64,
    sub_score: Option<f64>,
}

#[derive(ToSchema)]
pub(crate) struct BoardEntry {
    leaderboard_id: String,
    player_id: Uuid,
    score: f64,
    sub_score: f64,
    /// 1 is the best; among friends or a group where the list is of them.
    rank: i64,
    updated_at: OffsetDateTime,
    /// Among all, where `rank` is among some.
    global_rank: Option<i64>,
}

#[derive(ToSchema)]
pub(crate) struct BoardEntries {
    entries: Vec<BoardEntry>,
}

#[derive(ToSchema)]
pub(crate) struct BoardStanding {
    /// Null: the player is not on the board.
    #[schema(required = true)]
    entry: Option<BoardEntry>,
    /// How much of the others is behind the player: 100 for the first, 0 for the last.
    #[schema(required = true)]
    percentile: Option<f64>,
    /// Entries of the board.
    total: i64,
}

#[derive(ToSchema)]
pub(crate) struct BoardPeriod {
    /// From 0.
    period: i64,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct BoardPeriods {
    /// The period that is running.
    current: i64,
    /// Those that are over and kept.
    periods: Vec<BoardPeriod>,
}

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

#[derive(ToSchema)]
pub(crate) struct Alive {
    /// `alive`
    status: String,
}

#[derive(ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`
    status: String,
    /// What is missing.
    reasons: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub(crate) struct Health {
    /// `healthy` or `unhealthy`
    status: String,
    node: String,
    sockets: u64,
    uptime_seconds: u64,
    /// By name, the state of what this node needs.
    #[schema(value_type = Object)]
    dependencies: Value,
}
