//! What matches do to the world outside over a real PostgreSQL: written once with many others, stored at once, applied once.

use std::time::Duration;

use asobi_proto::effect::{ChatEffect, EffectBody, NotifyEffect, ScoreEffect, StoreEffect};
use asobi_store::{
    allocation, boards, chat,
    effects::{self, Effect},
    effects_apply::{Applied, Applier},
    players, storage,
    testing::TestDatabase,
};
use serde_json::{Value, json};
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

const LOBBY: &str = "global:lobby";

async fn player(pool: &PgPool) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query("INSERT INTO players (id, username) VALUES ($1, $1::text)").bind(id).execute(pool).await?;
    Ok(id)
}

/// Effects of one match, with ordinals from 1.
fn of(match_id: Uuid, bodies: impl IntoIterator<Item = EffectBody>) -> Vec<(Uuid, Effect)> {
    (1..).zip(bodies).map(|(ordinal, body)| (match_id, Effect { ordinal, body })).collect()
}

fn keep(player: Option<Uuid>, key: &str, value: Value) -> EffectBody {
    EffectBody::Store(StoreEffect { collection: "c".into(), key: key.into(), player_id: player, value })
}

fn score(player: Uuid, score: f64) -> EffectBody {
    EffectBody::Score(ScoreEffect { board: "wins".into(), player_id: player, score, sub_score: 0.0 })
}

fn say(channel: &str, sender: Uuid, content: &str) -> EffectBody {
    EffectBody::Chat(ChatEffect { channel_id: channel.into(), sender_id: sender, content: content.into() })
}

fn notice(players: &[Uuid], subject: &str) -> EffectBody {
    EffectBody::Notify(NotifyEffect {
        player_ids: players.into(),
        kind: "news".into(),
        subject: subject.into(),
        content: Value::Null,
    })
}

/// In a transaction of their own.
async fn insert(pool: &PgPool, effects: &[(Uuid, Effect)]) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    effects::insert_many(&mut tx, &effects.iter().map(|(id, effect)| (*id, effect)).collect::<Vec<_>>()).await?;
    Ok(tx.commit().await?)
}

async fn open(pool: &PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM match_effects WHERE applied_at IS NULL").fetch_one(pool).await?)
}

/// Match, ordinal and error of what was put aside.
async fn aside(pool: &PgPool) -> anyhow::Result<Vec<(Uuid, i64, String)>> {
    let rows = sqlx::query(
        "SELECT match_id, ordinal, error FROM match_effects WHERE error IS NOT NULL AND applied_at IS NOT NULL
         ORDER BY match_id, ordinal",
    );
    Ok(rows.fetch_all(pool).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

async fn apply_all(pool: &PgPool, applier: &mut Applier, limit: i64) -> anyhow::Result<Applied> {
    let mut all = Applied::default();
    loop {
        let done = applier.batch(pool, limit).await?;
        if done.effects == 0 {
            return Ok(all);
        }
        all.effects += done.effects;
        all.messages.extend(done.messages);
        all.events.extend(done.events);
        all.refused.extend(done.refused);
    }
}

/// Who stands on the board, and with what.
async fn wins(pool: &PgPool) -> anyhow::Result<Vec<(Uuid, f64)>> {
    let page = boards::page(&mut *pool.acquire().await?, "wins", 0, 100).await?;
    Ok(page.map(|page| page.changes.iter().map(|c| (c.entry.player_id, c.entry.score)).collect()).unwrap_or_default())
}

#[tokio::test]
async fn what_is_written_again_is_stored_once_and_takes_nothing_back() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada) = (&db.pool, player(&db.pool).await?);
    let [one, two] = [1, 2].map(Uuid::from_u128);
    let first = of(one, [keep(None, "best", json!(1)), keep(Some(ada), "level", json!({"n": 1})), score(ada, 1.0)]);
    insert(pool, &first).await?;
    assert_eq!(storage::get_game(pool, "c", "best").await?, Some(json!(1)));
    assert_eq!(storage::get_player(pool, ada, "c", "level").await?, Some(json!({"n": 1})));
    assert_eq!(storage::get_game(pool, "c", "level").await?, None, "a player's is not the game's");
    assert_eq!(open(pool).await?, 1, "only the score waits");

    insert(pool, &of(two, [keep(None, "best", json!(2)), keep(Some(ada), "level", Value::Null)])).await?;
    // The first one's host did not learn of its commit, and writes once more, with what came since.
    let mut again = first;
    again.extend([(one, Effect { ordinal: 4, body: keep(None, "other", json!("x")) })]);
    insert(pool, &again).await?;
    assert_eq!(storage::get_game(pool, "c", "best").await?, Some(json!(2)));
    assert_eq!(storage::get_player(pool, ada, "c", "level").await?, None, "removed");
    assert_eq!(storage::get_game(pool, "c", "other").await?, Some(json!("x")));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM match_effects").fetch_one(pool).await?;
    assert_eq!((rows, open(pool).await?), (6, 1));

    // A transaction that is rolled back has stored nothing.
    let mut tx = pool.begin().await?;
    let effect = Effect { ordinal: 5, body: keep(None, "best", json!(5)) };
    effects::insert_many(&mut tx, &[(one, &effect)]).await?;
    tx.rollback().await?;
    assert_eq!(storage::get_game(pool, "c", "best").await?, Some(json!(2)));
    db.drop_now().await
}

