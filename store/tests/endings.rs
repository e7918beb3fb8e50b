//! How matches end that their host does not have.

use asobi_store::{
    allocation,
    matches::{self, Fence},
    testing::TestDatabase,
};
use sqlx::Executor as _;
use uuid::Uuid;

const HOST_FAILED: &str = r#"{"error": "host_failed"}"#;

#[tokio::test]
async fn whoever_was_told_of_a_match_that_its_host_lost_is_told_of_its_end_and_nobody_is_told_twice()
-> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut matches = Vec::new();
    for (n, told) in [(1, true), (2, false)] {
        let (id, player) = (Uuid::from_u128(n), Uuid::from_u128(100 + n));
        let rows = format!(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, told)
                 VALUES ('{id}', 'arena', 'running', 'host', 7, 1, 1, ARRAY['{player}'::uuid], {told});
             INSERT INTO match_players (player_id, match_id) VALUES ('{player}', '{id}');"
        );
        db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
        matches.push((id, player));
    }
    let fence = |id, epoch| Fence { match_id: id, host_node: "host".into(), host_incarnation: 7, epoch };
    assert!(!matches::lose(&db.pool, &fence(matches[0].0, 2), HOST_FAILED).await?, "it is another epoch's");
    for (id, _) in &matches {
        assert!(matches::lose(&db.pool, &fence(*id, 1), HOST_FAILED).await?);
        assert!(!matches::lose(&db.pool, &fence(*id, 1), HOST_FAILED).await?, "it has ended");
    }

    let waiting: Vec<Uuid> = allocation::untold(&db.pool, 10).await?.into_iter().map(|open| open.id).collect();
    assert_eq!(waiting, [matches[0].0, matches[1].0], "a leader finds them");
    let mut conn = db.pool.acquire().await?;
    let mut told = allocation::tell(&mut conn, &waiting).await?;
    told.sort_by_key(|told| told.id);
    let heard: Vec<_> = told.iter().map(|told| (told.state.as_str(), told.failovers, told.players.clone())).collect();
    assert_eq!(heard, [("failed", 1, vec![matches[0].1]), ("failed", 0, vec![matches[1].1])]);
    assert!(allocation::tell(&mut conn, &waiting).await?.is_empty());
    drop(conn);
    db.drop_now().await
}
