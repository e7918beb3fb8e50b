//! Everything at once: people talk, queue, play, watch their friends, submit scores and are told news, while every few seconds a
//! process is killed, stopped, drained or loses its way to PostgreSQL, and PostgreSQL is restarted once. Afterwards all the books must
//! be right, and nobody may have needed a hand.
//!
//! `SOAK_SEED` repeats the choices of a run, `SOAK_SECONDS` says how long it is; what the processes make of it is theirs.

mod adversary;
mod friends;
mod levels;
mod schedule;
mod told;
mod trace;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use self::{
    adversary::Adversary,
    friends::Friends,
    levels::Levels,
    schedule::{Fault, ROLES, schedule},
    told::{BOARD, Notifications, Scores},
};
use crate::{
    ALONE,
    hosts::fleet::Fleet,
    matchmaking::{
        bots::{Crowd, Door, Habits, Heard},
        ledger,
    },
    rolling::talk::Conversation,
    support::{Cluster, PATIENCE, haproxy::Ports, until},
};

const SECONDS: u64 = 90;
const CHANNELS: [&str; 2] = ["global:c0", "global:c1"];
const QUEUEING: usize = 6;
/// They play short matches, and sometimes think better of it.
const DUELLISTS: Habits = Habits { mode: "duel", fickle: 20 };
/// One who queues where nobody else does: tickets expire.
const LONER: Habits = Habits { mode: "brief", fickle: 30 };
/// Of four players, from the beginning to the end.
const LONG_MATCHES: usize = 2;

fn number(key: &str) -> Option<u64> {
    std::env::var(key).ok().map(|value| value.parse().expect("a number"))
}

/// Everybody who is there.
struct People {
    talks: Vec<Conversation>,
    friends: Friends,
    crowds: [Crowd; 2],
    fleet: Fleet,
    scores: Scores,
    notifications: Notifications,
}

impl People {
    async fn enter(cluster: &Cluster, seed: u64) -> anyhow::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let gateways = cluster.processes("gateways").into_iter();
        let doors: Vec<Door> = gateways.filter_map(|g| Some(Door { http: g.http?, ws: g.ws? })).collect();
        let mut talks = Vec::new();
        for channel in CHANNELS {
            talks.push(Conversation::begin_in(channel, &cluster.http, &doors, random.random()).await?);
        }
        let friends = Friends::meet(&cluster.http, &doors, random.random()).await?;
        let scores = Scores::begin(cluster, &doors).await?;
        let notifications = Notifications::begin(cluster, &doors).await?;
        let fleet = Fleet::launch_by(cluster, &doors, LONG_MATCHES).await?;
        let duellists = Crowd::enter_with(cluster, None, QUEUEING, random.random(), DUELLISTS).await?;
        let loner = Crowd::enter_with(cluster, None, 1, random.random(), LONER).await?;
        Ok(Self { talks, friends, crowds: [duellists, loner], fleet, scores, notifications })
    }

    /// Everything works: each of them does once more what they are there for, from its beginning to its end.
    async fn go_on(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let since = Instant::now();
        for talk in &mut self.talks {
            let stored = all_done(&mut talk.stored, since).await;
            stored.with_context(|| format!("nothing that is said in {} is acknowledged", talk.channel))?;
        }
        all_done(&mut self.scores.acknowledged, since).await.context("no score is acknowledged")?;
        self.all_duel(cluster).await?;
        self.fleet.is_whole().await?;
        self.fleet.goes_on("after all faults").await?;
        Ok(())
    }

    /// Waits until each duellist has played a duel to its end for which both queued from now on.
    async fn all_duel(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let pool = &cluster.database.pool;
        let since: String = sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(pool).await?;
        until("the next duel of each duellist", async || {
            self.crowds.iter().try_for_each(Crowd::is_well)?;
            let duelled: i64 = sqlx::query_scalar(
                "SELECT count(DISTINCT t.player_id) FROM matches m JOIN tickets t ON t.match_id = m.id
                 WHERE m.mode = $1 AND m.state = 'finished' AND m.told AND NOT EXISTS (
                     SELECT FROM tickets WHERE match_id = m.id AND submitted_at < $2::timestamptz)",
            )
            .bind(DUELLISTS.mode)
            .bind(&since)
            .fetch_one(pool)
            .await?;
            Ok(usize::try_from(duelled)? == QUEUEING)
        })
        .await
    }

    /// Everybody comes to an end, and finds the books right.
    async fn leave(self, cluster: &Cluster, news: usize) -> anyhow::Result<()> {
        let pool = &cluster.database.pool;
        let Self { talks, friends, crowds, mut fleet, scores, notifications } = self;
        fleet.is_whole().await?;
        let unexplained = fleet.steps_back_unexplained().await?;
        ensure!(unexplained.is_empty(), "players saw older states:\n{}", unexplained.join("\n"));
        let failovers = fleet.rows().await?.into_iter().map(|(_, _, _, failovers)| failovers).max().unwrap_or_default();
        for talk in talks {
            let talked = talk.end(pool).await?;
            eprintln!("chat: {}", talked.ledger.summary());
        }
        let points = scores.end(cluster).await.context("scores")?;
        notifications.end(pool, news).await.context("notifications")?;
        let watchers = friends.converge(pool).await?;
        let mut heard = Vec::new();
        for crowd in crowds {
            heard.extend(crowd.leave().await?);
        }
        eprintln!("{}; at most {failovers} takeovers of a match", fleet.summary());
        fleet.land().await?;
        eprintln!("{points} scores acknowledged, {news} times news for everybody, {watchers} watchers agree");
        one_story(cluster, &heard).await
    }
}