#[tokio::test]
async fn many_matches_store_in_one_statement_in_the_order_given() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada, gone) = (&db.pool, player(&db.pool).await?, Uuid::now_v7());
    let mut effects = Vec::new();
    for n in 1..=200_u128 {
        let mine = format!("m{n}");
        effects.extend(of(
            Uuid::from_u128(n),
            [
                keep(None, "shared", json!(n as u64)),
                keep(None, &mine, json!("soon gone")),
                keep(Some(ada), &mine, json!(n as u64)),
                keep(Some(gone), &mine, json!("for nobody")),
                keep(None, &mine, Value::Null),
            ],
        ));
    }
    insert(pool, &effects).await?;
    assert_eq!(storage::get_game(pool, "c", "shared").await?, Some(json!(200)));
    let count = async |table: &str| -> anyhow::Result<i64> {
        let count = format!("SELECT count(*) FROM {table}");
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(pool).await?)
    };
    assert_eq!(count("game_storage").await?, 1, "what was removed later in the batch is not there");
    assert_eq!(count("player_storage").await?, 200, "who does not exist has nothing, and fails nobody");
    assert_eq!((count("match_effects").await?, open(pool).await?), (1_000, 0));
    db.drop_now().await
}

#[tokio::test]
async fn transactions_that_store_under_the_same_keys_wait_for_each_other_and_never_in_a_circle() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let keys = ["a", "b", "c", "d", "e"];
    for round in 0..20_u128 {
        // Each in its own order, some storing and some removing.
        let writes = (0..4_usize).map(|n| {
            let bodies = (0..keys.len()).map(|k| {
                let key = keys[(k * 2 + n) % keys.len()];
                keep(None, key, if (k + n) % 3 == 0 { Value::Null } else { json!(n) })
            });
            let (pool, effects) = (db.pool.clone(), of(Uuid::from_u128(round * 10 + n as u128), bodies));
            tokio::spawn(async move { insert(&pool, &effects).await })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await??;
        }
    }
    db.drop_now().await
}

#[tokio::test]
async fn one_that_can_never_be_applied_is_put_aside_and_fails_no_other() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada, id) = (&db.pool, player(&db.pool).await?, Uuid::from_u128(1));
    let bodies = [
        keep(None, "good", json!(1)),
        keep(None, "bad", json!("a\u{0}b")),
        keep(Some(ada), "", json!(1)),
        score(ada, f64::NAN),
        say(LOBBY, ada, ""),
        say("lobby", ada, "hi"),
        notice(&[ada], "a\0b"),
        keep(None, "large", json!("x".repeat(storage::VALUE_BYTES + 1))),
        keep(Some(ada), "good", json!(2)),
    ];
    insert(pool, &of(id, bodies)).await?;
    assert_eq!(storage::get_game(pool, "c", "good").await?, Some(json!(1)));
    assert_eq!(storage::get_player(pool, ada, "c", "good").await?, Some(json!(2)));
    let aside = aside(pool).await?;
    assert_eq!(aside.iter().map(|a| a.1).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8], "{aside:?}");
    assert_eq!(open(pool).await?, 0, "nobody tries them");
    db.drop_now().await
}

