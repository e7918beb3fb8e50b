//! Everybody of one gateway at once: it is killed, and its players come back to the others, into their channels and matches.

mod session;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use hdrhistogram::Histogram;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch as flag},
    task::JoinSet,
    time::{sleep, timeout_at},
};
use tokio_tungstenite::tungstenite::Message;

pub use self::session::Refused;
use self::{
    session::{Came, In, Scene, Session},
    watch::Watched,
};
use super::{
    Common,
    cluster::{CHANNELS, Host, Target, Wanted},
    player::{DEADLINE, Guest, call, descriptors, open, sign_in_many, ws},
    report::{Report, histogram, record},
};

/// Connects under way at once before the storm.
const CONCURRENCY: usize = 64;
/// How long everybody may take to come back.
const PATIENCE: Duration = Duration::from_secs(90);
/// After the last one is back: what is still on its way to them arrives.
const TAIL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Sessions on the gateway that is killed; each takes a file descriptor here and two more while it comes back
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    sessions: u32,
    /// How many of them are in a match, fifty in each
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    in_matches: u32,
    /// Channels, `global:c0` and so on; each session is in one
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(CHANNELS)))]
    channels: u32,
    /// Messages a second into these channels, all the while
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    messages: u32,
    /// Gateways of a cluster of the bench's own, the one that dies among them
    #[arg(long, default_value_t = 3, conflicts_with_all = ["url", "ready_file"], value_parser = clap::value_parser!(u16).range(2..=20))]
    gateways: u16,
    /// The bench fails if not everybody is back within this time
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=90))]
    within: u64,
}

impl Options {
    /// # Errors
    /// Nobody knows what to kill.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        self.common.knows("a gateway's process is killed", true)?;
        let games = [
            ("config.lua", format!(r#"return {{ {} = "storm.lua" }}"#, session::MODE)),
            ("storm.lua", include_str!("storm.lua").to_owned()),
        ];
        Ok(Wanted {
            gateways: self.gateways,
            games: games.map(|(name, script)| (name.to_owned(), script)).into(),
            sets: vec!["limits.joins_per_minute=0".to_owned()],
            ..Wanted::default()
        })
    }
}

/// # Errors
/// The cluster's processes are not known, or it does not let its players in.
pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let (victim, survivors) = parted(target)?;
    let count = usize::try_from(options.sessions)?;
    // The socket that has ended is held until the next one is there.
    descriptors(2 * count)?;
    let guests = sign_in_many(target, count + 1 + survivors.len()).await?;
    let (mine, others) = guests.split_at(count);
    let (stop, over) = flag::channel(false);
    let (back, mut returned) = mpsc::unbounded_channel();
    let addresses: Vec<String> = survivors.iter().map(|(address, _)| address.clone()).collect();
    let scene = Arc::new(Scene::new(addresses, over.clone(), back));
    let inside = enter(options, &victim.0, mine).await?;
    let talking = tokio::spawn(talk(scene.survivors[0].clone(), others[0].clone(), options.clone(), over.clone()));
    let watching = tokio::spawn(watch::watch(survivors, others[1..].to_vec(), over));
    let mut living = JoinSet::new();
    for one in inside {
        living.spawn(one.live(Arc::clone(&scene)));
    }
    sleep(options.common.warming()).await;

    say!("killing {} …", victim.1.node_id);
    let before = target.spent();
    let _ = scene.struck.set(Instant::now());
    kill(Pid::from_raw(i32::try_from(victim.1.pid)?), Signal::SIGKILL).context("the gateway cannot be killed")?;
    let until = tokio::time::Instant::now() + PATIENCE;
    for n in 1..=count {
        if timeout_at(until, returned.recv()).await.is_err() {
            break;
        }
        if n.is_multiple_of(count.div_ceil(10)) {
            say!("  {n} of {count} are back");
        }
    }
    let processes = target.since(&before);
    sleep(TAIL).await;
    let _ = stop.send(true);
    let came = living.join_all().await;
    let watched = watching.await??;
    let (sent, refused) = talking.await??;
    let report = report(options, &scene, &came, &watched, processes);
    Ok(report.field("messages_sent", sent).field("messages_refused", refused))
}

/// The gateway that is killed, and the others.
type Gateway = (String, Host);

fn parted(target: &Target) -> anyhow::Result<(Gateway, Vec<Gateway>)> {
    let mut known = target.gateways.iter().cloned().zip(target.gateway_processes.iter().cloned());
    let victim = known.next().context("the ready file names no gateway's process")?;
    let survivors: Vec<Gateway> = known.collect();
    ensure!(!survivors.is_empty(), "there is no other gateway to come back to: asobi dev --gateways 3");
    Ok((victim, survivors))
}

