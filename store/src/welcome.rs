//! What sessions begin with, of many players in one statement each: when everybody comes back at once, PostgreSQL is asked as often as there
//! are batches, not as often as there are players.

use std::collections::HashMap;

use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Result,
    matches::LiveSeat,
    parties::{self, Party},
};

/// What a player's session is told when it begins.
#[derive(Debug, Clone, Default)]
pub struct Welcome {
    /// Where the inbox stands.
    pub seq: i64,
    /// Notifications that wait to be read.
    pub unread: i64,
    /// The match the player has a seat in, as [`crate::matches::live_of`] says.
    pub live: Option<LiveSeat>,
    pub party: Option<Party>,
}

/// What a player's friend is seen as; no status: offline.
#[derive(Debug, Clone)]
pub struct Friend {
    pub player_id: Uuid,
    pub status: Option<String>,
}

/// What the sessions of these players begin with: one statement, and another one for the parties if any of them is in one.
///
/// # Errors
/// When the database does not answer.
pub async fn welcomes(pool: &PgPool, players: &[Uuid]) -> Result<HashMap<Uuid, Welcome>> {
    // Each part is one look into an index for each player, whatever the planner thinks of the array's length.
    let rows = sqlx::query!(
        r#"SELECT w.player_id AS "player_id!",
             COALESCE((SELECT i.seq FROM inboxes i WHERE i.player_id = w.player_id), 0) AS "seq!",
             (SELECT count(*) FROM notifications n WHERE n.player_id = w.player_id AND NOT n.read
                AND (n.expires_at IS NULL OR n.expires_at > now())) AS "unread!",
             (SELECT p.party_id FROM party_members p WHERE p.player_id = w.player_id) AS party_id,
             m.id AS "match_id?", m.mode AS "mode?", m.host_node AS "host_node?", m.host_incarnation AS "host_incarnation?",
             m.epoch AS "epoch?"
           FROM UNNEST((SELECT $1::uuid[])) AS w(player_id)
           LEFT JOIN LATERAL (
             SELECT live.* FROM (
               SELECT m.id, m.mode, m.host_node, m.host_incarnation, m.epoch, m.state, m.failovers FROM matches m
               WHERE m.id = (SELECT s.match_id FROM match_players s WHERE s.player_id = w.player_id) OFFSET 0) AS live
             WHERE live.state = 'running' OR (live.state = 'allocating' AND live.failovers > 0)) AS m ON true"#,
        players,
    )
    .fetch_all(pool)
    .await?;
    let mut partied = Vec::new();
    let mut welcomes = HashMap::with_capacity(rows.len());
    for row in rows {
        let live = match (row.match_id, row.mode, row.host_node, row.host_incarnation, row.epoch) {
            (Some(match_id), Some(mode), Some(host_node), Some(host_incarnation), Some(epoch)) => {
                Some(LiveSeat { match_id, mode, host_node, host_incarnation, epoch })
            }
            _ => None,
        };
        partied.extend(row.party_id.map(|party| (row.player_id, party)));
        welcomes.insert(row.player_id, Welcome { seq: row.seq, unread: row.unread, live, party: None });
    }
    if !partied.is_empty() {
        let mut ids: Vec<Uuid> = partied.iter().map(|(_, party)| *party).collect();
        ids.sort_unstable();
        ids.dedup();
        let parties: HashMap<Uuid, Party> = parties::by_ids(pool, &ids).await?;
        for (player, party) in partied {
            if let Some(welcome) = welcomes.get_mut(&player) {
                // Over since the first statement: as whoever left it sees it.
                welcome.party = Some(parties.get(&party).cloned().unwrap_or(Party::left(party)));
            }
        }
    }
    Ok(welcomes)
}

/// The friends of these players, whoever asked, and how they are seen now. Who has none is left out.
///
/// # Errors
/// When the database does not answer.
pub async fn friends(pool: &PgPool, players: &[Uuid]) -> Result<HashMap<Uuid, Vec<Friend>>> {
    let rows = sqlx::query!(
        r#"SELECT w.player_id AS "player_id!", f.friend AS "friend!", s.status AS "status?"
           FROM UNNEST((SELECT $1::uuid[])) AS w(player_id)
           CROSS JOIN LATERAL (
             SELECT a.friend_id AS friend FROM friendships a WHERE a.player_id = w.player_id AND a.status = 'accepted'
             UNION SELECT b.player_id FROM friendships b WHERE b.friend_id = w.player_id AND b.status = 'accepted') AS f
           LEFT JOIN LATERAL (
             SELECT s.status FROM sessions s WHERE s.player_id = f.friend
             ORDER BY s.connected_at DESC, s.session_id DESC LIMIT 1) AS s ON true"#,
        players,
    )
    .fetch_all(pool)
    .await?;
    let mut friends: HashMap<Uuid, Vec<Friend>> = HashMap::new();
    for row in rows {
        friends.entry(row.player_id).or_default().push(Friend { player_id: row.friend, status: row.status });
    }
    Ok(friends)
}

/// Which of the pairs of a player and a channel's thing hold, as a set for each kind.
#[derive(Debug, Clone, Copy)]
pub enum Bond {
    /// (player, match): the player has a seat in it.
    Seat,
    /// (player, group): the player is a member.
    Group,
    /// (player, player): one of the two blocks the other.
    Block,
}

/// Those of the pairs that are bound so.
///
/// # Errors
/// When the database does not answer.
pub async fn bound(pool: &PgPool, bond: Bond, pairs: &[(Uuid, Uuid)]) -> Result<Vec<(Uuid, Uuid)>> {
    let (a, b): (Vec<Uuid>, Vec<Uuid>) = pairs.iter().copied().unzip();
    let found: Vec<(Uuid, Uuid)> = match bond {
        Bond::Seat => sqlx::query!(
            r#"SELECT t.a AS "a!", t.b AS "b!" FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[])) AS t(a, b)
               WHERE (SELECT true FROM match_players p WHERE p.player_id = t.a AND p.match_id = t.b LIMIT 1)"#,
            &a,
            &b,
        )
        .fetch_all(pool)
        .await?
        .into_iter()
        .map(|row| (row.a, row.b))
        .collect(),
        Bond::Group => sqlx::query!(
            r#"SELECT t.a AS "a!", t.b AS "b!" FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[])) AS t(a, b)
               WHERE (SELECT true FROM group_members m WHERE m.player_id = t.a AND m.group_id = t.b LIMIT 1)"#,
            &a,
            &b,
        )
        .fetch_all(pool)
        .await?
        .into_iter()
        .map(|row| (row.a, row.b))
        .collect(),
        Bond::Block => sqlx::query!(
            r#"SELECT t.a AS "a!", t.b AS "b!" FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[])) AS t(a, b)
               WHERE (SELECT true FROM friendships f WHERE f.status = 'blocked'
                 AND least(f.player_id, f.friend_id) = least(t.a, t.b)
                 AND greatest(f.player_id, f.friend_id) = greatest(t.a, t.b) LIMIT 1)"#,
            &a,
            &b,
        )
        .fetch_all(pool)
        .await?
        .into_iter()
        .map(|row| (row.a, row.b))
        .collect(),
    };
    Ok(found)
}
