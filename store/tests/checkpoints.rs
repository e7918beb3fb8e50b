//! Whose states of a match are kept: those of the host that has it, under its epoch.

use std::collections::HashSet;

use asobi_proto::effect::{EffectBody, StoreEffect};
use asobi_store::{
    checkpoints::{self, Adoption, Checkpoint},
    effects::Effect,
    matches::Fence,
    testing::TestDatabase,
};
use serde_json::json;
use sqlx::{Executor as _, PgPool};
use uuid::Uuid;

const MOVED: Uuid = Uuid::from_u128(1);
const STAYS: Uuid = Uuid::from_u128(2);

fn fence(match_id: Uuid, host: &str, epoch: i64) -> Fence {
    Fence { match_id, host_node: host.into(), host_incarnation: 7, epoch }
}

fn effect(ordinal: i64) -> Effect {
    let store = StoreEffect { collection: "c".into(), key: "k".into(), player_id: None, value: json!(ordinal) };
    Effect { ordinal, body: EffectBody::Store(store) }
}

/// A state with one effect.
fn state(match_id: Uuid, epoch: i64, body: &'static str, ordinal: i64) -> Checkpoint {
    Checkpoint { match_id, epoch, body: Some(body.into()), effects: vec![effect(ordinal)], durable: true }
}

/// Two matches at host `a`, under epoch 1.
async fn two_matches() -> anyhow::Result<TestDatabase> {
    let db = TestDatabase::create().await?;
    for id in [MOVED, STAYS] {
        let rows = format!(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
                 VALUES ('{id}', 'arena', 'running', 'a', 7, 1, 1, '{{}}');
             INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ('{id}', 1, 0, '')"
        );
        db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
    }
    Ok(db)
}

/// By match and ordinal.
async fn effects(pool: &PgPool) -> anyhow::Result<Vec<(Uuid, i64)>> {
    let sql = "SELECT match_id, ordinal FROM match_effects ORDER BY match_id, ordinal";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

async fn body(pool: &PgPool, match_id: Uuid, epoch: i64) -> anyhow::Result<Option<String>> {
    Ok(checkpoints::read(pool, match_id, epoch).await?.map(String::from_utf8).transpose()?)
}

#[tokio::test]
async fn a_host_that_gave_a_match_away_writes_neither_its_state_nor_its_effects() -> anyhow::Result<()> {
    let db = two_matches().await?;
    let pool = &db.pool;
    assert_eq!(body(pool, MOVED, 1).await?, None, "nothing was written yet");
    let written = checkpoints::write(pool, &[state(MOVED, 1, "a1", 1), state(STAYS, 1, "s1", 1)]).await?;
    assert_eq!(written, HashSet::from([(MOVED, 1), (STAYS, 1)]));

    let (from, to) = (fence(MOVED, "a", 1), fence(MOVED, "b", 2));
    let adoption = Adoption { from, to, body: "b1".into(), effects: vec![effect(2)] };
    assert!(checkpoints::adopt(pool, &adoption).await?);
    assert!(checkpoints::adopt(pool, &adoption).await?, "it was taken before");
    let another = Adoption { to: fence(MOVED, "c", 2), ..adoption };
    assert!(!checkpoints::adopt(pool, &another).await?, "it is no longer that host's to give");

    // In one transaction with a match that is still its own.
    let written = checkpoints::write(pool, &[state(MOVED, 1, "late", 3), state(STAYS, 1, "s2", 2)]).await?;
    assert_eq!(written, HashSet::from([(STAYS, 1)]));
    assert_eq!(effects(pool).await?, [(MOVED, 1), (MOVED, 2), (STAYS, 1), (STAYS, 2)]);
    assert_eq!(body(pool, MOVED, 2).await?.as_deref(), Some("b1"));
    assert_eq!(body(pool, MOVED, 1).await?, None, "whoever had it reads nothing");
    assert_eq!(body(pool, STAYS, 1).await?.as_deref(), Some("s2"));
    db.drop_now().await
}

#[tokio::test]
async fn effects_alone_leave_the_state_as_it_was() -> anyhow::Result<()> {
    let db = two_matches().await?;
    checkpoints::write(&db.pool, &[state(STAYS, 1, "s1", 1)]).await?;
    let alone = Checkpoint { body: None, durable: false, ..state(STAYS, 1, "", 2) };
    // As often as its outcome is unknown.
    for _ in 0..2 {
        let written = checkpoints::write(&db.pool, std::slice::from_ref(&alone)).await?;
        assert_eq!(written, HashSet::from([(STAYS, 1)]));
    }
    assert_eq!(body(&db.pool, STAYS, 1).await?.as_deref(), Some("s1"));
    assert_eq!(effects(&db.pool).await?, [(STAYS, 1), (STAYS, 2)]);
    db.drop_now().await
}

#[tokio::test]
async fn a_move_of_unknown_outcome_is_settled_by_whoever_raises_the_epoch_first() -> anyhow::Result<()> {
    let db = two_matches().await?;
    let pool = &db.pool;
    checkpoints::write(pool, &[state(MOVED, 1, "a1", 1), state(STAYS, 1, "s1", 1)]).await?;
    let adoption =
        |id| Adoption { from: fence(id, "a", 1), to: fence(id, "b", 2), body: "b1".into(), effects: Vec::new() };

    // The host takes it back before the other has it.
    for _ in 0..2 {
        assert!(checkpoints::reclaim(pool, &fence(STAYS, "a", 1)).await?);
    }
    assert!(!checkpoints::adopt(pool, &adoption(STAYS)).await?);
    assert_eq!(body(pool, STAYS, 2).await?.as_deref(), Some("s1"));
    let written = checkpoints::write(pool, &[state(STAYS, 1, "late", 2), state(STAYS, 2, "s2", 2)]).await?;
    assert_eq!(written, HashSet::from([(STAYS, 2)]));

    // The other has it already.
    assert!(checkpoints::adopt(pool, &adoption(MOVED)).await?);
    assert!(!checkpoints::reclaim(pool, &fence(MOVED, "a", 1)).await?);
    assert_eq!(body(pool, MOVED, 2).await?.as_deref(), Some("b1"));
    db.drop_now().await
}