/// Everybody comes to the gateway that will die.
async fn enter(options: &Options, gateway: &str, guests: &[Guest]) -> anyhow::Result<Vec<In>> {
    say!("connecting {} players to one gateway …", guests.len());
    let mut entering = stream::iter(guests.iter().cloned().enumerate())
        .map(|(n, guest)| {
            let channel = format!("global:c{}", n % options.channels as usize);
            Session { n, guest, channel, plays: n < options.in_matches as usize }.enter(gateway)
        })
        .buffer_unordered(CONCURRENCY);
    let mut inside = Vec::with_capacity(guests.len());
    while let Some(one) = entering.next().await {
        inside.push(one.context("before the storm")?);
    }
    Ok(inside)
}

/// Says something into one channel after the other; how often it was acknowledged, and refused.
async fn talk(
    gateway: String,
    guest: Guest,
    options: Options,
    mut over: flag::Receiver<bool>,
) -> anyhow::Result<(u64, u64)> {
    let mut socket = open(&ws(&gateway)).await?;
    call(&mut socket, "session.connect", json!({"token": guest.access_token})).await?;
    if options.messages == 0 {
        return Ok((0, 0));
    }
    let gap = Duration::from_secs(1) / options.messages;
    let (mut acknowledged, mut refused) = (0, 0);
    for n in 0_u64.. {
        if tokio::time::timeout(gap, over.wait_for(|over| *over)).await.is_ok() {
            break;
        }
        let channel = format!("global:c{}", n % u64::from(options.channels));
        let payload = json!({"channel_id": channel, "content": format!("message {n}")});
        let frame = json!({"type": "chat.send", "cid": n, "payload": payload}).to_string();
        let answering = async {
            socket.send(Message::text(frame)).await?;
            loop {
                let message = socket.next().await.context("the gateway of who talks closed its socket")??;
                let Message::Text(text) = message else { continue };
                // A gateway that is busy with those who come may refuse; who talks goes on.
                if text.contains(r#""type":"chat.sent""#) || text.contains(r#""type":"error""#) {
                    return anyhow::Ok(text.contains("chat.sent"));
                }
            }
        };
        let well = tokio::time::timeout(DEADLINE, answering).await.context("a message was not answered")??;
        acknowledged += u64::from(well);
        refused += u64::from(!well);
    }
    Ok((acknowledged, refused))
}

/// Until so many of all were there.
fn shares(times: &Histogram<u64>, all: usize) -> Value {
    let at = |share: f64| {
        #[expect(clippy::cast_precision_loss, reason = "numbers of sessions")]
        let missing = (times.len() as f64) < share * all as f64;
        #[expect(clippy::cast_precision_loss, reason = "microseconds of some seconds")]
        let seconds = times.value_at_quantile(share) as f64 / 1e6;
        (!missing).then_some((seconds * 1e3).round() / 1e3)
    };
    json!({"50%": at(0.5), "90%": at(0.9), "99%": at(0.99), "100%": at(1.0)})
}

fn report(options: &Options, scene: &Scene, came: &[Came], watched: &Watched, processes: Vec<Value>) -> Report {
    let (mut connected, mut back) = (histogram(), histogram());
    for one in came {
        one.connected.into_iter().for_each(|at| record(&mut connected, at));
        one.back.into_iter().for_each(|at| record(&mut back, at));
    }
    let late = came.iter().any(|one| one.back.is_none_or(|back| back > Duration::from_secs(options.within)));
    let wrong: u64 = came.iter().map(|one| one.wrong).sum();
    let behind: u64 = came.iter().map(|one| one.behind).sum();
    let lost = came.iter().filter(|one| one.lost_again).count();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of some seconds")]
    let last = back.max() as f64 / 1e6 / options.within as f64;
    Report::new("storm")
        .field("sessions", options.sessions)
        .field("in_matches", options.in_matches.min(options.sessions))
        .field("connected_s", shares(&connected, came.len()))
        .field("back_s", shares(&back, came.len()))
        .field("answers", scene.answers())
        .field("bystanders", watched.bystanders())
        .field("pools", watched.pools())
        .field("messages_heard", came.iter().map(|one| one.heard).sum::<u64>())
        .field("messages_wrong", wrong)
        .field("messages_missing", behind)
        .field("lost_again", lost)
        .field("processes", processes)
        .field("ratio", (last * 1e3).round() / 1e3)
        .fails_if(late, "not everybody was back in time")
        .fails_if(wrong + behind > 0, "messages were missed or came twice")
        .fails_if(lost > 0, "somebody was back and lost their connection again")
        .fails_if(watched.failed(), "others were not served meanwhile, or a pool was exhausted")
}
