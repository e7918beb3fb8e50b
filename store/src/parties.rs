//! Parties: who plays together. Every change locks the party's row first, so that simultaneous ones take turns, withdraws the party's
//! tickets where its members change, and tells everybody concerned in the same transaction.
//!
//! Lock order: `parties`, then `party_members`, then `tickets`, then inboxes.

use std::collections::HashMap;

use asobi_proto::bus::InboxEvent;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Error, Result,
    inbox::StoredEvent,
    lock_keys::{PARTY_LOOK, PARTY_SWEEP},
    tickets::{append, event, withdraw_of_party},
};

/// How long an invitation can be accepted, seconds.
pub const INVITE_LIFE_S: f64 = 300.0;
/// Invitations of one party that can be open at once.
pub const OPEN_INVITES: i64 = 32;
/// How long a party nobody of is connected is kept, seconds.
pub const DESERTED_S: f64 = 1_800.0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub player_id: Uuid,
    /// In no live match.
    pub ready: bool,
    /// Has a session on a live node.
    pub online: bool,
}

/// A party as its members see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    pub id: Uuid,
    /// None: the party is over, or whoever sees this is not in it.
    pub leader_id: Option<Uuid>,
    /// In the order of their coming.
    pub members: Vec<Member>,
}

impl Party {
    /// What those see who are in it no more.
    #[must_use]
    pub fn left(id: Uuid) -> Self {
        Self { id, leader_id: None, members: Vec::new() }
    }

    /// The payload of `party.state`.
    #[must_use]
    pub fn payload(&self) -> Value {
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|m| json!({"player_id": m.player_id, "ready": m.ready, "online": m.online}))
            .collect();
        json!({"party_id": self.id, "leader_id": self.leader_id, "members": members})
    }

    fn players(&self) -> Vec<Uuid> {
        self.members.iter().map(|member| member.player_id).collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PartyError {
    /// Or the player is not in it.
    #[error("there is no such party")]
    NotFound,
    #[error("the party is full")]
    Full,
    #[error("only the leader may do this")]
    NotLeader,
    #[error("the player is in a party already")]
    AlreadyInParty,
    /// Or the invitation is over.
    #[error("the player was not invited")]
    NotInvited,
    #[error("there is no such player")]
    PlayerNotFound,
    #[error("one of the two blocks the other")]
    Blocked,
    #[error("too many invitations are open")]
    TooManyInvites,
    #[error(transparent)]
    Db(#[from] Error),
}

impl PartyError {
    /// The client protocol's reason string and a sentence for people; none when the database failed.
    #[must_use]
    pub fn reason(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::NotFound => ("party_not_found", "You are in no such party."),
            Self::Full => ("party_full", "The party is full."),
            Self::NotLeader => ("not_party_leader", "Only the party's leader may do this."),
            Self::AlreadyInParty => ("already_in_party", "The player is in a party already."),
            Self::NotInvited => ("not_invited", "There is no such invitation, or not any more."),
            Self::PlayerNotFound => ("player_not_found", "There is no such player."),
            Self::Blocked => ("blocked", "One of you blocks the other."),
            Self::TooManyInvites => ("rate_limited", "Too many invitations are open."),
            Self::Db(_) => return None,
        })
    }
}

impl From<sqlx::Error> for PartyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// What a change made of a party, and what the caller publishes after it.
#[derive(Debug)]
pub struct Changed {
    /// As whoever asked sees it.
    pub party: Party,
    pub told: Vec<StoredEvent>,
    /// Tickets that were withdrawn.
    pub tickets: Vec<Uuid>,
}

/// Who is in a party, locked for the caller's transaction.
#[derive(Debug)]
pub(crate) struct Roster {
    pub leader_id: Uuid,
    pub members: Vec<Uuid>,
}

