//! Connections with presence at one gateway: how fast they come with tokens that are there, what each takes in memory, and how soon a
//! heartbeat is answered among so many.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::{
    Common,
    cluster::{Target, Wanted},
    echo::Echo,
    player::{Closed, DEADLINE, Guest, Socket, call, descriptors, heartbeat, open, sign_in_many, ws},
    report::{Report, cpu_of, histogram, per, record},
    storm::Refused,
};

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Connections at the end; each takes a file descriptor here and one in its gateway
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    connections: u32,
    /// Connects a second, each begun when it is due, however long those before it take. 0: as fast as they are answered, 64 at once
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    rate: u32,
    /// Friends of each player, all of them among the others
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=50))]
    friends: u32,
    /// Seconds between two heartbeats of a connection. They are measured for --seconds, which should be longer
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=80))]
    heartbeat: u64,
    /// Gateways of a cluster of the bench's own
    #[arg(long, default_value_t = 1, conflicts_with_all = ["url", "ready_file"], value_parser = clap::value_parser!(u16).range(1..=20))]
    gateways: u16,
    /// Also let a bare WebSocket server hold as many connections that come at the same rate, and compare the memory and the CPU that each takes
    #[arg(long)]
    baseline: bool,
}

impl Options {
    /// # Errors
    /// Friends cannot be written.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        self.common.knows("--friends are written into the database", self.friends > 0)?;
        Ok(Wanted { gateways: self.gateways, ..Wanted::default() })
    }
}

/// The part of all that comes first; memory is the slope from there to all.
const FIRST: usize = 5;
/// Of one connection.
const ATTEMPTS: u32 = 20;
/// Connects under way with `--rate 0`.
const AT_ONCE: usize = 64;
/// With what a gateway that is busy closes a socket whose upgrade it had accepted.
const BUSY: u16 = 1013;
/// How long such a player waits, with a jitter of a half.
const PAUSE: Duration = Duration::from_secs(1);
/// What is still being freed or grown.
const SETTLE: Duration = Duration::from_secs(3);

/// Connections that came together.
struct Came {
    sockets: Vec<Socket>,
    /// From when it was due to `session.connected`.
    latency: Histogram<u64>,
    /// Answers that said to come later.
    turned_away: u32,
    took: Duration,
}

/// What a server's connections cost it; nothing is known of one whose processes are not.
struct Cost {
    /// What each takes.
    kb: Option<f64>,
    /// What the processes spent on those that came after the first part.
    processes: Vec<Value>,
    per_second: f64,
    turned_away: u32,
    latency: Histogram<u64>,
    coming: u64,
}

impl Cost {
    fn cpu_s_per_1k(&self, of: &str) -> f64 {
        per(cpu_of(&self.processes, of), self.coming, 1_000)
    }
}

/// # Errors
/// The cluster does not let its players in, or there are too few file descriptors here.
pub async fn run(options: &Options, target: &mut Target) -> anyhow::Result<Report> {
    let count = usize::try_from(options.connections)?;
    descriptors(count)?;
    let guests = sign_in_many(target, count).await?;
    befriend(options, target, &guests).await?;
    let urls = target.gateways.iter().map(|gateway| ws(gateway)).collect();
    let (sockets, cost) = hold(options, target, urls, "gateway", &guests).await?;
    let before = target.spent();
    let (answers, lost) = beat(options, sockets).await;
    let beating = target.since(&before);
    let mut report = Report::new("connections")
        .field("connections", options.connections)
        .field("friends", options.friends)
        .field("connects_per_second", cost.per_second)
        .field("turned_away", cost.turned_away)
        .latency("connect_ms", &cost.latency)
        .field("heartbeats", answers.len())
        .latency("heartbeat_ms", &answers)
        .field("lost", lost);
    if let Some(kb) = cost.kb {
        report = report
            .field("kb_per_connection", kb)
            .field("gateway_cpu_s_per_1k_connects", cost.cpu_s_per_1k("gateway"))
            .field("postgresql_cpu_s_per_1k_connects", cost.cpu_s_per_1k("postgresql"))
            .field("connecting", cost.processes.clone())
            .field("beating", beating)
            .field("ratio", kb);
    }
    if options.baseline {
        report = bare(options, target, &guests, &cost, report).await?;
    }
    Ok(report.fails_if(lost > 0, "connections were lost"))
}

