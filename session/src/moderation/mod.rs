//! What moderators decided, as a node knows it without asking: who must be silent, what chat must not say, what was deleted.
//!
//! ```text
//!  a change ──► wake-up on the bus ─┐
//!  every few seconds ───────────────┼──► versions ──► what is newer than what was read ──► memory · members of channels
//!  resync ──────────────────────────┘
//!
//!  a message ──► muted? ──► words ──► the studio's filter, where there is one ──► the writer
//! ```
//!
//! Invariant: nothing is said here before all of it was read once. Where nobody is muted, no word is listed and no filter is called, a
//! message costs two loads.

mod deletions;
mod filter;
mod mutes;
mod words;

use std::{sync::Arc, time::Duration};

use asobi_bus::{Bus, Subscription};
use asobi_proto::{bus::Topic, social_v1::TextKind};
use asobi_service_kit::Config;
use asobi_store::{
    moderation::{self, Versions},
    mutes as mute_rows, within, words as word_rows,
};
use futures_util::FutureExt as _;
use parking_lot::RwLock;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

pub(crate) use self::deletions::Deletions;
use self::{
    filter::Filter,
    mutes::Mutes,
    words::{Found, Words},
};
use crate::hub::Hub;

/// Wake-ups that may wait; past it there is a resync, which is the same.
const BUS_QUEUE: usize = 64;
/// Of one read.
const DEADLINE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(250);
/// How soon a change is found that nobody was told of.
const EVERY: Duration = Duration::from_millis(2_500);
/// How often all mutes are read anew: those of erased players go, who are told of by no version.
const ANEW: Duration = Duration::from_secs(3_600);
const ROWS: i64 = 1_000;
/// How long whoever speaks waits for a node that has only begun.
const BEGINNING: Duration = Duration::from_secs(3);

/// A mute that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Muted {
    /// None: for ever.
    pub until: Option<OffsetDateTime>,
}

/// What becomes of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It stays as it is.
    Clean,
    /// This takes its place.
    Changed(String),
    Refused,
    /// It cannot be told now, and the operator would rather have nothing said.
    Unavailable,
}

/// See the module.
pub(crate) struct Moderation {
    mutes: Mutes,
    words: RwLock<Option<Arc<Words>>>,
    pub deletions: Deletions,
    filter: Option<Filter>,
    /// Whether everything was read once.
    read: watch::Sender<bool>,
}

impl Moderation {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mutes: Mutes::default(),
            words: RwLock::new(None),
            deletions: Deletions::default(),
            filter: Filter::new(config),
            read: watch::Sender::new(false),
        }
    }

    /// Whether it is known who must be silent.
    pub(crate) fn is_read(&self) -> bool {
        *self.read.borrow()
    }

    /// Waits until it is, for a moment. False: it is not.
    pub(crate) async fn reading(&self) -> bool {
        let mut read = self.read.subscribe();
        matches!(tokio::time::timeout(BEGINNING, read.wait_for(|read| *read)).await, Ok(Ok(_)))
    }

    /// The mute that holds for a player in a channel.
    pub(crate) fn muted(&self, player: Uuid, channel: &str) -> Option<Muted> {
        self.mutes.of(player, channel, OffsetDateTime::now_utc)
    }

    /// What the list of words makes of a text.
    pub(crate) fn by_words(&self, text: &str) -> Judged {
        let Some(words) = self.words.read().clone() else { return Judged::Clean };
        match words.find(text) {
            Found::Nothing => Judged::Clean,
            Found::Masked(masked) => {
                metrics::counter!("asobi_chat_words_total", "action" => "masked").increment(1);
                Judged::Changed(masked)
            }
            Found::Refused => {
                metrics::counter!("asobi_chat_words_total", "action" => "refused").increment(1);
                Judged::Refused
            }
        }
    }

    /// Whether there is a filter to be asked.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// What the studio's filter makes of a text; as it is, where there is none.
    pub(crate) async fn by_filter(&self, kind: TextKind, player: Uuid, channel: &str, text: &str) -> Judged {
        match &self.filter {
            Some(filter) => filter.check(kind, player, channel, text).await,
            None => Judged::Clean,
        }
    }
}

