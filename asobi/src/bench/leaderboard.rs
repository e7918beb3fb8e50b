//! One large leaderboard: its rows are written first, then a social service starts beside the cluster, has it in memory when it is ready,
//! and is asked over gRPC. What it answers in includes the call itself.

use std::{
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use asobi_proto::social_v1::{
    GetStandingRequest, ListAroundRequest, ListTopRequest, SubmitScoreRequest,
    leaderboard_service_client::LeaderboardServiceClient,
};
use asobi_service_kit::grpc::{Channels, ClusterChannel};
use asobi_store::boards::{self, Submission};
use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::Value;
use sqlx::PgPool;
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::sleep_until,
};
use uuid::Uuid;

use super::{
    Common,
    cluster::{Target, Wanted},
    one_row,
    report::{Report, cpu_of, histogram, per, record},
};

const BOARD: &str = "bench";
const NODE: &str = "bench-social";
const TIMEOUT: Duration = Duration::from_secs(120);
/// Rows of one statement.
const CHUNK: i64 = 50_000;
/// Players who are asked for, one after the other.
const SAMPLE: i64 = 2_000;
/// Calls at a fixed rate that are not answered yet.
const UNDER_WAY: usize = 4_096;

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Entries of the board
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(100..=10_000_000))]
    entries: i64,
    /// Submissions that are under way at once, in the part that measures their rate
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    submitters: u32,
    /// Calls a second of the part that reads and submits at a fixed rate, each counted from when it was due
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// How many of a hundred of these calls read
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=100))]
    reads: u32,
    /// Also measure the bare way to store and notify, one row a transaction, in the same database; the ratio is of submissions a
    /// second to its rows a second
    #[arg(long)]
    baseline: bool,
}

impl Options {
    /// # Errors
    /// The board's rows cannot be written.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        self.common.knows("the board's rows are written into the database", true)?;
        Ok(Wanted::default())
    }
}

type Boards = LeaderboardServiceClient<ClusterChannel>;

pub async fn run(options: &Options, target: &mut Target) -> anyhow::Result<Report> {
    let url = target.database_url.clone().context("the ready file names no database")?;
    let rows = asobi_store::connect(&asobi_store::DatabaseOptions {
        url: url.clone(),
        max_connections: 4,
        timeout: TIMEOUT,
        application_name: "asobi/bench".to_owned(),
    })
    .await?;
    fill(&rows, options.entries).await?;
    let players: Vec<Uuid> = sqlx::query_scalar(
        "SELECT player_id FROM leaderboard_entries WHERE leaderboard_id = $1 AND seq % greatest(1, $2 / $3) = 0 ORDER BY player_id LIMIT $3",
    )
    .bind(BOARD)
    .bind(options.entries)
    .bind(SAMPLE)
    .fetch_all(&rows)
    .await?;

    let idle_kb = target.resident_kb("social");
    let started = Instant::now();
    let mut service = start(&url)?;
    let address = ready(&rows, &mut service).await?;
    let ready_ms = started.elapsed().as_secs_f64() * 1e3;
    target.watch(NODE, service.id().context("the service has ended")?);
    // What was only needed while it was read is given back.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let loaded_kb = target.resident_kb(NODE);
    let key: String =
        sqlx::query_scalar("SELECT value FROM cluster_keys ORDER BY active_from DESC LIMIT 1").fetch_one(&rows).await?;
    let boards = LeaderboardServiceClient::new(Channels::new(key).get(&address));

    let wrong = !ranks_as_the_rows(&rows, &boards).await?;
    let reads = Reads::measure(&boards, &players, options.common.measured()).await?;
    let (alone, bare) = one_by_one(&rows, &boards, &players).await?;
    let (rate, many) = together(&boards, &players, options).await?;
    let (paced, processes) = paced(&boards, &players, options, target).await?;
    drop(service.stdin.take());
    let _ = tokio::time::timeout(TIMEOUT, service.wait()).await;
    target.unwatch(NODE);

    let report = Report::new("leaderboard")
        .field("entries", options.entries)
        .field("ready_after_start_ms", ready_ms.round())
        .field("resident_mb", loaded_kb / 1024)
        .field("idle_resident_mb", idle_kb / 1024);
    let entries = u64::try_from(options.entries)?;
    #[expect(clippy::cast_precision_loss, reason = "kilobytes of one process")]
    let bytes = loaded_kb.saturating_sub(idle_kb) as f64 * 1024.0;
    let report = report
        .field("bytes_per_entry", per(bytes, entries, 1))
        .latency("rank_ms", &reads.rank)
        .latency("top_ms", &reads.top)
        .latency("around_ms", &reads.around)
        .latency("submit_alone_ms", &alone)
        .latency("its_transaction_alone_ms", &bare)
        .field("submitters", options.submitters)
        .field("submissions_per_second", rate.round())
        .latency("submit_together_ms", &many)
        .field("paced_rate", options.rate)
        .latency("paced_read_ms", &paced.reads)
        .latency("paced_submit_ms", &paced.submits)
        .field("paced_refused", paced.refused)
        .field("social_cpu_s_per_100k_calls", per(cpu_of(&processes, NODE), paced.answered, 100_000))
        .field("processes", processes)
        .fails_if(wrong, "the service ranks otherwise than the rows");
    if !options.baseline {
        return Ok(report);
    }
    say!("the same, one row a transaction …");
    let measured = options.common.measured();
    let bare = per(1.0 / measured.as_secs_f64(), 1, one_row::run(&url, measured).await?);
    Ok(report.field("one_row_per_second", bare).field("ratio", per(rate / bare, 1, 1)).rising("ratio"))
}

