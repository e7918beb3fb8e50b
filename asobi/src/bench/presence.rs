//! Friends who come and go at a rate, and how soon each of their friends is told, on whichever gateway.
//!
//! Half of the players come and go, the others watch. Friends sit in a ring, each player's the nearest ones on both sides, so that
//! everybody has as many and it is known who must be told.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::{Spent, Target, Wanted},
    heartbeat,
    player::{DEADLINE, Guest, Socket, call, descriptors, open, sign_in_many, ws},
    report::{Report, cpu_of, histogram, per, record},
};

/// Requests under way at once, before anything is measured.
const CONCURRENCY: usize = 4;
/// Before a request is repeated that found a busy service.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the last changes may take to be heard of.
const TAIL: Duration = Duration::from_secs(15);
/// The shortest time between two changes of one player: what is quicker is no absence (`presence.grace_ms`).
const APART: Duration = Duration::from_secs(3);
/// The longest: who is silent for 90 s is gone.
const TOGETHER: u32 = 40;

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Players; the first half of them come and go in turns with the others. A cluster that is given needs
    /// limits.requests_per_second=0, limits.auth_per_second=0 and limits.connects_per_second=0
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    players: u32,
    /// Friends of each, made over REST: an even number
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    degree: u32,
    /// Log-ins and log-outs a second, all together
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    churn: u32,
    /// Also measure a bare WebSocket echo with the same client: the ratio is of the gateways' CPU for a frame with presence to
    /// the echo's for a text in and out
    #[arg(long)]
    baseline: bool,
}

impl Options {
    /// Friends shall hear within the run that somebody has gone.
    pub fn wanted() -> Wanted {
        Wanted { sets: vec!["presence.grace_ms=500".to_owned()], ..Wanted::default() }
    }
}

/// Somebody came or went.
#[derive(Clone, Copy)]
struct Change {
    due: Instant,
    online: bool,
}

type Place = Arc<tokio::sync::Mutex<Option<Socket>>>;

/// Everybody has come and gone.
struct Churned {
    /// What had been spent when the first change was due that is measured; none: there was none.
    before: Option<Spent>,
    /// Frames that must come of it.
    expected: u64,
    /// Those who are there stay until all have heard.
    _places: Vec<Place>,
}

/// What everybody looks at.
struct World {
    /// Those who come and go, by their ids.
    restless: HashMap<String, usize>,
    changes: Vec<Mutex<Vec<Change>>>,
    measure_from: Instant,
    heard: AtomicU64,
}

/// What one watcher heard.
struct Watched {
    came: Histogram<u64>,
    left: Histogram<u64>,
    /// The change of each friend that was heard of last.
    last: HashMap<usize, usize>,
}