#[tokio::test]
async fn what_the_database_refuses_alone_is_put_aside_and_the_rest_of_its_batch_applied() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada) = (&db.pool, player(&db.pool).await?);
    // What no release has looked at yet.
    sqlx::query("ALTER TABLE notifications ADD CHECK (subject <> 'unlucky')").execute(pool).await?;
    let bodies = [score(ada, 1.0), notice(&[ada], "unlucky"), say(LOBBY, ada, "hi"), notice(&[ada], "lucky")];
    insert(pool, &of(Uuid::from_u128(1), bodies)).await?;
    let applied = Applier::new("social", 100).batch(pool, 10).await?;
    assert_eq!((applied.effects, applied.scores.len(), applied.messages.len(), applied.events.len()), (4, 1, 1, 1));
    let aside = aside(pool).await?;
    assert_eq!(aside.iter().map(|a| a.1).collect::<Vec<_>>(), [2], "{aside:?}");
    assert_eq!(open(pool).await?, 0);
    db.drop_now().await
}

#[tokio::test]
async fn messages_of_matches_are_numbered_like_any_other_and_keep_their_order_whoever_applies_them()
-> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada) = (&db.pool, player(&db.pool).await?);
    for id in 1..=5 {
        let lines = (1..=40).map(|n| say(LOBBY, ada, &format!("{id}/{n}")));
        insert(pool, &of(Uuid::from_u128(id), lines)).await?;
    }
    let appliers = (0..3).map(|n| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut applier = Applier::new(&format!("social-{n}"), 100);
            // As long as another one speaks there is nothing for this one.
            while open(&pool).await? > 0 {
                applier.batch(&pool, 7).await?;
            }
            anyhow::Ok(())
        })
    });
    for applier in appliers.collect::<Vec<_>>() {
        applier.await??;
    }
    let said = chat::history(pool, LOBBY, None, 1_000).await?;
    assert_eq!(said.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=200).collect::<Vec<i64>>());
    for id in 1..=5 {
        let prefix = format!("{id}/");
        let of_match: Vec<&str> = said.iter().filter_map(|m| m.content.strip_prefix(&prefix)).collect();
        assert_eq!(of_match, (1..=40).map(|n| n.to_string()).collect::<Vec<_>>(), "of match {id}");
    }
    db.drop_now().await
}

#[tokio::test]
async fn a_batch_that_was_given_up_before_its_commit_is_applied_by_the_next() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada, bo) = (&db.pool, player(&db.pool).await?, player(&db.pool).await?);
    sqlx::query("INSERT INTO leaderboards (id, operator) VALUES ('wins', 'sum')").execute(pool).await?;
    let direct = format!("dm:{}:{}", ada.min(bo), ada.max(bo));
    for id in 1..=30 {
        let bodies = [
            score(ada, 1.0),
            notice(&[ada, bo, Uuid::now_v7()], "won"),
            say(LOBBY, ada, "gg"),
            say(&direct, ada, "gg"),
        ];
        insert(pool, &of(Uuid::from_u128(id), bodies)).await?;
    }
    // Killed at any await: what was committed is marked, and nothing else is there.
    let mut applier = Applier::new("social", 1_000);
    for n in 0..60 {
        let _ = tokio::time::timeout(Duration::from_millis(n % 12), applier.batch(pool, 4)).await;
    }
    apply_all(pool, &mut Applier::new("another", 1_000), 16).await?;
    let board = wins(pool).await?;
    assert_eq!(board, [(ada, 30.0)]);
    for channel in [LOBBY, &direct] {
        let seqs: Vec<i64> = chat::history(pool, channel, None, 1_000).await?.iter().map(|m| m.seq).collect();
        assert_eq!(seqs, (1..=30).collect::<Vec<i64>>(), "{channel}");
    }
    let inbox = async |player: Uuid| -> anyhow::Result<(i64, i64)> {
        let events = "SELECT count(*) FILTER (WHERE event->'f'->>'type' = 'notification.new'),
                             count(*) FILTER (WHERE event->'f'->>'type' = 'dm.message') FROM inbox_events WHERE player_id = $1";
        Ok(sqlx::query_as(events).bind(player).fetch_one(pool).await?)
    };
    assert_eq!(inbox(ada).await?, (30, 0));
    assert_eq!(inbox(bo).await?, (30, 30));
    db.drop_now().await
}