/// Waits until each of them has done what they began after a moment, by when they began what they did last. Who gave up
/// says why when they are to end.
async fn all_done(last: &mut [watch::Receiver<Option<Instant>>], since: Instant) -> anyhow::Result<()> {
    for began in last {
        let done = began.wait_for(|began| began.is_some_and(|began| began > since));
        let _gave_up = timeout_at(since + PATIENCE, done).await.context("not in time")?;
    }
    Ok(())
}

/// The rows, their changes, what hosts logged and what players heard agree.
async fn one_story(cluster: &Cluster, heard: &[Heard]) -> anyhow::Result<()> {
    let pool = &cluster.database.pool;
    let since = Instant::now();
    // The last match's players are told when it has ended for others already.
    let wrong = loop {
        let wrong = ledger::compare(pool, heard).await?;
        if wrong.is_empty() || since.elapsed() > PATIENCE {
            break wrong;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    ensure!(wrong.is_empty(), "{} things are wrong with tickets and matches:\n{}", wrong.len(), wrong.join("\n"));
    let mut wrong = trace::mistakes(pool).await?;
    wrong.extend(trace::of_log(&cluster.logged()?));
    ensure!(wrong.is_empty(), "{} things were wrong for a while:\n{}", wrong.len(), wrong.join("\n"));
    let ended: Vec<(String, i64)> =
        sqlx::query_as("SELECT state, count(*) FROM tickets GROUP BY state ORDER BY state").fetch_all(pool).await?;
    let failed: Vec<(String, i64)> = sqlx::query_as(
        "SELECT coalesce(result->>'error', 'nothing'), count(*) FROM matches WHERE state = 'failed' GROUP BY 1",
    )
    .fetch_all(pool)
    .await?;
    eprintln!("tickets: {ended:?}; matches that failed: {failed:?}");
    for state in ["matched", "cancelled", "expired"] {
        ensure!(ended.iter().any(|(name, _)| name == state), "no ticket was {state}");
    }
    Ok(())
}

/// No process has ended but by the adversary's doing, and none has panicked.
fn nobody_needed_a_hand(cluster: &Cluster, expected: &BTreeMap<String, i32>) -> anyhow::Result<()> {
    let nodes = ROLES.iter().flat_map(|(role, _, _)| cluster.processes(role));
    let now: BTreeMap<String, i32> = nodes.map(|node| (node.node_id, node.pid)).collect();
    ensure!(now == *expected, "processes have ended by themselves: there should be {expected:?}, there are {now:?}");
    let log = cluster.logged()?;
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked at")).collect();
    ensure!(panics.is_empty(), "somebody panicked:\n{}", panics.join("\n"));
    Ok(())
}

async fn soak(cluster: &Cluster, seed: u64, faults: &[Fault], length: Duration) -> anyhow::Result<()> {
    trace::begin(&cluster.database.pool).await?;
    let mut levels = Levels::of_the_empty(cluster)?;
    let mut people = People::enter(cluster, seed).await.context("before any fault")?;
    levels.and_of_the_full(cluster)?;
    let adversary = Adversary::new(cluster);
    let outcome = async {
        let (over, is_over) = watch::channel(false);
        let raging = async {
            let raged = adversary.rage(faults, length).await;
            over.send_replace(true);
            raged
        };
        let (raged, news) = tokio::join!(raging, people.notifications.tell(cluster, is_over));
        raged?;
        let news = news?;
        people.go_on(cluster).await.context("after all faults")?;
        people.leave(cluster, news).await?;
        nobody_needed_a_hand(cluster, &adversary.pids().await)?;
        eprint!("{}", levels.are_back(cluster).await?);
        Ok(())
    };
    outcome.await.map_err(|error: anyhow::Error| {
        let planned: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let (planned, happened) = (planned.join("\n"), adversary.happened());
        error.context(format!("SOAK_SEED={seed}; planned were\n{planned}\nand it happened\n{happened}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_nothing_acknowledged_is_lost_and_nobody_needs_a_hand() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let seed = number("SOAK_SEED").unwrap_or_else(rand::random);
    let length = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(SECONDS));
    eprintln!("SOAK_SEED={seed} SOAK_SECONDS={}", length.as_secs());
    let of_role: BTreeMap<&str, usize> = ROLES.into_iter().map(|(role, _, n)| (role, n)).collect();
    let cluster = Cluster::new()
        .gateways(of_role["gateways"])
        .match_hosts(of_role["match_hosts"])
        .matchmakers(of_role["matchmakers"])
        .social_services(of_role["social_services"])
        .own_postgres()
        .proxied()
        .test_games()
        // Who is restarted is where it was.
        .port(Ports::find()?.first)
        .set("limits.frames_per_second", 0)
        .set("leaderboards.client_submit", BOARD)
        // Whoever loses a socket is back before their ticket goes.
        .set("matchmaker.disconnect_grace_ms", 30_000)
        .set("log.filter", "info")
        .set("log.lines_per_site", 0)
        .start()
        .await?;
    if let Err(error) = soak(&cluster, seed, &schedule(seed, length), length).await {
        let kept = std::env::temp_dir().join(format!("soak-{seed}.log"));
        std::fs::write(&kept, cluster.logged()?)?;
        return Err(error.context(format!("the cluster's log is kept in {}", kept.display())));
    }
    cluster.stop().await
}
