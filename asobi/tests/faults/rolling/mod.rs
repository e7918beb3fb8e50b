//! A deployment while players are there: behind the real HAProxy every process of every service is restarted, one after the
//! other, while people talk, queue, play and call REST. Nothing that was acknowledged is lost, no request fails, no ticket
//! and no match comes to nothing. How long anybody heard nothing is printed.

mod steady;
pub mod talk;

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use self::{
    steady::{BOARD, Called, Steady},
    talk::{Conversation, Talked},
};
use crate::{
    ALONE,
    chat::ledger::Outcome,
    hosts::fleet::Fleet,
    matchmaking::{
        bots::{Crowd, Door, Heard},
        ledger,
    },
    support::{
        Cluster, PATIENCE,
        cluster::Process,
        haproxy::{Balancer, Ports},
        until,
    },
};

/// Longer than HAProxy needs to notice, and a directory.
const READY_DELAY_MS: u64 = 1_500;
/// What a process may take to end, beside that: its grace, and the second after the cut.
const GRACE: Duration = Duration::from_secs(9);
const QUEUEING: usize = 8;
const CALLING: usize = 3;
/// In this order, as docs/upgrades.md says.
const ROLES: [&str; 4] = ["social_services", "matchmakers", "match_hosts", "gateways"];

/// How many matches of four are played; FAULT_MATCHES says otherwise.
fn matches() -> usize {
    std::env::var("FAULT_MATCHES").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

struct Stage {
    cluster: Cluster,
    balancer: Balancer,
    fleet: Fleet,
    crowd: Crowd,
    talk: Conversation,
    steady: Steady,
}

/// What everybody has seen, at the end.
struct Seen {
    gaps: Vec<Duration>,
    heard: Vec<Heard>,
    talked: Talked,
    called: Vec<Called>,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        eprintln!("FAULT_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let ports = Ports::find()?;
        let cluster = Cluster::new()
            .social_services(2)
            .own_postgres()
            .test_games()
            .port(ports.first)
            .set("shutdown.ready_delay_ms", READY_DELAY_MS)
            .set("http.trusted_proxies", "127.0.0.1/32")
            .set("limits.frames_per_second", 0)
            .set("leaderboards.client_submit", BOARD)
            .set("migrate.via", "affinity")
            .set("migrate.url", format!("ws://127.0.0.1:{}/ws", ports.balancer()))
            .set("log.filter", "warn")
            .start()
            .await?;
        let balancer = Balancer::before(&cluster, &ports, &[("match-0", "match-1"), ("match-1", "match-2")]).await?;
        let pool = &cluster.database.pool;
        sqlx::query("INSERT INTO leaderboards (id, operator) VALUES ($1, 'sum')").bind(BOARD).execute(pool).await?;
        let door = Door { http: balancer.http(), ws: balancer.ws() };
        let talk = Conversation::begin(&cluster.http, &door, random.random()).await?;
        let steady = Steady::begin(&cluster.http, &door, CALLING).await?;
        let crowd = Crowd::enter(&cluster, Some(&door), QUEUEING, random.random()).await?;
        let fleet = Fleet::launch_by(&cluster, &[door], matches()).await?;
        fleet.forget_gaps();
        Ok(Self { cluster, balancer, fleet, crowd, talk, steady })
    }

    /// As a deployment does it: asked to stop, gone within its grace, there again, ready, and known to be.
    async fn restart(&mut self, process: &Process) -> anyhow::Result<()> {
        let since = Instant::now();
        self.cluster.signal(process, Signal::SIGTERM)?;
        self.cluster.gone(process).await?;
        let ended = since.elapsed();
        ensure!(ended < GRACE + Duration::from_millis(READY_DELAY_MS), "{} took {ended:?} to end", process.node_id);
        until(&format!("{} is there again", process.node_id), async || {
            let again = self.cluster.node(&process.node_id).filter(|again| again.pid != process.pid);
            Ok(match again {
                Some(again) => self.cluster.ready(&again).await.unwrap_or(false),
                None => false,
            })
        })
        .await?;
        if let Some((backend, server)) = behind(&process.node_id) {
            self.balancer.has(&backend, &server, true).await?;
        }
        self.fleet.goes_on(&format!("after the restart of {}", process.node_id)).await?;
        self.fleet.is_whole().await?;
        self.crowd.is_well()?;
        eprintln!("{}: gone after {ended:?}, all well after {:?}", process.node_id, since.elapsed());
        Ok(())
    }

    async fn restart_all_of(&mut self, role: &str) -> anyhow::Result<()> {
        for process in self.cluster.processes(role) {
            self.restart(&process).await.with_context(|| process.node_id.clone())?;
        }
        Ok(())
    }

    /// PostgreSQL is restarted, and everything is as before some seconds later.
    async fn restart_the_database(&mut self) -> anyhow::Result<()> {
        self.steady.database_is_away(true);
        let away = Instant::now();
        self.cluster.restart_database().await?;
        let back = away.elapsed();
        let base = self.balancer.http();
        until("requests are answered", async || {
            let health = self.cluster.http.get(format!("{base}/health")).send().await?;
            Ok(health.status() == 200)
        })
        .await?;
        // What was under way when it came back has its answer after its time-outs at the latest.
        sleep(Duration::from_secs(5)).await;
        self.steady.database_is_away(false);
        self.fleet.goes_on("after the database's restart").await?;
        self.fleet.is_whole().await?;
        eprintln!("PostgreSQL was back after {back:?}, all well after {:?}", away.elapsed());
        Ok(())
    }

    /// Everybody stops, and all the books are right.
    async fn end(self) -> anyhow::Result<Seen> {
        let pool = &self.cluster.database.pool;
        let gaps = self.fleet.gaps();
        let called = self.steady.end().await?;
        let talked = self.talk.end(pool).await?;
        let heard = self.crowd.leave().await?;
        self.fleet.land().await?;
        let wrong = ledger::compare(pool, &heard).await?;
        ensure!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
        let failed: Vec<(uuid::Uuid, Option<serde_json::Value>)> =
            sqlx::query_as("SELECT id, result FROM matches WHERE state <> 'finished'").fetch_all(pool).await?;
        ensure!(failed.is_empty(), "matches came to nothing: {failed:?}");
        for called in &called {
            board(pool, called).await?;
        }
        self.cluster.stop().await?;
        Ok(Seen { gaps, heard, talked, called })
    }
}

/// The backend and the server that a node is in `haproxy.cfg`.
fn behind(node_id: &str) -> Option<(String, String)> {
    let (kind, n) = node_id.rsplit_once('-')?;
    let server = format!("{kind}-{}", n.parse::<u16>().ok()? + 1);
    match kind {
        "gateway" => Some(("gateways".to_owned(), server)),
        "match" => Some((server.clone(), server)),
        _ => None,
    }
}

/// Each answered score is in the sum once.
async fn board(pool: &sqlx::PgPool, called: &Called) -> anyhow::Result<()> {
    let sql = "SELECT score::bigint FROM leaderboard_entries WHERE leaderboard_id = $1 AND player_id::text = $2";
    let sum: i64 = sqlx::query_scalar(sql).bind(BOARD).bind(&called.player_id).fetch_one(pool).await?;
    let possible = i64::from(called.scores)..=i64::from(called.scores + called.doubtful);
    ensure!(possible.contains(&sum), "{sum} points of {possible:?} are on the board of {}", called.player_id);
    Ok(())
}

impl Seen {
    fn report(&self) -> String {
        let mut said = String::new();
        let waits: Vec<Duration> = self.heard.iter().map(|heard| heard.wait).collect();
        let slowest: Vec<Duration> = self.called.iter().map(|called| called.slowest).collect();
        for (kind, each) in [
            ("between two states of a player in a match", &self.gaps),
            ("between two messages for a reader of chat", &self.talked.silences),
            ("until what a talker said was acknowledged", &self.talked.took),
            ("from a ticket to its match", &waits),
            ("until a request was answered", &slowest),
        ] {
            let mut each = each.clone();
            each.sort();
            let (half, most) = (each.get(each.len() / 2), each.last());
            let _infallible = writeln!(said, "longest {kind}: {most:?}, p50 {half:?}, of {}", each.len());
        }
        let answered: u32 = self.called.iter().map(|called| called.answered).sum();
        let refused: u32 = self.called.iter().map(|called| called.refused).sum();
        let matched: usize = self.heard.iter().map(|heard| heard.told.len()).sum();
        let _infallible = write!(
            said,
            "{answered} requests answered, {refused} refused while there was no database; {matched} times matched; chat: {}",
            self.talked.ledger.summary()
        );
        said
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_is_replaced_and_players_notice_nothing() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set().await?;
    for role in ROLES {
        stage.restart_all_of(role).await?;
    }
    let failovers = stage.fleet.rows().await?.iter().filter(|(_, _, _, failovers)| *failovers > 0).count();
    let (steps_back, summary) = (stage.fleet.steps_back(), stage.fleet.summary());
    let seen = stage.end().await?;
    eprintln!("{}\n{summary}", seen.report());
    assert_eq!((failovers, steps_back), (0, vec![]), "matches were moved, never taken over");
    assert!(seen.heard.iter().all(|heard| heard.ended == 0), "a ticket came to nothing: {:?}", seen.heard);
    let refused = seen.talked.ledger.sent.iter().filter(|line| line.outcome == Outcome::Refused).count();
    assert_eq!(refused, 0, "what somebody said was refused");
    assert!(seen.talked.took.iter().max() < Some(&PATIENCE));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_and_the_database_are_replaced_and_nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set().await?;
    for role in &ROLES[..2] {
        stage.restart_all_of(role).await?;
    }
    stage.restart_the_database().await?;
    for role in &ROLES[2..] {
        stage.restart_all_of(role).await?;
    }
    let summary = stage.fleet.summary();
    let seen = stage.end().await?;
    eprintln!("{}\n{summary}", seen.report());
    Ok(())
}
