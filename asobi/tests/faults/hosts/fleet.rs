//! Many matches of four at once, and the ledger at their end.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::player::{Played, Player, Seen};
use crate::{
    matchmaking::bots::Door,
    support::{Cluster, PATIENCE, rest::Account},
};

const PLAYERS: usize = 4;
/// Sign-ins under way at once.
const CONCURRENCY: usize = 8;
/// 32 bytes in base64.
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// How many matches: what two cores carry while a play takes less than a minute. A state costs a debug build some twenty times what it costs in
/// release, so two hundred are for `./test --faults --release`. FAULT_MATCHES says otherwise.
pub fn matches() -> usize {
    let usual = if cfg!(debug_assertions) { 50 } else { 200 };
    std::env::var("FAULT_MATCHES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

pub struct Fleet {
    pool: PgPool,
    players: JoinSet<anyhow::Result<Played>>,
    shown: Vec<Arc<Mutex<Seen>>>,
    over: watch::Sender<bool>,
    pub matches: Vec<uuid::Uuid>,
}

/// What a player has in the result of the match.
#[derive(Debug, Deserialize)]
struct Line {
    last: u64,
    count: u64,
    missing: u64,
    twice: u64,
    points: u64,
}

#[derive(Debug, Deserialize)]
struct Books {
    players: BTreeMap<String, Line>,
}

impl Fleet {
    /// Everybody is in a match and plays. The players of every other match go to its host.
    pub async fn launch(cluster: &Cluster) -> anyhow::Result<Self> {
        let gateways = cluster.processes("gateways").into_iter();
        let doors: Vec<Door> = gateways.filter_map(|g| Some(Door { http: g.http?, ws: g.ws? })).collect();
        Self::launch_by(cluster, &doors, matches()).await
    }

    /// [`Self::launch`], with the players coming in by these doors in turn.
    pub async fn launch_by(cluster: &Cluster, doors: &[Door], matches: usize) -> anyhow::Result<Self> {
        let pool = cluster.database.pool.clone();
        sqlx::query("INSERT INTO leaderboards (id, operator) VALUES ('points', 'sum')").execute(&pool).await?;
        let gateways: Vec<String> = doors.iter().map(|door| door.ws.clone()).collect();
        let over = watch::Sender::new(false);
        let accounts: Vec<Account> = stream::iter(0..matches * PLAYERS)
            .map(|n| guest(cluster, &doors[n % doors.len()], n))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let (mut players, mut shown, mut ids) = (JoinSet::new(), Vec::new(), Vec::new());
        // Match after match, so that who follows plays with those who do.
        for (number, four) in accounts.chunks(PLAYERS).enumerate() {
            let mut seated = Vec::new();
            for (n, account) in four.iter().enumerate() {
                let gateway = n % gateways.len();
                let follows = number % 2 == 0;
                let queueing =
                    Player::queue(account.clone(), gateways.clone(), gateway, follows, over.subscribe()).await?;
                seated.push(queueing);
            }
            let mut told = Vec::new();
            for player in &mut seated {
                told.push(player.matched().await?);
            }
            told.dedup();
            ensure!(told.len() == 1, "four who queued together are in {told:?}");
            ids.push(told[0].parse()?);
            for player in seated {
                shown.push(player.shown());
                players.spawn(player.play());
            }
        }
        let fleet = Self { pool, players, shown, over, matches: ids };
        fleet.goes_on("everybody plays").await?;
        Ok(fleet)
    }

    fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        self.shown.iter().map(|seen| seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits until everybody has seen an input counted that was sent from now on; how long it took until everybody had a state, and that.
    pub async fn goes_on(&self, what: &str) -> anyhow::Result<(Duration, Duration)> {
        let since = Instant::now();
        let mut states = None;
        loop {
            let waiting = self.seen().filter(|seen| seen.at.is_none_or(|at| at < since)).count();
            if waiting == 0 {
                states.get_or_insert_with(|| since.elapsed());
            }
            let uncounted = self.seen().filter(|seen| seen.last_sent.is_none_or(|at| at < since)).count();
            if let Some(states) = states.filter(|_| uncounted == 0) {
                return Ok((states, since.elapsed()));
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{what}: {waiting} of {} players have no state, inputs of {uncounted} are not counted; {}; left behind are {:?}",
                self.shown.len(),
                self.summary(),
                self.left_behind(since)
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whose inputs have not been counted since then, by who they are.
    fn left_behind(&self, since: Instant) -> BTreeMap<String, Seen> {
        let behind = self.seen().filter(|seen| seen.last_sent.is_none_or(|at| at < since));
        behind.map(|seen| (seen.who.clone(), seen)).collect()
    }

    /// Forgets the longest gaps: what comes is about what is done now.
    pub fn forget_gaps(&self) {
        for seen in &self.shown {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            (seen.gap, seen.gap_end) = (Duration::ZERO, None);
        }
    }

    /// Of each player the longest time between two states.
    pub fn gaps(&self) -> Vec<Duration> {
        self.seen().map(|seen| seen.gap).collect()
    }

    /// The longest time between two states of any player.
    pub fn longest_gap(&self) -> Duration {
        self.seen().map(|seen| seen.gap).max().unwrap_or_default()
    }

    /// How long after `since` the last one of those had a state again who had missed some for more than `pause`, and how many they are.
    pub fn back_after(&self, since: Instant, pause: Duration) -> (Duration, usize) {
        let back: Vec<Instant> = self
            .seen()
            .filter(|seen| seen.gap > pause)
            .filter_map(|seen| seen.gap_end.filter(|end| *end > since))
            .collect();
        (back.iter().max().map_or(Duration::ZERO, |last| *last - since), back.len())
    }

    /// The times that a player saw a state older than the one before: of the player who saw the most of them.
    pub fn steps_back(&self) -> Vec<String> {
        self.seen().map(|seen| seen.steps_back).max_by_key(Vec::len).unwrap_or_default()
    }

    /// Players who saw older states more often than a host has taken their match over from its checkpoint, one line each.
    pub async fn steps_back_unexplained(&self) -> anyhow::Result<Vec<String>> {
        let rows = self.rows().await?;
        let failovers: BTreeMap<uuid::Uuid, i32> = rows.into_iter().map(|(id, _, _, n)| (id, n)).collect();
        let mut unexplained = Vec::new();
        // Players were shown match by match.
        let seen: Vec<Seen> = self.seen().collect();
        for (id, players) in self.matches.iter().zip(seen.chunks(PLAYERS)) {
            let takeovers = failovers.get(id).copied().with_context(|| format!("match {id} has no row"))?;
            let most = usize::try_from(takeovers)?;
            let too_often = players.iter().filter(|seen| seen.steps_back.len() > most);
            unexplained.extend(too_often.map(|seen| {
                format!("{} in match {id}, which was taken over {takeovers} times: {:?}", seen.who, seen.steps_back)
            }));
        }
        Ok(unexplained)
    }

    /// Inputs of a player that a state had forgotten again, at most.
    pub fn rolled_back(&self) -> u64 {
        self.seen().map(|seen| seen.rolled_back).max().unwrap_or_default()
    }

    pub fn summary(&self) -> String {
        let all: Vec<Seen> = self.seen().collect();
        let sum = |of: fn(&Seen) -> u64| all.iter().map(of).sum::<u64>();
        let mut said = format!(
            "{} players in {} matches, {} inputs counted, {} refused, {} moves to a host, {} ways back to a gateway",
            all.len(),
            self.matches.len(),
            sum(|seen| seen.last),
            sum(|seen| seen.refused),
            sum(|seen| seen.migrations.into()),
            sum(|seen| seen.fell_back.into()),
        );
        if let Some(refusal) = all.iter().find_map(|seen| seen.refusal.as_deref()) {
            let _infallible = write!(said, ", refused with {refusal}");
        }
        said
    }

    /// (match, epoch, host, failovers) of every match, as the rows say.
    pub async fn rows(&self) -> anyhow::Result<Vec<(uuid::Uuid, i64, String, i32)>> {
        Ok(sqlx::query_as("SELECT id, epoch, host_node, failovers FROM matches WHERE id = ANY($1) ORDER BY id")
            .bind(&self.matches)
            .fetch_all(&self.pool)
            .await?)
    }

    /// How many of them run on this node.
    pub async fn on(&self, node_id: &str) -> anyhow::Result<usize> {
        Ok(self.rows().await?.iter().filter(|(_, _, host, _)| host == node_id).count())
    }

    /// The node that runs most of them.
    pub async fn busiest(&self) -> anyhow::Result<String> {
        let mut hosts = BTreeMap::<String, usize>::new();
        for (_, _, host, _) in self.rows().await? {
            *hosts.entry(host).or_default() += 1;
        }
        Ok(hosts.into_iter().max_by_key(|(_, matches)| *matches).context("no match")?.0)
    }

    /// No match has ended, and no player has given up.
    pub async fn is_whole(&mut self) -> anyhow::Result<()> {
        let ended: Vec<(uuid::Uuid, String, Option<serde_json::Value>)> = sqlx::query_as(
            "SELECT id, state, result FROM matches WHERE id = ANY($1) AND state NOT IN ('allocating', 'running')",
        )
        .bind(&self.matches)
        .fetch_all(&self.pool)
        .await?;
        ensure!(ended.is_empty(), "matches have ended early: {ended:?}");
        if let Some(played) = self.players.try_join_next() {
            played?.context("a player gave up")?;
            bail!("a player thinks that the match is over");
        }
        Ok(())
    }

    /// Everybody says farewell, and the books are compared: what was sent, what the states counted, what the board says.
    pub async fn land(mut self) -> anyhow::Result<()> {
        self.is_whole().await?;
        self.over.send_replace(true);
        let mut played = BTreeMap::new();
        let landing = async {
            while let Some(player) = self.players.join_next().await {
                let player = player??;
                played.insert(player.player_id.clone(), player);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(2 * PATIENCE, landing).await.context("not all matches end")??;
        let results: Vec<(uuid::Uuid, String, Option<serde_json::Value>)> =
            sqlx::query_as("SELECT id, state, result FROM matches WHERE id = ANY($1)")
                .bind(&self.matches)
                .fetch_all(&self.pool)
                .await?;
        ensure!(results.len() == self.matches.len(), "{} matches have a row", results.len());
        let mut points = BTreeMap::new();
        let mut mistakes = Vec::new();
        for (id, state, result) in results {
            let Ok(books) = serde_json::from_value::<Books>(result.clone().unwrap_or_default()) else {
                mistakes.push(format!("{id} is {state} with {result:?}"));
                continue;
            };
            for (player_id, line) in books.players {
                let player = played.get(&player_id).context("a player of the result")?;
                mistakes.extend(mistake(player, &line));
                points.insert(player_id, line.points);
            }
        }
        ensure!(mistakes.is_empty(), "the ledger is wrong:\n{}", mistakes.join("\n"));
        ensure!(points.len() == self.shown.len(), "{} of {} players are in a result", points.len(), self.shown.len());
        board(&self.pool, &points).await
    }
}

/// What is wrong with a player's line.
fn mistake(player: &Played, line: &Line) -> Option<String> {
    // An input whose sender was told that it is refused is the only one that may be missing.
    let (refused, sent) = (player.seen.refused, player.sent);
    let right = line.last == sent && line.count + line.missing == sent && line.missing <= refused && line.twice == 0;
    (!right).then(|| {
        format!(
            "{} sent {sent}, {refused} were refused; the match counted {line:?}; {:?}",
            player.player_id, player.seen
        )
    })
}

/// Waits until the board has what the matches have submitted, and not more.
async fn board(pool: &PgPool, points: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let entries: Vec<(String, i64)> = sqlx::query_as(
            "SELECT player_id::text, score::bigint FROM leaderboard_entries WHERE leaderboard_id = 'points'",
        )
        .fetch_all(pool)
        .await?;
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        let has = |id: &str| entries.get(id).and_then(|has| u64::try_from(*has).ok()).unwrap_or_default();
        let wrong: Vec<_> =
            points.iter().map(|(id, points)| (id, *points, has(id))).filter(|(_, want, has)| want != has).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let more = wrong.iter().any(|(_, want, has)| has > want);
        ensure!(!more && started.elapsed() < PATIENCE, "the board is wrong (player, submitted, has): {wrong:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn guest(cluster: &Cluster, door: &Door, n: usize) -> anyhow::Result<Account> {
    let device = format!("device-{n}-{:08x}", rand::random::<u32>());
    Account::guest(&cluster.http, &door.http, &device, DEVICE_SECRET).await
}

#[test]
fn the_ledger_finds_what_is_lost_doubled_or_invented() {
    let line = |last, count, missing, twice| Line { last, count, missing, twice, points: 0 };
    let wrong = |refused, line: Line| {
        let seen = Seen { refused, ..Seen::default() };
        mistake(&Played { player_id: "ada".to_owned(), sent: 10, seen }, &line).is_some()
    };
    assert!(!wrong(0, line(10, 10, 0, 0)));
    assert!(!wrong(1, line(10, 9, 1, 0)), "what was refused is known to be missing");
    assert!(wrong(0, line(10, 9, 1, 0)), "one was lost");
    assert!(wrong(0, line(9, 9, 0, 0)), "the last one was lost");
    assert!(wrong(0, line(10, 11, 0, 1)), "one was counted twice");
    assert!(wrong(1, line(10, 8, 2, 0)), "one was refused, and another lost");
}
