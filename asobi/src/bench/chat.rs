//! Messages into channels: acknowledged when stored, delivered to every member on whichever gateway.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::{CHANNELS, Target},
    flood::Flood,
    one_row,
    player::{Socket, call, connect_many},
    report::{Report, cpu_of, histogram, per, record},
};

/// How long the last deliveries may take.
const TAIL: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Channels, `global:c0` and so on; a cluster that is given must declare them (asobi dev does up to c99)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(CHANNELS)))]
    channels: u32,
    /// Members of each channel; the first of them sends. With --rate max senders are apart, and 0 is possible
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    members: u32,
    /// Messages a second, over all channels; `max`: as many as are acknowledged
    #[arg(long, default_value = "1000", value_parser = rate)]
    rate: Rate,
    /// With --rate max: messages of each of the 100 senders that wait for their acknowledgement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    window: u32,
    /// Also measure the bare way to store and notify, one row a transaction, in the same database. The ratio is of messages a
    /// second with --rate max, else of PostgreSQL's CPU for a message (ours to the bare one's)
    #[arg(long)]
    baseline: bool,
}

#[derive(Debug, Clone, Copy)]
enum Rate {
    PerSecond(u32),
    Max,
}

fn rate(text: &str) -> Result<Rate, String> {
    match text.parse() {
        Ok(n @ 1..=100_000) => Ok(Rate::PerSecond(n)),
        _ if text == "max" => Ok(Rate::Max),
        _ => Err("expected 1 to 100000, or max".into()),
    }
}

/// What was sent into one channel, shared by its members.
#[derive(Default)]
struct ChannelLog {
    /// When each message was due, by its content, so that whoever receives it can tell its age.
    due: HashMap<String, Instant>,
    refused: usize,
    /// The sender, who may be late, has sent the last one.
    complete: bool,
}

struct Tally {
    acknowledged: u64,
    refused: u64,
    delivered: u64,
    out_of_order: u64,
    ack: Histogram<u64>,
    delivery: Histogram<u64>,
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let (report, ours) = match options.rate {
        Rate::PerSecond(rate) => {
            anyhow::ensure!(options.members > 0, "somebody has to be a member: --members is 0");
            paced(options, rate, target).await?
        }
        Rate::Max => flood(options, target).await?,
    };
    if !options.baseline {
        return Ok(report);
    }
    let url =
        target.database_url.as_deref().context("the database is only known with --ready-file, or without --url")?;
    say!("the same, one row a transaction …");
    let before = target.spent();
    let rows = one_row::run(url, options.common.measured()).await?;
    let processes = target.since(&before);
    let seconds = options.common.measured().as_secs_f64();
    let bare = cpu_of(&processes, "postgresql") / rows.max(1) as f64;
    let ratio = match options.rate {
        Rate::Max => ours.messages as f64 / rows.max(1) as f64,
        Rate::PerSecond(_) => ours.postgresql / bare,
    };
    Ok(report
        .field("one_row_per_second", per(1.0 / seconds, 1, rows))
        .field("one_row_postgresql_cpu_s_per_100k", per(cpu_of(&processes, "postgresql"), rows, 100_000))
        .field("ratio", per(ratio, 1, 1)))
}

/// What is compared.
struct Ours {
    messages: u64,
    /// CPU seconds of PostgreSQL for one message.
    postgresql: f64,
}

async fn flood(options: &Options, target: &Target) -> anyhow::Result<(Report, Ours)> {
    let flood = Flood {
        channels: options.channels,
        members: options.members,
        window: options.window,
        warming: options.common.warming(),
        measured: options.common.measured(),
    };
    let flooded = flood.run(target).await?;
    let acknowledged = flooded.acknowledged;
    let postgresql = cpu_of(&flooded.processes, "postgresql");
    let mut report = Report::new("chat")
        .field("channels", options.channels)
        .field("members", options.members)
        .field("acknowledged", acknowledged)
        .field("per_second", per(1.0 / options.common.measured().as_secs_f64(), 1, acknowledged))
        .field("refused", flooded.refused)
        .field("delivered", flooded.delivered);
    if let Some(ack) = &flooded.ack {
        report = report.latency("ack_ms", ack);
    }
    if !flooded.processes.is_empty() {
        report = report
            .field("gateway_cpu_s_per_100k_messages", per(cpu_of(&flooded.processes, "gateway"), acknowledged, 100_000))
            .field("postgresql_cpu_s_per_100k_messages", per(postgresql, acknowledged, 100_000))
            .field("processes", flooded.processes);
    }
    Ok((report, Ours { messages: acknowledged, postgresql: postgresql / acknowledged.max(1) as f64 }))
}

