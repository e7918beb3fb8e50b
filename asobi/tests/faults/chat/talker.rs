//! Someone who never stops talking: bursts of messages, each until it has an answer that settles it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::ledger::{Line, Outcome};
use crate::support::{Client, PATIENCE, rest::Account};

/// A pause after a refusal, and before a socket is opened again.
const AGAIN: Duration = Duration::from_millis(100);

pub struct Talker {
    pub account: Account,
    pub channel: String,
    /// Where to connect, the first before the others.
    pub gateways: Vec<String>,
    pub random: StdRng,
    /// Between two bursts, at most.
    pub pause_ms: u64,
    /// When the last burst began of which something was acknowledged.
    pub stored: watch::Sender<Option<Instant>>,
}

/// A message under way.
struct Said {
    line: Line,
    keyed: bool,
    /// An attempt may have been stored without our hearing of it.
    doubt: bool,
    settled: bool,
}

impl Talker {
    /// Talks until it is told to stop, and then until everything said is settled.
    pub async fn talk(mut self, stop: watch::Receiver<bool>) -> anyhow::Result<Vec<Line>> {
        let mut client = None;
        let mut lines = Vec::new();
        while !*stop.borrow() {
            let began = Instant::now();
            let mut burst: Vec<Said> =
                (0..self.random.random_range(1..=6)).map(|n| self.say(lines.len() + n)).collect();
            while burst.iter().any(|said| !said.settled) {
                self.attempt(&mut client, &mut burst).await?;
            }
            if burst.iter().any(|said| matches!(said.line.outcome, Outcome::Stored { .. })) {
                self.stored.send_replace(Some(began));
            }
            lines.extend(burst.into_iter().map(|said| Line { took: began.elapsed(), ..said.line }));
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..self.pause_ms))).await;
        }
        Ok(lines)
    }

    fn say(&mut self, n: usize) -> Said {
        // It is the key, too, and a key is remembered beyond the channel.
        let content = format!("{} {} {n}", self.channel, self.account.username);
        Said {
            line: Line { content, outcome: Outcome::Unknown, attempts: 0, took: Duration::ZERO },
            keyed: self.random.random_bool(0.75),
            doubt: false,
            settled: false,
        }
    }

    /// Sends everything that is not settled and hears all answers, or the end of the socket.
    async fn attempt(&mut self, client: &mut Option<Client>, burst: &mut [Said]) -> anyhow::Result<()> {
        let Some(socket) = client.as_mut() else {
            *client = self.connect().await;
            return Ok(());
        };
        let mut waiting = 0;
        for (n, said) in burst.iter_mut().enumerate().filter(|(_, said)| !said.settled) {
            let mut payload = json!({"channel_id": self.channel, "content": said.line.content});
            if said.keyed {
                payload["idempotency_key"] = json!(said.line.content);
            }
            said.line.attempts += 1;
            waiting += 1;
            let frame = json!({"type": "chat.send", "cid": n, "payload": payload}).to_string();
            if socket.send_text(frame).await.is_err() {
                break;
            }
        }
        let mut answered = vec![false; burst.len()];
        let mut refused = false;
        while waiting > 0 {
            let frame = timeout(PATIENCE, socket.frame()).await.context("a request with a cid had no answer")??;
            let Some(frame) = frame else {
                self.lost(burst, &answered);
                *client = None;
                return Ok(());
            };
            let Some(n) = frame["cid"].as_u64().and_then(|n| usize::try_from(n).ok()) else { continue };
            if std::mem::replace(answered.get_mut(n).context("an answer to nothing")?, true) {
                bail!("a second answer to {}: {frame}", burst[n].line.content);
            }
            refused |= self.hear(&mut burst[n], &frame)?;
            waiting -= 1;
        }
        if refused {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Takes an answer in; true when it was no success.
    fn hear(&mut self, said: &mut Said, frame: &Value) -> anyhow::Result<bool> {
        let payload = &frame["payload"];
        match (frame["type"].as_str(), payload["reason"].as_str()) {
            (Some("chat.sent"), _) => {
                let message_id = payload["message_id"].as_str().context("message_id")?.to_owned();
                said.line.outcome = Outcome::Stored { message_id, seq: payload["seq"].as_i64().context("seq")? };
                said.settled = true;
                return Ok(false);
            }
            (Some("error"), Some("unconfirmed")) => {
                said.doubt = true;
                // Without a key it must not be sent again; with one some let it be all the same.
                said.settled = !said.keyed || self.random.random_bool(0.2);
            }
            (Some("error"), Some("not_ready" | "rate_limited")) => {
                said.settled = self.random.random_bool(0.2);
                if !said.doubt && said.settled {
                    said.line.outcome = Outcome::Refused;
                }
            }
            _ => bail!("{} was answered {frame}", said.line.content),
        }
        Ok(true)
    }

    /// The socket has ended: what was not answered is not known, and goes on only with a key.
    fn lost(&self, burst: &mut [Said], answered: &[bool]) {
        for (said, answered) in burst.iter_mut().zip(answered) {
            if !said.settled && !answered {
                said.doubt = true;
                said.settled = !said.keyed;
            }
        }
    }

    async fn connect(&mut self) -> Option<Client> {
        for ws in &self.gateways {
            if let Ok(client) = Client::connect(ws, self.account.clone(), &[]).await {
                return Some(client);
            }
        }
        tokio::time::sleep(AGAIN).await;
        None
    }
}
