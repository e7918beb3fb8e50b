//! Players as operators see them: nothing of it is secret or private.

use serde_json::Value;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// Which players are wanted.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub player_id: Option<Uuid>,
    /// How the name begins, whatever its case; empty: any.
    pub prefix: String,
    pub online: Option<bool>,
    /// The key of the last one of the page before; empty: from the start.
    pub after: String,
}

/// A player in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub id: Uuid,
    pub username: String,
    /// What lists are in the order of.
    pub key: String,
    pub display_name: Option<String>,
    pub guest: bool,
    pub online: bool,
    pub banned: bool,
    pub inserted_at: OffsetDateTime,
}

/// Players in the order of their names, at most `limit`.
///
/// # Errors
/// When the database does not answer.
pub async fn search(pool: &PgPool, search: &Search, limit: i64) -> Result<Vec<Summary>> {
    if let Some(id) = search.player_id {
        return Ok(summary(pool, id)
            .await?
            .filter(|player| search.online.is_none_or(|on| on == player.online))
            .into_iter()
            .collect());
    }
    Ok(sqlx::query_as!(
        Summary,
        // The prefix is a range of the index in the order of bytes: what begins with it, up to the last character there is.
        r#"SELECT p.id, p.username, lower(p.username) AS "key!", p.display_name, p.guest, o.online AS "online!", p.inserted_at,
                  EXISTS (SELECT 1 FROM bans b WHERE b.player_id = p.id AND (b.until IS NULL OR b.until > now())) AS "banned!"
           FROM players p CROSS JOIN LATERAL (SELECT EXISTS (
               SELECT 1 FROM sessions s
               JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
               WHERE s.player_id = p.id) AS online) o
           WHERE lower(p.username) COLLATE "C" >= lower($1) AND lower(p.username) COLLATE "C" < lower($1) || chr(1114111)
             AND lower(p.username) COLLATE "C" > $2 AND ($3::boolean IS NULL OR o.online = $3)
           ORDER BY lower(p.username) COLLATE "C" LIMIT $4"#,
        search.prefix,
        search.after,
        search.online,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

async fn summary(pool: &PgPool, id: Uuid) -> Result<Option<Summary>> {
    Ok(sqlx::query_as!(
        Summary,
        r#"SELECT p.id, p.username, lower(p.username) AS "key!", p.display_name, p.guest, p.inserted_at,
                  EXISTS (SELECT 1 FROM sessions s
                      JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
                      WHERE s.player_id = p.id) AS "online!",
                  EXISTS (SELECT 1 FROM bans b WHERE b.player_id = p.id AND (b.until IS NULL OR b.until > now())) AS "banned!"
           FROM players p WHERE p.id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await?)
}

/// A connection as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub session_id: Uuid,
    pub player_id: Uuid,
    pub node_id: String,
    pub incarnation: i64,
    pub status: String,
    pub connected_at: OffsetDateTime,
    pub leaving: bool,
}

/// Sessions of living nodes after one of them, in the order of their ids, at most `limit`.
///
/// # Errors
/// When the database does not answer.
pub async fn sessions(
    pool: &PgPool,
    player: Option<Uuid>,
    node: Option<&str>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Session>> {
    Ok(sqlx::query_as!(
        Session,
        "SELECT s.session_id, s.player_id, s.node_id, s.incarnation, s.status, s.connected_at, s.leaving
         FROM sessions s JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
         WHERE ($1::uuid IS NULL OR s.player_id = $1) AND ($2::text IS NULL OR s.node_id = $2)
           AND ($3::uuid IS NULL OR s.session_id > $3)
         ORDER BY s.session_id LIMIT $4",
        player,
        node,
        after,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// What keeps a player out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banned {
    pub reason: String,
    pub until: Option<OffsetDateTime>,
    pub banned_at: OffsetDateTime,
}

/// The match a player has a seat in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub match_id: Uuid,
    pub mode: String,
    pub state: String,
    pub host_node: String,
    pub joined_at: OffsetDateTime,
    /// From 1, in the order the match was formed in.
    pub place: Option<i32>,
}

/// A ticket that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub id: Uuid,
    pub mode: String,
    pub submitted_at: OffsetDateTime,
    pub party_id: Option<Uuid>,
}

/// The party a player is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    pub id: Uuid,
    pub leader_id: Uuid,
    pub members: i64,
}

/// Everything that goes on around a player.
#[derive(Debug, Clone)]
pub struct Detail {
    pub player: Summary,
    pub avatar_url: Option<String>,
    pub metadata: Value,
    pub updated_at: OffsetDateTime,
    pub sessions: Vec<Session>,
    pub ban: Option<Banned>,
    pub seat: Option<Seat>,
    pub tickets: Vec<Ticket>,
    pub party: Option<Party>,
    pub groups: i64,
    pub friends: i64,
    /// [`UNREAD`] at most.
    pub unread: i64,
}

/// How far unread notifications are counted.
pub const UNREAD: i64 = 1_000;
/// Sessions and tickets that are shown of one player.
const SHOWN: i64 = 100;

/// One player; none: there is no such player. The parts are read one after the other and need not be of the same moment.
///
/// # Errors
/// When the database does not answer.
pub async fn detail(pool: &PgPool, id: Uuid) -> Result<Option<Detail>> {
    let Some(player) = summary(pool, id).await? else { return Ok(None) };
    let row = sqlx::query!(
        r#"SELECT avatar_url, metadata, updated_at,
                  (SELECT count(*) FROM group_members g WHERE g.player_id = $1) AS "groups!",
                  (SELECT count(*) FROM friendships f
                   WHERE (f.player_id = $1 OR f.friend_id = $1) AND f.status = 'accepted') AS "friends!",
                  (SELECT count(*) FROM (
                      SELECT 1 FROM notifications n
                      WHERE n.player_id = $1 AND NOT n.read AND (n.expires_at IS NULL OR n.expires_at > now()) LIMIT $2) AS counted) AS "unread!"
           FROM players WHERE id = $1"#,
        id,
        UNREAD,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Detail {
        avatar_url: row.avatar_url,
        metadata: row.metadata,
        updated_at: row.updated_at,
        sessions: sessions(pool, Some(id), None, None, SHOWN).await?,
        ban: ban(pool, id).await?,
        seat: seat(pool, id).await?,
        tickets: tickets(pool, id).await?,
        party: party(pool, id).await?,
        groups: row.groups,
        friends: row.friends,
        unread: row.unread,
        player,
    }))
}

async fn ban(pool: &PgPool, id: Uuid) -> Result<Option<Banned>> {
    Ok(sqlx::query_as!(
        Banned,
        "SELECT reason, until, banned_at FROM bans WHERE player_id = $1 AND (until IS NULL OR until > now())",
        id,
    )
    .fetch_optional(pool)
    .await?)
}

async fn seat(pool: &PgPool, id: Uuid) -> Result<Option<Seat>> {
    Ok(sqlx::query_as!(
        Seat,
        r#"SELECT m.id AS match_id, m.mode, m.state, m.host_node, p.joined_at, array_position(m.players, p.player_id) AS place
           FROM match_players p JOIN matches m ON m.id = p.match_id WHERE p.player_id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await?)
}

async fn tickets(pool: &PgPool, id: Uuid) -> Result<Vec<Ticket>> {
    Ok(sqlx::query_as!(
        Ticket,
        r#"SELECT COALESCE(head, id) AS "id!", mode, submitted_at, party_id FROM tickets
           WHERE player_id = $1 AND state = 'pending' ORDER BY submitted_at LIMIT $2"#,
        id,
        SHOWN,
    )
    .fetch_all(pool)
    .await?)
}

async fn party(pool: &PgPool, id: Uuid) -> Result<Option<Party>> {
    Ok(sqlx::query_as!(
        Party,
        r#"SELECT p.id, p.leader_id, (SELECT count(*) FROM party_members o WHERE o.party_id = p.id) AS "members!"
           FROM party_members m JOIN parties p ON p.id = m.party_id WHERE m.player_id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await?)
}
