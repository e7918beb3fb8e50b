//! Messages into channels: acknowledged when stored, delivered to every member on whichever gateway.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::{CHANNELS, Target, Wanted},
    flood::Flood,
    one_row,
    player::{DEADLINE, Socket, call, connect_many},
    report::{Report, cpu_of, histogram, per, record},
};

/// How long the last deliveries may take.
const TAIL: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);

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

impl Options {
    /// # Errors
    /// There is nothing to send to, or nothing to compare with.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        let paced = matches!(self.rate, Rate::PerSecond(_));
        anyhow::ensure!(!paced || self.members > 0, "somebody has to be a member: --members is 0");
        self.common.knows("--baseline writes its rows into the database", self.baseline)?;
        Ok(Wanted::default())
    }
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
    /// By its number, which is in its content, so that whoever receives it can tell its age.
    sent: Vec<Sent>,
    /// How many of them were answered, and with a refusal.
    answered: usize,
    refused: usize,
    /// The sender, who may be late, has sent the last one.
    complete: bool,
}

#[derive(Clone, Copy)]
struct Sent {
    due: Instant,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Acknowledged,
    Refused,
}

impl ChannelLog {
    fn answer(&mut self, number: usize, with: Answer) {
        if let Some(sent) = self.sent.get_mut(number).filter(|sent| sent.answer.is_none()) {
            sent.answer = Some(with);
            self.answered += 1;
            self.refused += usize::from(with == Answer::Refused);
        }
    }

    /// Messages that were acknowledged and that a member has not heard, by what they have.
    fn missing(&self, heard: &[bool]) -> u64 {
        let missed = |number: usize| !heard.get(number).copied().unwrap_or_default();
        let stored = self.sent.iter().enumerate().filter(|(_, sent)| sent.answer == Some(Answer::Acknowledged));
        stored.map(|(number, _)| u64::from(missed(number))).sum()
    }
}

/// What one member saw, or all of them.
struct Tally {
    /// Of the own channel, by the messages' numbers.
    heard: Vec<bool>,
    distinct: usize,
    delivered: u64,
    out_of_order: u64,
    ack: Histogram<u64>,
    delivery: Histogram<u64>,
    /// While the CPU was measured.
    acks_measured: u64,
    deliveries_measured: u64,
}

/// What became of all messages.
#[derive(Default)]
struct Fate {
    sent: u64,
    acknowledged: u64,
    refused: u64,
    /// Neither of both.
    unanswered: u64,
    /// Acknowledged, and not heard, by every member who has not heard it.
    missing: u64,
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let (report, ours) = match options.rate {
        Rate::PerSecond(rate) => paced(options, rate, target).await?,
        Rate::Max => flood(options, target).await?,
    };
    if !options.baseline {
        return Ok(report);
    }
    let url = target.database_url.as_deref().context("the ready file names no database")?;
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
    let report = report
        .field("one_row_per_second", per(1.0 / seconds, 1, rows))
        .field("one_row_postgresql_cpu_s_per_100k", per(cpu_of(&processes, "postgresql"), rows, 100_000))
        .field("ratio", per(ratio, 1, 1));
    Ok(match options.rate {
        // Of messages a second, not of what they cost.
        Rate::Max => report.rising("ratio"),
        Rate::PerSecond(_) => report,
    })
}