/// Locks a party. A leader who is not in it any more (an erased account) is succeeded by the oldest member.
pub(crate) async fn lock(conn: &mut PgConnection, party: Uuid) -> Result<Option<Roster>> {
    let leader = sqlx::query_scalar!("SELECT leader_id FROM parties WHERE id = $1 FOR UPDATE", party)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(mut leader_id) = leader else { return Ok(None) };
    // A statement of its own: what was committed while the lock was waited for is seen.
    let members = sqlx::query_scalar!(
        "SELECT player_id FROM party_members WHERE party_id = $1 ORDER BY joined_at, player_id",
        party,
    )
    .fetch_all(&mut *conn)
    .await?;
    if let Some(oldest) = members.first().filter(|_| !members.contains(&leader_id)) {
        leader_id = *oldest;
        set_leader(conn, party, leader_id).await?;
    }
    Ok(Some(Roster { leader_id, members }))
}

async fn set_leader(conn: &mut PgConnection, party: Uuid, leader: Uuid) -> Result<()> {
    sqlx::query!("UPDATE parties SET leader_id = $2 WHERE id = $1", party, leader).execute(conn).await?;
    Ok(())
}

/// The party of a player, locked, with what the player is in it.
async fn lock_of(conn: &mut PgConnection, player: Uuid) -> Result<(Uuid, Roster), PartyError> {
    let party = sqlx::query_scalar!("SELECT party_id FROM party_members WHERE player_id = $1", player)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(PartyError::NotFound)?;
    let roster = lock(conn, party).await?.filter(|roster| roster.members.contains(&player));
    Ok((party, roster.ok_or(PartyError::NotFound)?))
}

async fn lock_as_leader(conn: &mut PgConnection, player: Uuid) -> Result<(Uuid, Roster), PartyError> {
    let (party, roster) = lock_of(conn, player).await?;
    if roster.leader_id != player {
        return Err(PartyError::NotLeader);
    }
    Ok((party, roster))
}

async fn state(conn: &mut PgConnection, party: Uuid) -> Result<Party> {
    Ok(states(conn, &[party]).await?.pop().unwrap_or(Party::left(party)))
}

/// Those of the parties that have members, in the order of their ids.
async fn states(conn: &mut PgConnection, parties: &[Uuid]) -> Result<Vec<Party>> {
    let rows = sqlx::query!(
        r#"SELECT p.id, p.leader_id, m.player_id,
             NOT EXISTS (SELECT 1 FROM match_players s WHERE s.player_id = m.player_id) AS "ready!",
             EXISTS (SELECT 1 FROM sessions s JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation
                     WHERE s.player_id = m.player_id AND n.lease_until > now()) AS "online!"
           FROM parties p JOIN party_members m ON m.party_id = p.id
           WHERE p.id = ANY($1) ORDER BY p.id, m.joined_at, m.player_id"#,
        parties,
    )
    .fetch_all(conn)
    .await?;
    let mut states: Vec<Party> = Vec::new();
    for row in rows {
        if states.last().is_none_or(|party| party.id != row.id) {
            states.push(Party { id: row.id, leader_id: Some(row.leader_id), members: Vec::new() });
        }
        if let Some(party) = states.last_mut() {
            party.members.push(Member { player_id: row.player_id, ready: row.ready, online: row.online });
        }
    }
    Ok(states)
}

/// What the members hear of how the party is now, and those who went, that they did.
fn news(party: &Party, gone: &[Uuid]) -> Result<Vec<(Uuid, InboxEvent)>> {
    let now = event("party.state", &party.payload())?;
    let out = event("party.state", &Party::left(party.id).payload())?;
    let stay = party.players().into_iter().map(|player| (player, now.clone()));
    let went = gone.iter().map(|player| (*player, out.clone()));
    Ok(stay.chain(went).collect())
}

/// Those of these parties that have members, as they are.
pub(crate) async fn by_ids(pool: &PgPool, parties: &[Uuid]) -> Result<HashMap<Uuid, Party>> {
    let mut conn = pool.acquire().await?;
    Ok(states(&mut conn, parties).await?.into_iter().map(|party| (party.id, party)).collect())
}