pub async fn run(options: &Options, target: &mut Target) -> anyhow::Result<Report> {
    let restless = (options.players / 2).min(options.churn * TOGETHER);
    let apart = Duration::from_secs(1) * restless / options.churn;
    ensure!(
        apart >= APART,
        "each player would come or go every {apart:?}, {APART:?} at least: more --players or less --churn"
    );
    descriptors(usize::try_from(options.players)?)?;
    let guests = sign_in_many(target, usize::try_from(options.players)?).await?;
    befriend(options, target, &guests).await?;

    let comers = usize::try_from(restless)?;
    let is_restless = |n: usize| n.is_multiple_of(2) && n / 2 < comers;
    let start = Instant::now() + Duration::from_secs(1);
    let measure_from = start + options.common.warming();
    let end = measure_from + options.common.measured();
    let ids =
        guests.iter().enumerate().filter(|(n, _)| is_restless(*n)).map(|(n, guest)| (guest.player_id.clone(), n / 2));
    let world = Arc::new(World {
        restless: ids.collect(),
        changes: (0..comers).map(|_| Mutex::default()).collect(),
        measure_from,
        heard: AtomicU64::new(0),
    });
    let (leave, stay) = watch::channel(());
    let (mut watching, mut friends_of) = (JoinSet::new(), Vec::new());
    for (n, guest) in guests.iter().enumerate().filter(|(n, _)| !is_restless(*n)) {
        let socket = enter(&target.gateways[n / 2 % target.gateways.len()], guest, true).await?;
        friends_of.push(
            friends(options, n).filter(|friend| is_restless(*friend)).map(|friend| friend / 2).collect::<Vec<_>>(),
        );
        let at = friends_of.len() - 1;
        let (world, stay) = (Arc::clone(&world), stay.clone());
        watching.spawn(async move { (at, watch_friends(socket, &world, stay).await) });
    }
    drop(stay);
    let churned = churn(options, target, &world, &guests, &friends_of, (start.max(Instant::now()), end)).await?;
    let late = Instant::now() + TAIL;
    while world.heard.load(Ordering::Relaxed) < churned.expected && Instant::now() < late {
        sleep(Duration::from_millis(50)).await;
    }
    // With the frames of the last changes.
    let processes = churned.before.map(|before| target.since(&before)).unwrap_or_default();
    drop(leave);
    let (mut came, mut left, mut wrong) = (histogram(), histogram(), 0_u64);
    for (at, watched) in watching.join_all().await {
        let watched = watched?;
        came.add(&watched.came)?;
        left.add(&watched.left)?;
        // Whatever was told in between: at the end each knows of each what is so.
        wrong +=
            friends_of[at].iter().map(|friend| u64::from(!world.knows(*friend, watched.last.get(friend)))).sum::<u64>();
    }
    let frames = came.len() + left.len();
    let report = Report::new("presence")
        .field("players", options.players)
        .field("degree", options.degree)
        .field("churn", options.churn)
        .field("frames", frames)
        .field("frames_per_second", per(1.0 / options.common.measured().as_secs_f64(), 1, frames))
        .latency("came_ms", &came)
        .latency("left_ms", &left)
        .field("missing", churned.expected.saturating_sub(world.heard.load(Ordering::Relaxed)))
        .field("wrong_at_the_end", wrong)
        .fails_if(wrong > 0, "a friend is not seen as they are");
    compared(options, target, report, processes, frames).await
}

async fn compared(
    options: &Options,
    target: &mut Target,
    mut report: Report,
    processes: Vec<Value>,
    frames: u64,
) -> anyhow::Result<Report> {
    let (spent, known) = (per(cpu_of(&processes, "gateway"), frames, 100_000), !processes.is_empty());
    if known {
        report = report
            .field("gateway_cpu_s_per_100k_frames", spent)
            .field("postgresql_cpu_s_per_100k_frames", per(cpu_of(&processes, "postgresql"), frames, 100_000))
            .field("processes", processes);
    }
    if options.baseline {
        let bare = heartbeat::bare(&options.common, 50, 1_000, target).await?;
        report = heartbeat::compared(report.field("echo_cpu_s_per_100k", bare), spent, bare, known);
    }
    Ok(report)
}

/// The nearest ones on both sides of the ring.
fn friends(options: &Options, n: usize) -> impl Iterator<Item = usize> + use<> {
    let (all, half) = (options.players as usize, (options.degree as usize / 2).min((options.players as usize - 1) / 2));
    (1..=half).flat_map(move |step| [(n + step) % all, (n + all - step) % all])
}

async fn befriend(options: &Options, target: &Target, guests: &[Guest]) -> anyhow::Result<()> {
    say!("making friends …");
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let pairs = (0..guests.len()).flat_map(|n| friends(options, n).step_by(2).map(move |friend| (n, friend)));
    let mut making = stream::iter(pairs)
        .map(|(n, friend)| {
            let (http, gateway) = (&http, &target.gateways[n % target.gateways.len()]);
            async move {
                let (asks, asked) = (&guests[n], &guests[friend]);
                let request =
                    http.post(format!("{gateway}/api/v1/friends")).json(&json!({"friend_id": asked.player_id}));
                well(request, asks).await?;
                let request = http
                    .put(format!("{gateway}/api/v1/friends/{}", asks.player_id))
                    .json(&json!({"status": "accepted"}));
                well(request, asked).await
            }
        })
        .buffer_unordered(CONCURRENCY);
    while let Some(made) = making.next().await {
        made?;
    }
    Ok(())
}

/// A service that is busy says so; making friends is repeatable.
async fn well(request: reqwest::RequestBuilder, by: &Guest) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let once = request.try_clone().context("the request cannot be repeated")?;
        let response = once.bearer_auth(&by.access_token).send().await.context("a gateway cannot be reached")?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let busy = status.as_u16() == 503 && began.elapsed() < DEADLINE;
        ensure!(busy, "friends cannot be made, {status}: {}", response.text().await.unwrap_or_default());
        sleep(AGAIN).await;
    }
}

