//! Friends and groups.

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

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
