//! As many messages as the cluster acknowledges: every sender has so many under way, and sends the next when one is answered.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::{
    cluster::Target,
    player::{Socket, call, connect_many},
    report::{histogram, record},
};

/// Connections that send; channels are spread over them.
const SENDERS: u32 = 100;

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
    pub acknowledged: u64,
    pub refused: u64,
    pub delivered: u64,
    pub ack: Option<Histogram<u64>>,
    pub processes: Vec<serde_json::Value>,
}

impl Flood {
    /// # Errors
    /// When the cluster cannot be reached or closes a socket.
    pub async fn run(&self, target: &Target) -> anyhow::Result<Flooded> {
        let senders = SENDERS.min(self.channels);
        let listeners = self.members * self.channels;
        let mut sockets = connect_many(target, usize::try_from(senders + listeners)?).await?;
        let listening = sockets.split_off(usize::try_from(senders)?);
        let start = Instant::now() + Duration::from_millis(200);
        let measure_from = start + self.warming;
        let end = measure_from + self.measured;
        let mut players = JoinSet::new();
        for (n, socket) in (0_u32..).zip(sockets) {
            let channels = (n..self.channels).step_by(usize::try_from(senders)?).collect();
            players.spawn(send(socket, channels, self.window, measure_from, end));
        }
        for (n, socket) in (0_u32..).zip(listening) {
            players.spawn(listen(socket, n % self.channels, measure_from, end));
        }
        sleep_until(measure_from.into()).await;
        let before = target.spent();
        say!("measuring for {:?} …", self.measured);
        sleep_until(end.into()).await;
        let mut sum = Flooded { processes: target.since(&before), ..Flooded::default() };
        let mut ack = histogram();
        while let Some(done) = players.join_next().await {
            let part = done??;
            sum.acknowledged += part.acknowledged;
            sum.refused += part.refused;
            sum.delivered += part.delivered;
            if let Some(latencies) = part.ack {
                ack.add(latencies)?;
            }
        }
        sum.ack = Some(ack);
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
}

async fn send(
    socket: Socket,
    channels: Vec<u32>,
    window: u32,
    measure_from: Instant,
    end: Instant,
) -> anyhow::Result<Flooded> {
    let (mut sink, mut frames) = socket.split();
    let mut result = Flooded::default();
    let mut ack = histogram();
    let mut under_way: HashMap<u64, Instant> = HashMap::new();
    let mut number = 0_u64;
    let mut room = window;
    loop {
        while room > 0 {
            let channel = channels[usize::try_from(number)? % channels.len()];
            let frame = format!(
                r#"{{"type":"chat.send","cid":{number},"payload":{{"channel_id":"global:c{channel}","content":"message {number}"}}}}"#
            );
            sink.feed(Message::text(frame)).await?;
            under_way.insert(number, Instant::now());
            number += 1;
            room -= 1;
        }
        sink.flush().await?;
        // All that has come is taken before anything is sent: as a client does that is busy.
        let first = tokio::select! {
            first = frames.next() => first,
            () = sleep_until(end.into()) => break,
        };
        let mut next = Some(first.context("the gateway closed a socket")??);
        while let Some(message) = next.take() {
            if let Message::Text(text) = message {
                let frame: Frame<'_> = serde_json::from_str(&text)?;
                let sent = frame.cid.and_then(|cid| under_way.remove(&cid));
                room += u32::from(sent.is_some());
                if let Some(sent) = sent.filter(|_| Instant::now() >= measure_from) {
                    if frame.kind == "chat.sent" {
                        result.acknowledged += 1;
                        record(&mut ack, sent.elapsed());
                    } else {
                        result.refused += 1;
                    }
                }
            }
            next = futures_util::FutureExt::now_or_never(frames.next()).flatten().transpose()?;
        }
    }
    result.ack = Some(ack);
    let _ = sink.close().await;
    Ok(result)
}

async fn listen(mut socket: Socket, channel: u32, measure_from: Instant, end: Instant) -> anyhow::Result<Flooded> {
    call(&mut socket, "chat.join", json!({"channel_id": format!("global:c{channel}")})).await?;
    let mut result = Flooded::default();
    loop {
        let message = tokio::select! {
            message = socket.next() => message.context("the gateway closed a socket")??,
            () = sleep_until(end.into()) => return Ok(result),
        };
        if message.to_text().is_ok_and(|text| text.contains("chat.message")) && Instant::now() >= measure_from {
            result.delivered += 1;
        }
    }
}
