//! Players who queue, play a duel to its end and queue again, on another gateway when theirs dies. They write down what they hear.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_tungstenite::tungstenite;

use super::super::support::{Client, Cluster, PATIENCE, rest::Account};

/// What one player heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub player_id: String,
    /// Tickets that were acknowledged.
    pub tickets: BTreeSet<String>,
    /// Tickets whose withdrawal was acknowledged.
    pub withdrawn: BTreeSet<String>,
    /// Tickets whose withdrawal was asked for, and the answer was lost with the socket.
    pub doubtful: BTreeSet<String>,
    /// Matches that the player was told of: `match.matched`, or `session.connected` when coming back.
    pub told: BTreeSet<String>,
    /// Told that a ticket expired or failed.
    pub ended: usize,
    /// The longest that a ticket waited for its match, on however many sockets.
    pub wait: Duration,
}

pub struct Crowd {
    bots: JoinSet<Option<Heard>>,
    /// Why players have given up.
    complaints: Arc<Mutex<Vec<String>>>,
    over: watch::Sender<bool>,
}

/// What the players of a crowd do.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub mode: &'static str,
    /// How often one who waits thinks better of it within a second or two, of 100 times.
    pub fickle: u32,
}

/// They duel, and wait as long as it takes.
const DUELLISTS: Habits = Habits { mode: "duel", fickle: 0 };

impl Crowd {
    /// Registers the players, half of them on each gateway or all of them by one door, and lets them play.
    pub async fn enter(cluster: &Cluster, door: Option<&Door>, players: usize, seed: u64) -> anyhow::Result<Self> {
        Self::enter_with(cluster, door, players, seed, DUELLISTS).await
    }

