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
    cluster::Target,
    player::{Socket, call, connect_many},
    report::{Report, histogram, per, record},
};

/// How long the last deliveries may take.
const TAIL: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Channels, `global:c0` … `global:c99`; a cluster that is given must declare them (asobi dev does)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    channels: u32,
    /// Members of each channel; the first of them sends
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    members: u32,
    /// Messages a second, over all channels
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

/// What was sent into one channel, shared by its members.
#[derive(Default)]
struct ChannelLog {
    /// When each message was due, by its content, so that whoever receives it can tell its age.
    due: HashMap<String, Instant>,
    refused: usize,
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
    let total = usize::try_from(options.channels * options.members)?;
    let mut sockets = connect_many(target, total).await?;
    for (n, socket) in sockets.iter_mut().enumerate() {
        let channel = format!("global:c{}", n % usize::try_from(options.channels)?);
        call(socket, "chat.join", json!({"channel_id": channel})).await?;
    }
    let gap = Duration::from_secs_f64(f64::from(options.channels) / f64::from(options.rate));
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
    eprintln!("measuring for {:?} …", options.common.measured());
    sleep_until(end.into()).await;
    let processes = target.since(&before);
    let mut sum =
        Tally { acknowledged: 0, refused: 0, delivered: 0, out_of_order: 0, ack: histogram(), delivery: histogram() };
    while let Some(done) = players.join_next().await {
        let tally = done??;
        sum.acknowledged += tally.acknowledged;
        sum.refused += tally.refused;
        sum.delivered += tally.delivered;
        sum.out_of_order += tally.out_of_order;
        sum.ack.add(tally.ack)?;
        sum.delivery.add(tally.delivery)?;
    }
    let missing = (sum.acknowledged * u64::from(options.members)).saturating_sub(sum.delivered);
    let mut report = Report::new("chat")
        .field("channels", options.channels)
        .field("members", options.members)
        .field("acknowledged", sum.acknowledged)
        .field("refused", sum.refused)
        .field("delivered", sum.delivered)
        .field("missing", missing)
        .field("out_of_order", sum.out_of_order)
        .latency("ack_ms", &sum.ack)
        .latency("delivery_ms", &sum.delivery);
    if !processes.is_empty() {
        let deliveries = sum.delivery.len();
        let cpu = |of: &str| {
            processes
                .iter()
                .filter(|p| p["node"].as_str().is_some_and(|n| n.starts_with(of)))
                .filter_map(|p| p["cpu_s"].as_f64())
                .sum::<f64>()
        };
        report = report
            .field("gateway_cpu_s_per_100k_deliveries", per(cpu("gateway"), deliveries, 100_000))
            .field("postgresql_cpu_s_per_100k_deliveries", per(cpu("postgresql"), deliveries, 100_000))
            .field("processes", processes);
    }
    Ok(report)
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
        let mut tally = Tally {
            acknowledged: 0,
            refused: 0,
            delivered: 0,
            out_of_order: 0,
            ack: histogram(),
            delivery: histogram(),
        };
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
        tally.delivered >= u64::try_from(log.due.len().saturating_sub(log.refused)).unwrap_or(u64::MAX)
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
