//! Everything about a player, in pages: each table by its key, so that no read is long however much there is. Rows come as they are but
//! for secrets and for what is another player's; so columns that are added later are exported, too.

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::Result;

/// Numbers of a channel, and matches, that one read goes through at most, whoever's they are.
const WINDOW: i64 = 20_000;

/// What a record is of, in the order of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Account,
    Devices,
    Logins,
    Friends,
    Groups,
    Invites,
    Announcements,
    Notifications,
    Messages,
    Scores,
    PastScores,
    Tickets,
    Matches,
    Storage,
    Mutes,
    ReportsBy,
    ReportsAbout,
    Audit,
}

impl Section {
    pub const ALL: [Self; 18] = [
        Self::Account,
        Self::Devices,
        Self::Logins,
        Self::Friends,
        Self::Groups,
        Self::Invites,
        Self::Announcements,
        Self::Notifications,
        Self::Messages,
        Self::Scores,
        Self::PastScores,
        Self::Tickets,
        Self::Matches,
        Self::Storage,
        Self::Mutes,
        Self::ReportsBy,
        Self::ReportsAbout,
        Self::Audit,
    ];
}

/// Where a section goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum After {
    #[default]
    Start,
    Id(Uuid),
    Number(i64),
    Text(String),
    Pair(String, String),
    Ids(Uuid, Uuid),
    /// In this channel, or on this board, after this number.
    Numbered(String, i64),
}

impl After {
    fn id(&self) -> Uuid {
        if let Self::Id(id) = self { *id } else { Uuid::nil() }
    }

    fn ids(&self) -> (Uuid, Uuid) {
        if let Self::Ids(one, two) = self { (*one, *two) } else { (Uuid::nil(), Uuid::nil()) }
    }

    fn number(&self) -> i64 {
        match self {
            Self::Number(number) | Self::Numbered(_, number) => *number,
            _ => 0,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Pair(text, _) | Self::Numbered(text, _) => text,
            _ => "",
        }
    }
}