    /// [`Self::enter`], with other habits.
    pub async fn enter_with(
        cluster: &Cluster,
        door: Option<&Door>,
        players: usize,
        seed: u64,
        habits: Habits,
    ) -> anyhow::Result<Self> {
        let over = watch::Sender::new(false);
        let (mut bots, complaints) = (JoinSet::new(), Arc::<Mutex<Vec<String>>>::default());
        for n in 0..players {
            let gateway = cluster.gateway(n % 2);
            let own = Door { http: gateway.http.context("http")?, ws: gateway.ws.context("ws")? };
            let first = door.unwrap_or(&own);
            let account = Account::register(&cluster.http, &first.http, &format!("bot{n}")).await?;
            let bot = Bot {
                nodes: cluster.database.pool.clone(),
                heard: Heard { player_id: account.player_id.clone(), ..Heard::default() },
                client: Client::connect(&first.ws, account, &[]).await?,
                door: door.cloned(),
                habits,
                asked: None,
                over: over.subscribe(),
                random: StdRng::seed_from_u64(seed.wrapping_add(n as u64)),
                log: VecDeque::new(),
            };
            let complaints = Arc::clone(&complaints);
            bots.spawn(async move {
                let heard = bot.run().await;
                heard
                    .inspect_err(|e| complaints.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{e:#}")))
                    .ok()
            });
        }
        Ok(Self { bots, complaints, over })
    }

    /// A player gives up only when something is wrong.
    pub fn is_well(&self) -> anyhow::Result<()> {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(complaints.is_empty(), "players gave up:\n{}", complaints.join("\n"));
        Ok(())
    }

    /// Nobody queues any more; who waits withdraws, who plays ends it.
    pub async fn leave(mut self) -> anyhow::Result<Vec<Heard>> {
        self.over.send_replace(true);
        let mut heard = Vec::new();
        while let Some(bot) = self.bots.join_next().await {
            heard.extend(bot?);
        }
        self.is_well()?;
        Ok(heard)
    }
}

/// Where players come in.
#[derive(Debug, Clone)]
pub struct Door {
    pub http: String,
    pub ws: String,
}

struct Bot {
    /// For the addresses of gateways that live.
    nodes: PgPool,
    /// The way back, where it is always the same.
    door: Option<Door>,
    habits: Habits,
    /// When the ticket was acknowledged that waits.
    asked: Option<Instant>,
    client: Client,
    heard: Heard,
    over: watch::Receiver<bool>,
    random: StdRng,
    /// What happened last, for a complaint.
    log: VecDeque<String>,
}

/// Where a player is.
#[derive(Debug)]
enum At {
    Idle,
    Waiting { ticket_id: String },
    Playing { match_id: String },
}

impl Bot {
    async fn run(mut self) -> anyhow::Result<Heard> {
        let mut at = At::Idle;
        loop {
            if matches!(at, At::Idle) && *self.over.borrow() {
                self.client.close().await;
                return Ok(self.heard);
            }
            self.note(format!("{at:?}"));
            let done = match &at {
                At::Idle => self.queue().await,
                At::Waiting { ticket_id } => self.wait(&ticket_id.clone()).await,
                At::Playing { match_id } => self.play(&match_id.clone()).await,
            };
            at = match done {
                Ok(next) => next,
                Err(error) if self.client.closed.is_some() || error.is::<tungstenite::Error>() => {
                    self.come_back().await?
                }
                Err(error) => return Err(error.context(format!("player {}", self.heard.player_id))),
            };
        }
    }

    fn note(&mut self, what: String) {
        if self.log.len() > 6 {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:?} {what}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    }

    async fn queue(&mut self) -> anyhow::Result<At> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..200))).await;
        let answer = self.client.ask("matchmaker.add", json!({"mode": self.habits.mode})).await?;
        let payload = &answer["payload"];
        if answer["type"] == "matchmaker.queued" {
            let ticket_id = payload["ticket_id"].as_str().context("ticket_id")?.to_owned();
            self.heard.tickets.insert(ticket_id.clone());
            self.asked.get_or_insert_with(Instant::now);
            return Ok(At::Waiting { ticket_id });
        }
        self.note(format!("refused: {answer}"));
        // The last match's seat, a database that is away: asked again. A match that was formed meanwhile is told of.
        let matched = |frame: &Value| frame["type"] == "match.matched";
        match self.briefly(Duration::from_millis(100), matched).await? {
            Some(frame) => self.told(&frame["payload"]),
            None => Ok(At::Idle),
        }
    }

    /// What is wanted, if it comes soon.
    async fn briefly(&mut self, soon: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Option<Value>> {
        match timeout(soon, self.client.wait("something", wanted)).await {
            Ok(found) => found.map(Some),
            Err(_) => Ok(None),
        }
    }

    fn told(&mut self, matched: &Value) -> anyhow::Result<At> {
        let match_id = matched["match_id"].as_str().context("match_id")?.to_owned();
        self.heard.told.insert(match_id.clone());
        if let Some(asked) = self.asked.take() {
            self.heard.wait = self.heard.wait.max(asked.elapsed());
        }
        Ok(At::Playing { match_id })
    }

    async fn wait(&mut self, ticket_id: &str) -> anyhow::Result<At> {
        let what = format!("what became of ticket {ticket_id}");
        let ends = |frame: &Value| {
            let kind = frame["type"].as_str().unwrap_or_default();
            frame.get("cid").is_none()
                && matches!(kind, "match.matched" | "match.matchmaker_expired" | "match.matchmaker_failed")
        };
        let fickle = self.random.random_range(0..100) < self.habits.fickle;
        let soon = Duration::from_millis(self.random.random_range(0..2_000));
        let mut ended = tokio::select! {
            frame = self.client.wait(&what, ends) => Some(frame?),
            over = self.over.wait_for(|over| *over) => over.map(|_| None)?,
            () = tokio::time::sleep(soon), if fickle => None,
        };
        if ended.is_none() {
            ended = self.withdraw(ticket_id, ends).await?;
        }
        let Some(frame) = ended else {
            let withdrawn = self.heard.withdrawn.contains(ticket_id);
            return Ok(if withdrawn { At::Idle } else { At::Waiting { ticket_id: ticket_id.to_owned() } });
        };
        if frame["type"] == "match.matched" {
            return self.told(&frame["payload"]);
        }
        self.heard.ended += 1;
        Ok(At::Idle)
    }

    /// Answers what became of the ticket instead, if it had been claimed already.
    async fn withdraw(&mut self, ticket_id: &str, ends: impl Fn(&Value) -> bool) -> anyhow::Result<Option<Value>> {
        self.heard.doubtful.insert(ticket_id.to_owned());
        let answer = self.client.ask("matchmaker.remove", json!({"ticket_id": ticket_id})).await?;
        // The database may have done it without an answer in time.
        if answer["payload"]["reason"] != "not_ready" {
            self.heard.doubtful.remove(ticket_id);
        }
        if answer["type"] == "matchmaker.removed" {
            self.heard.withdrawn.insert(ticket_id.to_owned());
            self.asked = None;
            return Ok(None);
        }
        self.briefly(Duration::from_secs(5), ends).await
    }

    /// Says hello until everybody has, so that nobody is left behind, then ends it.
    async fn play(&mut self, match_id: &str) -> anyhow::Result<At> {
        let over = |frame: &Value| frame["type"] == "match.finished" && frame["payload"]["match_id"] == match_id;
        let other = |frame: &Value| frame["type"] == "match.matched" && frame["payload"]["match_id"] != match_id;
        let everybody = |frame: &Value| {
            frame["type"] == "match.state"
                && frame["payload"]["players"]
                    .as_object()
                    .is_some_and(|players| players.values().all(|p| p["last"] == 1))
        };
        let since = Instant::now();
        let mut input = json!({"n": 1});
        while since.elapsed() < PATIENCE {
            // Inputs of a host that is gone, or not yet reached, are lost.
            self.client.send("match.input", input.clone()).await?;
            let next = |frame: &Value| over(frame) || other(frame) || input["finish"].is_null() && everybody(frame);
            match self.briefly(Duration::from_secs(1), next).await? {
                Some(frame) if over(&frame) => {
                    self.client.forget();
                    return Ok(At::Idle);
                }
                Some(frame) if other(&frame) => {
                    self.is_over(&frame["payload"]).await.context(match_id.to_owned())?;
                    // What is held may be this one's end.
                    continue;
                }
                Some(_) => input = json!({"n": 1, "finish": true}),
                None => {}
            }
            self.client.forget();
        }
        let sql = "SELECT row_to_json(m)::text FROM matches m WHERE id::text = $1";
        let row: Option<String> = sqlx::query_scalar(sql).bind(match_id).fetch_optional(&self.nodes).await?;
        bail!("match {match_id} does not end; since {since:?} {:?}; its row: {row:?}", self.log)
    }

    /// A match that the player is told of while in another one: it may be late news, and nothing else.
    async fn is_over(&mut self, matched: &Value) -> anyhow::Result<()> {
        let sql = "SELECT state FROM matches WHERE id::text = $1 AND state IN ('allocating', 'running')";
        let open = sqlx::query_scalar(sql).bind(matched["match_id"].as_str()).fetch_optional(&self.nodes).await;
        // A database that is away does not say that it is open.
        let open: Option<String> = open.unwrap_or_default();
        ensure!(open.is_none(), "was matched while in a match into {matched}, which is {open:?}; {:?}", self.log);
        Ok(())
    }

    /// Connects to a gateway that lives, and learns where the player is.
    async fn come_back(&mut self) -> anyhow::Result<At> {
        let since = Instant::now();
        loop {
            let sql = "SELECT ws_url FROM nodes WHERE role = 'gateway' AND state = 'ready' AND lease_until > now() ORDER BY random()";
            let urls: Vec<String> = match &self.door {
                Some(door) => vec![door.ws.clone()],
                None => sqlx::query_scalar(sql).fetch_all(&self.nodes).await.unwrap_or_default(),
            };
            for ws in urls {
                if let Ok(client) = Client::connect(&ws, self.client.account.clone(), &[]).await {
                    self.client = client;
                    let connected = self.client.connected.clone();
                    self.note(format!("came back to {ws}: {connected}"));
                    return if connected["match_id"].is_string() { self.told(&connected) } else { Ok(At::Idle) };
                }
            }
            ensure!(since.elapsed() < PATIENCE, "no gateway takes player {} back", self.heard.player_id);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
