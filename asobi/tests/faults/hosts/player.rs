//! A player who numbers the inputs, and follows the match where it goes. Of a state only three numbers are read: there are hundreds of players.
//!
//! ```text
//!  playing ──match.migrate──▶ leaving: sends nothing until all is seen ──▶ at the host's url ──▶ playing
//!     │                            └───────────── it is not reached ─────────────┐
//!     └── the socket ends, or the host says nothing ──▶ a gateway ──third state──▶ playing: what that lacks is sent again
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{PATIENCE, rest::Account};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Between two inputs of a player.
pub const EVERY: Duration = Duration::from_millis(500);
/// How long a client lets its last inputs arrive before it follows its match.
const LEAVING: Duration = Duration::from_secs(2);
/// A host whose socket is open and who says nothing for so long is left: as it looks when its machine is gone.
const SILENCE: Duration = Duration::from_secs(3);
/// To open a socket and be answered there.
const REACH: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(200);
/// States of a new connection until its numbers are believed: inputs of the old one may be on their way still.
const SETTLED: u32 = 3;

/// What of a player can be seen from outside while they play.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Who it is, and the node of the last socket.
    pub who: String,
    pub place: String,
    /// Of the last state.
    pub at: Option<Instant>,
    /// The last input that it counts, and when that was sent.
    pub last: u64,
    pub last_sent: Option<Instant>,
    /// The longest time between two states, with its end.
    pub gap: Duration,
    pub gap_end: Option<Instant>,
    /// Each time that a state was older than the one before it: when, from which tick to which, and at which node.
    pub steps_back: Vec<String>,
    /// Inputs that a state had forgotten again, at most.
    pub rolled_back: u64,
    pub migrations: u32,
    pub fell_back: u32,
    pub refused: u64,
    pub refusal: Option<String>,
}

/// What a player knows at the end.
pub struct Played {
    pub player_id: String,
    pub sent: u64,
    pub seen: Seen,
}

pub struct Player {
    account: Account,
    gateways: Vec<String>,
    gateway: usize,
    follows: bool,
    socket: Socket,
    /// On the match's own host.
    direct: bool,
    over: watch::Receiver<bool>,
    shown: Arc<Mutex<Seen>>,
    /// When each input was sent first; as many as there are.
    sent_at: Vec<Instant>,
    sent: u64,
    tick: u64,
    heard: Instant,
    next: Instant,
    offer: Option<(Value, Instant)>,
    settling: u32,
    /// The number of the input that says that it is over.
    farewell: Option<u64>,
    finished: bool,
}

impl Player {
    /// Connects, and queues.
    pub async fn queue(
        account: Account,
        gateways: Vec<String>,
        gateway: usize,
        follows: bool,
        over: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (mut socket, _) = connect(&gateways[gateway], hello(&account, follows)).await?;
        let wish = json!({"type": "matchmaker.add", "payload": {"mode": "ledger"}});
        socket.send(Message::text(wish.to_string())).await?;
        let now = Instant::now();
        let seen = Seen { who: account.player_id.clone(), place: gateways[gateway].clone(), ..Seen::default() };
        Ok(Self {
            account,
            gateways,
            gateway,
            follows,
            socket,
            direct: false,
            over,
            shown: Arc::new(Mutex::new(seen)),
            sent_at: Vec::new(),
            sent: 0,
            tick: 0,
            heard: now,
            next: now,
            offer: None,
            settling: 0,
            farewell: None,
            finished: false,
        })
    }

