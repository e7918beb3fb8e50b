//! A conversation that goes on through everything, and its ledger.

use std::time::Duration;

use anyhow::Context as _;
use rand::{SeedableRng as _, rngs::StdRng};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    chat::{
        ledger::{Ledger, Line},
        reader::Reader,
        rows,
        talker::Talker,
    },
    matchmaking::bots::Door,
    support::rest::Account,
};

const CHANNEL: &str = "global:c0";
const TALKERS: usize = 2;
const READERS: usize = 4;
/// A steady load, not the most that there can be.
const PAUSE_MS: u64 = 300;

pub struct Conversation {
    talking: JoinSet<anyhow::Result<Vec<Line>>>,
    reading: JoinSet<anyhow::Result<Reader>>,
    pub channel: String,
    /// Of each talker, when they began what was acknowledged last.
    pub stored: Vec<watch::Receiver<Option<Instant>>>,
    stop: watch::Sender<bool>,
    last: watch::Sender<Option<i64>>,
}

/// After it.
pub struct Talked {
    pub ledger: Ledger,
    /// Of each reader, the longest time without a message.
    pub silences: Vec<Duration>,
    /// Of each message, until it was settled.
    pub took: Vec<Duration>,
}

impl Conversation {
    pub async fn begin(http: &reqwest::Client, door: &Door, seed: u64) -> anyhow::Result<Self> {
        Self::begin_in(CHANNEL, http, std::slice::from_ref(door), seed).await
    }

    /// In a channel, by several doors: whoever loses one takes the next.
    pub async fn begin_in(channel: &str, http: &reqwest::Client, doors: &[Door], seed: u64) -> anyhow::Result<Self> {
        let gateways = |n: usize| {
            let mut all: Vec<String> = doors.iter().map(|door| door.ws.clone()).collect();
            all.rotate_left(n % doors.len());
            all
        };
        let (stop, last) = (watch::Sender::new(false), watch::Sender::new(None));
        let (mut talking, mut reading, mut stored) = (JoinSet::new(), JoinSet::new(), Vec::new());
        for n in 0..READERS {
            let account = Account::register(http, &doors[n % doors.len()].http, &format!("reader{n}")).await?;
            let mut reader = Reader::new(account, channel, gateways(n));
            let client = reader.join().await?;
            reading.spawn(reader.read(client, last.subscribe()));
        }
        for n in 0..TALKERS {
            let account = Account::register(http, &doors[n % doors.len()].http, &format!("talker{n}")).await?;
            let random = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
            let (channel, gateways, last_stored) = (channel.to_owned(), gateways(n), watch::Sender::new(None));
            stored.push(last_stored.subscribe());
            let talker = Talker { account, channel, gateways, random, pause_ms: PAUSE_MS, stored: last_stored };
            talking.spawn(talker.talk(stop.subscribe()));
        }
        Ok(Self { talking, reading, channel: channel.to_owned(), stored, stop, last })
    }

    pub async fn end(mut self, pool: &PgPool) -> anyhow::Result<Talked> {
        self.stop.send_replace(true);
        let mut ledger = Ledger::default();
        while let Some(lines) = self.talking.join_next().await {
            ledger.sent.extend(lines?.context("a talker")?);
        }
        ledger.rows = rows(pool, &self.channel).await?;
        self.last.send_replace(Some(ledger.rows.last().map_or(0, |row| row.seq)));
        let mut silences = Vec::new();
        while let Some(reader) = self.reading.join_next().await {
            let reader = reader?.context("a reader")?;
            silences.push(reader.silence);
            ledger.heard.insert(reader.account.username, reader.heard);
        }
        if let Some(mistakes) = ledger.mistakes() {
            anyhow::bail!("the conversation in {} is wrong:\n{mistakes}", self.channel);
        }
        let took = ledger.sent.iter().map(|line| line.took).collect();
        Ok(Talked { ledger, silences, took })
    }
}
