//! What a match takes in memory that nobody is connected to, and what a player takes who is relayed: slopes of the hosts' resident memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::PgPool;

use crate::bench::{
    cluster::Target,
    player::{call, connect_many},
    report::{Report, per},
};

const DEADLINE: Duration = Duration::from_secs(60);
/// What is still being freed or grown.
const SETTLE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);
/// In halls of 500; as many as show in what a process takes.
const PLAYERS: usize = 2_000;

/// # Errors
/// The cluster takes no more matches or players.
pub async fn measure(count: u32, target: &Target, report: Report) -> anyhow::Result<Report> {
    let Some(url) = target.database_url.as_deref() else { return Ok(report) };
    let options = asobi_store::DatabaseOptions {
        url: url.to_owned(),
        max_connections: 2,
        timeout: DEADLINE,
        application_name: "asobi/bench".to_owned(),
    };
    let rows = asobi_store::connect(&options).await?;
    // Players first: matches go on allocating for a while.
    let mut players = connect_many(target, PLAYERS).await?;
    let before = settled(target).await;
    for player in &mut players {
        call(player, "match.find_or_create", json!({"mode": "hall"})).await.context("the mode `hall` is missing")?;
    }
    let with_players = settled(target).await;
    say!("starting {count} idle matches …");
    form(&rows, count).await?;
    let with_matches = settled(target).await;
    drop(players);
    #[expect(clippy::cast_precision_loss, reason = "kilobytes of some processes")]
    let slope = |from: u64, to: u64, count: u64| per(to.saturating_sub(from) as f64, count, 1);
    Ok(report
        .field("host_kb_per_relayed_player", slope(before, with_players, u64::try_from(PLAYERS)?))
        .field("kb_per_idle_match", slope(with_players, with_matches, u64::from(count))))
}

async fn settled(target: &Target) -> u64 {
    tokio::time::sleep(SETTLE).await;
    target.resident_kb("match-")
}

/// Matches of players who are not there: their tickets are written as a gateway writes them.
async fn form(rows: &PgPool, count: u32) -> anyhow::Result<()> {
    sqlx::query(
        "INSERT INTO tickets (id, player_id, mode, properties, state, expires_at)
         SELECT gen_random_uuid(), gen_random_uuid(), 'alone', '{}', 'pending', now() + interval '1 hour'
         FROM generate_series(1, $1)",
    )
    .bind(i64::from(count))
    .execute(rows)
    .await?;
    let started = Instant::now();
    loop {
        let running: i64 =
            sqlx::query_scalar("SELECT count(*) FROM matches WHERE mode = 'alone' AND state = 'running'")
                .fetch_one(rows)
                .await?;
        if running >= i64::from(count) {
            return Ok(());
        }
        ensure!(started.elapsed() < DEADLINE, "only {running} of {count} idle matches run");
        tokio::time::sleep(LOOK).await;
    }
}
