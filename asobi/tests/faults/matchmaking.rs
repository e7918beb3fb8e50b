//! Players queue, play and queue again on two gateways while one process after the other is killed, stopped or cut off. Afterwards the
//! rows and what the players heard must tell one story ([`ledger`]).

pub mod bots;
pub mod ledger;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    ALONE,
    support::{Cluster, PATIENCE, cluster::Process},
};

use bots::Crowd;

/// Matches that are played to their end before the next fault, and after it.
const MATCHES: i64 = 6;
const PLAYERS: usize = 12;

/// `FAULTS_SEED` repeats the choices of a run; what the processes make of them is theirs.
fn seeded() -> StdRng {
    let seed = std::env::var("FAULTS_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("FAULTS_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

struct Play {
    cluster: Cluster,
    crowd: Crowd,
    random: StdRng,
}

impl Play {
    async fn begin(cluster: Cluster) -> anyhow::Result<Self> {
        let mut random = seeded();
        let crowd = Crowd::enter(&cluster, None, PLAYERS, random.random()).await?;
        let play = Self { cluster, crowd, random };
        play.goes_on().await.context("before any fault")?;
        Ok(play)
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            // While the database is away it says nothing.
            if holds().await.unwrap_or(false) {
                return Ok(());
            }
            self.crowd.is_well()?;
            ensure!(since.elapsed() < 2 * PATIENCE, "{what} did not come; the log ends:\n{}", self.cluster.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.cluster.database.pool).await?)
    }

    /// Some matches more are formed from now on, and played to their end.
    async fn goes_on(&self) -> anyhow::Result<()> {
        let (pool, mut since) = (&self.cluster.database.pool, None);
        self.until("the next matches", async || {
            if since.is_none() {
                let now: String = sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(pool).await?;
                since = Some(now);
            }
            let played: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM matches WHERE state = 'finished' AND told AND inserted_at > $1::timestamptz",
            )
            .bind(since.as_deref())
            .fetch_one(pool)
            .await?;
            Ok(played >= MATCHES)
        })
        .await
    }

    async fn a_leader_is_killed(&self) -> anyhow::Result<()> {
        let leader = self.cluster.leading_matchmaker().await?;
        self.cluster.kill(&leader).await
    }

    /// For longer than its lock and its lease; then it wakes and believes for a moment.
    async fn a_leader_is_stopped(&self) -> anyhow::Result<()> {
        let leader = self.cluster.leading_matchmaker().await?;
        let term = self.count("SELECT term FROM leader WHERE name = 'matchmaker'").await?;
        self.cluster.signal(&leader, Signal::SIGSTOP)?;
        self.until("another leader", async || {
            Ok(self.count("SELECT term FROM leader WHERE name = 'matchmaker'").await? > term)
        })
        .await?;
        self.until("the end of its lease", async || {
            let sql = "SELECT lease_until < now() FROM nodes WHERE node_id = $1";
            Ok(sqlx::query_scalar(sql).bind(&leader.node_id).fetch_one(&self.cluster.database.pool).await?)
        })
        .await?;
        self.goes_on().await.context("under its successor")?;
        self.cluster.signal(&leader, Signal::SIGCONT)
    }

    /// A match that is on its way to a host that is stopped: its id and epoch.
    async fn a_call_hangs(&self, node_id: &str) -> anyhow::Result<(uuid::Uuid, i64)> {
        let mut found = None;
        self.until("a match for the stopped host", async || {
            let sql = "SELECT id, epoch FROM matches WHERE state = 'allocating' AND host_node = $1";
            found = sqlx::query_as(sql).bind(node_id).fetch_optional(&self.cluster.database.pool).await?;
            Ok(found.is_some())
        })
        .await?;
        found.context("found")
    }

    /// Between the claim of the tickets and its own.
    async fn a_host_is_killed_while_it_is_called(&mut self) -> anyhow::Result<Process> {
        let host = self.cluster.match_host(self.random.random_range(0..2));
        self.cluster.signal(&host, Signal::SIGSTOP)?;
        self.a_call_hangs(&host.node_id).await?;
        self.cluster.kill(&host).await?;
        Ok(host)
    }

    /// Its supervisor starts it again, perhaps after its matches went on elsewhere.
    async fn is_back(&mut self, dead: Process) -> anyhow::Result<()> {
        self.until("its restart", async || {
            Ok(self.cluster.node(&dead.node_id).is_some_and(|again| again.pid != dead.pid))
        })
        .await
    }

    /// It takes calls and answers none; when it wakes they belong to others.
    async fn a_host_wakes_when_its_matches_are_others(&mut self) -> anyhow::Result<()> {
        let host = self.cluster.match_host(self.random.random_range(0..2));
        self.cluster.signal(&host, Signal::SIGSTOP)?;
        let (id, epoch) = self.a_call_hangs(&host.node_id).await?;
        self.until("the match's next host", async || {
            let sql = "SELECT epoch > $2 OR state = 'failed' FROM matches WHERE id = $1";
            Ok(sqlx::query_scalar(sql).bind(id).bind(epoch).fetch_one(&self.cluster.database.pool).await?)
        })
        .await?;
        self.cluster.signal(&host, Signal::SIGCONT)
    }

    async fn a_gateway_is_killed(&mut self) -> anyhow::Result<()> {
        let gateway = self.cluster.gateway(self.random.random_range(0..2));
        self.cluster.kill(&gateway).await
    }

    /// The last matches are played, and the books are compared.
    async fn end(self) -> anyhow::Result<()> {
        let heard = self.crowd.leave().await?;
        let wrong = ledger::compare(&self.cluster.database.pool, &heard).await?;
        ensure!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
        let matches: usize = heard.iter().map(|heard| heard.told.len()).sum();
        println!("{matches} times a player was told of a match, and each is accounted for");
        self.cluster.stop().await
    }
}

