//! Groups and their members. Whoever changes a membership holds the group's row ([`lock`]) until the commit: its bound, its
//! one owner and its end are decided there. Who may do what is the social service's business.

use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

pub mod announcements;
pub mod invites;
mod list;

pub use list::{Listed, ListedMembership, PageOfGroups, of_player, search};

/// The higher one is the lesser one: `Owner < Member`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupRole {
    Owner,
    Admin,
    Moderator,
    Member,
}

impl GroupRole {
    /// As the rows and the client protocol name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Moderator => "moderator",
            Self::Member => "member",
        }
    }

    // The column has a CHECK of exactly these; whatever a newer release adds grants nothing.
    fn of(text: &str) -> Self {
        match text {
            "owner" => Self::Owner,
            "admin" => Self::Admin,
            "moderator" => Self::Moderator,
            _ => Self::Member,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub id: Uuid,
    pub name: String,
    pub description: Option<String>,
    pub max_members: i32,
    pub open: bool,
    /// None: they have been erased.
    pub creator_id: Option<Uuid>,
    pub metadata: serde_json::Value,
    pub inserted_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// What a group is made of.
#[derive(Debug, Clone)]
pub struct NewGroup {
    pub name: String,
    pub description: Option<String>,
    pub max_members: i32,
    pub open: bool,
    pub metadata: serde_json::Value,
}

/// What is none stays as it is.
#[derive(Debug, Clone, Default)]
pub struct GroupChanges {
    pub name: Option<String>,
    /// Inner none: it is taken away.
    pub description: Option<Option<String>>,
    pub max_members: Option<i32>,
    pub open: Option<bool>,
    pub metadata: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: Uuid,
    pub group_id: Uuid,
    pub player_id: Uuid,
    pub role: GroupRole,
    pub joined_at: OffsetDateTime,
}

struct MemberRow {
    id: Uuid,
    group_id: Uuid,
    player_id: Uuid,
    role: String,
    joined_at: OffsetDateTime,
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        Self {
            id: row.id,
            group_id: row.group_id,
            player_id: row.player_id,
            role: GroupRole::of(&row.role),
            joined_at: row.joined_at,
        }
    }
}

/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<Group>> {
    Ok(sqlx::query_as!(
        Group,
        "SELECT id, name, description, max_members, open, creator_id, metadata, inserted_at, updated_at FROM groups
         WHERE id = $1",
        id
    )
    .fetch_optional(pool)
    .await?)
}

/// By role, then by who joined first.
///
/// # Errors
/// When the database fails.
pub async fn members(conn: impl PgExecutor<'_>, group: Uuid, limit: i64) -> Result<Vec<Member>> {
    let rows = sqlx::query_as!(
        MemberRow,
        "SELECT id, group_id, player_id, role, joined_at FROM group_members WHERE group_id = $1
         ORDER BY array_position(ARRAY['owner', 'admin', 'moderator', 'member'], role), joined_at, id LIMIT $2",
        group,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Member::from).collect())
}

/// # Errors
/// When the database fails.
pub async fn is_member(pool: &PgPool, group: Uuid, player: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM group_members WHERE group_id = $1 AND player_id = $2) AS "member!""#,
        group,
        player
    )
    .fetch_one(pool)
    .await?)
}

/// In how many groups a player is; no other group gets them until the transaction's end. None: there is no such player.
/// Taken before a group's row.
///
/// # Errors
/// When the database fails.
pub async fn lock_count_of(conn: &mut PgConnection, player: Uuid) -> Result<Option<i64>> {
    let found = sqlx::query_scalar!(r#"SELECT 1 AS "one!" FROM players WHERE id = $1 FOR NO KEY UPDATE"#, player);
    if found.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    // A statement of its own: it must see what whoever held the lock has committed.
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM group_members WHERE player_id = $1"#, player);
    Ok(Some(count.fetch_one(conn).await?))
}

/// The group, locked for the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Group>> {
    Ok(sqlx::query_as!(
        Group,
        "SELECT id, name, description, max_members, open, creator_id, metadata, inserted_at, updated_at FROM groups
         WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(conn)
    .await?)
}

/// A group with its creator as owner.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut PgConnection, creator: Uuid, new: NewGroup) -> Result<Group> {
    let group = sqlx::query_as!(
        Group,
        "INSERT INTO groups (id, name, description, max_members, open, creator_id, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7)
         RETURNING id, name, description, max_members, open, creator_id, metadata, inserted_at, updated_at",
        Uuid::now_v7(),
        new.name,
        new.description,
        new.max_members,
        new.open,
        creator,
        new.metadata
    )
    .fetch_one(&mut *conn)
    .await?;
    add(conn, group.id, creator, GroupRole::Owner).await?;
    Ok(group)
}