    pub fn shown(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.shown)
    }

    /// Waits for the match; its id.
    pub async fn matched(&mut self) -> anyhow::Result<String> {
        let waiting = async {
            loop {
                let message = self.socket.next().await.context("the gateway closed the socket")??;
                let Message::Text(text) = message else { continue };
                if text.starts_with(r#"{"type":"match.matched""#) {
                    let frame: Value = serde_json::from_str(&text)?;
                    return Ok(frame["payload"]["match_id"].as_str().context("match_id")?.to_owned());
                }
                ensure!(!text.starts_with(r#"{"type":"error""#), "the wish was refused: {text}");
            }
        };
        timeout(PATIENCE, waiting).await.context("not matched")?
    }

    /// Plays until the match has finished, which it does after everybody was told that it is over.
    pub async fn play(mut self) -> anyhow::Result<Played> {
        self.next = Instant::now() + EVERY;
        while !self.finished {
            let now = Instant::now();
            let all_seen = self.look(|seen| seen.last) >= self.sent;
            if let Some((_, since)) = &self.offer
                && (all_seen || now >= *since + LEAVING)
            {
                self.follow().await?;
            }
            if self.direct && now >= self.heard + SILENCE {
                self.fall_back().await?;
            }
            if now >= self.next {
                self.next += EVERY;
                if self.send().await.is_err() {
                    self.fall_back().await?;
                }
            }
            tokio::select! {
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.frame(&text)?,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => self.fall_back().await?,
                    Some(Ok(_)) => {}
                },
                () = sleep_until(self.next) => {}
            }
        }
        let seen = self.look(Seen::clone);
        Ok(Played { player_id: self.account.player_id, sent: self.sent, seen })
    }

    fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The next input, and those again that a new connection's match has not counted.
    async fn send(&mut self) -> anyhow::Result<()> {
        if self.offer.is_some() || self.settling > 0 {
            return Ok(());
        }
        let known = u64::try_from(self.sent_at.len())?;
        // The last input of all says so; after it there is nothing to add.
        if self.farewell.is_none() {
            if *self.over.borrow() {
                self.farewell = Some(known + 1);
            }
            self.sent_at.push(Instant::now());
        }
        while self.sent < u64::try_from(self.sent_at.len())? {
            let n = self.sent + 1;
            let finish = self.farewell == Some(n);
            let input = json!({"type": "match.input", "cid": n, "payload": {"n": n, "finish": finish}});
            self.socket.feed(Message::text(input.to_string())).await?;
            self.sent = n;
        }
        Ok(self.socket.flush().await?)
    }

    fn frame(&mut self, text: &str) -> anyhow::Result<()> {
        let kind = |kind: &str| text.starts_with(&format!(r#"{{"type":"{kind}""#));
        self.heard = Instant::now();
        if kind("match.state") {
            self.state(text)?;
        } else if kind("match.migrate") {
            let frame: Value = serde_json::from_str(text)?;
            self.offer = Some((frame["payload"].clone(), self.heard));
        } else if kind("match.finished") {
            self.finished = true;
        } else if kind("error") {
            self.note(|seen| {
                seen.refused += 1;
                seen.refusal = Some(text.to_owned());
            });
        }
        Ok(())
    }

    fn state(&mut self, text: &str) -> anyhow::Result<()> {
        let number = |key: &str| number(text, key).with_context(|| format!("no {key} in {text}"));
        let (tick, last) = (number(r#""tick":"#)?, number(r#""last":"#)?);
        let now = self.heard;
        let step = (tick < self.tick)
            .then(|| format!("{} tick {} to {tick}", time::OffsetDateTime::now_utc().time(), self.tick));
        let sent_at = last.checked_sub(1).and_then(|n| self.sent_at.get(usize::try_from(n).ok()?)).copied();
        self.tick = tick;
        self.note(|seen| {
            if let Some(gap) = seen.at.map(|at| now - at).filter(|gap| *gap > seen.gap) {
                (seen.gap, seen.gap_end) = (gap, Some(now));
            }
            seen.rolled_back = seen.rolled_back.max(seen.last.saturating_sub(last));
            seen.steps_back.extend(step.map(|step| format!("{step} at {}", seen.place)));
            (seen.at, seen.last, seen.last_sent) = (Some(now), last, sent_at);
        });
        if self.settling > 0 {
            self.settling -= 1;
            if self.settling == 0 {
                self.sent = last;
            }
        }
        Ok(())
    }

    /// To the match's own host, by the token of the offer.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let Some((offer, _)) = self.offer.take() else { return Ok(()) };
        let (url, token) = (offer["url"].as_str().context("url")?, &offer["token"]);
        let _ = timeout(REACH, self.socket.close(None)).await;
        let hello = json!({"migration_token": token, "capabilities": ["migrate"]});
        match connect(url, hello).await {
            Ok((socket, _)) => {
                self.arrived(socket, true);
                self.note(|seen| (seen.migrations, seen.place) = (seen.migrations + 1, url.to_owned()));
                Ok(())
            }
            Err(_) => self.fall_back().await,
        }
    }

    /// To any gateway. The seat is there still, or the match has come to nothing, which must not be.
    async fn fall_back(&mut self) -> anyhow::Result<()> {
        let lost = Instant::now();
        self.offer = None;
        self.note(|seen| seen.fell_back += 1);
        loop {
            match connect(&self.gateways[self.gateway], hello(&self.account, self.follows)).await {
                Ok((socket, connected)) => {
                    self.finished = connected["match_id"].is_null();
                    // Who has said farewell may find that the others have, too.
                    let expected = !self.finished || self.farewell.is_some();
                    ensure!(expected, "{} has no match any more", self.account.player_id);
                    self.arrived(socket, false);
                    self.note(|seen| seen.place.clone_from(&self.gateways[self.gateway]));
                    self.settling = SETTLED;
                    return Ok(());
                }
                Err(error) => ensure!(lost.elapsed() < PATIENCE, "no gateway takes a player back: {error:#}"),
            }
            self.gateway = (self.gateway + 1) % self.gateways.len();
            sleep(AGAIN).await;
        }
    }

    fn arrived(&mut self, socket: Socket, direct: bool) {
        (self.socket, self.direct, self.heard) = (socket, direct, Instant::now());
    }
}

fn hello(account: &Account, follows: bool) -> Value {
    let capabilities: &[&str] = if follows { &["migrate"] } else { &[] };
    json!({"token": account.access_token, "capabilities": capabilities})
}

/// A socket with a session, and what `session.connected` said.
async fn connect(url: &str, hello: Value) -> anyhow::Result<(Socket, Value)> {
    let connecting = async {
        let (mut socket, _) = connect_async(url).await?;
        let frame = json!({"type": "session.connect", "cid": "hello", "payload": hello});
        socket.send(Message::text(frame.to_string())).await?;
        loop {
            let message = socket.next().await.context("the node closed the socket")??;
            let Message::Text(text) = message else { continue };
            let mut frame: Value = serde_json::from_str(&text)?;
            if frame["cid"] == "hello" {
                ensure!(frame["type"] == "session.connected", "refused: {frame}");
                return Ok((socket, frame["payload"].take()));
            }
        }
    };
    timeout(REACH, connecting).await?
}

/// The digits behind a key.
fn number(text: &str, key: &str) -> Option<u64> {
    let (_, rest) = text.split_once(key)?;
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}