/// A record: its kind, and an object.
pub type Record = (&'static str, Value);

/// Some records of a section, perhaps none although there is more.
#[derive(Debug, Default)]
pub struct Page {
    pub records: Vec<Record>,
    /// None: the section is complete.
    pub next: Option<After>,
}

/// Rows by a key, in its order; a full page is followed by another one.
macro_rules! page {
    ($pool:expr, $limit:expr, $kind:literal, $after:expr, $sql:literal, $($argument:expr),*) => {{
        let rows = sqlx::query!($sql, $($argument,)* $limit).fetch_all($pool).await?;
        let full = i64::try_from(rows.len()).is_ok_and(|n| n >= $limit);
        let next = rows.last().filter(|_| full).map($after);
        Page { records: rows.into_iter().map(|row| ($kind, row.record)).collect(), next }
    }};
}

/// One page of a section.
///
/// # Errors
/// When the database does not answer.
pub async fn page(pool: &PgPool, player: Uuid, section: Section, after: &After, limit: i64) -> Result<Page> {
    Ok(match section {
        Section::Account => account(pool, player).await?,
        Section::Messages => messages(pool, player, after, limit).await?,
        Section::Matches => matches(pool, player, after).await?,
        Section::Scores => scores(pool, player, after, limit).await?,
        Section::PastScores => page!(
            pool,
            limit,
            "past_score",
            |row| After::Numbered(row.leaderboard_id.clone(), row.seq),
            r#"SELECT leaderboard_id, seq, to_jsonb(e) - 'player_id' AS "record!" FROM leaderboard_past e
               WHERE player_id = $1 AND (leaderboard_id, seq) > ($2, $3) ORDER BY leaderboard_id, seq LIMIT $4"#,
            player,
            after.text(),
            after.number()
        ),
        Section::Storage => storage(pool, player, after, limit).await?,
        Section::Mutes => mutes(pool, player, after, limit).await?,
        Section::Devices => page!(
            pool,
            limit,
            "device",
            |row| After::Text(row.device_id.clone()),
            r#"SELECT device_id, to_jsonb(d) - 'secret_hash' - 'player_id' AS "record!" FROM guest_devices d
               WHERE player_id = $1 AND device_id > $2 ORDER BY device_id LIMIT $3"#,
            player,
            after.text()
        ),
        Section::Logins => page!(
            pool,
            limit,
            "login",
            |row| After::Id(row.id),
            r#"SELECT id, to_jsonb(f) - 'player_id' AS "record!" FROM token_families f
               WHERE player_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Friends => page!(
            pool,
            limit,
            "friend",
            |row| After::Id(row.id),
            r#"SELECT id, to_jsonb(f) AS "record!" FROM friendships f
               WHERE (player_id = $1 OR friend_id = $1) AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Groups => page!(
            pool,
            limit,
            "group",
            |row| After::Id(row.group_id),
            r#"SELECT m.group_id, to_jsonb(m) - 'player_id' || jsonb_build_object('name', g.name) AS "record!"
               FROM group_members m JOIN groups g ON g.id = m.group_id
               WHERE m.player_id = $1 AND m.group_id > $2 ORDER BY m.group_id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Invites => page!(
            pool,
            limit,
            "group_invite",
            |row| After::Ids(row.group_id, row.player_id),
            // Those they have, and those they gave.
            r#"SELECT group_id, player_id, to_jsonb(i) AS "record!" FROM group_invites i
               WHERE (player_id = $1 OR invited_by = $1) AND (group_id, player_id) > ($2, $3)
               ORDER BY group_id, player_id LIMIT $4"#,
            player,
            after.ids().0,
            after.ids().1
        ),
        Section::Announcements => page!(
            pool,
            limit,
            "group_announcement",
            |row| After::Id(row.id),
            r#"SELECT id, to_jsonb(a) - 'author_id' AS "record!" FROM group_announcements a
               WHERE author_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Notifications => page!(
            pool,
            limit,
            "notification",
            |row| After::Id(row.id),
            r#"SELECT id, to_jsonb(n) - 'player_id' AS "record!" FROM notifications n
               WHERE player_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Tickets => page!(
            pool,
            limit,
            "ticket",
            |row| After::Id(row.id),
            r#"SELECT id, to_jsonb(t) - 'player_id' AS "record!" FROM tickets t
               WHERE player_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::ReportsBy => page!(
            pool,
            limit,
            "report_by",
            |row| After::Id(row.id),
            // What became of it, and by whom, is said to nobody who reports.
            r#"SELECT id, to_jsonb(r) - 'reporter_id' - 'remark' - 'resolved_by' AS "record!" FROM reports r
               WHERE reporter_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::ReportsAbout => page!(
            pool,
            limit,
            "report_about",
            |row| After::Id(row.id),
            // Who reported, and in which words, is theirs.
            r#"SELECT id, to_jsonb(r) - 'reporter_id' - 'note' - 'resolved_by' AS "record!" FROM reports r
               WHERE player_id = $1 AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.id()
        ),
        Section::Audit => page!(
            pool,
            limit,
            "audit",
            |row| After::Number(row.id),
            r#"SELECT id, to_jsonb(a) AS "record!" FROM audit a
               WHERE subject = $1::uuid::text AND id > $2 ORDER BY id LIMIT $3"#,
            player,
            after.number()
        ),
    })
}

/// What there is once of each player.
async fn account(pool: &PgPool, player: Uuid) -> Result<Page> {
    let row = sqlx::query!(
        r#"SELECT to_jsonb(p) - 'password_hash' AS "account!",
                  (SELECT to_jsonb(b) - 'player_id' FROM bans b WHERE b.player_id = p.id) AS ban,
                  (SELECT to_jsonb(m) - 'player_id' FROM party_members m WHERE m.player_id = p.id) AS party,
                  (SELECT to_jsonb(s) - 'player_id' FROM match_players s WHERE s.player_id = p.id) AS seat
           FROM players p WHERE id = $1"#,
        player
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(Page::default()) };
    let mut records = vec![("account", row.account)];
    let others = [("ban", row.ban), ("party", row.party), ("match_seat", row.seat)];
    records.extend(others.into_iter().filter_map(|(kind, record)| Some((kind, record?))));
    Ok(Page { records, next: None })
}

async fn scores(pool: &PgPool, player: Uuid, after: &After, limit: i64) -> Result<Page> {
    // By the boards: entries are not indexed by their player.
    Ok(page!(
        pool,
        limit,
        "score",
        |row| After::Text(row.leaderboard_id.clone()),
        r#"SELECT e.leaderboard_id, to_jsonb(e) - 'player_id' AS "record!" FROM leaderboards l
           JOIN leaderboard_entries e ON e.leaderboard_id = l.id AND e.player_id = $1
           WHERE l.id > $2 ORDER BY l.id LIMIT $3"#,
        player,
        after.text()
    ))
}

async fn storage(pool: &PgPool, player: Uuid, after: &After, limit: i64) -> Result<Page> {
    let key = if let After::Pair(_, key) = after { key.as_str() } else { "" };
    Ok(page!(
        pool,
        limit,
        "storage",
        |row| After::Pair(row.collection.clone(), row.key.clone()),
        r#"SELECT collection, key, to_jsonb(s) - 'player_id' AS "record!" FROM player_storage s
           WHERE player_id = $1 AND (collection, key) > ($2, $3) ORDER BY collection, key LIMIT $4"#,
        player,
        after.text(),
        key
    ))
}

async fn mutes(pool: &PgPool, player: Uuid, after: &After, limit: i64) -> Result<Page> {
    let (text, first) = (after.text(), *after == After::Start);
    Ok(page!(
        pool,
        limit,
        "mute",
        |row| After::Text(row.channel_id.clone()),
        r#"SELECT channel_id, to_jsonb(m) - 'player_id' - 'version' AS "record!" FROM mutes m
           WHERE player_id = $1 AND (channel_id > $2 OR $3) ORDER BY channel_id LIMIT $4"#,
        player,
        text,
        first
    ))
}

/// The matches they were formed into, a window of all matches at a time.
async fn matches(pool: &PgPool, player: Uuid, after: &After) -> Result<Page> {
    let rows = sqlx::query!(
        r#"SELECT w.id, CASE WHEN $1 = ANY(w.players) THEN
                      jsonb_build_object('id', w.id, 'mode', w.mode, 'state', w.state, 'players', w.players, 'result', w.result,
                                         'inserted_at', w.inserted_at, 'started_at', w.started_at, 'finished_at', w.finished_at)
                  END AS record
           FROM (SELECT * FROM matches WHERE id > $2 ORDER BY id LIMIT $3) w ORDER BY w.id"#,
        player,
        after.id(),
        WINDOW
    )
    .fetch_all(pool)
    .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|n| n >= WINDOW);
    let next = rows.last().filter(|_| full).map(|row| After::Id(row.id));
    Ok(Page { records: rows.into_iter().filter_map(|row| Some(("match", row.record?))).collect(), next })
}

/// What they wrote in channels, and all of their direct messages.
async fn messages(pool: &PgPool, player: Uuid, after: &After, limit: i64) -> Result<Page> {
    let (channel, seq) = match after {
        After::Numbered(channel, seq) => (channel.clone(), *seq),
        after => match first_message(pool, player, after.text()).await? {
            Channel::Found(channel, seq) => (channel, seq),
            Channel::Empty(channel) => return Ok(Page { next: Some(After::Text(channel)), ..Page::default() }),
            Channel::None => return Ok(Page::default()),
        },
    };
    let direct = channel.starts_with("dm:");
    let rows = sqlx::query!(
        r#"SELECT m.seq AS "seq!", to_jsonb(m) AS "record!"
           FROM chat_messages m
           WHERE channel_id = $1 AND seq > $2 AND seq <= $3 AND (sender_id = $4 OR $5) ORDER BY seq LIMIT $6"#,
        channel,
        seq,
        seq.saturating_add(WINDOW),
        player,
        direct,
        limit
    )
    .fetch_all(pool)
    .await?;
    let stands = sqlx::query_scalar!("SELECT seq FROM chat_channels WHERE channel_id = $1", channel);
    let stands = stands.fetch_optional(pool).await?.unwrap_or(0);
    let reached = match rows.last() {
        Some(last) if i64::try_from(rows.len()).is_ok_and(|n| n >= limit) => last.seq,
        _ => seq.saturating_add(WINDOW),
    };
    let kind = if direct { "direct_message" } else { "message" };
    let records = rows.into_iter().map(|row| (kind, row.record)).collect();
    let next = if reached < stands { After::Numbered(channel, reached) } else { After::Text(channel) };
    Ok(Page { records, next: Some(next) })
}

enum Channel {
    /// And before which number its history begins.
    Found(String, i64),
    /// Nothing of it is kept.
    Empty(String),
    None,
}

/// The next channel after one that has something of the player's.
async fn first_message(pool: &PgPool, player: Uuid, after: &str) -> Result<Channel> {
    let (from, to) = (format!("dm:{player}:"), format!("dm:{player};"));
    let channel = sqlx::query_scalar!(
        r#"SELECT min(channel_id COLLATE "C") FROM (
               (SELECT channel_id FROM chat_senders WHERE sender_id = $1 AND channel_id > $2 ORDER BY channel_id LIMIT 1)
               UNION ALL
               (SELECT channel_id FROM chat_channels WHERE channel_id > $2 AND channel_id >= $3 AND channel_id < $4
                ORDER BY channel_id LIMIT 1)
               UNION ALL
               (SELECT channel_id FROM chat_channels
                WHERE right(channel_id, 36) = $1::uuid::text AND channel_id >= 'dm:' AND channel_id < 'dm;' AND channel_id > $2
                ORDER BY channel_id LIMIT 1)) AS next"#,
        player,
        after,
        from,
        to
    )
    .fetch_one(pool)
    .await?;
    let Some(channel) = channel else { return Ok(Channel::None) };
    let first = sqlx::query_scalar!("SELECT min(seq) FROM chat_messages WHERE channel_id = $1", channel);
    Ok(match first.fetch_one(pool).await? {
        Some(first) => Channel::Found(channel, first - 1),
        None => Channel::Empty(channel),
    })
}

/// The last record: how many there were of each kind before it.
#[must_use]
pub fn end(player: Uuid, counts: &std::collections::BTreeMap<&'static str, u64>) -> Record {
    let records: u64 = counts.values().sum();
    ("end", json!({"player_id": player, "counts": counts, "records": records}))
}