const MISSING: &str = "acknowledged messages did not reach every member";
const UNANSWERED: &str = "messages were neither acknowledged nor refused";
const OUT_OF_ORDER: &str = "messages came out of their order";

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
        .field("unanswered", flooded.unanswered)
        .field("delivered", flooded.delivered)
        .field("missing", flooded.missing)
        .field("out_of_order", flooded.out_of_order)
        .fails_if(flooded.missing > 0, MISSING)
        .fails_if(flooded.out_of_order > 0, OUT_OF_ORDER)
        .fails_if(flooded.unanswered > 0, UNANSWERED)
        .flooded();
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
    let mut players: JoinSet<anyhow::Result<(usize, Tally)>> = JoinSet::new();
    for (n, socket) in (0_u32..).zip(sockets) {
        let channel = n % options.channels;
        let at = usize::try_from(channel)?;
        // One sender a channel, the senders of neighbouring channels on different gateways.
        let first =
            (n < options.channels).then(|| start + gap.mul_f64(f64::from(channel) / f64::from(options.channels)));
        let script = Script { channel, first, gap, measure_from, end, log: Arc::clone(&logs[at]) };
        players.spawn(async move { Ok((at, script.play(socket).await?)) });
    }
    sleep_until(measure_from.into()).await;
    let before = target.spent();
    say!("measuring for {:?} …", options.common.measured());
    sleep_until(end.into()).await;
    let processes = target.since(&before);
    let (mut sum, mut members) = (Tally::default(), Vec::with_capacity(total));
    while let Some(done) = players.join_next().await {
        let (channel, mut tally) = done??;
        sum.add(&tally)?;
        members.push((channel, std::mem::take(&mut tally.heard)));
    }
    let fate = Fate::of(&logs, &members);
    let postgresql = cpu_of(&processes, "postgresql");
    let messages = sum.acks_measured;
    let report = sum.report(options, &fate, processes);
    Ok((report, Ours { messages, postgresql: postgresql / messages.max(1) as f64 }))
}

impl Fate {
    /// When everybody has gone, so that nothing is answered any more.
    fn of(logs: &[Arc<Mutex<ChannelLog>>], members: &[(usize, Vec<bool>)]) -> Self {
        let mut fate = Self::default();
        for (at, log) in logs.iter().enumerate() {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            fate.sent += log.sent.len() as u64;
            fate.acknowledged += (log.answered - log.refused) as u64;
            fate.refused += log.refused as u64;
            fate.unanswered += (log.sent.len() - log.answered) as u64;
            let here = members.iter().filter(|(channel, _)| *channel == at);
            fate.missing += here.map(|(_, heard)| log.missing(heard)).sum::<u64>();
        }
        fate
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            heard: Vec::new(),
            distinct: 0,
            delivered: 0,
            out_of_order: 0,
            ack: histogram(),
            delivery: histogram(),
            acks_measured: 0,
            deliveries_measured: 0,
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.delivered += other.delivered;
        self.out_of_order += other.out_of_order;
        self.ack.add(&other.ack)?;
        self.delivery.add(&other.delivery)?;
        self.acks_measured += other.acks_measured;
        self.deliveries_measured += other.deliveries_measured;
        Ok(())
    }

    fn report(&self, options: &Options, fate: &Fate, processes: Vec<Value>) -> Report {
        let report = Report::new("chat")
            .field("channels", options.channels)
            .field("members", options.members)
            .field("sent", fate.sent)
            .field("acknowledged", fate.acknowledged)
            .field("refused", fate.refused)
            .field("unanswered", fate.unanswered)
            .field("delivered", self.delivered)
            .field("missing", fate.missing)
            .field("out_of_order", self.out_of_order)
            .latency("ack_ms", &self.ack)
            .latency("delivery_ms", &self.delivery)
            .fails_if(fate.missing > 0, MISSING)
            .fails_if(self.out_of_order > 0, OUT_OF_ORDER)
            .fails_if(fate.unanswered > 0, UNANSWERED);
        if processes.is_empty() {
            return report;
        }
        let spent = |of| per(cpu_of(&processes, of), self.deliveries_measured, 100_000);
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
        let (mut next, mut last_seq) = (self.first, 0_i64);
        let over = self.end + TAIL;
        let mut ended = false;
        // A rate so low that nothing is due.
        if self.first.is_some_and(|first| first >= self.end) {
            self.lock().complete = true;
        }
        loop {
            let at = next.filter(|at| *at < self.end);
            tokio::select! {
                () = sleep_until(at.unwrap_or(over).into()) => {
                    let Some(at) = at else { break };
                    let frame = self.send(at);
                    timeout(DEADLINE, sink.send(Message::text(frame))).await.context("a gateway takes no message")??;
                    next = Some(at + self.gap);
                    self.lock().complete = at + self.gap >= self.end;
                }
                frame = frames.next() => {
                    let Message::Text(text) = frame.context("the gateway closed a socket")?? else { continue };
                    let frame: Value = serde_json::from_str(&text)?;
                    self.count(&frame, &mut tally, &mut last_seq);
                }
                () = sleep_until(self.end.into()), if !ended && at.is_none() => ended = true,
                // What others are answered may be all that is still waited for.
                () = sleep(LOOK), if ended => {}
            }
            if ended && self.all_heard(&tally) {
                break;
            }
        }
        let _ = timeout(DEADLINE, sink.close()).await;
        Ok(tally)
    }

