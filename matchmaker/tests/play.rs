//! The queue, played over a real PostgreSQL with real matchmakers.

mod failover;
mod stage;
mod together;

use std::process::{Child, Command, Stdio};

use asobi_proto::mode::ModeSettings;
use asobi_store::tickets;
use stage::{Acts, Stage, duel, play};
use uuid::Uuid;

const MATCHED: &str = "match.matched";

#[tokio::test(flavor = "multi_thread")]
async fn two_who_wait_are_told_of_one_match_on_the_less_loaded_host() -> anyhow::Result<()> {
    play(async |mut stage| {
        let busy = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let idle = stage.host(Acts::Well, &[("duel", duel())]).await?;
        for _ in 0..3 {
            sqlx::query(
                "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, told)
                 VALUES ($1, 'duel', 'running', $2, $3, 1, 1, '{}', true)",
            )
            .bind(Uuid::now_v7())
            .bind(busy.id().0)
            .bind(busy.id().1)
            .execute(&stage.database.pool)
            .await?;
        }
        let matchmaker = stage.matchmaker(&[]);
        let (ada, bo) = (stage.player(&busy).await?, stage.player(&idle).await?);
        let first = stage.queue(ada, "duel", &duel()).await?;
        stage.queue(bo, "duel", &duel()).await?;

        let to_ada = stage.told(ada, MATCHED).await?;
        assert_eq!(to_ada, stage.told(bo, MATCHED).await?);
        assert_eq!(to_ada["players"], serde_json::json!([ada, bo]));
        let match_id: Uuid = serde_json::from_value(to_ada["match_id"].clone())?;
        assert_eq!(stage.one::<String>("SELECT state FROM matches WHERE id = $1", match_id).await?, "running");
        assert_eq!(stage.one::<i64>("SELECT epoch FROM matches WHERE id = $1", match_id).await?, 1);
        let call = &idle.calls()[0];
        assert_eq!((busy.calls().len(), idle.calls().len(), call.term), (0, 1, stage.leader().await?.1));

        let ticket = tickets::get(&stage.database.pool, first.ticket.id).await?.expect("it is kept for a while");
        assert_eq!((ticket.state.as_str(), ticket.match_id), ("matched", Some(match_id)));
        let late = tickets::cancel(&stage.database.pool, first.ticket.id, ada).await;
        assert!(matches!(late, Err(tickets::CancelError::NotFound)), "{late:?}");
        let again = tickets::create(&stage.database.pool, ada, "duel", &serde_json::json!({}), &duel(), 10).await;
        assert!(matches!(again, Err(tickets::TicketError::AlreadyInMatch)), "{again:?}");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_that_a_host_refuses_goes_to_another_under_the_next_epoch() -> anyhow::Result<()> {
    play(async |mut stage| {
        let full = stage.host(Acts::Refuses, &[("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&[]);
        let (ada, bo) = (stage.player(&full).await?, stage.player(&full).await?);
        let ticket = stage.queue(ada, "duel", &duel()).await?.ticket;
        stage.queue(bo, "duel", &duel()).await?;
        // Three refusals by the only host there is; then the tickets wait again, as old as they were.
        stage
            .until("the first match is given up", async |stage: &Stage| {
                Ok((stage
                    .one::<i64>("SELECT count(*) FROM matches WHERE state = 'failed' AND $1 IS NOT NULL", ada)
                    .await?
                    > 0)
                .then_some(()))
            })
            .await?;
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let told = stage.told(ada, MATCHED).await?;
        let match_id: Uuid = serde_json::from_value(told["match_id"].clone())?;
        let node: String = stage.one("SELECT host_node FROM matches WHERE id = $1", match_id).await?;
        assert_eq!(node, host.id().0);
        let epochs: Vec<i64> =
            full.calls().iter().filter(|c| c.match_id == match_id.to_string()).map(|c| c.epoch).collect();
        let own: Vec<i64> = host.calls().iter().map(|c| c.epoch).collect();
        assert_eq!(own, [epochs.len() as i64 + 1]);
        let now = tickets::get(&stage.database.pool, ticket.id).await?.expect("there");
        assert_eq!((now.submitted_at, now.match_id), (ticket.submitted_at, Some(match_id)));
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_claims_and_never_answers_keeps_its_match() -> anyhow::Result<()> {
    play(async |mut stage| {
        let silent = stage.host(Acts::Claims, &[("duel", duel())]).await?;
        let other = stage.host(Acts::Claims, &[("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&["matchmaker.create_timeout_ms=200"]);
        let (ada, bo) = (stage.player(&silent).await?, stage.player(&silent).await?);
        stage.queue(ada, "duel", &duel()).await?;
        stage.queue(bo, "duel", &duel()).await?;
        let told = stage.told(bo, MATCHED).await?;
        let match_id: Uuid = serde_json::from_value(told["match_id"].clone())?;
        assert_eq!(stage.one::<i64>("SELECT epoch FROM matches WHERE id = $1", match_id).await?, 1);
        assert_eq!(silent.calls().len() + other.calls().len(), 1);
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_expire_ghosts_go_and_a_mode_without_a_host_fails() -> anyhow::Result<()> {
    play(async |mut stage| {
        let brief = ModeSettings { max_wait_seconds: 1, ..duel() };
        let host = stage.host(Acts::Well, &[("brief", brief.clone()), ("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&["matchmaker.disconnect_grace_ms=300"]);
        let ada = stage.player(&host).await?;
        let ticket = stage.queue(ada, "brief", &brief).await?.ticket;
        let ghost = stage.queue(Uuid::now_v7(), "duel", &duel()).await?.ticket;
        let told = stage.told(ada, "match.matchmaker_expired").await?;
        assert_eq!(told, serde_json::json!({"ticket_id": ticket.id}));
        stage
            .until("the ghost's ticket is withdrawn", async |stage: &Stage| {
                let state: String = stage.one("SELECT state FROM tickets WHERE id = $1", ghost.id).await?;
                Ok((state == "cancelled").then_some(()))
            })
            .await?;
        let orphaned = stage.queue(ada, "duel", &duel()).await?.ticket;
        sqlx::query("DELETE FROM host_modes WHERE mode = 'duel'").execute(&stage.database.pool).await?;
        let told = stage.told(ada, "match.matchmaker_failed").await?;
        assert_eq!(told, serde_json::json!({"reason": "no_game_module"}));
        assert_eq!(stage.one::<String>("SELECT state FROM tickets WHERE id = $1", orphaned.id).await?, "failed");
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn players_whose_match_nobody_can_go_on_with_are_told_and_free_again() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let other = stage.host(Acts::Refuses, &[]).await?;
        let matchmaker = stage.matchmaker(&["matchmaker.failover_timeout_ms=300"]);
        let (ada, bo) = (stage.player(&other).await?, stage.player(&other).await?);
        stage.queue(ada, "duel", &duel()).await?;
        stage.queue(bo, "duel", &duel()).await?;
        let match_id = stage.told(ada, MATCHED).await?["match_id"].clone();
        host.die().await;
        let told = stage.told(ada, "match.finished").await?;
        assert_eq!(told, serde_json::json!({"match_id": match_id, "result": {"error": "host_lost"}}));
        assert_eq!(told, stage.told(bo, "match.finished").await?);
        assert!(!stage.queue(ada, "duel", &duel()).await?.already_queued);
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_matches_those_who_waited_when_the_leader_is_killed() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let mut doomed = process(&stage, "doomed")?;
        stage
            .until("the first one leads", async |s: &Stage| {
                Ok((s.leader().await?.0.as_deref() == Some("doomed")).then_some(()))
            })
            .await?;
        let standby = stage.matchmaker(&["node.id=standby"]);
        let term = stage.leader().await?.1;
        let (ada, bo) = (stage.player(&host).await?, stage.player(&host).await?);
        stage.queue(ada, "duel", &duel()).await?;
        // No notice, no unlock: only its kernel closes the lock's session.
        doomed.kill()?;
        doomed.wait()?;
        stage.queue(bo, "duel", &duel()).await?;
        stage.told(ada, MATCHED).await?;
        let (leader, now) = stage.leader().await?;
        assert!(leader.as_deref() == Some("standby") && now > term);
        assert!(host.calls().iter().all(|c| c.term == now));
        standby.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_for_a_while_does_no_harm_when_it_wakes() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let mut stopped = process(&stage, "stopped")?;
        stage
            .until("the first one leads", async |s: &Stage| {
                Ok((s.leader().await?.0.as_deref() == Some("stopped")).then_some(()))
            })
            .await?;
        let standby = stage.matchmaker(&["node.id=standby"]);
        signal(&stopped, "STOP")?;
        // It is not dead: its kernel answers keepalives, and the lock's session is ended by its time-out.
        let mut players = Vec::new();
        for _ in 0..4 {
            players.push(stage.player(&host).await?);
        }
        for player in &players[..2] {
            stage.queue(*player, "duel", &duel()).await?;
        }
        for player in &players[..2] {
            stage.told(*player, MATCHED).await?;
        }
        signal(&stopped, "CONT")?;
        for player in &players[2..] {
            stage.queue(*player, "duel", &duel()).await?;
        }
        for player in &players {
            stage.told(*player, MATCHED).await?;
            assert_eq!(stage.frames(*player).await?.len(), 1);
        }
        let (leader, term) = stage.leader().await?;
        assert_eq!(leader.as_deref(), Some("standby"));
        assert!(host.calls().iter().all(|call| call.term == term));
        stopped.kill()?;
        stopped.wait()?;
        standby.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_connection_loses_no_ticket() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let matchmaker = stage.matchmaker(&[]);
        let (ada, bo) = (stage.player(&host).await?, stage.player(&host).await?);
        stage.queue(ada, "duel", &duel()).await?;
        stage.until("somebody leads", async |s: &Stage| Ok(s.leader().await?.0)).await?;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(cut).execute(&stage.database.pool).await?;
        // Written, and never announced: its gateway died in between.
        tickets::create(&stage.database.pool, bo, "duel", &serde_json::json!({}), &duel(), 10).await?;
        let told = stage.told(ada, MATCHED).await?;
        assert_eq!(told, stage.told(bo, MATCHED).await?);
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_where_the_rows_stand() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel())]).await?;
        let mut players = Vec::new();
        // As a leader leaves them that died after its claim, and after the host's.
        for state in ["allocating", "running"] {
            let (id, pair) = (Uuid::now_v7(), vec![stage.player(&host).await?, stage.player(&host).await?]);
            sqlx::query(
                "WITH made AS (INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
                   VALUES ($1, 'duel', $2, $3, $4, 1, 1, $5) RETURNING id)
                 INSERT INTO match_players (player_id, match_id) SELECT UNNEST($5), id FROM made",
            )
            .bind(id)
            .bind(state)
            .bind(host.id().0)
            .bind(host.id().1)
            .bind(&pair)
            .execute(&stage.database.pool)
            .await?;
            players.extend(pair.into_iter().map(|player| (player, id)));
        }
        let matchmaker = stage.matchmaker(&[]);
        for (player, match_id) in players {
            assert_eq!(stage.told(player, MATCHED).await?["match_id"], serde_json::json!(match_id));
        }
        assert_eq!(host.calls().len(), 1);
        matchmaker.drain().await?;
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_lost_or_matched_twice_in_a_crowd() -> anyhow::Result<()> {
    play(async |mut stage| {
        const CROWD: usize = 400;
        let trio = ModeSettings { match_size: 3, max_players: 3, min_players: 3, ..duel() };
        let modes = [("duel", duel()), ("trio", trio.clone())];
        let (one, two) = (stage.host(Acts::Well, &modes).await?, stage.host(Acts::Well, &modes).await?);
        let (first, second) = (stage.matchmaker(&["node.id=first"]), stage.matchmaker(&["node.id=second"]));
        let mut players = Vec::new();
        for n in 0..CROWD {
            let player = stage.player(if n % 2 == 0 { &one } else { &two }).await?;
            players.push(player);
            // Everybody waits for both.
            stage.queue(player, "duel", &duel()).await?;
            let _ = stage.queue(player, "trio", &trio).await;
        }
        stage
            .until("all but a remainder are matched", async |stage: &Stage| {
                let seats: i64 = stage.one("SELECT count(*) FROM match_players WHERE $1 IS NOT NULL", Uuid::nil()).await?;
                Ok((usize::try_from(seats)? >= CROWD - 2).then_some(()))
            })
            .await?;
        first.drain().await?;
        second.drain().await?;
        let mut matched = 0;
        for player in players {
            let frames = stage.frames(player).await?;
            matched += frames.len();
            assert!(frames.len() <= 1, "{player} was told twice: {frames:?}");
        }
        assert!(matched >= CROWD - 2, "only {matched} were told");
        let crooked: i64 = stage
            .one(
                "SELECT count(*) FROM matches m WHERE $1 IS NOT NULL AND (NOT told OR state <> 'running' OR cardinality(players)
                   <> (SELECT count(*) FROM match_players s WHERE s.match_id = m.id AND s.player_id = ANY(m.players)))",
                Uuid::nil(),
            )
            .await?;
        assert_eq!(crooked, 0);
        assert!(!one.calls().is_empty() && !two.calls().is_empty());
        Ok(stage)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_led_on_at_once() -> anyhow::Result<()> {
    play(async |mut stage| {
        let host = stage.host(Acts::Well, &[("duel", duel()), ("crowd", duel())]).await?;
        asobi_store::modes::set_paused(&stage.database.pool, "crowd", true).await?;
        let present = stage.player(&host).await?;
        for _ in 0..20 {
            sqlx::query(
                "WITH ids AS MATERIALIZED (SELECT gen_random_uuid() AS id FROM generate_series(1, 5000)),
                 there AS (INSERT INTO sessions (session_id, player_id, node_id, incarnation)
                   SELECT gen_random_uuid(), ids.id, s.node_id, s.incarnation FROM ids, sessions s WHERE s.player_id = $1)
                 INSERT INTO tickets (id, player_id, mode, properties, state, expires_at)
                 SELECT gen_random_uuid(), id, 'crowd', '{\"skill\": 1000, \"region\": \"eu\"}', 'pending', now() + interval '1 hour' FROM ids",
            )
            .bind(present)
            .execute(&stage.database.pool)
            .await?;
        }
        let mut doomed = process(&stage, "doomed")?;
        let leads = async |stage: &Stage, node: &str| Ok((stage.leader().await?.0.as_deref() == Some(node)).then_some(()));
        stage.until("the first one leads", async |s: &Stage| leads(s, "doomed").await).await?;
        let standby = stage.matchmaker(&["node.id=standby"]);
        let [ada, bo, cy, dee] = [0; 4].map(|_| Uuid::now_v7());
        for player in [ada, bo, cy, dee] {
            sqlx::query("INSERT INTO sessions SELECT gen_random_uuid(), $2, node_id, incarnation FROM sessions WHERE player_id = $1")
                .bind(present)
                .bind(player)
                .execute(&stage.database.pool)
                .await?;
        }
        stage.queue(ada, "duel", &duel()).await?;
        stage.queue(bo, "duel", &duel()).await?;
        stage.told(bo, MATCHED).await?;
        stage.queue(cy, "duel", &duel()).await?;
        doomed.kill()?;
        doomed.wait()?;
        let killed = std::time::Instant::now();
        stage.queue(dee, "duel", &duel()).await?;
        stage.told(cy, MATCHED).await?;
        println!("A match was formed {:?} after the leader's death.", killed.elapsed());
        assert_eq!(stage.one::<i64>("SELECT count(*) FROM tickets WHERE mode = 'crowd' AND state = 'pending' AND $1 IS NOT NULL", ada).await?, 100_000);
        standby.drain().await?;
        Ok(stage)
    })
    .await
}

/// A matchmaker in a process of its own, to be killed.
fn process(stage: &Stage, node_id: &str) -> anyhow::Result<Child> {
    Ok(Command::new(env!("CARGO_BIN_EXE_asobi-matchmaker"))
        .args(["--node-id", node_id, "--database-url", &stage.database.url])
        .args(["--grpc-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--set", "node.lease_ms=2000"])
        .stdin(Stdio::null())
        .spawn()?)
}

fn signal(process: &Child, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status()?;
    anyhow::ensure!(sent.success(), "kill -{name} failed");
    Ok(())
}
