//! A player with numbered inputs. Of a state only the own numbers are read: the client shares the machine with what it measures.
//!
//! ```text
//!  playing ──match.migrate──▶ leaving: sends nothing until all is seen ──▶ on the match's host ──first state──▶ playing
//!     │                            └────────── the host is not reached ──────────┐
//!     └──────── the socket ends ──▶ a gateway ──third state: what it lacks is sent again──▶ playing
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::bench::{
    cluster::Target,
    player::{Guest, Socket, call, open, sign_in, ws},
};

/// How long one player may wait for partners who are there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client lets its last inputs arrive before it follows its match.
const LEAVING: Duration = Duration::from_secs(1);
/// To be on the match's host, or it is tried at a gateway.
const REACH: Duration = Duration::from_secs(3);
/// Without any gateway.
const AWAY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// States of a new connection until the own numbers are believed: inputs of the old one may be on their way still.
const SETTLED: u32 = 3;
/// After the last input, until it is seen.
const LINGER: Duration = Duration::from_secs(15);
const STATE: &str = r#"{"type":"match.state""#;

/// What all players share.
pub struct Plan {
    pub gateways: Vec<String>,
    pub interval: Duration,
    pub start: Instant,
    pub measure_from: Instant,
    pub measured: Duration,
    pub rounds: u32,
    /// The script counts numbers into the state.
    pub counted: bool,
}

impl Plan {
    /// When a round begins, and the one before it ends.
    pub fn boundary(&self, round: u32) -> Instant {
        self.measure_from + self.measured * round
    }

    fn end(&self) -> Instant {
        self.boundary(self.rounds)
    }

    fn round(&self, at: Instant) -> Option<u32> {
        (0..self.rounds).find(|round| self.boundary(*round) <= at && at < self.boundary(round + 1))
    }
}

/// A player who is in no match yet.
pub struct Entrant {
    pub guest: Guest,
    pub socket: Socket,
    gateway: usize,
    follows: bool,
}

impl Entrant {
    pub async fn connect(
        http: &reqwest::Client,
        target: &Target,
        gateway: usize,
        device: String,
        follows: bool,
    ) -> anyhow::Result<Self> {
        let base = &target.gateways[gateway];
        let guest = sign_in(http, base, device).await?;
        let (socket, _) = connect(&ws(base), hello(&guest, follows)).await?;
        Ok(Self { guest, socket, gateway, follows })
    }

    pub async fn queue(&mut self, mode: &str) -> anyhow::Result<()> {
        let frame = json!({"type": "matchmaker.add", "cid": "q", "payload": {"mode": mode}});
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }

    /// Waits for the match.
    pub async fn matched(&mut self) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let message = self.socket.next().await.context("the gateway closed a socket")??;
                let Message::Text(text) = message else { continue };
                if text.contains(r#""type":"match.matched""#) {
                    return Ok(());
                }
                ensure!(!text.contains(r#""type":"error""#), "the wish was refused: {text}");
            }
        };
        timeout(PATIENCE, waiting).await.context("not everybody was matched")?
    }
}

fn hello(guest: &Guest, follows: bool) -> Value {
    let capabilities: &[&str] = if follows { &["migrate"] } else { &[] };
    json!({"token": guest.access_token, "capabilities": capabilities})
}

async fn connect(url: &str, hello: Value) -> anyhow::Result<(Socket, Value)> {
    let mut socket = open(url).await?;
    let connected = call(&mut socket, "session.connect", hello).await?;
    Ok((socket, connected))
}

/// What one player saw.
#[derive(Default)]
pub struct Played {
    /// States by round.
    pub delivered: Vec<u64>,
    /// From the moment a number was due to the state that counts it, with its round.
    pub latencies: Vec<(u32, Duration)>,
    pub sent: u64,
    /// The highest number seen in a state.
    pub acked: u64,
    pub missing: u64,
    pub twice: u64,
    /// The last numbers, if no state counted them.
    pub unseen: u64,
    pub refused: u64,
    pub first_refusal: Option<String>,
    /// The longest time between two states, by its ends.
    pub longest: Option<(Instant, Instant)>,
    /// From the offer to the first state on the host, and from the end of the old socket.
    pub migrations: Vec<(Duration, Duration)>,
    pub fell_back: u64,
    /// Inputs that a state had forgotten again.
    pub rolled_back: u64,
    pub state_bytes: usize,
    pub ended: bool,
}

