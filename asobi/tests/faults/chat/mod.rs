//! Four talk without a pause in one channel, eight read it, over two gateways, while the way to the database or the
//! database itself fails. Afterwards the ledger must be right: each acknowledged message is stored once, under the
//! number its sender was told, and everybody who reads has heard exactly the rows, in order.

pub mod ledger;
pub mod reader;
pub mod talker;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use self::{
    ledger::{Entry, Ledger},
    reader::Reader,
    talker::Talker,
};
use crate::{
    ALONE,
    support::{Cluster, proxy::Side, rest::Account},
};

const TALKERS: usize = 4;
const READERS: usize = 8;
/// How long is talked before a fault, and after it.
const UNDISTURBED: Duration = Duration::from_millis(1_500);

/// A cluster and its people.
struct Stage {
    cluster: Cluster,
    talkers: Vec<Account>,
    readers: Vec<Account>,
    random: StdRng,
    /// Channels that were talked in.
    used: usize,
}

impl Stage {
    /// Everybody gets an account; the seed that is printed makes talkers and faults the same again.
    async fn set(cluster: Cluster) -> anyhow::Result<Self> {
        let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        eprintln!("FAULT_SEED={seed}");
        let mut accounts = Vec::new();
        for n in 0..TALKERS + READERS {
            let base = cluster.gateway(n % 2).http.context("http")?;
            let name = if n < TALKERS { format!("talker{n}") } else { format!("reader{}", n - TALKERS) };
            accounts.push(Account::register(&cluster.http, &base, &name).await?);
        }
        let readers = accounts.split_off(TALKERS);
        Ok(Self { cluster, talkers: accounts, readers, random: StdRng::seed_from_u64(seed), used: 0 })
    }

    /// The gateways' sockets, the `n`th first.
    fn gateways(&self, n: usize) -> Vec<String> {
        let mut all: Vec<String> = self.cluster.processes("gateways").into_iter().filter_map(|g| g.ws).collect();
        let first = n % all.len();
        all.rotate_left(first);
        all
    }

    /// A conversation in a channel of its own, in the middle of which something happens. Talkers and readers are on both
    /// gateways, unless the readers are to be on one.
    async fn talk<T>(
        &mut self,
        what: &str,
        readers_at: Option<usize>,
        fault: impl AsyncFnOnce(&Cluster, &mut StdRng) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let channel = format!("global:c{}", self.used);
        self.used += 1;
        let (stop, stopped) = watch::channel(false);
        let (last, last_known) = watch::channel(None);
        let mut reading = JoinSet::new();
        for (n, account) in self.readers.iter().enumerate() {
            let gateways = self.gateways(readers_at.unwrap_or(n));
            let mut reader = Reader::new(account.clone(), &channel, gateways);
            let client = reader.join().await?;
            reading.spawn(reader.read(client, last_known.clone()));
        }
        let mut talking = JoinSet::new();
        for (n, account) in self.talkers.iter().enumerate() {
            let random = StdRng::seed_from_u64(self.random.random());
            let gateways = self.gateways(n);
            let (account, channel, stored) = (account.clone(), channel.clone(), watch::Sender::new(None));
            let talker = Talker { account, channel, gateways, random, pause_ms: 40, stored };
            talking.spawn(talker.talk(stopped.clone()));
        }
        sleep(UNDISTURBED).await;
        let happened = fault(&self.cluster, &mut self.random).await.with_context(|| what.to_owned())?;
        sleep(UNDISTURBED).await;
        stop.send(true)?;

        let mut ledger = Ledger::default();
        while let Some(lines) = talking.join_next().await {
            ledger.sent.extend(lines?.with_context(|| what.to_owned())?);
        }
        ledger.rows = rows(&self.cluster.database.pool, &channel).await?;
        last.send(Some(ledger.rows.last().map_or(0, |row| row.seq)))?;
        let mut lost = Vec::new();
        while let Some(reader) = reading.join_next().await {
            let reader = reader?.with_context(|| what.to_owned())?;
            lost.extend(reader.lost.iter().map(|how| format!("{}: {how}", reader.account.username)));
            ledger.heard.insert(reader.account.username, reader.heard);
        }
        eprintln!("{what}: {}; sockets lost: {lost:?}", ledger.summary());
        if let Some(mistakes) = ledger.mistakes() {
            anyhow::bail!("{what}:\n{mistakes}");
        }
        ensure!(!ledger.rows.is_empty(), "{what}: nothing was said");
        Ok(happened)
    }
}

