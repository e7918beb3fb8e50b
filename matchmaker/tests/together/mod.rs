//! Parties, teams, regions, pauses and running matches that want players, played over a real PostgreSQL with real matchmakers.

use asobi_proto::{
    bus::{Topic, WakeItem},
    mode::{ModeSettings, Strategy, Teams},
};
use asobi_store::{modes, tickets};
use serde_json::json;
use uuid::Uuid;

use crate::stage::{Acts, Host, Stage, duel, play};

const MATCHED: &str = "match.matched";

async fn players<const N: usize>(stage: &Stage, host: &Host) -> anyhow::Result<[Uuid; N]> {
    let mut players = [Uuid::nil(); N];
    for player in &mut players {
        *player = stage.player(host).await?;
    }
    Ok(players)
}

fn backfilled() -> ModeSettings {
    ModeSettings { max_players: 4, backfill: true, ..duel() }
}

async fn state(stage: &Stage, ticket: Uuid) -> anyhow::Result<String> {
    stage.one("SELECT string_agg(DISTINCT state, '+') FROM tickets WHERE id = $1 OR head = $1", ticket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_is_matched_whole_into_one_team() -> anyhow::Result<()> {
    play(async |mut stage| {
        let teams = Some(Teams { count: 2, size: 2 });
        let arena = ModeSettings { match_size: 4, max_players: 4, min_players: 4, teams, ..duel() };
        let host = stage.host(Acts::Well, &[("arena", arena.clone()), ("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&[]);
        let [ada, bo, cy, dee, eve] = players(&stage, &host).await?;
        // Bo waits with Eve for something else, too.
        let besides = stage.queue_as(&[eve, bo], "duel2", json!({})).await?;
        let single = stage.queue_as(&[cy], "arena", json!({})).await?;
        let party = stage.queue_as(&[ada, bo], "arena", json!({})).await?;
        stage.queue_as(&[dee], "arena", json!({})).await?;
        let told = stage.told(bo, MATCHED).await?;
        let teams: Vec<Vec<Uuid>> = serde_json::from_value(told["teams"].clone())?;
        assert_eq!(teams.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        let together = teams.iter().find(|team| team.contains(&ada)).expect("she plays");
        assert!(together.contains(&bo), "{teams:?}");
        for player in [ada, cy, dee] {
            assert_eq!(stage.told(player, MATCHED).await?, told);
        }
        let asked: Vec<Vec<String>> = host.calls()[0].teams.iter().map(|team| team.players.clone()).collect();
        assert_eq!(json!(asked), told["teams"], "the host and the players hear the same");
        assert_eq!((state(&stage, party).await?, state(&stage, single).await?), ("matched".into(), "matched".into()));
        assert_eq!(state(&stage, besides).await?, "cancelled", "all of a party's ticket, with one player's seat");
        let removed = stage.told(eve, "matchmaker.removed").await?;
        assert_eq!(
            (removed["ticket_id"].clone(), removed["reason"].clone()),
            (json!(besides), json!("member_in_match"))
        );
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_one_of_whom_is_gone_waits_no_longer() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&["matchmaker.disconnect_grace_ms=300"]);
        let ada = stage.player(&host).await?;
        let quartet = ModeSettings { match_size: 4, max_players: 4, min_players: 4, ..duel() };
        modes::publish(&stage.database.pool, &host.id().0, host.id().1, &[("quartet".into(), quartet, String::new())])
            .await?;
        let ticket = stage.queue_as(&[ada, Uuid::now_v7()], "quartet", json!({})).await?;
        assert_eq!(stage.told(ada, "matchmaker.removed").await?["reason"], "member_gone");
        assert_eq!(state(&stage, ticket).await?, "cancelled");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_runs_where_its_players_are() -> anyhow::Result<()> {
    play(async |mut stage| {
        let regions = vec!["eu".to_owned(), "us".to_owned()];
        let duel = ModeSettings { regions, strategy: Strategy::SkillBased, max_latency_ms: Some(100), ..duel() };
        let eu = stage.host_in("eu", &[("duel", duel.clone())]).await?;
        let us = stage.host_in("us", &[("duel", duel.clone())]).await?;
        let matchmaker = stage.matchmaker(&[]);
        let [ada, bo, cy, dee] = players(&stage, &eu).await?;
        stage.queue_as(&[ada], "duel", json!({"skill": 10, "region": "us"})).await?;
        stage.queue_as(&[bo], "duel", json!({"skill": 10, "latencies": {"eu": 180, "us": 20}})).await?;
        stage.told(bo, MATCHED).await?;
        assert_eq!((eu.calls().len(), us.calls().len()), (0, 1));
        stage.queue_as(&[cy], "duel", json!({"skill": 10, "latencies": {"eu": 15, "us": 90}})).await?;
        stage.queue_as(&[dee], "duel", json!({"skill": 10, "latencies": {"eu": 20, "us": 80}})).await?;
        stage.told(dee, MATCHED).await?;
        assert_eq!((eu.calls().len(), us.calls().len()), (1, 1), "of two that will do, the nearer one");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_mode_forms_nothing_until_it_is_resumed() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel()), ("other", duel())]).await?;
        let wake = |stage: &Stage| stage.bus.publisher().publish(Topic::Modes, &WakeItem {});
        assert!(modes::set_paused(&stage.database.pool, "duel", true).await?);
        let matchmaker = stage.matchmaker(&[]);
        let [ada, bo, cy, dee] = players(&stage, &host).await?;
        let ticket = stage.queue_as(&[ada], "duel", json!({})).await?;
        stage.queue_as(&[bo], "duel", json!({})).await?;
        // Who came later, for something else, is served.
        stage.queue_as(&[cy], "other", json!({})).await?;
        stage.queue_as(&[dee], "other", json!({})).await?;
        stage.told(cy, MATCHED).await?;
        assert_eq!(state(&stage, ticket).await?, "pending");
        assert!(modes::set_paused(&stage.database.pool, "duel", false).await?);
        wake(&stage)?;
        stage.told(ada, MATCHED).await?;
        let seen = tickets::get(&stage.database.pool, ticket).await?.expect("it is there");
        assert_eq!(seen.state.as_str(), "matched");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_match_is_filled_before_new_ones_are_formed() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", backfilled())]).await?;
        let [ada, bo, cy, dee] = players(&stage, &host).await?;
        let match_id = stage.running(&host, "duel", &[ada], 3).await?;
        let matchmaker = stage.matchmaker(&[]);
        stage.queue_as(&[bo, cy], "duel", json!({})).await?;
        let told = stage.told(cy, MATCHED).await?;
        assert_eq!((told["match_id"].clone(), told["teams"].clone()), (json!(match_id), json!(null)));
        let mut seats: Vec<Uuid> = serde_json::from_value(told["players"].clone())?;
        seats.sort_unstable();
        let mut expected = vec![ada, bo, cy];
        expected.sort_unstable();
        assert_eq!(seats, expected);
        let asked = &host.joins()[0];
        assert_eq!((asked.players.len(), asked.epoch, asked.term), (2, 1, stage.leader().await?.1));
        assert_eq!(stage.one::<i32>("SELECT wanted FROM backfills WHERE match_id = $1", match_id).await?, 1);
        stage.queue_as(&[dee], "duel", json!({})).await?;
        stage.told(dee, MATCHED).await?;
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM backfills WHERE match_id = $1", match_id).await?, 0);
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM backfill_claims WHERE match_id = $1", match_id).await?, 0);
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM match_players WHERE match_id = $1", match_id).await?, 4);
        assert!(host.calls().is_empty(), "no new match");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_join_waits_again_as_before() -> anyhow::Result<()> {
    for acts in [Acts::TurnsAway, Acts::IsSlow] {
        play(async move |mut stage| {
            let host = stage.host(acts, &[("duel", backfilled())]).await?;
            let [ada, bo, cy] = players(&stage, &host).await?;
            let match_id = stage.running(&host, "duel", &[ada], 1).await?;
            let ticket = stage.queue_as(&[bo], "duel", json!({})).await?;
            let before = tickets::get(&stage.database.pool, ticket).await?.expect("there").submitted_at;
            let matchmaker = stage.matchmaker(&[]);
            stage
                .until("the host is asked and the ticket waits again", async |stage: &Stage| {
                    let asked = if acts == Acts::TurnsAway { 1 } else { 3 };
                    Ok((host.joins().len() >= asked && state(stage, ticket).await? == "pending").then_some(()))
                })
                .await?;
            assert_eq!(stage.one::<i64>("SELECT count(*) FROM match_players WHERE match_id = $1", match_id).await?, 1);
            // It is as old as it was, and plays with the next who comes.
            stage.queue_as(&[cy], "duel", json!({})).await?;
            let told = stage.told(bo, MATCHED).await?;
            assert_ne!(told["match_id"], json!(match_id));
            let after = tickets::get(&stage.database.pool, ticket).await?.expect("there").submitted_at;
            assert_eq!(before, after);
            matchmaker.drain().await?;
            Ok(stage)
        })
        .await?;
    }
    Ok(())
}

/// As a leader leaves them that died after (b1).
async fn claimed(stage: &Stage, match_id: Uuid, player: Uuid) -> anyhow::Result<Uuid> {
    let ticket = stage.queue_as(&[player], "duel", json!({})).await?;
    sqlx::query(
        "WITH t AS (UPDATE tickets SET state = 'matched', match_id = $1, ended_at = now() WHERE id = $2 RETURNING id, player_id),
         s AS (INSERT INTO match_players (player_id, match_id) SELECT player_id, $1 FROM t)
         INSERT INTO backfill_claims (player_id, match_id, ticket_id) SELECT player_id, $1, id FROM t",
    )
    .bind(match_id)
    .bind(ticket)
    .execute(&stage.database.pool)
    .await?;
    Ok(ticket)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_with_those_claimed_for_running_matches() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", backfilled())]).await?;
        let [ada, bo, cy] = players(&stage, &host).await?;
        let (runs, is_over) =
            (stage.running(&host, "duel", &[ada], 0).await?, stage.running(&host, "duel", &[], 0).await?);
        claimed(&stage, runs, bo).await?;
        let back = claimed(&stage, is_over, cy).await?;
        sqlx::query("UPDATE matches SET state = 'finished', finished_at = now() WHERE id = $1")
            .bind(is_over)
            .execute(&stage.database.pool)
            .await?;
        let matchmaker = stage.matchmaker(&[]);
        assert_eq!(stage.told(bo, MATCHED).await?["match_id"], json!(runs));
        stage
            .until("who was to join a match that is over waits again", async |stage: &Stage| {
                Ok((state(stage, back).await? == "pending").then_some(()))
            })
            .await?;
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM match_players WHERE match_id = $1", is_over).await?, 0);
        assert!(stage.frames(cy).await?.is_empty(), "nothing was heard of it");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}