async fn paced(options: &Options, rate: u32, target: &Target) -> anyhow::Result<(Report, Ours)> {
    let total = usize::try_from(options.channels * options.members)?;
    let mut sockets = connect_many(target, total).await?;
    for (n, socket) in sockets.iter_mut().enumerate() {
        let channel = format!("global:c{}", n % usize::try_from(options.channels)?);
        call(socket, "chat.join", json!({"channel_id": channel})).await?;
    }
    let gap = Duration::from_secs_f64(f64::from(options.channels) / f64::from(rate));
    let start = Instant::now() + Duration::from_millis(200);
    let measure_from = start + options.common.warming();
    let end = measure_from + options.common.measured();
    let logs: Vec<Arc<Mutex<ChannelLog>>> = (0..options.channels).map(|_| Arc::default()).collect();
    let mut players = JoinSet::new();
    for (n, socket) in (0_u32..).zip(sockets) {
        let channel = n % options.channels;
        // One sender a channel, the senders of neighbouring channels on different gateways.
        let first =
            (n < options.channels).then(|| start + gap.mul_f64(f64::from(channel) / f64::from(options.channels)));
        let log = Arc::clone(&logs[usize::try_from(channel)?]);
        let script = Script { channel, first, gap, measure_from, end, log };
        players.spawn(script.play(socket));
    }
    sleep_until(measure_from.into()).await;
    let before = target.spent();
    say!("measuring for {:?} …", options.common.measured());
    sleep_until(end.into()).await;
    let processes = target.since(&before);
    let mut sum = Tally::default();
    while let Some(done) = players.join_next().await {
        sum.add(&done??)?;
    }
    let postgresql = cpu_of(&processes, "postgresql");
    let messages = sum.ack.len();
    let report = sum.report(options, processes);
    Ok((report, Ours { messages, postgresql: postgresql / messages.max(1) as f64 }))
}

impl Default for Tally {
    fn default() -> Self {
        Self { acknowledged: 0, refused: 0, delivered: 0, out_of_order: 0, ack: histogram(), delivery: histogram() }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.out_of_order += other.out_of_order;
        self.ack.add(&other.ack)?;
        self.delivery.add(&other.delivery)?;
        Ok(())
    }

    fn report(&self, options: &Options, processes: Vec<Value>) -> Report {
        let missing = (self.acknowledged * u64::from(options.members)).saturating_sub(self.delivered);
        let report = Report::new("chat")
            .field("channels", options.channels)
            .field("members", options.members)
            .field("acknowledged", self.acknowledged)
            .field("refused", self.refused)
            .field("delivered", self.delivered)
            .field("missing", missing)
            .field("out_of_order", self.out_of_order)
            .latency("ack_ms", &self.ack)
            .latency("delivery_ms", &self.delivery);
        if processes.is_empty() {
            return report;
        }
        let deliveries = self.delivery.len();
        let spent = |of| per(cpu_of(&processes, of), deliveries, 100_000);
        report
            .field("gateway_cpu_s_per_100k_deliveries", spent("gateway"))
            .field("postgresql_cpu_s_per_100k_deliveries", spent("postgresql"))
            .field("processes", processes)
    }
}

struct Script {
    channel: u32,
    /// When the first message is due, of a sender.
    first: Option<Instant>,
    gap: Duration,
    measure_from: Instant,
    end: Instant,
    log: Arc<Mutex<ChannelLog>>,
}

impl Script {
    async fn play(self, socket: Socket) -> anyhow::Result<Tally> {
        let (mut sink, mut frames) = socket.split();
        let mut tally = Tally::default();
        let channel_id = format!("global:c{}", self.channel);
        let (mut next, mut number, mut last_seq) = (self.first, 0_u64, 0_i64);
        let over = self.end + TAIL;
        let mut expected: Option<u64> = None;
        loop {
            let at = next.filter(|at| *at < self.end);
            tokio::select! {
                () = sleep_until(at.unwrap_or(over).into()) => {
                    let Some(at) = at else { break };
                    let content = format!("{}-{number}", self.channel);
                    number += 1;
                    self.lock().due.insert(content.clone(), at);
                    let frame = json!({"type": "chat.send", "cid": content, "payload": {"channel_id": channel_id, "content": content}});
                    sink.send(Message::text(frame.to_string())).await?;
                    next = Some(at + self.gap);
                    self.lock().complete = at + self.gap >= self.end;
                }
                frame = frames.next() => {
                    let Message::Text(text) = frame.context("the gateway closed a socket")?? else { continue };
                    let frame: Value = serde_json::from_str(&text)?;
                    self.count(&frame, &mut tally, &mut last_seq);
                }
                () = sleep_until(self.end.into()), if expected.is_none() && at.is_none() => expected = Some(0),
            }
            if expected.is_some() && self.all_heard(&tally) {
                break;
            }
        }
        let _ = sink.close().await;
        Ok(tally)
    }

    /// Whether everything that was stored in this channel has come.
    fn all_heard(&self, tally: &Tally) -> bool {
        let log = self.lock();
        log.complete && tally.delivered >= u64::try_from(log.due.len().saturating_sub(log.refused)).unwrap_or(u64::MAX)
    }

    fn count(&self, frame: &Value, tally: &mut Tally, last_seq: &mut i64) {
        let payload = &frame["payload"];
        let key = match frame["type"].as_str() {
            Some("chat.message") => payload["content"].as_str(),
            _ => frame["cid"].as_str(),
        };
        let due = key.and_then(|key| self.lock().due.get(key).copied());
        let measured = due.filter(|due| *due >= self.measure_from);
        match frame["type"].as_str() {
            Some("chat.sent") => {
                tally.acknowledged += 1;
                measured.inspect(|due| record(&mut tally.ack, due.elapsed()));
            }
            Some("chat.message") if due.is_some() => {
                tally.delivered += 1;
                let seq = payload["seq"].as_i64().unwrap_or_default();
                tally.out_of_order += u64::from(seq <= *last_seq);
                *last_seq = seq;
                measured.inspect(|due| record(&mut tally.delivery, due.elapsed()));
            }
            Some("error") => {
                tally.refused += 1;
                self.lock().refused += 1;
            }
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ChannelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
