//! A player whose gateway dies, and who comes back as an SDK does: at once, then as it is told.
//!
//! ```text
//!  in ──the socket ends──► away ──101──► upgraded ──session.connected──► connected ──chat.joined──► ──match.state──► in
//!                           ▲  503: after what Retry-After says              │ 1013, the socket ends, or the match is not there
//!                           └──────────── after a growing pause ◄────────────┘
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message, http::header::RETRY_AFTER};

use crate::bench::player::{Guest, Socket, call, open, ws};

/// The first pause after a refusal without a time of its own; then twice as long, with a jitter of a half.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(8);
/// To get into a match before the storm.
const ATTEMPTS: u32 = 60;
/// For one answer.
const ANSWER: Duration = Duration::from_secs(30);
pub const MODE: &str = "storm";

/// What all sessions share.
pub struct Scene {
    /// Those that live on.
    pub survivors: Vec<String>,
    pub struck: OnceLock<Instant>,
    answers: Mutex<BTreeMap<String, u64>>,
    /// True when everything has been seen.
    pub over: watch::Receiver<bool>,
    pub back: mpsc::UnboundedSender<()>,
}

impl Scene {
    pub fn new(survivors: Vec<String>, over: watch::Receiver<bool>, back: mpsc::UnboundedSender<()>) -> Self {
        Self { survivors, struck: OnceLock::new(), answers: Mutex::default(), over, back }
    }

