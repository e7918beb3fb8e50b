//! What an export has of a player: all that is theirs, however it is paged.

use std::collections::BTreeSet;

use asobi_store::{
    export::{self, After, Section},
    testing::TestDatabase,
};
use sqlx::PgPool;
use uuid::Uuid;

async fn player(pool: &PgPool, name: &str) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query("INSERT INTO players (id, username) VALUES ($1, $2)").bind(id).bind(name).execute(pool).await?;
    Ok(id)
}

/// The kinds of all records, read in pages of one.
async fn kinds(pool: &PgPool, player: Uuid) -> anyhow::Result<Vec<&'static str>> {
    let mut kinds = Vec::new();
    for section in Section::ALL {
        let mut after = Some(After::Start);
        while let Some(from) = after {
            let page = export::page(pool, player, section, &from, 1).await?;
            kinds.extend(page.records.iter().map(|(kind, _)| *kind));
            after = page.next;
        }
    }
    Ok(kinds)
}

#[tokio::test]
async fn what_stands_in_several_pages_comes_whole_and_nothing_of_others() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let pool = &database.pool;
    let (ada, bo) = (player(pool, "ada").await?, player(pool, "bo").await?);
    let rows = "WITH g AS (INSERT INTO groups (id, name, max_members, open) SELECT gen_random_uuid(), 'group', 9, false FROM generate_series(1, 3) RETURNING id),
                     b AS (INSERT INTO leaderboards (id) VALUES ('a'), ('b') RETURNING id),
                     i AS (INSERT INTO group_invites (group_id, player_id, invited_by, expires_at)
                           SELECT id, p, q, now() + interval '1 day' FROM g, (VALUES ($1::uuid, $2::uuid), ($2, $1)) AS v (p, q)),
                     n AS (INSERT INTO group_announcements (id, group_id, author_id, subject, content)
                           SELECT gen_random_uuid(), g.id, p, '', 'hi' FROM g, (VALUES ($1), ($2)) AS v (p))
                INSERT INTO leaderboard_past (leaderboard_id, seq, player_id, score, sub_score, updated_at)
                SELECT b.id, s, CASE WHEN s < 4 THEN $1 ELSE $2 END, 1, 0, now() FROM b, generate_series(1, 5) AS s";
    sqlx::query(rows).bind(ada).bind(bo).execute(pool).await?;
    let kinds = kinds(pool, ada).await?;
    let of = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(
        (of("account"), of("group_invite"), of("group_announcement"), of("past_score")),
        (1, 6, 3, 6),
        "{kinds:?}"
    );
    database.drop_now().await
}

/// Whoever adds a table with a player in it says here where it is in an export, or why it is not.
#[tokio::test]
async fn every_table_that_names_a_player_was_thought_of() -> anyhow::Result<()> {
    const EXPORTED: [&str; 18] = [
        "bans",
        "chat_messages",
        "friendships",
        "group_announcements",
        "group_invites",
        "group_members",
        "guest_devices",
        "leaderboard_entries",
        "leaderboard_past",
        "match_players",
        "matches",
        "mutes",
        "notifications",
        "party_members",
        "player_storage",
        "reports",
        "tickets",
        "token_families",
    ];
    // What only leads to records, what passes within minutes, who founded or leads something, and operators' jobs.
    const NOT: [&str; 10] = [
        "backfill_claims",
        "chat_keys",
        "chat_senders",
        "groups",
        "inbox_events",
        "inboxes",
        "notification_jobs",
        "parties",
        "party_invites",
        "sessions",
    ];
    let database = TestDatabase::create().await?;
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT c.relname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
           AND a.atttypid IN ('uuid'::regtype, 'uuid[]'::regtype)
           AND a.attname ~ '^(players?|sender|reporter|author|friend|leader|creator|from)(_id)?$|^(invited|blocked)_by$'",
    )
    .fetch_all(&database.pool)
    .await?;
    let known: BTreeSet<&str> = EXPORTED.into_iter().chain(NOT).collect();
    let new: Vec<_> = found.iter().filter(|table| !known.contains(table.as_str())).collect();
    assert!(new.is_empty(), "{new:?}");
    database.drop_now().await
}