impl Played {
    pub fn gap(&self) -> Duration {
        self.longest.map_or(Duration::ZERO, |(from, to)| to - from)
    }
}

struct Offer {
    url: String,
    token: String,
    at: Instant,
}

struct Player {
    plan: Arc<Plan>,
    me: Entrant,
    /// How the own numbers begin in a state.
    needle: String,
    /// When the input 0 would have been due.
    zero: Instant,
    /// The number in the last state.
    seen: u64,
    last_at: Option<Instant>,
    last: Option<Utf8Bytes>,
    offer: Option<Offer>,
    /// On the way to the host: since the offer, and since the socket ended.
    moving: Option<(Instant, Instant)>,
    /// States still to come before what is lacking is sent again.
    settling: u32,
    played: Played,
}

/// Plays until everything that was sent has been seen after the last round.
///
/// # Errors
/// No gateway takes the player any more.
pub async fn play(me: Entrant, plan: Arc<Plan>, n: usize, of: usize) -> anyhow::Result<Played> {
    // Inputs of all players are spread evenly.
    let phase = plan.interval.mul_f64(f64::from(u32::try_from(n)?) / f64::from(u32::try_from(of)?));
    let mut player = Player {
        needle: format!(r#""{}":{{"#, me.guest.player_id),
        zero: plan.start + phase,
        played: Played { delivered: vec![0; plan.rounds as usize], ..Played::default() },
        plan,
        me,
        seen: 0,
        last_at: None,
        last: None,
        offer: None,
        moving: None,
        settling: 0,
    };
    player.run().await?;
    Ok(player.close())
}

impl Player {
    async fn run(&mut self) -> anyhow::Result<()> {
        let end = self.plan.end();
        while !self.played.ended {
            let now = Instant::now();
            let all_seen = self.seen >= self.played.sent || !self.plan.counted;
            if now >= end && (all_seen || now >= end + LINGER) {
                break;
            }
            if let Some(offer) = &self.offer
                && (all_seen || now >= offer.at + LEAVING)
            {
                self.follow().await?;
            }
            if self.send_due(now).await.is_err() {
                self.fall_back().await?;
            }
            let wake = self.next_due().min(now + LEAVING);
            tokio::select! {
                message = self.me.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.frame(text),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => self.fall_back().await?,
                    Some(Ok(_)) => {}
                },
                () = sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    fn due(&self, number: u64) -> Instant {
        self.zero + self.plan.interval * u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn next_due(&self) -> Instant {
        if self.quiet() { Instant::now() + LEAVING } else { self.due(self.played.sent + 1) }
    }

    /// Sends nothing for now.
    fn quiet(&self) -> bool {
        self.offer.is_some() || self.settling > 0
    }

    async fn send_due(&mut self, now: Instant) -> anyhow::Result<()> {
        let now = now.min(self.plan.end());
        let before = self.played.sent;
        while !self.quiet() && self.due(self.played.sent + 1) <= now {
            let number = self.played.sent + 1;
            let (dx, dy) = (number % 3, number % 5);
            let frame = format!(r#"{{"type":"match.input","payload":{{"n":{number},"dx":{dx},"dy":{dy}}}}}"#);
            self.me.socket.feed(Message::text(frame)).await?;
            self.played.sent = number;
        }
        if self.played.sent > before {
            self.me.socket.flush().await?;
        }
        Ok(())
    }

    fn frame(&mut self, text: Utf8Bytes) {
        if text.starts_with(STATE) {
            return self.state(text);
        }
        let kind = |kind: &str| text.starts_with(&format!(r#"{{"type":"{kind}""#));
        if kind("match.migrate") {
            let frame: Value = serde_json::from_str(&text).unwrap_or_default();
            let field = |key: &str| frame["payload"][key].as_str().map(str::to_owned);
            if let (Some(url), Some(token)) = (field("url"), field("token")) {
                self.offer = Some(Offer { url, token, at: Instant::now() });
            }
        } else if kind("match.finished") {
            self.played.ended = true;
        } else if kind("error") {
            self.played.refused += 1;
            self.played.first_refusal.get_or_insert_with(|| text.to_string());
        }
    }

    fn state(&mut self, text: Utf8Bytes) {
        let now = Instant::now();
        if let Some(round) = self.plan.round(now) {
            self.played.delivered[round as usize] += 1;
        }
        if let Some(last) = self.last_at.filter(|last| *last >= self.plan.measure_from && now < self.plan.end())
            && now - last > self.played.gap()
        {
            self.played.longest = Some((last, now));
        }
        self.last_at = Some(now);
        if let Some((offered, closed)) = self.moving.take() {
            self.played.migrations.push((offered.elapsed(), closed.elapsed()));
        }
        if let Some(n) = self.own(&text, r#""n":"#) {
            for number in self.played.acked + 1..=n {
                let due = self.due(number);
                if let Some(round) = self.plan.round(due) {
                    self.played.latencies.push((round, now.saturating_duration_since(due)));
                }
            }
            self.played.rolled_back = self.played.rolled_back.max(self.seen.saturating_sub(n));
            self.played.acked = self.played.acked.max(n);
            self.seen = n;
        }
        if self.settling > 0 {
            self.settling -= 1;
            if self.settling == 0 {
                self.played.sent = self.seen;
            }
        }
        self.last = Some(text);
    }

    /// A number of the own part of a state.
    fn own(&self, text: &str, key: &str) -> Option<u64> {
        let (_, rest) = text.split_once(&self.needle)?;
        let (own, _) = rest.split_once('}')?;
        let (_, number) = own.split_once(key)?;
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        number[..digits].parse().ok()
    }

    /// To the match's own host.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let Some(offer) = self.offer.take() else { return Ok(()) };
        let closed = Instant::now();
        let _ = timeout(REACH, self.me.socket.close(None)).await;
        let hello = json!({"migration_token": offer.token, "capabilities": ["migrate"]});
        match timeout(REACH, connect(&offer.url, hello)).await {
            Ok(Ok((socket, _))) => {
                self.me.socket = socket;
                self.moving = Some((offer.at, closed));
                Ok(())
            }
            _ => self.fall_back().await,
        }
    }

    /// To any gateway, as the protocol says.
    async fn fall_back(&mut self) -> anyhow::Result<()> {
        let lost = Instant::now();
        (self.offer, self.moving) = (None, None);
        self.played.fell_back += 1;
        loop {
            let url = &self.plan.gateways[self.me.gateway];
            if let Ok(Ok((socket, connected))) =
                timeout(REACH, connect(url, hello(&self.me.guest, self.me.follows))).await
            {
                self.me.socket = socket;
                self.played.ended = connected["match_id"].is_null();
                self.settling = SETTLED;
                return Ok(());
            }
            ensure!(lost.elapsed() < AWAY, "no gateway takes a player back");
            self.me.gateway = (self.me.gateway + 1) % self.plan.gateways.len();
            sleep(AGAIN).await;
        }
    }

    fn close(mut self) -> Played {
        if self.plan.counted {
            self.played.unseen = self.played.sent.saturating_sub(self.seen);
        }
        if let Some(last) = self.last.take() {
            self.played.missing = self.own(&last, r#""missing":"#).unwrap_or_default();
            self.played.twice = self.own(&last, r#""twice":"#).unwrap_or_default();
            self.played.state_bytes = last.len();
        }
        // Who hears nothing to the end has the longest gap of all.
        let (last, end) = (self.last_at.unwrap_or(self.plan.measure_from), self.plan.end());
        if end.saturating_duration_since(last) > self.played.gap() {
            self.played.longest = Some((last, end));
        }
        self.played
    }
}
