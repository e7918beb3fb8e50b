//! What every part of a leading matchmaker shares.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_bus::Publisher;
use asobi_cluster::{Membership, leader::Leadership};
use asobi_proto::bus::InboxEvent;
use asobi_service_kit::grpc::Channels;
use asobi_store::{inbox::StoredEvent, within};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{hosts::Hosts, index::Index, stats::History};

/// What ends a piece of the leader's work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another leads, or may: nothing was written.
    #[error("the leadership is over")]
    Over,
    /// Whether what was asked for has happened is unknown; the rows tell.
    #[error(transparent)]
    Store(#[from] asobi_store::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<asobi_cluster::Error> for Error {
    fn from(error: asobi_cluster::Error) -> Self {
        match error {
            asobi_cluster::Error::Store(error) => Self::Store(error),
            _ => Self::Over,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Numbers from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bound of one transaction.
    pub database: Duration,
    pub create: Duration,
    pub ghost_grace: Duration,
    /// How long a running match whose host is gone may wait for another.
    pub failover: Duration,
    /// Whether it may go on with any version of its script.
    pub any_version: bool,
    pub rebalance: bool,
    pub max_queue: i64,
}

/// What this process shows of itself.
#[derive(Debug, Default)]
pub struct Status {
    leading: AtomicBool,
    term: AtomicI64,
    depth: AtomicI64,
}

impl Status {
    pub fn leads(&self, term: i64) {
        self.term.store(term, Ordering::Relaxed);
        self.leading.store(true, Ordering::Relaxed);
        metrics::gauge!("asobi_matchmaker_leading").set(1.0);
    }

    pub fn stands_by(&self) {
        self.leading.store(false, Ordering::Relaxed);
        metrics::gauge!("asobi_matchmaker_leading").set(0.0);
        self.set_depth(0);
    }

    pub fn set_depth(&self, depth: usize) {
        self.depth.store(i64::try_from(depth).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether it leads, the term it leads or led under last, and the tickets in its index.
    pub fn read(&self) -> (bool, i64, i64) {
        let load = |n: &AtomicI64| n.load(Ordering::Relaxed);
        (self.leading.load(Ordering::Relaxed), load(&self.term), load(&self.depth))
    }
}

/// What outlives a leadership.
pub struct Deps {
    pub pool: PgPool,
    pub publisher: Publisher,
    pub channels: Channels,
    pub membership: Arc<Membership>,
    pub limits: Limits,
    pub status: Arc<Status>,
    /// Kept while standing by too, so that a new leader has it at once.
    pub index: Mutex<Index>,
    pub history: Mutex<History>,
    pub clock: Mutex<Clock>,
    pub labels: Mutex<Labels>,
}

/// The modes that metrics are labelled with.
#[derive(Debug, Default)]
pub struct Labels(BTreeSet<String>);

/// Of more than so many modes the later ones are counted together.
const LABELS: usize = 100;

impl Labels {
    /// What a mode is called in metrics.
    pub fn of(&mut self, mode: &str) -> String {
        if self.0.len() < LABELS && !self.0.contains(mode) {
            self.0.insert(mode.to_owned());
        }
        if self.0.contains(mode) { mode.to_owned() } else { "other".to_owned() }
    }

    /// What is said of queues is the leader's to say: this process leads no more.
    pub fn clear_queues(&self) {
        for mode in self.0.iter().map(String::as_str).chain(["other"]) {
            metrics::gauge!("asobi_matchmaker_queue_depth", "mode" => mode.to_owned()).set(0.0);
            metrics::gauge!("asobi_matchmaker_oldest_wait_seconds", "mode" => mode.to_owned()).set(0.0);
            metrics::gauge!("asobi_matchmaker_backfill_wanted", "mode" => mode.to_owned()).set(0.0);
        }
    }
}

/// The database's clock, as it was read last.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub read: Instant,
    pub us: i64,
}

impl Clock {
    /// Microseconds of the Unix epoch.
    pub fn now_us(self) -> i64 {
        self.us.saturating_add(i64::try_from(self.read.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { read: Instant::now(), us: 0 }
    }
}

/// One leadership's shared state.
pub struct Reign {
    pub deps: Arc<Deps>,
    pub leadership: Leadership,
    pub hosts: Mutex<Hosts>,
    /// Matches that some part of this process is at work on; the sweep for forgotten ones passes them over.
    busy: Mutex<HashSet<Uuid>>,
    /// Matches whose host is being asked to seat players of the queue; likewise.
    joining: Mutex<HashSet<Uuid>>,
    /// Tickets that wait again, and when they come back into the index. No more than were claimed and not yet told.
    again: Mutex<VecDeque<(Instant, Vec<Uuid>)>>,
    /// Running matches whose host is gone and that no other goes on with yet, and since when this leader knows. At most those there are.
    stranded: Mutex<HashMap<Uuid, Instant>>,
}

/// How long after a failed start its tickets are tried again, so that hosts which refuse are not asked in a loop.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Reign {
    pub fn new(deps: Arc<Deps>, leadership: Leadership) -> Self {
        Self {
            deps,
            leadership,
            hosts: Mutex::default(),
            busy: Mutex::default(),
            joining: Mutex::default(),
            again: Mutex::default(),
            stranded: Mutex::default(),
        }
    }

    /// Begins a transaction with the fence of this term.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>> {
        if !self.leadership.is_valid() {
            return Err(Error::Over);
        }
        // Boxed: acquiring a connection is a future of many kilobytes.
        let mut tx = asobi_store::begin(&self.deps.pool).await?;
        self.leadership.fence(&mut tx).await?;
        Ok(tx)
    }

    /// Bounds a transaction from our side too: the server's time-outs do not help when it cannot be reached.
    pub async fn bounded<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        within(self.deps.limits.database, async { Ok(work.await) }).await?
    }

    /// Publishes what was appended to inboxes, after the commit.
    pub fn publish(&self, seqs: &[i64], events: &[(Uuid, InboxEvent)]) {
        for (seq, (player, event)) in seqs.iter().zip(events) {
            self.publish_one(*seq, *player, event);
        }
    }

    /// One of them.
    pub fn publish_one(&self, seq: i64, player: Uuid, event: &InboxEvent) {
        asobi_bus::inbox::publish(&self.deps.publisher, player, seq, event);
    }

    /// The same for events that know their number.
    pub fn publish_stored(&self, events: &[StoredEvent]) {
        for event in events {
            asobi_bus::inbox::publish(&self.deps.publisher, event.player_id, event.seq, &event.event);
        }
    }

    /// Takes the players claimed for a running match in hand; false: another part of this process has them.
    pub fn take_joining(&self, match_id: Uuid) -> bool {
        lock(&self.joining).insert(match_id)
    }

    pub fn let_joining_go(&self, match_id: Uuid) {
        lock(&self.joining).remove(&match_id);
    }

    /// Takes matches in hand; answers those that nobody had.
    pub fn take_in_hand(&self, matches: impl IntoIterator<Item = Uuid>) -> HashSet<Uuid> {
        let mut busy = lock(&self.busy);
        matches.into_iter().filter(|id| busy.insert(*id)).collect()
    }

    /// Tickets to be looked for in the rows in a while: those whose match was given up, and those whose announcement may be lost.
    pub fn requeue(&self, tickets: Vec<Uuid>) {
        if !tickets.is_empty() {
            lock(&self.again).push_back((Instant::now() + RETRY_AFTER, tickets));
        }
    }

    /// Those of them whose time has come.
    pub fn requeued(&self, now: Instant) -> Vec<Uuid> {
        let mut again = lock(&self.again);
        let due = again.partition_point(|(at, _)| *at <= now);
        again.drain(..due).flat_map(|(_, tickets)| tickets).collect()
    }

    /// How long a match has been without a host that goes on with it, as far as this leader knows.
    pub fn stranded_for(&self, match_id: Uuid, now: Instant) -> Duration {
        let mut stranded = lock(&self.stranded);
        now.duration_since(*stranded.entry(match_id).or_insert(now))
    }

    /// They run again, or are over.
    pub fn not_stranded(&self, matches: impl IntoIterator<Item = Uuid>) {
        let mut stranded = lock(&self.stranded);
        for id in matches {
            stranded.remove(&id);
        }
    }

    pub fn let_go(&self, matches: impl IntoIterator<Item = Uuid>) {
        let mut busy = lock(&self.busy);
        for id in matches {
            busy.remove(&id);
        }
    }
}

/// No holder of these locks can leave them half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_past_the_first_hundred_share_a_label() {
        let mut labels = Labels::default();
        for n in 0..LABELS {
            assert_eq!(labels.of(&format!("mode-{n}")), format!("mode-{n}"));
        }
        assert_eq!((labels.of("one-more"), labels.of("mode-7")), ("other".to_owned(), "mode-7".to_owned()));
        assert_eq!(labels.0.len(), LABELS);
    }
}