    /// The next message, which is due then.
    fn send(&self, due: Instant) -> String {
        let channel = self.channel;
        let number = {
            let mut log = self.lock();
            log.sent.push(Sent { due, answer: None });
            log.sent.len() - 1
        };
        json!({"type": "chat.send", "cid": number, "payload": {"channel_id": format!("global:c{channel}"), "content": format!("{channel}-{number}")}})
            .to_string()
    }

    /// Whether everything that was stored in this channel has come, and its sender knows of each message what became of it.
    fn all_heard(&self, tally: &Tally) -> bool {
        let log = self.lock();
        let answered = self.first.is_none() || log.answered == log.sent.len();
        // The numbers first: to look at each message after every frame would take the time of those who are measured.
        log.complete && answered && tally.distinct + log.refused >= log.sent.len() && log.missing(&tally.heard) == 0
    }

    fn count(&self, frame: &Value, tally: &mut Tally, last_seq: &mut i64) {
        let (payload, now) = (&frame["payload"], Instant::now());
        let measured = (self.measure_from..self.end).contains(&now);
        let message = frame["type"] == "chat.message";
        let number = if message {
            payload["content"].as_str().and_then(|content| content.rsplit_once('-')?.1.parse().ok())
        } else {
            frame["cid"].as_u64().and_then(|cid| usize::try_from(cid).ok())
        };
        let mut log = self.lock();
        let Some((number, sent)) = number.and_then(|number| Some((number, *log.sent.get(number)?))) else { return };
        let counts = sent.due >= self.measure_from;
        if message {
            let seq = payload["seq"].as_i64().unwrap_or_default();
            tally.delivered += 1;
            tally.deliveries_measured += u64::from(measured);
            tally.out_of_order += u64::from(seq <= *last_seq);
            *last_seq = seq;
            if tally.heard.len() <= number {
                tally.heard.resize(number + 1, false);
            }
            tally.distinct += usize::from(!tally.heard[number]);
            tally.heard[number] = true;
            if counts {
                record(&mut tally.delivery, now - sent.due);
            }
        } else if frame["type"] == "chat.sent" {
            log.answer(number, Answer::Acknowledged);
            tally.acks_measured += u64::from(measured);
            if counts {
                record(&mut tally.ack, now - sent.due);
            }
        } else if frame["type"] == "error" {
            log.answer(number, Answer::Refused);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ChannelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_one_member_has_twice_does_not_stand_for_one_that_another_lacks() {
        let mut log = ChannelLog { sent: vec![Sent { due: Instant::now(), answer: None }; 4], ..ChannelLog::default() };
        for (number, answer) in [(0, Answer::Acknowledged), (1, Answer::Refused), (2, Answer::Acknowledged)] {
            log.answer(number, answer);
        }
        let members = [(0, vec![true, true, true]), (0, vec![true]), (0, vec![false, false, false, true])];
        let fate = Fate::of(&[Arc::new(Mutex::new(log))], &members);
        assert_eq!((fate.sent, fate.acknowledged, fate.refused, fate.unanswered), (4, 2, 1, 1));
        assert_eq!(fate.missing, 3, "one of the second member, two of the third");
    }
}
