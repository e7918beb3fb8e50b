//! Someone who reads a channel from its beginning, and resumes by number after a lost socket.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::ledger::Entry;
use crate::support::{Client, PATIENCE, rest::Account};

const AGAIN: Duration = Duration::from_millis(100);
/// How long a reader who has everything still listens for what must not come.
const LISTENS_ON: Duration = Duration::from_millis(400);

pub struct Reader {
    pub account: Account,
    pub channel: String,
    /// Where to connect, the first before the others.
    pub gateways: Vec<String>,
    pub heard: Vec<Entry>,
    /// How the sockets ended that were lost.
    pub lost: Vec<String>,
    /// The longest time between two messages that it heard.
    pub silence: Duration,
    heard_at: Option<Instant>,
    /// Read from the history already, so that a replay of it is no second hearing.
    read_through: i64,
}

impl Reader {
    pub fn new(account: Account, channel: &str, gateways: Vec<String>) -> Self {
        let (heard, lost) = (Vec::new(), Vec::new());
        Self {
            account,
            channel: channel.to_owned(),
            gateways,
            heard,
            lost,
            silence: Duration::ZERO,
            heard_at: None,
            read_through: 0,
        }
    }

    /// Joined, with everything that was said before.
    pub async fn join(&mut self) -> anyhow::Result<Client> {
        let started = Instant::now();
        loop {
            for ws in self.gateways.clone() {
                if let Ok(client) = self.join_at(&ws).await {
                    return Ok(client);
                }
            }
            ensure!(started.elapsed() < PATIENCE, "{} cannot come back", self.account.username);
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn join_at(&mut self, ws: &str) -> anyhow::Result<Client> {
        let mut client = Client::connect(ws, self.account.clone(), &[]).await?;
        let join = json!({"channel_id": self.channel, "since_seq": self.last()});
        let joined = client.call("chat.join", join).await?;
        if joined["truncated"] == true {
            let base = ws.replacen("ws", "http", 1);
            self.read_history(base.trim_end_matches("/ws")).await?;
        }
        Ok(client)
    }

    fn last(&self) -> i64 {
        self.heard.last().map_or(0, |entry| entry.seq)
    }

    /// All that is newer than what was heard, page by page from the end.
    async fn read_history(&mut self, base: &str) -> anyhow::Result<()> {
        let (mut missed, mut before) = (Vec::new(), i64::MAX);
        while before > self.last() + 1 {
            let path = format!("/chat/{}/history?limit=200&before_seq={before}", self.channel);
            let (status, page) = self.account.at(base).get(&path).await?;
            ensure!(status == 200, "the history answered {status}: {page}");
            let page: Vec<Entry> = page["messages"].as_array().context("messages")?.iter().map(Entry::read).collect();
            let Some(first) = page.iter().map(|entry| entry.seq).min() else { break };
            before = first;
            missed.extend(page.into_iter().filter(|entry| entry.seq > self.last()));
        }
        missed.sort_by_key(|entry| entry.seq);
        self.heard.extend(missed);
        self.read_through = self.last();
        Ok(())
    }

    /// Reads until the channel's last number is known and was heard, and a moment longer. Gives up only where nothing
    /// comes any more, so that the ledger can say what is missing.
    pub async fn read(mut self, mut client: Client, mut last: watch::Receiver<Option<i64>>) -> anyhow::Result<Self> {
        loop {
            let complete = last.borrow_and_update().is_some_and(|last| self.last() >= last);
            let patience = if complete { LISTENS_ON } else { PATIENCE };
            tokio::select! {
                frame = client.frame() => match frame? {
                    Some(frame) => self.hear(&frame),
                    None => {
                        self.lost.push(format!("{:?} after {}", client.closed, self.last()));
                        client = timeout(PATIENCE, self.join()).await.context("coming back")??;
                    }
                },
                () = sleep_until(Instant::now() + patience) => return Ok(self),
                changed = last.changed(), if !complete => changed?,
            }
        }
    }

    fn hear(&mut self, frame: &Value) {
        if frame["type"] != "chat.message" || frame["payload"]["channel_id"] != self.channel.as_str() {
            return;
        }
        let entry = Entry::read(&frame["payload"]);
        if entry.seq > self.read_through {
            let now = Instant::now();
            self.silence = self.silence.max(self.heard_at.map_or(Duration::ZERO, |at| now - at));
            self.heard_at = Some(now);
            self.heard.push(entry);
        }
    }
}
