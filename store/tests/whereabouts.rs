//! Where matches are, for those who look for them.

use asobi_store::{matches, testing::TestDatabase};
use sqlx::Executor as _;
use uuid::Uuid;

#[tokio::test]
async fn a_match_is_live_while_it_runs_and_on_its_way_from_a_host_that_was_lost() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let states = [("running", 0), ("running", 2), ("allocating", 1), ("allocating", 0), ("finished", 1), ("failed", 1)];
    let mut ids = Vec::new();
    for (n, (state, failovers)) in states.into_iter().enumerate() {
        let (id, player) = (Uuid::from_u128(n as u128 + 1), Uuid::from_u128(n as u128 + 101));
        let rows = format!(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, failovers)
                 VALUES ('{id}', 'arena', '{state}', 'host', 7, {n}, 1, '{{}}', {failovers});
             INSERT INTO match_players (player_id, match_id) VALUES ('{player}', '{id}');"
        );
        db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
        ids.push((id, player));
    }
    let all: Vec<Uuid> = ids.iter().map(|(id, _)| *id).chain([Uuid::from_u128(999)]).collect();
    let mut found = matches::whereabouts(&db.pool, &all).await?;
    found.sort_by_key(|live| live.match_id);
    let places: Vec<_> =
        found.iter().map(|live| (live.host_node.as_str(), live.host_incarnation, live.epoch)).collect();
    assert_eq!(places, [("host", 7, 0), ("host", 7, 1), ("host", 7, 2)]);
    for (n, (id, player)) in ids.into_iter().enumerate() {
        let live = found.get(n).cloned();
        assert_eq!(matches::live(&db.pool, id).await?, live);
        assert_eq!(matches::live_of(&db.pool, player).await?, live);
    }
    db.drop_now().await
}