async fn enter(gateway: &str, guest: &Guest, watches: bool) -> anyhow::Result<Socket> {
    let mut socket = open(&ws(gateway)).await?;
    let capabilities: &[&str] = if watches { &["presence"] } else { &[] };
    call(&mut socket, "session.connect", json!({"token": guest.access_token, "capabilities": capabilities})).await?;
    Ok(socket)
}

/// Lets one after the other come, and in the next turn go; each when it is due, however long those before it take. What came of it.
async fn churn(
    options: &Options,
    target: &Target,
    world: &Arc<World>,
    guests: &[Guest],
    friends_of: &[Vec<usize>],
    (start, end): (Instant, Instant),
) -> anyhow::Result<Churned> {
    let watchers = |one: usize| friends_of.iter().filter(|friends| friends.contains(&one)).count();
    let gap = Duration::from_secs(1) / options.churn;
    let places: Vec<Place> = world.changes.iter().map(|_| Arc::default()).collect();
    let (mut changing, mut before, mut expected, mut due) = (JoinSet::new(), None, 0_usize, start);
    say!("{} players come and go, {} watch …", places.len(), friends_of.len());
    for n in (0..places.len()).cycle() {
        if due >= end {
            break;
        }
        sleep_until(due.into()).await;
        if before.is_none() && due >= world.measure_from {
            before = Some(target.spent());
        }
        let online = world.changed(n, due);
        expected += watchers(n);
        let (place, gateway) = (Arc::clone(&places[n]), target.gateways[(n + 1) % target.gateways.len()].clone());
        let guest = guests[2 * n].clone();
        changing.spawn(async move {
            let mut place = place.lock().await;
            if online {
                *place = Some(enter(&gateway, &guest, false).await?);
            } else if let Some(mut socket) = place.take() {
                let _ = tokio::time::timeout(DEADLINE, socket.close(None)).await;
            }
            anyhow::Ok(())
        });
        due += gap;
    }
    while let Some(done) = changing.join_next().await {
        done??;
    }
    Ok(Churned { before, expected: u64::try_from(expected)?, _places: places })
}

impl World {
    fn lock(&self, one: usize) -> std::sync::MutexGuard<'_, Vec<Change>> {
        self.changes[one].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the next change down, and says which it is.
    fn changed(&self, one: usize, due: Instant) -> bool {
        let mut changes = self.lock(one);
        let online = changes.len().is_multiple_of(2);
        changes.push(Change { due, online });
        online
    }

    /// Whether somebody who heard that last knows what is so.
    fn knows(&self, one: usize, heard: Option<&usize>) -> bool {
        let changes = self.lock(one);
        let online = |at: usize| changes.get(at).is_some_and(|change| change.online);
        let now = changes.last().is_some_and(|change| change.online);
        heard.map_or(!now, |at| online(*at) == now)
    }
}

/// Listens until everybody leaves.
async fn watch_friends(mut socket: Socket, world: &World, mut stay: watch::Receiver<()>) -> anyhow::Result<Watched> {
    let mut watched = Watched { came: histogram(), left: histogram(), last: HashMap::new() };
    loop {
        let message = tokio::select! {
            message = socket.next() => message.context("the gateway closed a socket")??,
            _ = stay.changed() => return Ok(watched),
        };
        let Message::Text(text) = message else { continue };
        if text.contains("presence.changed") {
            let frame: Value = serde_json::from_str(&text)?;
            watched.hear(world, &frame["payload"]);
        }
    }
}

impl Watched {
    fn hear(&mut self, world: &World, payload: &Value) {
        let Some(one) = payload["player_id"].as_str().and_then(|id| world.restless.get(id)) else { return };
        let online = payload["status"] != "offline";
        let next = self.last.get(one).map_or(0, |at| at + 1);
        let found = {
            let changes = world.lock(*one);
            changes
                .iter()
                .enumerate()
                .skip(next)
                .find(|(_, change)| change.online == online)
                .map(|(at, change)| (at, *change))
        };
        // The same told twice is no change.
        let Some((at, change)) = found else { return };
        self.last.insert(*one, at);
        world.heard.fetch_add(1, Ordering::Relaxed);
        if change.due >= world.measure_from {
            record(if online { &mut self.came } else { &mut self.left }, change.due.elapsed());
        }
    }
}
