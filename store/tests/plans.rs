//! What is asked for every player is planned a few times and then kept, however short the arrays are.

use std::time::Duration;

use asobi_store::{
    DatabaseOptions, inbox, matches,
    notifications::{self, NewNotification},
    sessions::{self, NewSession, Owner},
    testing::TestDatabase,
    welcome::{self, Bond},
};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use uuid::Uuid;

/// PostgreSQL plans for the values given so often before it compares.
const BEFORE: i64 = 5;
const CALLS: i64 = 20;

#[tokio::test]
async fn statements_with_arrays_are_not_planned_at_each_call() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let players = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for player in players {
        let row = format!("INSERT INTO players (id, username) VALUES ('{player}', 'p{player}')");
        db.pool.execute(AssertSqlSafe(row)).await?;
    }
    // What was prepared is known to its connection alone.
    let one = asobi_store::connect(&DatabaseOptions {
        url: db.url.clone(),
        max_connections: 1,
        timeout: Duration::from_secs(10),
        application_name: "asobi/plans".into(),
    })
    .await?;
    for _ in 0..CALLS {
        come_and_go(&one, &players).await?;
    }
    let plans: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT statement, custom_plans, generic_plans FROM pg_prepared_statements
         WHERE statement LIKE '%(SELECT $1::uuid[])%' AND statement NOT LIKE '%pg_prepared_statements%'",
    )
    .fetch_all(&one)
    .await?;
    assert!(plans.len() >= 12, "all of them: {plans:#?}");
    for (statement, custom, generic) in &plans {
        assert!(*custom <= BEFORE && *generic >= CALLS - BEFORE, "{custom} of {}: {statement}", custom + generic);
    }
    one.close().await;
    db.drop_now().await
}

/// Two players come, are told something, and go.
async fn come_and_go(pool: &PgPool, players: &[Uuid]) -> anyhow::Result<()> {
    let owner = Owner { node_id: "g0", incarnation: 1 };
    welcome::welcomes(pool, players).await?;
    welcome::friends(pool, players).await?;
    for bond in [Bond::Seat, Bond::Group, Bond::Block] {
        welcome::bound(pool, bond, &[(players[0], players[1])]).await?;
    }
    let new: Vec<NewSession> = players
        .iter()
        .map(|player| NewSession { session_id: Uuid::now_v7(), player_id: *player, status: None, age_s: 0.0 })
        .collect();
    sessions::insert(pool, owner, &new).await?;
    sessions::surplus(pool, owner, players, 5).await?;
    sessions::statuses(pool, players).await?;
    sessions::set_statuses(pool, &[(players[0], "away".to_owned())]).await?;
    inbox::positions(pool, players).await?;
    matches::whereabouts(pool, players).await?;
    let told = NewNotification { kind: "t".into(), subject: "s".into(), content: serde_json::json!({}) };
    let mut tx = asobi_store::begin(pool).await?;
    notifications::send(&mut tx, players, &told, 100).await?;
    tx.commit().await?;
    let ids: Vec<Uuid> = new.iter().map(|session| session.session_id).collect();
    sessions::mark_leaving(pool, &ids).await?;
    let pairs: Vec<(Uuid, Uuid)> = new.iter().map(|session| (session.session_id, session.player_id)).collect();
    sessions::remove(pool, 7, &pairs).await?;
    Ok(())
}
