//! What a transaction leaves behind when whoever wanted it gives up.

use asobi_store::testing::TestDatabase;
use sqlx::PgPool;

async fn give_up_after(pool: &PgPool, turns: u32) {
    let turns = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        begun = asobi_store::begin(pool) => drop(begun),
        () = turns => {}
    }
}

#[tokio::test]
async fn whoever_gives_up_while_it_begins_leaves_no_transaction_open() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    // One connection, so that the next one certainly gets the one that was given up.
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&db.url).await?;
    for round in 0..200 {
        let turns = round * 10;
        give_up_after(&pool, turns).await;
        // What is written here is written, and not a part of a transaction that nobody will end.
        sqlx::query("INSERT INTO parties (id, leader_id) VALUES (gen_random_uuid(), gen_random_uuid())")
            .execute(&pool)
            .await?;
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM parties").fetch_one(&db.pool).await?;
        assert_eq!(seen, i64::from(round) + 1, "given up after {turns} turns");
    }
    pool.close().await;
    db.drop_now().await
}
