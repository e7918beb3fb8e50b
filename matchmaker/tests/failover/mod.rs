//! Hosts that die, and those that only seem to, played over a real PostgreSQL with real matchmakers.

use asobi_store::{lock_keys, tickets};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::stage::{Acts, Host, Stage, duel, play};

const FINISHED: &str = "match.finished";
const MATCHED: &str = "match.matched";

/// Where a match is: host, epoch, state.
async fn place(stage: &Stage, match_id: Uuid) -> anyhow::Result<(String, i64, String)> {
    let sql = "SELECT host_node, epoch, state FROM matches WHERE id = $1";
    Ok(sqlx::query_as(sql).bind(match_id).fetch_one(&stage.database.pool).await?)
}

/// A checkpoint as the match's host writes its first.
async fn checkpoint(stage: &Stage, match_id: Uuid, epoch: i64) -> anyhow::Result<()> {
    let sql = "INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ($1, $2, 1, '\\x00')";
    sqlx::query(sql).bind(match_id).bind(epoch).execute(&stage.database.pool).await?;
    Ok(())
}

async fn pair(stage: &Stage, host: &Host) -> anyhow::Result<[Uuid; 2]> {
    Ok([stage.player(host).await?, stage.player(host).await?])
}

/// Every connection of the stage's database is cut, as a restart of the server cuts them: nobody holds a lock any more.
async fn cut_all(stage: &Stage) -> anyhow::Result<()> {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&stage.database.pool).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matches_of_a_killed_host_go_on_elsewhere_long_before_its_lease_ends() -> anyhow::Result<()> {
    play(async |mut stage| {
        let doomed = stage.mortal("v1").await?;
        let other = stage.duelling(Acts::Well, "v1").await?;
        let newer = stage.duelling(Acts::Well, "v2").await?;
        let mut matches = Vec::new();
        for n in 0..20 {
            let players = pair(&stage, &other).await?;
            let id = stage.running(&doomed.host, "duel", &players, 0).await?;
            // Half of them are quick play's, which no leader formed.
            sqlx::query("UPDATE matches SET version = 'v1', term = $2 WHERE id = $1")
                .bind(id)
                .bind(i64::from(n % 2))
                .execute(&stage.database.pool)
                .await?;
            if n % 2 == 0 {
                checkpoint(&stage, id, 1).await?;
            }
            matches.push((id, players));
        }
        let node = doomed.host.id().0;
        let matchmaker = stage.matchmaker(&[]);
        stage.until("somebody leads", async |stage: &Stage| Ok(stage.leader().await?.0)).await?;
        doomed.kill();
        for (id, players) in &matches {
            stage.moved(players[0], *id).await?;
            stage.moved(players[1], *id).await?;
            assert_eq!(place(&stage, *id).await?, (other.id().0, 2, "running".to_owned()));
            // What the host before still has on its way finds nothing.
            let late =
                sqlx::query("UPDATE match_checkpoints SET number = 2 WHERE match_id = $1 AND epoch = 1").bind(id);
            assert_eq!(late.execute(&stage.database.pool).await?.rows_affected(), 0);
        }
        let raised: i64 =
            stage.one("SELECT count(*) FROM match_checkpoints WHERE epoch = 2 AND $1 IS NOT NULL", Uuid::nil()).await?;
        // Each has a row since its claim, also where nothing was written yet.
        assert_eq!(raised, 20);
        let lease: (String, bool) = sqlx::query_as("SELECT state, lease_until <= now() FROM nodes WHERE node_id = $1")
            .bind(node)
            .fetch_one(&stage.database.pool)
            .await?;
        assert_eq!(lease, ("stopped".to_owned(), true));
        for call in other.calls() {
            let (_, players) = matches.iter().find(|(id, _)| id.to_string() == call.match_id).expect("one of them");
            assert!(call.restore && call.epoch == 2 && call.players == players.map(|player| player.to_string()));
        }
        assert_eq!((other.calls().len(), newer.calls().len()), (20, 0));
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_whose_lock_lingers_is_dead_when_its_lease_ends() -> anyhow::Result<()> {
    play(async |mut stage| {
        let (doomed, canary) = (stage.mortal("").await?, stage.mortal("").await?);
        let other = stage.duelling(Acts::Well, "").await?;
        let [ada, bo] = pair(&stage, &other).await?;
        let match_id = stage.running(&doomed.host, "duel", &[ada], 0).await?;
        let first = stage.running(&canary.host, "duel", &[bo], 0).await?;
        let (node, incarnation) = doomed.host.id();
        // As the old backend of a connection that broke does.
        let mut lingering = PgConnection::connect(&stage.database.url).await?;
        sqlx::query("SELECT pg_advisory_lock_shared($1, $2)")
            .bind(lock_keys::NODE_ALIVE)
            .bind(lock_keys::of_incarnation(incarnation))
            .execute(&mut lingering)
            .await?;
        let matchmaker = stage.matchmaker(&[]);
        doomed.kill();
        canary.kill();
        stage.moved(bo, first).await?;
        assert_eq!(place(&stage, match_id).await?, (node.clone(), 1, "running".to_owned()));
        sqlx::query("UPDATE nodes SET lease_until = now() WHERE node_id = $1")
            .bind(&node)
            .execute(&stage.database.pool)
            .await?;
        stage.moved(ada, match_id).await?;
        assert_eq!(place(&stage, match_id).await?, (other.id().0, 2, "running".to_owned()));
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_goes_on_until_a_host_takes_the_match_and_ends_when_there_is_none() -> anyhow::Result<()> {
    play(async |mut stage| {
        let first = stage.mortal("").await?;
        let full = stage.duelling(Acts::Refuses, "").await?;
        let [ada, bo] = pair(&stage, &full).await?;
        let match_id = stage.running(&first.host, "duel", &[ada, bo], 0).await?;
        let ticket = Uuid::now_v7();
        sqlx::query(
            "INSERT INTO tickets (id, player_id, mode, state, match_id, expires_at, ended_at)
             VALUES ($1, $2, 'duel', 'matched', $3, now() + interval '1 hour', now())",
        )
        .bind(ticket)
        .bind(ada)
        .bind(match_id)
        .execute(&stage.database.pool)
        .await?;
        checkpoint(&stage, match_id, 1).await?;
        let matchmaker = stage.matchmaker(&["matchmaker.failover_timeout_ms=8000"]);
        first.kill();
        stage
            .until("the only other host has refused it", async |_: &Stage| {
                Ok(full.calls().iter().any(|call| call.restore).then_some(()))
            })
            .await?;
        let second = stage.mortal("").await?;
        stage.moved(ada, match_id).await?;
        stage.moved(bo, match_id).await?;
        let (node, epoch, state) = place(&stage, match_id).await?;
        assert_eq!((node, state.as_str()), (second.host.id().0, "running"));
        assert!(epoch > 2, "refused under the second");
        let raised: i64 = stage.one("SELECT epoch FROM match_checkpoints WHERE match_id = $1", match_id).await?;
        assert_eq!(raised, epoch);

        second.kill();
        for player in [ada, bo] {
            let told = stage.told(player, FINISHED).await?;
            assert_eq!(told, json!({"match_id": match_id, "result": {"error": "host_lost"}}));
        }
        let now = tickets::get(&stage.database.pool, ticket).await?.expect("it is kept for a while");
        assert_eq!(now.state.as_str(), "matched", "nobody waits again for a match that was played");
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM match_players WHERE match_id = $1", match_id).await?, 0);
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_with_a_failover_where_the_rows_stand() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.duelling(Acts::Well, "").await?;
        let mut matches = Vec::new();
        // As a leader leaves them that died after its transaction, and after the host's claim.
        for state in ["allocating", "running"] {
            let players = pair(&stage, &host).await?;
            let id = stage.running(&host, "duel", &players, 0).await?;
            sqlx::query("UPDATE matches SET state = $2, epoch = 2, failovers = 1, told = false WHERE id = $1")
                .bind(id)
                .bind(state)
                .execute(&stage.database.pool)
                .await?;
            checkpoint(&stage, id, 2).await?;
            matches.push((id, players));
        }
        // And somebody was to join the first of them, whose host had not answered.
        let (cy, first) = (stage.player(&host).await?, matches[0].0);
        sqlx::query(
            "WITH seat AS (INSERT INTO match_players (player_id, match_id) VALUES ($1, $2)),
               ticket AS (INSERT INTO tickets (id, player_id, mode, state, match_id, expires_at, ended_at)
                 VALUES ($3, $1, 'duel', 'matched', $2, now() + interval '1 hour', now()))
             INSERT INTO backfill_claims (player_id, match_id, ticket_id) VALUES ($1, $2, $3)",
        )
        .bind(cy)
        .bind(first)
        .bind(Uuid::now_v7())
        .execute(&stage.database.pool)
        .await?;
        let matchmaker = stage.matchmaker(&[]);
        for (id, players) in &matches {
            for player in players {
                stage.moved(*player, *id).await?;
                assert!(stage.frames(*player).await?.is_empty(), "there is nothing to see");
            }
            assert_eq!(place(&stage, *id).await?, (host.id().0, 2, "running".to_owned()));
        }
        assert_eq!(stage.told(cy, MATCHED).await?["match_id"], json!(first));
        let calls = host.calls();
        assert_eq!(calls.len(), 1);
        assert!(calls[0].restore && calls[0].players == matches[0].1.map(|player| player.to_string()));
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_takes_nobody_for_dead() -> anyhow::Result<()> {
    play(async |mut stage| {
        let (host, deaf) = (stage.duelling(Acts::Well, "").await?, stage.duelling(Acts::IsDeaf, "").await?);
        let [ada, bo] = pair(&stage, &host).await?;
        let here = stage.running(&host, "duel", &[ada], 0).await?;
        // Nothing but its lock says that this one lives.
        let there = stage.running(&deaf, "duel", &[bo], 0).await?;
        let (canary, next) = (stage.mortal("").await?, stage.mortal("").await?);
        let [cy, dee] = pair(&stage, &host).await?;
        let first = stage.running(&canary.host, "duel", &[cy], 0).await?;
        let second = stage.running(&next.host, "duel", &[dee], 0).await?;
        let matchmaker = stage.matchmaker(&[]);
        canary.kill();
        // The leader judges, and the deaf one lives.
        stage.until("the first is moved", async |s: &Stage| Ok((place(s, first).await?.1 > 1).then_some(()))).await?;
        cut_all(&stage).await?;
        next.kill();
        stage.until("the second is moved", async |s: &Stage| Ok((place(s, second).await?.1 > 1).then_some(()))).await?;
        assert_eq!(place(&stage, here).await?, (host.id().0, 1, "running".to_owned()));
        assert_eq!(place(&stage, there).await?, (deaf.id().0, 1, "running".to_owned()));
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_answers_without_a_lease_keeps_its_matches_and_is_asked_to_move_them() -> anyhow::Result<()> {
    play(async |mut stage| {
        let cut_off = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let ada = stage.player(&cut_off).await?;
        let match_id = stage.running(&cut_off, "duel", &[ada], 0).await?;
        // Its heartbeats come to nothing from here on.
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "CREATE FUNCTION no_lease() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN NEW.lease_until := OLD.lease_until; RETURN NEW; END';
             CREATE TRIGGER no_lease BEFORE UPDATE ON nodes FOR EACH ROW WHEN (OLD.node_id = '{}') EXECUTE FUNCTION no_lease()",
            cut_off.id().0
        )))
        .execute(&stage.database.pool)
        .await?;
        let other = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&["node.lease_ms=1000"]);
        stage
            .until("it is asked to move its match", async |_: &Stage| {
                Ok((!cut_off.moves().is_empty()).then_some(()))
            })
            .await?;
        let asked = cut_off.moves().remove(0);
        assert_eq!((asked.match_id, asked.to_node), (match_id.to_string(), other.id().0));
        assert_eq!(place(&stage, match_id).await?, (cut_off.id().0, 1, "running".to_owned()));
        assert!(other.calls().is_empty());
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}
