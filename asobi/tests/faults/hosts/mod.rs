//! Matches that outlive their hosts: a fleet of them is played while hosts leave, die, freeze and come back, while the database is away, and
//! while some scripts do what they should not. Afterwards the ledger must be right: every input of every player is counted once, and the board
//! has the points that were submitted for them.
//!
//! How long things took is printed; what is asserted is that they happened.

pub mod fleet;
mod player;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::fleet::Fleet;
use crate::{
    ALONE,
    support::{
        Client, Cluster, Proxy,
        cluster::{Builder, Process},
        until,
    },
};

/// The default of `node.lease_ms`.
const LEASE: Duration = Duration::from_secs(5);
/// What a state may be late on a busy machine without anything having happened.
const USUAL: Duration = Duration::from_secs(1);
/// Inputs that a match may forget when its host dies: those since its last checkpoint, which it makes every second where it can.
const FORGOTTEN: u64 = 10;
/// How long the database is away: twice the lease.
const OUTAGE: Duration = Duration::from_secs(10);
const UNDISTURBED: Duration = Duration::from_secs(2);

fn three_hosts() -> Builder {
    Cluster::new().test_games().match_hosts(3).set("log.filter", "warn")
}

fn node(cluster: &Cluster, node_id: &str) -> anyhow::Result<Process> {
    cluster.node(node_id).with_context(|| format!("{node_id} is no node"))
}