/// Of what was due while it was measured.
#[derive(Debug)]
struct Paced {
    reads: Histogram<u64>,
    submits: Histogram<u64>,
    refused: u64,
    /// How many were answered while the CPU was measured.
    answered: u64,
}

/// Reads and submissions when they are due, whatever those before them take; past a bound on what is under way they count as refused. Also what
/// the processes spent from the end of the warm-up to when the last one was due.
async fn paced(
    boards: &Boards,
    players: &[Uuid],
    options: &Options,
    target: &Target,
) -> anyhow::Result<(Paced, Vec<Value>)> {
    say!("{} calls a second, {} % of them reads …", options.rate, options.reads);
    let mut found = Paced { reads: histogram(), submits: histogram(), refused: 0, answered: 0 };
    let gap = Duration::from_secs(1) / options.rate;
    let mut due = Instant::now() + gap;
    let (measure_from, end) =
        (due + options.common.warming(), due + options.common.warming() + options.common.measured());
    let (mut calling, mut before) = (JoinSet::new(), None);
    for (n, player) in (0_u32..).zip(players.iter().copied().cycle()) {
        if due >= end {
            break;
        }
        sleep_until(due.into()).await;
        if before.is_none() && due >= measure_from {
            before = Some(target.spent());
        }
        while let Some(done) = calling.try_join_next() {
            found.add(&done?, measure_from, end);
        }
        if calling.len() >= UNDER_WAY {
            found.refused += u64::from(due >= measure_from);
        } else {
            let (mut boards, reads) = (boards.clone(), n % 100 < options.reads);
            calling.spawn(async move {
                let well = if reads {
                    let leaderboard_id = BOARD.to_owned();
                    let request = GetStandingRequest { leaderboard_id, player_id: player.to_string(), period: None };
                    boards.get_standing(request).await.is_ok()
                } else {
                    boards.submit_score(submission(player)).await.is_ok()
                };
                Call { due, took: due.elapsed(), reads, well }
            });
        }
        due += gap;
    }
    sleep_until(end.into()).await;
    let processes = before.map(|before| target.since(&before)).unwrap_or_default();
    while let Some(done) = calling.join_next().await {
        found.add(&done?, measure_from, end);
    }
    Ok((found, processes))
}

struct Call {
    due: Instant,
    took: Duration,
    reads: bool,
    well: bool,
}

impl Paced {
    fn add(&mut self, call: &Call, measure_from: Instant, end: Instant) {
        self.answered += u64::from(call.well && (measure_from..end).contains(&(call.due + call.took)));
        if call.due < measure_from {
            return;
        }
        if call.well {
            record(if call.reads { &mut self.reads } else { &mut self.submits }, call.took);
        } else {
            self.refused += 1;
        }
    }
}

async fn fill(rows: &PgPool, entries: i64) -> anyhow::Result<()> {
    say!("writing a board of {entries} entries …");
    sqlx::query("DELETE FROM leaderboards WHERE id = $1").bind(BOARD).execute(rows).await?;
    sqlx::query("INSERT INTO leaderboards (id, seq, declared) VALUES ($1, $2, true)")
        .bind(BOARD)
        .bind(entries)
        .execute(rows)
        .await?;
    let mut from = 1;
    while from <= entries {
        let to = (from + CHUNK - 1).min(entries);
        sqlx::query(
            "INSERT INTO leaderboard_entries (leaderboard_id, player_id, score, sub_score, seq)
             SELECT $1, gen_random_uuid(), floor(random() * 1e7), floor(random() * 10), n FROM generate_series($2, $3) AS n",
        )
        .bind(BOARD)
        .bind(from)
        .bind(to)
        .execute(rows)
        .await?;
        from = to + 1;
    }
    sqlx::query("VACUUM ANALYZE leaderboard_entries").execute(rows).await?;
    Ok(())
}

