//! As many messages as the cluster acknowledges: every sender has so many under way, and sends the next when one is answered.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    cluster::Target,
    player::{DEADLINE, Socket, call, connect_many},
    report::{histogram, record},
};

/// Connections that send; channels are spread over them.
const SENDERS: u32 = 100;
/// How long the last answers, and then the last deliveries, may take.
const TAIL: Duration = Duration::from_secs(15);

pub struct Flood {
    pub channels: u32,
    pub members: u32,
    /// Messages of one sender that wait for their answer.
    pub window: u32,
    pub warming: Duration,
    pub measured: Duration,
}

#[derive(Default)]
pub struct Flooded {
    /// These three while it was measured.
    pub acknowledged: u64,
    pub refused: u64,
    pub delivered: u64,
    /// Of all that was sent.
    pub unanswered: u64,
    /// Of all that was acknowledged, for each member who did not hear it.
    pub missing: u64,
    pub out_of_order: u64,
    pub ack: Option<Histogram<u64>>,
    pub processes: Vec<serde_json::Value>,
}

/// What all players share.
#[derive(Clone)]
struct Scene {
    /// The number of the last message that was acknowledged, of each channel.
    stored: Arc<[AtomicI64]>,
    measure_from: Instant,
    end: Instant,
    /// True when the senders have all their answers.
    over: watch::Receiver<bool>,
}

impl Flood {
    /// # Errors
    /// When the cluster cannot be reached or closes a socket.
    pub async fn run(&self, target: &Target) -> anyhow::Result<Flooded> {
        let senders = SENDERS.min(self.channels);
        let listeners = self.members * self.channels;
        let mut sockets = connect_many(target, usize::try_from(senders + listeners)?).await?;
        let mut listening = sockets.split_off(usize::try_from(senders)?);
        let mut places = Vec::with_capacity(listening.len());
        for (n, socket) in (0_u32..).zip(&mut listening) {
            let channel = n % self.channels;
            let joined = call(socket, "chat.join", json!({"channel_id": format!("global:c{channel}")})).await?;
            places.push((channel, joined["last_seq"].as_i64().unwrap_or(0)));
        }
        let measure_from = Instant::now() + Duration::from_millis(200) + self.warming;
        let end = measure_from + self.measured;
        let (tell, over) = watch::channel(false);
        let scene = Scene { stored: (0..self.channels).map(|_| AtomicI64::new(0)).collect(), measure_from, end, over };
        let (mut sending, mut hearing) = (JoinSet::new(), JoinSet::new());
        for (socket, (channel, joined)) in listening.into_iter().zip(places) {
            hearing.spawn(listen(socket, usize::try_from(channel)?, joined, scene.clone()));
        }
        for (n, socket) in (0_u32..).zip(sockets) {
            let channels = (n..self.channels).step_by(usize::try_from(senders)?).collect();
            sending.spawn(send(socket, channels, self.window, scene.clone()));
        }
        sleep_until(measure_from.into()).await;
        let before = target.spent();
        say!("measuring for {:?} …", self.measured);
        sleep_until(end.into()).await;
        let mut sum = Flooded { processes: target.since(&before), ..Flooded::default() };
        let mut ack = histogram();
        while let Some(done) = sending.join_next().await {
            let part = done??;
            sum.acknowledged += part.acknowledged;
            sum.refused += part.refused;
            sum.unanswered += part.unanswered;
            if let Some(latencies) = part.ack {
                ack.add(latencies)?;
            }
        }
        sum.ack = Some(ack);
        let _ = tell.send(true);
        while let Some(done) = hearing.join_next().await {
            let part = done??;
            sum.delivered += part.delivered;
            sum.missing += part.missing;
            sum.out_of_order += part.out_of_order;
        }
        Ok(sum)
    }
}

/// As little of a frame as is needed: the client shares the machine with what it measures.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    cid: Option<u64>,
    #[serde(default)]
    payload: Option<Payload>,
}

impl Frame<'_> {
    fn seq(&self) -> i64 {
        self.payload.as_ref().map_or(0, |payload| payload.seq)
    }
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    seq: i64,
}

/// Messages of one sender that wait for their answer, with their channels.
type UnderWay = HashMap<u64, (u32, Instant)>;