fn cluster() -> super::support::cluster::Builder {
    Cluster::new().test_games().set("node.lease_ms", 3000).set("matchmaker.create_timeout_ms", 1500)
}

#[tokio::test]
async fn no_ticket_is_lost_whoever_dies() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut play = Play::begin(cluster().own_postgres().start().await?).await?;

    play.a_leader_is_killed().await?;
    play.goes_on().await.context("after the leader's death")?;
    play.a_leader_is_stopped().await?;
    play.goes_on().await.context("after the old leader woke")?;
    let dead = play.a_host_is_killed_while_it_is_called().await?;
    play.goes_on().await.context("after the host's death")?;
    play.is_back(dead).await?;
    play.a_host_wakes_when_its_matches_are_others().await?;
    play.goes_on().await.context("after the host woke")?;
    play.a_gateway_is_killed().await?;
    play.goes_on().await.context("after the gateway's death")?;
    play.cluster.crash_database().await?;
    play.goes_on().await.context("after the database's crash")?;
    play.end().await
}

#[tokio::test]
async fn no_ticket_is_lost_when_the_leader_is_cut_off_from_the_database() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = cluster().proxied_nodes(&["matchmaker-0", "matchmaker-1"]).start().await?;
    let play = Play::begin(cluster).await?;

    for heals_by_reset in [false, true] {
        let leader = play.cluster.leading_matchmaker().await?;
        let term = play.count("SELECT term FROM leader WHERE name = 'matchmaker'").await?;
        play.cluster.proxy(&leader.node_id).black_hole();
        play.until("another leader", async || {
            Ok(play.count("SELECT term FROM leader WHERE name = 'matchmaker'").await? > term)
        })
        .await?;
        play.goes_on().await.context("under its successor")?;
        // What the old leader had sent arrives now, or never.
        let proxy = play.cluster.proxy(&leader.node_id);
        if heals_by_reset {
            proxy.heal_by_reset();
        } else {
            proxy.heal();
        }
        play.goes_on().await.context("after the old leader was back")?;
    }
    play.end().await
}