fn start(database_url: &str) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["social-service", "--exit-with-stdin"]);
    for set in [
        &format!("node.id={NODE}"),
        &format!("database.url={database_url}"),
        "grpc.listen=127.0.0.1:0",
        "metrics.listen=127.0.0.1:0",
        "log.filter=warn",
        "leaderboards.preload_entries=100",
    ] {
        command.args(["--set", set]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn().context("it cannot be started")
}

/// Where the service is reached, once it is ready.
async fn ready(rows: &PgPool, service: &mut Child) -> anyhow::Result<String> {
    let pid = i32::try_from(service.id().context("the service has ended")?)?;
    let waiting = Instant::now();
    loop {
        let address: Option<String> =
            sqlx::query_scalar("SELECT grpc_addr FROM nodes WHERE node_id = $1 AND pid = $2 AND state = 'ready'")
                .bind(NODE)
                .bind(pid)
                .fetch_optional(rows)
                .await?;
        if let Some(address) = address {
            return Ok(address);
        }
        if let Some(status) = service.try_wait()? {
            anyhow::bail!("the social service ended with {status}");
        }
        ensure!(waiting.elapsed() < TIMEOUT, "the social service is not ready after {TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ranks_as_the_rows(rows: &PgPool, boards: &Boards) -> anyhow::Result<bool> {
    let expected: Vec<Uuid> = sqlx::query_scalar(
        "SELECT player_id FROM leaderboard_entries WHERE leaderboard_id = $1 ORDER BY score DESC, sub_score DESC, seq LIMIT 100",
    )
    .bind(BOARD)
    .fetch_all(rows)
    .await?;
    let request = ListTopRequest { leaderboard_id: BOARD.into(), limit: 100, period: None };
    let entries = boards.clone().list_top(request).await?.into_inner().entries;
    Ok(entries.iter().map(|entry| entry.player_id.clone()).eq(expected.iter().map(Uuid::to_string)))
}

struct Reads {
    rank: Histogram<u64>,
    top: Histogram<u64>,
    around: Histogram<u64>,
}

impl Reads {
    /// One call at a time, in turns.
    async fn measure(boards: &Boards, players: &[Uuid], lasting: Duration) -> anyhow::Result<Self> {
        say!("reading …");
        let mut reads = Self { rank: histogram(), top: histogram(), around: histogram() };
        let (mut boards, began) = (boards.clone(), Instant::now());
        for player in players.iter().cycle().map(Uuid::to_string) {
            if began.elapsed() >= lasting {
                break;
            }
            let (leaderboard_id, player_id) = (BOARD.to_owned(), player);
            let request = GetStandingRequest {
                leaderboard_id: leaderboard_id.clone(),
                player_id: player_id.clone(),
                period: None,
            };
            let asked = Instant::now();
            boards.get_standing(request).await?;
            record(&mut reads.rank, asked.elapsed());
            let request = ListTopRequest { leaderboard_id: leaderboard_id.clone(), limit: 10, period: None };
            let asked = Instant::now();
            boards.list_top(request).await?;
            record(&mut reads.top, asked.elapsed());
            let request = ListAroundRequest { leaderboard_id, player_id, range: 5, period: None };
            let asked = Instant::now();
            boards.list_around(request).await?;
            record(&mut reads.around, asked.elapsed());
        }
        Ok(reads)
    }
}

fn score() -> f64 {
    rand::random_range(0..10_000_000_u32).into()
}

/// Submissions one at a time, and beside each the transaction of such a one without a service around it.
async fn one_by_one(
    rows: &PgPool,
    boards: &Boards,
    players: &[Uuid],
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    say!("submitting one at a time …");
    let (mut boards, mut alone, mut bare) = (boards.clone(), histogram(), histogram());
    for player in players.iter().take(500) {
        let request = submission(*player);
        let asked = Instant::now();
        boards.submit_score(request).await?;
        record(&mut alone, asked.elapsed());
        let score =
            Submission { board: BOARD.into(), player_id: *player, score: score(), sub_score: 0.0, by_client: false };
        let asked = Instant::now();
        let mut tx = asobi_store::begin(rows).await?;
        boards::write(&mut tx, &[score]).await?;
        tx.commit().await?;
        record(&mut bare, asked.elapsed());
    }
    Ok((alone, bare))
}

fn submission(player: Uuid) -> SubmitScoreRequest {
    SubmitScoreRequest {
        leaderboard_id: BOARD.into(),
        player_id: player.to_string(),
        score: score(),
        ..SubmitScoreRequest::default()
    }
}

/// Submissions by many at once: how many a second, and what each takes.
async fn together(boards: &Boards, players: &[Uuid], options: &Options) -> anyhow::Result<(f64, Histogram<u64>)> {
    say!("submitting by {} at once …", options.submitters);
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let submitters = (0..options.submitters).map(|_| async {
        let (mut boards, mut took) = (boards.clone(), histogram());
        while began.elapsed() < options.common.measured() {
            let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed))? % players.len();
            let asked = Instant::now();
            boards.submit_score(submission(players[at])).await?;
            record(&mut took, asked.elapsed());
        }
        anyhow::Ok(took)
    });
    let mut all = histogram();
    for took in try_join_all(submitters).await? {
        all.add(took)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "submissions of one bench")]
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    Ok((rate, all))
}