/// The same client, the same frames and the same rate, against a server that only sends them back.
async fn bare(
    options: &Options,
    target: &mut Target,
    guests: &[Guest],
    cost: &Cost,
    report: Report,
) -> anyhow::Result<Report> {
    say!("the same against a bare echo …");
    let echo = Echo::start().await?;
    target.watch("echo", echo.pid);
    let held = hold(options, target, [echo.url.clone()].into(), "echo", guests).await;
    target.unwatch("echo");
    let (_, bare) = held?;
    let report = report
        .latency("echo_connect_ms", &bare.latency)
        .field("echo_connects_per_second", bare.per_second)
        .field("echo_kb_per_connection", bare.kb)
        .field("echo_cpu_s_per_1k_connects", bare.cpu_s_per_1k("echo"));
    let (Some(kb), Some(bare_kb)) = (cost.kb, bare.kb) else { return Ok(report) };
    let times = |of: f64, to: f64| per(of / to, 1, 1);
    Ok(report
        .field("ratio", times(kb, bare_kb))
        .field("connect_cpu_ratio", times(cost.cpu_s_per_1k("gateway"), bare.cpu_s_per_1k("echo"))))
}

/// Lets everybody come to the server whose processes are called so, and stay.
async fn hold(
    options: &Options,
    target: &Target,
    urls: Arc<[String]>,
    of: &str,
    guests: &[Guest],
) -> anyhow::Result<(Vec<Socket>, Cost)> {
    let (first, rest) = guests.split_at(guests.len() / FIRST);
    let few = come(options, &urls, first).await?;
    sleep(SETTLE).await;
    let (few_kb, before) = (target.resident_kb(of), target.spent());
    let many = come(options, &urls, rest).await?;
    let processes = target.since(&before);
    sleep(SETTLE).await;
    let many_kb = target.resident_kb(of);
    let (per_second, coming) = (rest.len() as f64 / many.took.as_secs_f64(), rest.len() as u64);
    let cost = Cost {
        kb: (many_kb > 0).then(|| per(many_kb.saturating_sub(few_kb) as f64, coming, 1)),
        processes,
        per_second: (per_second * 10.0).round() / 10.0,
        turned_away: few.turned_away + many.turned_away,
        latency: many.latency,
        coming,
    };
    Ok((few.sockets.into_iter().chain(many.sockets).collect(), cost))
}

/// Each player is a friend of so many after them, as if they had asked one another.
async fn befriend(options: &Options, target: &Target, guests: &[Guest]) -> anyhow::Result<()> {
    if options.friends == 0 {
        return Ok(());
    }
    let url = target.database_url.as_deref().context("the ready file names no database")?;
    let pool = PgPool::connect(url).await?;
    let ids: Vec<uuid::Uuid> = guests.iter().map(|guest| guest.player_id.parse()).collect::<Result<_, _>>()?;
    // Half of one's friends come after, the other half before.
    let steps = usize::try_from(options.friends.div_ceil(2))?;
    let pairs = (0..ids.len()).flat_map(|n| (1..=steps).map(move |step| (n, step)));
    let (asking, asked): (Vec<_>, Vec<_>) = pairs.map(|(n, step)| (ids[n], ids[(n + step) % ids.len()])).unzip();
    sqlx::query(
        "INSERT INTO friendships (id, player_id, friend_id, status)
         SELECT gen_random_uuid(), a, b, 'accepted' FROM UNNEST($1::uuid[], $2::uuid[]) AS t(a, b) ON CONFLICT DO NOTHING",
    )
    .bind(asking)
    .bind(asked)
    .execute(&pool)
    .await?;
    pool.close().await;
    Ok(())
}

