//! Requests without a pause, of the kinds that go different ways: to the gateway alone, through the chat's writer, and to a
//! social service, reads and writes.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{matchmaking::bots::Door, support::rest::Account};

/// A board to which clients submit; it adds up, so that a score that is written twice shows.
pub const BOARD: &str = "open";
const PAUSE: Duration = Duration::from_millis(50);

/// What one caller has seen.
#[derive(Debug, Default)]
pub struct Called {
    pub player_id: String,
    pub answered: u32,
    /// Scores whose writing was answered, and those of which the answer is that there is no database now.
    pub scores: u32,
    pub doubtful: u32,
    /// Answers that there is no database, while there was none.
    pub refused: u32,
    pub slowest: Duration,
    /// What should not have been.
    pub failures: Vec<String>,
}

pub struct Steady {
    callers: JoinSet<Called>,
    stop: watch::Sender<bool>,
    away: watch::Sender<bool>,
}

impl Steady {
    pub async fn begin(http: &reqwest::Client, door: &Door, callers: usize) -> anyhow::Result<Self> {
        let (stop, away) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        let friend = Account::register(http, &door.http, "friend").await?.player_id;
        for n in 0..callers {
            let account = Account::register(http, &door.http, &format!("caller{n}")).await?;
            let caller = Caller { account, friend: friend.clone(), away: away.subscribe(), called: Called::default() };
            tasks.spawn(caller.call_on(stop.subscribe()));
        }
        Ok(Self { callers: tasks, stop, away })
    }

    /// While the database is away, its absence is an answer.
    pub fn database_is_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    pub async fn end(mut self) -> anyhow::Result<Vec<Called>> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        while let Some(called) = self.callers.join_next().await {
            all.push(called?);
        }
        let failures: Vec<String> = all.iter().flat_map(|called| called.failures.clone()).collect();
        ensure!(failures.is_empty(), "{} requests failed:\n{}", failures.len(), failures.join("\n"));
        Ok(all)
    }
}

struct Caller {
    account: Account,
    friend: String,
    away: watch::Receiver<bool>,
    called: Called,
}

impl Caller {
    async fn call_on(mut self, stop: watch::Receiver<bool>) -> Called {
        self.called.player_id.clone_from(&self.account.player_id);
        let mut n = 0;
        while !*stop.borrow() {
            n += 1;
            self.get(&format!("/players/{}", self.account.player_id)).await;
            self.get("/friends").await;
            self.get(&format!("/leaderboards/{BOARD}")).await;
            let message = json!({"recipient_id": self.friend, "content": format!("note {n}")});
            self.post("/dm", message).await;
            match self.post(&format!("/leaderboards/{BOARD}"), json!({"score": 1})).await {
                Some(true) => self.called.scores += 1,
                Some(false) => self.called.doubtful += 1,
                None => {}
            }
            sleep(PAUSE).await;
        }
        self.called
    }

    async fn get(&mut self, path: &str) {
        let (before, since) = (*self.away.borrow(), Instant::now());
        let answer = self.account.get(path).await;
        self.judge(&format!("GET {path}"), before, since, answer);
    }

    async fn post(&mut self, path: &str, body: Value) -> Option<bool> {
        let (before, since) = (*self.away.borrow(), Instant::now());
        let answer = self.account.post(path, body).await;
        self.judge(&format!("POST {path}"), before, since, answer)
    }

    /// Whether it was done, or was refused for want of a database.
    fn judge(&mut self, what: &str, away: bool, since: Instant, answer: anyhow::Result<(u16, Value)>) -> Option<bool> {
        let took = since.elapsed();
        match answer {
            Ok((200, _)) => {
                self.called.slowest = self.called.slowest.max(took);
                self.called.answered += 1;
                Some(true)
            }
            Ok((503, answer)) if answer["error"]["code"] == "not_ready" && (away || *self.away.borrow()) => {
                self.called.refused += 1;
                Some(false)
            }
            other => {
                self.called.failures.push(format!("{what} after {took:?}: {other:?}"));
                None
            }
        }
    }
}