async fn send(socket: Socket, channels: Vec<u32>, window: u32, scene: Scene) -> anyhow::Result<Flooded> {
    let (mut sink, mut frames) = socket.split();
    let mut result = Flooded { ack: Some(histogram()), ..Flooded::default() };
    let mut under_way = UnderWay::new();
    let mut number = 0_u64;
    loop {
        let sends = Instant::now() < scene.end;
        while sends && under_way.len() < window as usize {
            let channel = channels[usize::try_from(number)? % channels.len()];
            let frame = format!(
                r#"{{"type":"chat.send","cid":{number},"payload":{{"channel_id":"global:c{channel}","content":"message {number}"}}}}"#
            );
            timeout(DEADLINE, sink.feed(Message::text(frame))).await.context("a gateway takes no message")??;
            under_way.insert(number, (channel, Instant::now()));
            number += 1;
        }
        timeout(DEADLINE, sink.flush()).await.context("a gateway takes no message")??;
        if !sends && under_way.is_empty() {
            break;
        }
        let until = if sends { scene.end } else { scene.end + TAIL };
        // All that has come is taken before anything is sent: as a client does that is busy.
        let first = tokio::select! {
            first = frames.next() => first,
            () = sleep_until(until.into()) => if sends { continue } else { break },
        };
        let mut next = Some(first.context("the gateway closed a socket")??);
        while let Some(message) = next.take() {
            if let Message::Text(text) = message {
                result.answered(&serde_json::from_str(&text)?, &mut under_way, &scene);
            }
            next = futures_util::FutureExt::now_or_never(frames.next()).flatten().transpose()?;
        }
    }
    result.unanswered = u64::try_from(under_way.len())?;
    let _ = timeout(DEADLINE, sink.close()).await;
    Ok(result)
}

impl Flooded {
    fn answered(&mut self, frame: &Frame<'_>, under_way: &mut UnderWay, scene: &Scene) {
        let Some((channel, sent)) = frame.cid.and_then(|cid| under_way.remove(&cid)) else { return };
        let (well, counts) = (frame.kind == "chat.sent", (scene.measure_from..scene.end).contains(&Instant::now()));
        if well {
            scene.stored[channel as usize].fetch_max(frame.seq(), Ordering::Relaxed);
        }
        if !counts {
            return;
        }
        self.refused += u64::from(!well);
        self.acknowledged += u64::from(well);
        if let Some(ack) = self.ack.as_mut().filter(|_| well) {
            record(ack, sent.elapsed());
        }
    }
}

/// What a member has heard of its channel, whose numbers have no gaps.
struct Heard {
    last: i64,
    missing: u64,
    out_of_order: u64,
}

impl Heard {
    fn hear(&mut self, seq: i64) {
        if seq <= self.last {
            self.out_of_order += 1;
        } else {
            self.missing += (seq - self.last - 1).unsigned_abs();
            self.last = seq;
        }
    }
}

/// Until all that was acknowledged has come.
async fn listen(mut socket: Socket, channel: usize, joined: i64, mut scene: Scene) -> anyhow::Result<Flooded> {
    let mut heard = Heard { last: joined, missing: 0, out_of_order: 0 };
    let (mut delivered, mut until, mut over) = (0, scene.end + 2 * TAIL, false);
    let stored = loop {
        let stored = scene.stored[channel].load(Ordering::Relaxed);
        if over && heard.last >= stored {
            break stored;
        }
        let message = tokio::select! {
            message = socket.next() => message.context("the gateway closed a socket")??,
            _ = scene.over.wait_for(|over| *over), if !over => {
                (over, until) = (true, Instant::now() + TAIL);
                continue;
            }
            () = sleep_until(until.into()) => break stored,
        };
        let Message::Text(text) = message else { continue };
        let frame: Frame<'_> = serde_json::from_str(&text)?;
        if frame.kind == "chat.message" {
            heard.hear(frame.seq());
            delivered += u64::from((scene.measure_from..scene.end).contains(&Instant::now()));
        }
    };
    let missing = heard.missing + u64::try_from(stored - heard.last).unwrap_or(0);
    Ok(Flooded { delivered, missing, out_of_order: heard.out_of_order, ..Flooded::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_missing_and_what_comes_behind_it_is_out_of_order() {
        let mut heard = Heard { last: 4, missing: 0, out_of_order: 0 };
        [5, 8, 7, 8, 9].into_iter().for_each(|seq| heard.hear(seq));
        assert_eq!((heard.last, heard.missing, heard.out_of_order), (9, 2, 2));
    }
}