/// A new party of one.
///
/// # Errors
/// [`PartyError::AlreadyInParty`], or the database failed.
pub async fn create(pool: &PgPool, player: Uuid) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let party = Uuid::now_v7();
    sqlx::query!("INSERT INTO parties (id, leader_id) VALUES ($1, $2)", party, player).execute(&mut *tx).await?;
    enter(&mut tx, party, player).await?;
    let party = state(&mut tx, party).await?;
    let told = append(&mut tx, news(&party, &[])?).await?;
    tx.commit().await?;
    Ok(Changed { party, told, tickets: Vec::new() })
}

async fn enter(conn: &mut PgConnection, party: Uuid, player: Uuid) -> Result<(), PartyError> {
    let entered = sqlx::query!(
        "INSERT INTO party_members (player_id, party_id) SELECT id, $2 FROM players WHERE id = $1 ON CONFLICT (player_id) DO NOTHING",
        player,
        party,
    )
    .execute(conn)
    .await?;
    if entered.rows_affected() == 0 { Err(PartyError::AlreadyInParty) } else { Ok(()) }
}

/// The leader asks a player in. Asking again renews the invitation.
///
/// # Errors
/// See [`PartyError`]; the bound of members counts already here.
pub async fn invite(pool: &PgPool, leader: Uuid, guest: Uuid, most: usize) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let (party, roster) = lock_as_leader(&mut tx, leader).await?;
    if roster.members.contains(&guest) {
        return Err(PartyError::AlreadyInParty);
    }
    if roster.members.len() >= most {
        return Err(PartyError::Full);
    }
    let seen = sqlx::query!(
        r#"SELECT EXISTS (SELECT 1 FROM players WHERE id = $2) AS "there!",
             EXISTS (SELECT 1 FROM friendships WHERE status = 'blocked'
               AND least(player_id, friend_id) = least($1::uuid, $2) AND greatest(player_id, friend_id) = greatest($1::uuid, $2)) AS "blocked!",
             (SELECT count(*) FROM party_invites WHERE party_id = $3 AND player_id <> $2 AND expires_at > now()) AS "open!""#,
        leader,
        guest,
        party,
    )
    .fetch_one(&mut *tx)
    .await?;
    if !seen.there {
        return Err(PartyError::PlayerNotFound);
    }
    if seen.blocked {
        return Err(PartyError::Blocked);
    }
    if seen.open >= OPEN_INVITES {
        return Err(PartyError::TooManyInvites);
    }
    let expires_at: OffsetDateTime = sqlx::query_scalar!(
        "INSERT INTO party_invites (party_id, player_id, from_id, expires_at) VALUES ($1, $2, $3, now() + make_interval(secs => $4))
         ON CONFLICT (party_id, player_id) DO UPDATE SET from_id = excluded.from_id, expires_at = excluded.expires_at
         RETURNING expires_at",
        party,
        guest,
        leader,
        INVITE_LIFE_S,
    )
    .fetch_one(&mut *tx)
    .await?;
    let expires_ms = i64::try_from(expires_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    let invited = event("party.invited", &json!({"party_id": party, "from": leader, "expires_at": expires_ms}))?;
    let told = append(&mut tx, vec![(guest, invited)]).await?;
    let party = state(&mut tx, party).await?;
    tx.commit().await?;
    Ok(Changed { party, told, tickets: Vec::new() })
}

/// A player comes in by an invitation.
///
/// # Errors
/// See [`PartyError`].
pub async fn accept(pool: &PgPool, player: Uuid, party: Uuid, most: usize) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let roster = lock(&mut tx, party).await?.filter(|roster| !roster.members.is_empty()).ok_or(PartyError::NotFound)?;
    if roster.members.contains(&player) {
        return Err(PartyError::AlreadyInParty);
    }
    let invited = sqlx::query!(
        r#"SELECT expires_at > now() AS "open!" FROM party_invites WHERE party_id = $1 AND player_id = $2 FOR UPDATE"#,
        party,
        player,
    )
    .fetch_optional(&mut *tx)
    .await?;
    if !invited.is_some_and(|invite| invite.open) {
        return Err(PartyError::NotInvited);
    }
    if roster.members.len() >= most {
        return Err(PartyError::Full);
    }
    enter(&mut tx, party, player).await?;
    forget_invite(&mut tx, party, player).await?;
    finish(tx, party, &roster.members, &[]).await
}