/// Lets them come: at the rate, or as fast as they are let in.
async fn come(options: &Options, urls: &Arc<[String]>, guests: &[Guest]) -> anyhow::Result<Came> {
    say!("connecting {} players …", guests.len());
    let permits = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let begun = Instant::now();
    let mut coming = JoinSet::new();
    for (n, guest) in (0_u32..).zip(guests) {
        let (urls, token) = (Arc::clone(urls), guest.access_token.clone());
        let (permit, due) = if options.rate == 0 {
            (Some(Arc::clone(&permits).acquire_owned().await?), Instant::now())
        } else {
            let due = begun + Duration::from_secs(1) * n / options.rate;
            sleep_until(due.into()).await;
            (None, due)
        };
        coming.spawn(async move {
            let (socket, turned_away) = admitted(&urls[n as usize % urls.len()], &token).await?;
            let took = due.elapsed();
            drop(permit);
            anyhow::Ok((socket, took, turned_away))
        });
    }
    let mut came =
        Came { sockets: Vec::with_capacity(guests.len()), latency: histogram(), turned_away: 0, took: Duration::ZERO };
    while let Some(one) = coming.join_next().await {
        let (socket, took, turned_away) = one?.context("a gateway that is given needs limits.connects_per_second=0")?;
        record(&mut came.latency, took);
        came.turned_away += turned_away;
        came.sockets.push(socket);
    }
    came.took = begun.elapsed();
    Ok(came)
}

/// A session, and how often a gateway that was busy said to come later before it was there: at the upgrade, or after it.
async fn admitted(url: &str, token: &str) -> anyhow::Result<(Socket, u32)> {
    for turned_away in 0..ATTEMPTS {
        match connected(url, token).await {
            Ok(socket) => return Ok((socket, turned_away)),
            Err(error) => {
                let busy = matches!(error.downcast_ref(), Some(Closed(BUSY)));
                let pause = || busy.then(|| PAUSE.mul_f64(rand::random_range(0.5..1.5)));
                sleep(Refused::of(&error).after.or_else(pause).ok_or(error)?).await;
            }
        }
    }
    anyhow::bail!("was turned away {ATTEMPTS} times")
}

async fn connected(url: &str, token: &str) -> anyhow::Result<Socket> {
    let mut socket = open(url).await?;
    call(&mut socket, "session.connect", json!({"token": token, "capabilities": ["presence"]})).await?;
    Ok(socket)
}

/// All of them beat for as long as is measured; the latencies of the answers, and how many connections were lost.
async fn beat(options: &Options, sockets: Vec<Socket>) -> (Histogram<u64>, u64) {
    let (gap, count) = (Duration::from_secs(options.heartbeat), sockets.len());
    say!("{count} connections beat every {gap:?}, for {:?} …", options.common.measured());
    let begun = Instant::now() + Duration::from_millis(100);
    let end = begun + options.common.measured();
    // Nobody leaves while others are measured.
    let (leave, stay) = watch::channel(());
    // One for all: one of its own would be ten times the size of a connection.
    let answers = Arc::new(Mutex::new(histogram()));
    let mut beating = JoinSet::new();
    for (n, socket) in sockets.into_iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a share of some thousands")]
        let first = begun + gap.mul_f64(n as f64 / count as f64);
        beating.spawn(beats(socket, first, gap, end, Arc::clone(&answers), stay.clone()));
    }
    drop(stay);
    sleep_until(end.into()).await;
    sleep(SETTLE).await;
    drop(leave);
    let lost = beating.join_all().await.into_iter().map(|well| u64::from(!well)).sum();
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (answers, lost)
}

/// Measured from when each was due. Pings are answered meanwhile; false when the connection is lost.
async fn beats(
    mut socket: Socket,
    first: Instant,
    gap: Duration,
    end: Instant,
    answers: Arc<Mutex<Histogram<u64>>>,
    mut stay: watch::Receiver<()>,
) -> bool {
    let mut due = first;
    while due < end {
        if !idle(&mut socket, sleep_until(due.into())).await {
            return false;
        }
        if !heartbeat(&mut socket, DEADLINE).await {
            return false;
        }
        record(&mut answers.lock().unwrap_or_else(PoisonError::into_inner), due.elapsed());
        due += gap;
    }
    let gone = async { drop(stay.changed().await) };
    idle(&mut socket, gone).await
}

/// Reads what comes until the time has come; false when the connection is lost first.
async fn idle(socket: &mut Socket, until: impl Future<Output = ()>) -> bool {
    let reading = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::select! {
        () = until => true,
        () = reading => false,
    }
}