/// # Errors
/// When the database fails.
pub async fn update(conn: &mut PgConnection, id: Uuid, changes: GroupChanges) -> Result<Group> {
    let (describe, description) = (changes.description.is_some(), changes.description.flatten());
    Ok(sqlx::query_as!(
        Group,
        "UPDATE groups SET name = COALESCE($2, name), description = CASE WHEN $3 THEN $4 ELSE description END,
           max_members = COALESCE($5, max_members), open = COALESCE($6, open), metadata = COALESCE($7, metadata), updated_at = now()
         WHERE id = $1
         RETURNING id, name, description, max_members, open, creator_id, metadata, inserted_at, updated_at",
        id,
        changes.name,
        describe,
        description,
        changes.max_members,
        changes.open,
        changes.metadata
    )
    .fetch_one(conn)
    .await?)
}

/// # Errors
/// When the database fails.
pub async fn member(conn: &mut PgConnection, group: Uuid, player: Uuid) -> Result<Option<Member>> {
    let row = sqlx::query_as!(
        MemberRow,
        "SELECT id, group_id, player_id, role, joined_at FROM group_members WHERE group_id = $1 AND player_id = $2",
        group,
        player
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Member::from))
}

/// How many are in the group whose row is locked.
///
/// # Errors
/// When the database fails.
pub async fn size(conn: &mut PgConnection, group: Uuid) -> Result<i64> {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM group_members WHERE group_id = $1"#, group);
    Ok(count.fetch_one(conn).await?)
}

/// # Errors
/// When the database fails.
pub async fn add(conn: &mut PgConnection, group: Uuid, player: Uuid, role: GroupRole) -> Result<Member> {
    let row = sqlx::query_as!(
        MemberRow,
        "INSERT INTO group_members (group_id, player_id, id, role) VALUES ($1, $2, $3, $4)
         RETURNING id, group_id, player_id, role, joined_at",
        group,
        player,
        Uuid::now_v7(),
        role.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// A group has one owner at any moment: the earlier one is given another role first.
///
/// # Errors
/// When the database fails.
pub async fn set_role(conn: &mut PgConnection, group: Uuid, player: Uuid, role: GroupRole) -> Result<Member> {
    let row = sqlx::query_as!(
        MemberRow,
        "UPDATE group_members SET role = $3 WHERE group_id = $1 AND player_id = $2
         RETURNING id, group_id, player_id, role, joined_at",
        group,
        player,
        role.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// Takes a member out of the group whose row is locked. An owner's place goes to the highest and longest member; with the
/// last one the group ends.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut PgConnection, member: &Member) -> Result<()> {
    let (group, player) = (member.group_id, member.player_id);
    sqlx::query!("DELETE FROM group_members WHERE group_id = $1 AND player_id = $2", group, player)
        .execute(&mut *conn)
        .await?;
    if member.role != GroupRole::Owner {
        return Ok(());
    }
    let heir = sqlx::query!(
        "UPDATE group_members SET role = 'owner' WHERE group_id = $1 AND player_id = (
             SELECT player_id FROM group_members WHERE group_id = $1
             ORDER BY array_position(ARRAY['owner', 'admin', 'moderator', 'member'], role), joined_at, id LIMIT 1)",
        group
    );
    if heir.execute(&mut *conn).await?.rows_affected() == 0 {
        end(conn, group).await?;
    }
    Ok(())
}

/// Ends the group whose row is locked, with its members, invitations and announcements.
///
/// # Errors
/// When the database fails.
pub async fn end(conn: &mut PgConnection, group: Uuid) -> Result<()> {
    invites::retract_all(conn, group).await?;
    sqlx::query!("DELETE FROM groups WHERE id = $1", group).execute(conn).await?;
    Ok(())
}

/// Has the erasure of any of these players wait for the caller's transaction, or waits for one under way; those that are there, in their
/// order. Taken before a group's row.
///
/// # Errors
/// When the database fails.
pub async fn hold_players(conn: &mut PgConnection, players: &[Uuid]) -> Result<Vec<Uuid>> {
    let rows = sqlx::query_scalar!("SELECT id FROM players WHERE id = ANY($1) ORDER BY id FOR KEY SHARE", players);
    Ok(rows.fetch_all(conn).await?)
}

/// Locks the rows of players, in an order all take, before a group's; answers those that exist.
///
/// # Errors
/// When the database fails.
pub async fn lock_players(conn: &mut PgConnection, players: &[Uuid]) -> Result<Vec<Uuid>> {
    let rows = sqlx::query_scalar!("SELECT id FROM players WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", players);
    Ok(rows.fetch_all(conn).await?)
}

/// Takes a player whose row the caller has locked out of all groups, as [`remove`] does, and their invitations back: for their erasure.
///
/// # Errors
/// When the database fails.
pub async fn leave_all(conn: &mut PgConnection, player: Uuid) -> Result<()> {
    let groups =
        sqlx::query_scalar!("SELECT group_id FROM group_members WHERE player_id = $1 ORDER BY group_id", player)
            .fetch_all(&mut *conn)
            .await?;
    for id in groups {
        if lock(conn, id).await?.is_some()
            && let Some(member) = member(conn, id, player).await?
        {
            remove(conn, &member).await?;
        }
    }
    // After the groups' rows: whoever accepts holds one of those and then takes its invitation.
    invites::delete_by(conn, player).await
}