impl Hub {
    /// Judges a name that a player gives themself or a group, and what else is said of a group.
    pub async fn judge_name(&self, kind: TextKind, player: Uuid, name: &str) -> Judged {
        if !self.moderation.reading().await {
            return Judged::Unavailable;
        }
        match self.moderation.by_words(name) {
            Judged::Clean => self.moderation.by_filter(kind, player, "", name).await,
            Judged::Changed(masked) => match self.moderation.by_filter(kind, player, "", &masked).await {
                Judged::Clean => Judged::Changed(masked),
                judged => judged,
            },
            judged => judged,
        }
    }
}

pub(crate) fn start(hub: &Arc<Hub>, bus: &Bus) {
    let events = bus.subscribe(&[Topic::Moderation], BUS_QUEUE);
    hub.spawn("moderation", follow(Arc::clone(hub), events));
}

async fn follow(hub: Arc<Hub>, mut events: Subscription) {
    let mut known = Known::default();
    loop {
        match known.catch_up(&hub).await {
            Ok(()) => drop(hub.moderation.read.send_replace(true)),
            Err(error) => {
                tracing::warn!(%error, "What moderators changed could not be read; it is tried again.");
                tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5))).await;
                continue;
            }
        }
        let pause = EVERY.mul_f64(rand::random_range(0.7..1.3));
        if let Ok(None) = tokio::time::timeout(pause, events.next()).await {
            return;
        }
        // What has come meanwhile is answered by the same look.
        while let Some(Some(_)) = events.next().now_or_never() {}
    }
}

/// How far was read; none: not at all. Each part by itself, so that what was cut short is not done twice.
#[derive(Default)]
struct Known {
    mutes: Option<i64>,
    words: Option<i64>,
    deletions: Option<i64>,
    /// When all mutes were read.
    anew: Option<Instant>,
}

impl Known {
    async fn catch_up(&mut self, hub: &Hub) -> asobi_store::Result<()> {
        let Versions { mutes, deletions, words } = within(DEADLINE, moderation::versions(&hub.pool)).await?;
        // Back behind what was read: a failover has taken something back.
        let back = self.mutes.is_some_and(|known| mutes < known);
        if back || self.anew.is_none_or(|at| at.elapsed() >= ANEW) {
            read_mutes(hub, 0, true).await?;
            self.anew = Some(Instant::now());
        } else if self.mutes != Some(mutes) {
            read_mutes(hub, self.mutes.unwrap_or(0), false).await?;
        }
        self.mutes = Some(mutes);
        if self.words != Some(words) {
            let compiled = words::compile(&within(DEADLINE, word_rows::list(&hub.pool)).await?);
            *hub.moderation.words.write() = compiled.map(Arc::new);
            self.words = Some(words);
        }
        match &mut self.deletions {
            None => {
                hub.moderation.deletions.begin(&hub.pool).await?;
                self.deletions = Some(deletions);
            }
            Some(known) if deletions < *known => *known = deletions,
            Some(known) if deletions > *known => hub.read_deletions(known).await?,
            Some(_) => {}
        }
        Ok(())
    }
}

async fn read_mutes(hub: &Hub, mut after: i64, anew: bool) -> asobi_store::Result<()> {
    let mut changes = Vec::new();
    loop {
        let page = within(DEADLINE, mute_rows::since(&hub.pool, after, ROWS)).await?;
        let full = i64::try_from(page.len()).is_ok_and(|n| n >= ROWS);
        after = page.last().map_or(after, |last| last.version);
        changes.extend(page);
        if !full {
            break;
        }
    }
    hub.moderation.mutes.apply(changes, anew, OffsetDateTime::now_utc());
    Ok(())
}