    fn answered(&self, kind: impl Into<String>) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.into()).or_default() += 1;
    }

    pub fn answers(&self) -> Value {
        json!(*self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn since_struck(&self) -> Duration {
        self.struck.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

pub struct Session {
    pub n: usize,
    pub guest: Guest,
    pub channel: String,
    /// Has a match to come back to.
    pub plays: bool,
}

/// How a session came through.
#[derive(Default)]
pub struct Came {
    /// Since the gateway died.
    pub connected: Option<Duration>,
    /// In the channel and the match.
    pub back: Option<Duration>,
    /// Messages of the channel that were skipped or came twice.
    pub wrong: u64,
    pub heard: u64,
    /// Messages that the channel had when it was joined again, and that never came.
    pub behind: u64,
    /// The new socket ended, too.
    pub lost_again: bool,
}

/// A session that is in, with what it has seen of its channel.
pub struct In {
    session: Session,
    socket: Socket,
    last_seq: i64,
    /// How far the channel was when it was joined last: all of it must come.
    stands: i64,
}

/// Why an attempt came to nothing, and how long it is told to wait.
pub struct Refused {
    pub kind: String,
    pub after: Option<Duration>,
}

impl Session {
    /// Comes in for the first time, at the gateway that will die.
    ///
    /// # Errors
    /// It is not let in.
    pub async fn enter(self, gateway: &str) -> anyhow::Result<In> {
        let mut socket = open(&ws(gateway)).await?;
        call(&mut socket, "session.connect", json!({"token": self.guest.access_token, "capabilities": ["presence"]}))
            .await?;
        let joined = call(&mut socket, "chat.join", json!({"channel_id": self.channel})).await?;
        if self.plays {
            play(&mut socket).await?;
        }
        let stands = joined["last_seq"].as_i64().unwrap_or(0);
        Ok(In { session: self, socket, last_seq: stands, stands })
    }
}

/// Into some match; a machine that is busy with the others may need a moment.
async fn play(socket: &mut Socket) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        match call(socket, "match.find_or_create", json!({"mode": MODE})).await {
            Ok(_) => return Ok(()),
            Err(error) if error.to_string().contains("not_ready") => sleep(PAUSE_FIRST).await,
            Err(error) => return Err(error),
        }
    }
    bail!("no match was to be had");
}

impl In {
    /// Stays until its socket ends, comes back, and stays until all is over.
    pub async fn live(mut self, scene: Arc<Scene>) -> Came {
        let mut came = Came::default();
        let mut over = scene.over.clone();
        tokio::select! {
            () = self.storm(&scene, &mut came) => {
                scene.answered("lost again");
                came.lost_again = true;
            }
            _ = over.wait_for(|over| *over) => {}
        }
        came.behind = u64::try_from(self.stands - self.last_seq).unwrap_or(0);
        came
    }

    /// Ends when the second socket does.
    async fn storm(&mut self, scene: &Scene, came: &mut Came) {
        self.listen(came).await;
        self.come_back(scene, came).await;
        self.listen(came).await;
    }

    /// Until the socket ends.
    async fn listen(&mut self, came: &mut Came) {
        while let Some(Ok(message)) = self.socket.next().await {
            if let Message::Text(text) = message {
                self.hear(&text, came);
            }
        }
    }

    /// Each message of the channel comes once, in its order.
    fn hear(&mut self, text: &str, came: &mut Came) {
        if !text.contains(r#""type":"chat.message""#) {
            return;
        }
        let Some(seq) = serde_json::from_str::<Value>(text).ok().and_then(|frame| frame["payload"]["seq"].as_i64())
        else {
            return;
        };
        came.heard += 1;
        came.wrong += u64::from(seq != self.last_seq + 1);
        self.last_seq = seq;
    }

    async fn come_back(&mut self, scene: &Scene, came: &mut Came) {
        let mut pause = PAUSE_FIRST;
        for attempt in 0.. {
            let gateway = &scene.survivors[(self.session.n + attempt) % scene.survivors.len()];
            match timeout(ANSWER, self.attempt(gateway, scene, came)).await {
                Ok(Ok(())) => {
                    came.back = Some(scene.since_struck());
                    let _ = scene.back.send(());
                    return;
                }
                Ok(Err(Refused { kind, after })) => {
                    scene.answered(kind);
                    sleep(after.unwrap_or_else(|| pause.mul_f64(rand::random_range(0.5..1.5)))).await;
                    if after.is_none() {
                        pause = (pause * 2).min(PAUSE_MOST);
                    }
                }
                Err(_) => scene.answered("no answer"),
            }
        }
    }

    async fn attempt(&mut self, gateway: &str, scene: &Scene, came: &mut Came) -> Result<(), Refused> {
        self.socket = open(&ws(gateway)).await.map_err(|error| Refused::of(&error))?;
        scene.answered("101");
        let token = &self.session.guest.access_token;
        let connected = self
            .ask("session.connect", json!({"token": token, "capabilities": ["presence"]}), came)
            .await
            .map_err(|error| Refused { kind: error.to_string(), after: None })?;
        came.connected = Some(scene.since_struck());
        if self.session.plays && connected["match_id"].is_null() {
            return Err(Refused { kind: "connected without a match".to_owned(), after: None });
        }
        let join = json!({"channel_id": self.session.channel, "since_seq": self.last_seq});
        let joined = self
            .ask("chat.join", join, came)
            .await
            .map_err(|error| Refused { kind: error.to_string(), after: None })?;
        self.stands = joined["last_seq"].as_i64().unwrap_or(0);
        if self.session.plays {
            self.state(came).await.map_err(|error| Refused { kind: error.to_string(), after: None })?;
        }
        Ok(())
    }

    /// As [`call`], hearing what comes meanwhile, and saying how it is refused.
    async fn ask(&mut self, kind: &str, payload: Value, came: &mut Came) -> anyhow::Result<Value> {
        let frame = json!({"type": kind, "cid": kind, "payload": payload}).to_string();
        self.socket.send(Message::text(frame)).await.context("cut off")?;
        let cid = format!(r#""cid":"{kind}""#);
        loop {
            let text = self.text().await?;
            if text.contains(&cid) {
                let mut reply: Value = serde_json::from_str(&text)?;
                if reply["type"] == "error" {
                    bail!("{kind}: {}", reply["payload"]["reason"].as_str().unwrap_or_default());
                }
                return Ok(reply["payload"].take());
            }
            self.hear(&text, came);
        }
    }

    /// Until the match is seen.
    async fn state(&mut self, came: &mut Came) -> anyhow::Result<()> {
        loop {
            let text = self.text().await?;
            if text.contains(r#""type":"match.state""#) {
                return Ok(());
            }
            self.hear(&text, came);
        }
    }

    async fn text(&mut self) -> anyhow::Result<tungstenite::Utf8Bytes> {
        loop {
            match self.socket.next().await.context("cut off")?.context("cut off")? {
                Message::Text(text) => return Ok(text),
                Message::Close(Some(frame)) => bail!("{}", u16::from(frame.code)),
                _ => {}
            }
        }
    }
}

impl Refused {
    /// Why no socket could be opened.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Http(answer)) => {
                let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Self { kind: answer.status().as_u16().to_string(), after: after.map(Duration::from_secs) }
            }
            _ => Self { kind: "no socket".to_owned(), after: None },
        }
    }
}