/// Waits until no match runs on a node; how long it took.
async fn empty(fleet: &Fleet, node_id: &str) -> anyhow::Result<Duration> {
    let since = Instant::now();
    until("its matches run elsewhere", async || Ok(fleet.on(node_id).await? == 0)).await?;
    Ok(since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_leaves_takes_no_match_with_it() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = three_hosts().start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    for by in ["asobi ctl drain", "SIGTERM"] {
        fleet.forget_gaps();
        let host = node(&cluster, &fleet.busiest().await?)?;
        let matches = fleet.on(&host.node_id).await?;
        if by == "SIGTERM" {
            cluster.signal(&host, Signal::SIGTERM)?;
        } else {
            cluster.ctl(&["drain", &host.node_id]).await?;
        }
        let left = empty(&fleet, &host.node_id).await?;
        cluster.gone(&host).await?;
        fleet.goes_on(by).await?;
        fleet.is_whole().await?;
        eprintln!(
            "{by}: {matches} matches left {} within {left:?}; the longest gap between two states of a player was {:?}",
            host.node_id,
            fleet.longest_gap()
        );
        assert_eq!(fleet.steps_back(), Vec::<String>::new(), "{by}: somebody saw an older state after a newer one");
    }
    eprintln!("{}", fleet.summary());
    assert!(fleet.rows().await?.iter().all(|(_, _, _, failovers)| *failovers == 0), "a move is no failover");
    fleet.land().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matches_of_a_killed_host_go_on_from_their_checkpoints() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = three_hosts().start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    sleep(UNDISTURBED).await;
    fleet.forget_gaps();
    let host = node(&cluster, &fleet.busiest().await?)?;
    let matches = fleet.on(&host.node_id).await?;
    let killed = Instant::now();
    cluster.kill(&host).await?;
    failed_over(&mut fleet, &host, matches, killed).await?;
    fleet.land().await?;
    cluster.stop().await
}

/// Every match of the host goes on elsewhere, once, and not from long ago.
async fn failed_over(fleet: &mut Fleet, host: &Process, matches: usize, since: Instant) -> anyhow::Result<()> {
    ensure!(matches > 0, "{} ran no match", host.node_id);
    let left = empty(fleet, &host.node_id).await?;
    fleet.goes_on("after the host's death").await?;
    fleet.is_whole().await?;
    let (back, players) = fleet.back_after(since, USUAL);
    eprintln!(
        "{matches} matches of {} had another host after {left:?}; the last of {players} players who had missed states had one after {back:?}; \
         at most {} inputs of a player were forgotten and sent again; {}",
        host.node_id,
        fleet.rolled_back(),
        fleet.summary()
    );
    let rows = fleet.rows().await?;
    assert_eq!(rows.iter().filter(|(_, _, _, failovers)| *failovers == 1).count(), matches, "{rows:?}");
    assert!(rows.iter().all(|(_, _, _, failovers)| *failovers <= 1), "{rows:?}");
    assert!(fleet.rolled_back() <= FORGOTTEN, "{} inputs were forgotten", fleet.rolled_back());
    assert!(fleet.steps_back().len() <= 1, "a match goes back once, to its checkpoint");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_freezes_is_replaced_and_changes_nothing_when_it_wakes() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = three_hosts().start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    sleep(UNDISTURBED).await;
    fleet.forget_gaps();
    let host = node(&cluster, &fleet.busiest().await?)?;
    let matches = fleet.on(&host.node_id).await?;
    let frozen = Instant::now();
    cluster.signal(&host, Signal::SIGSTOP)?;
    failed_over(&mut fleet, &host, matches, frozen).await?;
    eprintln!("a lease and two seconds are {:?}", LEASE + Duration::from_secs(2));

    // It wakes, with all it knew and all it was sent meanwhile, and finds out.
    let before = fleet.rows().await?;
    cluster.signal(&host, Signal::SIGCONT)?;
    let woken = Instant::now();
    while woken.elapsed() < LEASE {
        fleet.goes_on("after the frozen host has woken").await?;
    }
    fleet.is_whole().await?;
    assert_eq!(fleet.rows().await?, before, "it has taken nothing back");
    assert!(fleet.steps_back().len() <= 1, "somebody got a state of the host that had been frozen");
    fleet.land().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_are_restarted_one_after_another_and_no_match_ends() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut cluster = three_hosts().start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    fleet.forget_gaps();
    for host in cluster.processes("match_hosts") {
        let recipe = cluster.recipe(&host)?;
        cluster.signal(&host, Signal::SIGTERM)?;
        cluster.gone(&host).await?;
        let new = cluster.start_again(&recipe).await?;
        ensure!(new.pid != host.pid, "{} is a new process", host.node_id);
        fleet.goes_on("after a restart").await?;
        fleet.is_whole().await?;
    }
    eprintln!("a rolling restart: the longest gap was {:?}; {}", fleet.longest_gap(), fleet.summary());
    assert_eq!(fleet.steps_back(), Vec::<String>::new(), "somebody saw an older state after a newer one");
    assert!(fleet.rows().await?.iter().all(|(_, _, _, failovers)| *failovers == 0), "nobody was failed over");
    // The new processes take matches like any other.
    let mut late = cluster.player(0, "late").await?;
    late.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    late.push("match.state").await?;
    fleet.land().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_for_two_leases_a_fleet_plays_on_where_it_is() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = three_hosts().proxied().start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    fleet.forget_gaps();
    let before = fleet.rows().await?;
    // Connections stay open and nothing answers.
    cluster.proxies().for_each(Proxy::black_hole);
    let away = Instant::now();
    while away.elapsed() < OUTAGE {
        fleet.goes_on("while the database is away").await?;
    }
    cluster.proxies().for_each(Proxy::heal);
    let healed: String = sqlx::query_scalar("SELECT now()::text").fetch_one(&cluster.database.pool).await?;
    until("every match is saved again", async || {
        let saved: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM match_checkpoints WHERE match_id = ANY($1) AND written_at > $2::timestamptz",
        )
        .bind(&fleet.matches)
        .bind(&healed)
        .fetch_one(&cluster.database.pool)
        .await?;
        Ok(usize::try_from(saved)? == fleet.matches.len())
    })
    .await?;
    // Past another lease, in which everybody could have judged.
    let back = Instant::now();
    while back.elapsed() < LEASE {
        fleet.goes_on("after the database is back").await?;
    }
    fleet.is_whole().await?;
    eprintln!(
        "the database was away for {OUTAGE:?}: the longest gap was {:?}; {}",
        fleet.longest_gap(),
        fleet.summary()
    );
    assert_eq!(fleet.rows().await?, before, "no match went anywhere");
    assert_eq!((fleet.steps_back(), fleet.rolled_back()), (vec![], 0), "no match was restored");
    fleet.land().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_script_does_wrong_is_felt_in_its_own_match_alone() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    // One host: the culprits are neighbours of everybody.
    let cluster = Cluster::new().test_games().match_hosts(1).set("log.filter", "error").start().await?;
    let mut fleet = Fleet::launch(&cluster).await?;
    for wrong in ["error", "recurse", "loop", "stubborn", "memory", "huge"] {
        fleet.forget_gaps();
        let mut culprit = culprit(&cluster, wrong).await?;
        for _ in 0..3 {
            culprit.send("match.input", json!({"cmd": wrong})).await?;
        }
        // It has been done: the script's error is told, or the match is over.
        culprit
            .wait("an error of the script", |f| f["type"] == "module.error" || f["type"] == "match.finished")
            .await?;
        fleet.goes_on(wrong).await?;
        fleet.is_whole().await?;
        eprintln!("{wrong}: the longest gap of the others was {:?}", fleet.longest_gap());
        culprit.close().await;
    }
    assert_eq!((fleet.steps_back(), fleet.rolled_back()), (vec![], 0), "a neighbour was restored");
    eprintln!("{}", fleet.summary());
    fleet.land().await?;
    cluster.stop().await
}

/// Somebody whose match is about to do something wrong.
async fn culprit(cluster: &Cluster, name: &str) -> anyhow::Result<Client> {
    let mut client = cluster.player(0, name).await?;
    client.call("match.find_or_create", json!({"mode": "chaos"})).await?;
    client.push("match.state").await?;
    Ok(client)
}