async fn forget_invite(conn: &mut PgConnection, party: Uuid, player: Uuid) -> Result<bool> {
    let done = sqlx::query!("DELETE FROM party_invites WHERE party_id = $1 AND player_id = $2", party, player)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The last part of a change of members: tickets of those who were in it before are withdrawn, everybody is told.
async fn finish(
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    party: Uuid,
    before: &[Uuid],
    gone: &[Uuid],
) -> Result<Changed, PartyError> {
    let (tickets, mut events) = withdraw_of_party(&mut tx, party, before).await?;
    let party = state(&mut tx, party).await?;
    events.extend(news(&party, gone)?);
    let told = append(&mut tx, events).await?;
    tx.commit().await?;
    Ok(Changed { party, told, tickets })
}

/// A player does not want to come in.
///
/// # Errors
/// [`PartyError::NotInvited`], or the database failed.
pub async fn decline(pool: &PgPool, player: Uuid, party: Uuid) -> Result<(), PartyError> {
    let mut conn = pool.acquire().await?;
    if forget_invite(&mut conn, party, player).await? { Ok(()) } else { Err(PartyError::NotInvited) }
}

/// A player goes. The oldest of the others leads after a leader; the last one out ends the party.
///
/// # Errors
/// [`PartyError::NotFound`], or the database failed.
pub async fn leave(pool: &PgPool, player: Uuid) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let (party, roster) = lock_of(&mut tx, player).await?;
    let mut changed = take_out(tx, party, &roster, player).await?;
    changed.party = Party::left(party);
    Ok(changed)
}

async fn take_out(
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    party: Uuid,
    roster: &Roster,
    player: Uuid,
) -> Result<Changed, PartyError> {
    sqlx::query!("DELETE FROM party_members WHERE player_id = $1 AND party_id = $2", player, party)
        .execute(&mut *tx)
        .await?;
    match roster.members.iter().find(|member| **member != player) {
        None => end(&mut tx, party).await?,
        Some(oldest) if roster.leader_id == player => set_leader(&mut tx, party, *oldest).await?,
        Some(_) => {}
    }
    finish(tx, party, &roster.members, &[player]).await
}

async fn end(conn: &mut PgConnection, party: Uuid) -> Result<()> {
    // Members and invitations go with it.
    sqlx::query!("DELETE FROM parties WHERE id = $1", party).execute(conn).await?;
    Ok(())
}

/// The leader takes a member out.
///
/// # Errors
/// See [`PartyError`]; [`PartyError::PlayerNotFound`] for who is no other member.
pub async fn kick(pool: &PgPool, leader: Uuid, member: Uuid) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let (party, roster) = lock_as_leader(&mut tx, leader).await?;
    if member == leader || !roster.members.contains(&member) {
        return Err(PartyError::PlayerNotFound);
    }
    take_out(tx, party, &roster, member).await
}

/// The leader makes another member leader. Tickets stay: the new leader may withdraw them.
///
/// # Errors
/// See [`PartyError`]; [`PartyError::PlayerNotFound`] for who is no member.
pub async fn promote(pool: &PgPool, leader: Uuid, member: Uuid) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let (party, roster) = lock_as_leader(&mut tx, leader).await?;
    if !roster.members.contains(&member) {
        return Err(PartyError::PlayerNotFound);
    }
    set_leader(&mut tx, party, member).await?;
    let party = state(&mut tx, party).await?;
    let told = append(&mut tx, news(&party, &[])?).await?;
    tx.commit().await?;
    Ok(Changed { party, told, tickets: Vec::new() })
}