#[tokio::test]
async fn a_player_who_is_erased_leaves_nothing_stored_and_nothing_that_waits() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (pool, ada, bo) = (&db.pool, player(&db.pool).await?, player(&db.pool).await?);
    let bodies = [
        keep(Some(ada), "level", json!(3)),
        score(ada, 1.0),
        score(bo, 1.0),
        say(LOBBY, ada, "hi"),
        say(LOBBY, bo, "hi"),
        notice(&[ada, bo], "won"),
    ];
    insert(pool, &of(Uuid::from_u128(1), bodies)).await?;
    let mut tx = pool.begin().await?;
    players::erase(&mut tx, ada).await?;
    tx.commit().await?;
    assert_eq!(storage::get_player(pool, ada, "c", "level").await?, None);
    let applied = apply_all(pool, &mut Applier::new("social", 100), 100).await?;
    assert_eq!(applied.messages.iter().map(|m| m.sender_id).collect::<Vec<_>>(), [bo]);
    assert_eq!(applied.events.iter().map(|e| e.0).collect::<Vec<_>>(), [bo]);
    let board = wins(pool).await?;
    assert_eq!(board, [(bo, 1.0)]);
    // What the match still does for them fails nothing.
    let late = [(Uuid::from_u128(1), Effect { ordinal: 9, body: keep(Some(ada), "level", json!(4)) })];
    insert(pool, &late).await?;
    assert_eq!((aside(pool).await?.len(), open(pool).await?), (2, 0));
    db.drop_now().await
}

#[tokio::test]
async fn effects_are_remembered_as_long_as_their_host_may_write_them_again() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let [running, saved, over, gone] = [1, 2, 3, 4].map(Uuid::from_u128);
    for (id, state) in [(running, "running"), (saved, "running"), (over, "finished")] {
        sqlx::query(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ($1, 'arena', $2, 'h', 7, 1, 1, '{}')",
        )
        .bind(id)
        .bind(state)
        .execute(pool)
        .await?;
    }
    for id in [running, saved] {
        sqlx::query("INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ($1, 1, 1, '')")
            .bind(id)
            .execute(pool)
            .await?;
    }
    for id in [running, saved, over, gone] {
        insert(pool, &of(id, [keep(None, "k", json!(1))])).await?;
    }
    sqlx::query(
        "UPDATE match_effects SET inserted_at = inserted_at - interval '2 hours', applied_at = applied_at - interval '2 hours'",
    )
    .execute(pool)
    .await?;
    // The one match's last checkpoint is of then, as when the database was away since.
    sqlx::query("UPDATE match_checkpoints SET written_at = written_at - interval '2 hours' WHERE match_id = $1")
        .bind(running)
        .execute(pool)
        .await?;
    let mut connection = pool.acquire().await?;
    assert_eq!(allocation::purge(&mut connection, 100).await?, 3);
    drop(connection);
    let left: Vec<Uuid> = sqlx::query_scalar("SELECT match_id FROM match_effects").fetch_all(pool).await?;
    assert_eq!(left, [running]);
    db.drop_now().await
}