pub async fn rows(pool: &PgPool, channel: &str) -> anyhow::Result<Vec<Entry>> {
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT seq, message_id::text, content FROM chat_messages WHERE channel_id = $1 ORDER BY seq")
            .bind(channel)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|(seq, message_id, content)| Entry { seq, message_id, content }).collect())
}

/// Ends the backends of the gateways that the condition finds; how many there were.
async fn terminate(cluster: &Cluster, condition: &'static str) -> anyhow::Result<i64> {
    let query = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name LIKE 'asobi/gateway-%' AND ({condition})"
    );
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&cluster.database.pool).await?)
}

fn gateways() -> crate::support::cluster::Builder {
    // Talkers talk as fast as they are answered.
    Cluster::new().gateways(2).gateways_only().set("limits.frames_per_second", 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_lose_no_message_and_double_none() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set(gateways().proxied().start().await?).await?;
    stage
        .talk("listeners terminated", None, async |cluster, random| {
            for _ in 0..4 {
                // What it did last is to listen, or to ask whether the server is still there.
                let ended = terminate(cluster, "query ILIKE 'LISTEN%' OR query = 'SELECT 1'").await?;
                ensure!(ended > 0, "no session listens");
                sleep(Duration::from_millis(random.random_range(200..900))).await;
            }
            Ok(())
        })
        .await?;
    stage
        .talk("all sessions of the gateways terminated", None, async |cluster, random| {
            for _ in 0..4 {
                ensure!(terminate(cluster, "true").await? > 0, "no sessions");
                sleep(Duration::from_millis(random.random_range(100..900))).await;
            }
            Ok(())
        })
        .await?;
    stage
        .talk("connections reset", None, async |cluster, random| {
            for n in 0..6 {
                let proxy = cluster.proxy(&format!("gateway-{}", n % 2));
                proxy.reset();
                sleep(Duration::from_millis(random.random_range(0..50))).await;
                proxy.heal();
                sleep(Duration::from_millis(random.random_range(50..500))).await;
            }
            Ok(())
        })
        .await?;
    stage
        .talk("a gateway cut off, with an end in order", None, async |cluster, _| {
            cluster.proxy("gateway-1").cut();
            sleep(Duration::from_secs(3)).await;
            cluster.proxy("gateway-1").heal();
            Ok(())
        })
        .await?;
    stage.cluster.stop().await
}

/// The longest that a statement lives, and longer than an unknown outcome is looked into.
const BLACK: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_black_hole_gives_back_late_is_stored_once() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set(gateways().proxied().start().await?).await?;
    stage
        .talk("one gateway in a black hole, which gives back what it held", None, async |cluster, _| {
            cluster.proxy("gateway-0").black_hole();
            sleep(BLACK).await;
            cluster.proxy("gateway-0").heal();
            Ok(())
        })
        .await?;
    stage
        .talk("both gateways in a black hole that resets", None, async |cluster, _| {
            cluster.proxies().for_each(super::support::proxy::Proxy::black_hole);
            sleep(BLACK).await;
            cluster.proxies().for_each(super::support::proxy::Proxy::heal_by_reset);
            Ok(())
        })
        .await?;
    stage
        .talk("statements arrive and no answer comes", None, async |cluster, random| {
            cluster.proxies().for_each(|proxy| proxy.black_hole_towards(Side::Node));
            sleep(Duration::from_millis(random.random_range(1_000..6_000))).await;
            cluster.proxies().for_each(super::support::proxy::Proxy::heal);
            Ok(())
        })
        .await?;
    stage
        .talk("short black holes, one after the other", None, async |cluster, random| {
            for n in 0..6 {
                let proxy = cluster.proxy(&format!("gateway-{}", n % 2));
                proxy.black_hole();
                // About as long as a statement is waited for: what is late meets what was tried again.
                sleep(Duration::from_millis(random.random_range(500..3_000))).await;
                proxy.heal();
            }
            Ok(())
        })
        .await?;
    stage.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_costs_no_message() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set(gateways().own_postgres().start().await?).await?;
    stage
        .talk("PostgreSQL crashed twice", None, async |cluster, random| {
            for _ in 0..2 {
                cluster.crash_database().await?;
                sleep(Duration::from_millis(random.random_range(0..2_000))).await;
            }
            Ok(())
        })
        .await?;
    stage.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_no_acknowledged_message() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::set(gateways().set("node.lease_ms", 2000).start().await?).await?;
    stage
        .talk("a gateway killed, its talkers go to the other", Some(1), async |cluster, _| {
            cluster.kill(&cluster.gateway(0)).await
        })
        .await?;
    stage.cluster.stop().await
}