/// The leader ends the party.
///
/// # Errors
/// See [`PartyError`].
pub async fn disband(pool: &PgPool, leader: Uuid) -> Result<Changed, PartyError> {
    let mut tx = crate::begin(pool).await?;
    let (party, roster) = lock_as_leader(&mut tx, leader).await?;
    end(&mut tx, party).await?;
    finish(tx, party, &roster.members, &roster.members).await
}

/// Parties of which the members are told in one [`look`].
pub const LOOK: i64 = 500;

/// What [`look`] found.
#[derive(Debug, Default)]
pub struct Seen {
    /// For the caller to publish.
    pub told: Vec<StoredEvent>,
    /// There is more: look again.
    pub more: bool,
}

/// Tells members of parties who came online, went offline, or went into a match and out of it, since they were told last. Any node may look;
/// those that try at the same time step aside.
///
/// # Errors
/// When the database fails.
pub async fn look(pool: &PgPool) -> Result<Seen> {
    let mut tx = crate::begin(pool).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, PARTY_LOOK)
        .fetch_one(&mut *tx)
        .await?;
    if !mine {
        return Ok(Seen::default());
    }
    let changed = sqlx::query_scalar!(
        r#"WITH now AS (SELECT m.player_id, m.ready AS was_ready, m.online AS was_online,
               NOT EXISTS (SELECT 1 FROM match_players s WHERE s.player_id = m.player_id) AS ready,
               EXISTS (SELECT 1 FROM sessions s JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation
                       WHERE s.player_id = m.player_id AND n.lease_until > now()) AS online
             FROM party_members m),
           changed AS (SELECT * FROM now WHERE ready <> was_ready OR online <> was_online ORDER BY player_id LIMIT $1)
           UPDATE party_members m SET ready = c.ready, online = c.online FROM changed c
           WHERE m.player_id = c.player_id RETURNING m.party_id"#,
        LOOK,
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut parties = changed.clone();
    parties.sort_unstable();
    parties.dedup();
    let mut events = Vec::new();
    for party in states(&mut tx, &parties).await? {
        events.extend(news(&party, &[])?);
    }
    let told = append(&mut tx, events).await?;
    tx.commit().await?;
    Ok(Seen { told, more: i64::try_from(changed.len()).is_ok_and(|count| count == LOOK) })
}

/// Forgets invitations that are over and parties of which nobody was connected for [`DESERTED_S`], at most `limit` of each. Any node may;
/// those that try at the same time step aside.
///
/// # Errors
/// When the database fails.
pub async fn sweep(pool: &PgPool, limit: i64) -> Result<u64> {
    let mut tx = crate::begin(pool).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, PARTY_SWEEP)
        .fetch_one(&mut *tx)
        .await?;
    if !mine {
        return Ok(0);
    }
    let invites = sqlx::query!(
        "DELETE FROM party_invites i USING (SELECT party_id, player_id FROM party_invites WHERE expires_at < now() LIMIT $1) AS o
         WHERE i.party_id = o.party_id AND i.player_id = o.player_id",
        limit,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE parties p SET deserted_at = CASE WHEN s.there THEN NULL ELSE now() END
         FROM (SELECT p.id, EXISTS (SELECT 1 FROM party_members m JOIN sessions s ON s.player_id = m.player_id
                 JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
                 WHERE m.party_id = p.id) AS there FROM parties p) AS s
         WHERE p.id = s.id AND (p.deserted_at IS NULL) <> s.there"
    )
    .execute(&mut *tx)
    .await?;
    let parties = sqlx::query!(
        "DELETE FROM parties WHERE id IN (SELECT id FROM parties WHERE deserted_at < now() - make_interval(secs => $1) LIMIT $2)",
        DESERTED_S,
        limit,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(invites.rows_affected() + parties.rows_affected())
}
