//! The matches of one host: how they come, how they are found, and how they go.
//!
//! ```text
//!   CreateMatch ─▶ Starting: game loaded, init, joins ──────┐
//!      restore  ─▶ Starting: game loaded, last checkpoint ──┼─▶ row claimed ─▶ Running ─▶ end committed ─▶ gone
//!   AdoptMatch  ─▶ Starting: game loaded, snapshot ─────────┘                    │ moved, lost, stopped
//!                        └── script fails, row not ours ─▶ gone ◀────────────────┘
//! ```
//! Invariant: a match that has not claimed its row delivers nothing and answers nobody.
//!
//! Invariant: of two hosts that hold a match in memory one has its row. The other is frozen and asks the row, or is in doubt and takes
//! nothing, or finds out at its next write, which changes nothing.

mod actor;
mod creating;
mod mailbox;
mod meters;
mod moment;
mod operators;
mod outside;
mod peers;
mod port;
mod room;
mod rows;
mod schedule;
mod seats;
mod together;
mod trust;
mod turn;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_proto::mode::ModeSettings;
use asobi_store::matches::Fence;
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};
use uuid::Uuid;

pub use self::{
    creating::{Adoption, CreateError, NewMatch, Origin},
    mailbox::{MatchHandle, Message, SessionKey, Stop},
    operators::AskError,
    peers::{Adopted, MoveError, Peers, Target},
    port::{Entering, HostLink, Port, refused},
    room::{Manners, Seen, Wish},
    rows::{PgRows, Rows},
    trust::Trust,
    turn::{Wake, wake_later},
};
use self::{mailbox::Shared, meters::Meters, worker::Worker};
use crate::game::{Outside, Registry};

/// What a host is made of.
pub struct HostDeps {
    pub node_id: String,
    pub incarnation: i64,
    pub registry: Registry,
    pub rows: Arc<dyn Rows>,
    pub outside: Arc<dyn Outside>,
    pub peers: Arc<dyn Peers>,
    /// Whether it may act for its matches.
    pub trust: Arc<Trust>,
    pub manners: Manners,
    /// Matches it takes.
    pub capacity: usize,
    /// Inputs that may wait in one match.
    pub input_limit: usize,
    /// Threads, 0: one per core.
    pub workers: usize,
    /// Told the number of matches whenever it changes.
    pub on_load: Box<dyn Fn(u32) + Send + Sync>,
}

/// Players for a match that runs here.
#[derive(Debug, Clone)]
pub struct Addition {
    pub match_id: Uuid,
    pub epoch: i64,
    /// Of the leader that asks.
    pub term: i64,
    pub host_incarnation: i64,
    pub players: Vec<Uuid>,
}

/// Why nobody was added. After [`AddError::Unanswered`] they may be seated all the same: ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    #[error("{0}")]
    Fenced(String),
    #[error("the match does not run here")]
    NotHere,
    #[error("the match did not answer in time")]
    Unanswered,
}

/// Since when it runs, or why it does not.
type Done = Option<Result<Instant, CreateError>>;

struct Entry {
    handle: MatchHandle,
    mode: String,
    /// How its start went, once that is known.
    done: watch::Receiver<Done>,
}

/// See the module.
pub struct Host {
    node_id: String,
    incarnation: i64,
    registry: RwLock<Registry>,
    rows: Arc<dyn Rows>,
    outside: Arc<dyn Outside>,
    peers: Arc<dyn Peers>,
    trust: Arc<Trust>,
    meters: Arc<Meters>,
    manners: Manners,
    capacity: usize,
    input_limit: usize,
    runtime: Handle,
    workers: Vec<Worker>,
    matches: Mutex<HashMap<Uuid, Entry>>,
    /// The highest term any leader has shown.
    term: AtomicI64,
    draining: AtomicBool,
    on_load: Box<dyn Fn(u32) + Send + Sync>,
    changed: Notify,
    /// See [`room::Ground::void`].
    void: Arc<AtomicU64>,
}

/// How long a match may take to seat players whom the queue chose.
const ADD: Duration = Duration::from_secs(2);
/// How long a move may take, from the wish to the answer.
const MOVE: Duration = Duration::from_secs(10);

impl Host {
    /// Starts the worker threads. Call within the process's runtime.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(deps: HostDeps) -> std::io::Result<Arc<Self>> {
        let count =
            if deps.workers == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { deps.workers };
        let workers = (0..count).map(Worker::start).collect::<Result<_, _>>()?;
        metrics::gauge!("asobi_match_capacity").set(deps.capacity as f64);
        let host = Arc::new(Self {
            node_id: deps.node_id,
            incarnation: deps.incarnation,
            registry: RwLock::new(deps.registry),
            rows: deps.rows,
            outside: deps.outside,
            peers: deps.peers,
            trust: deps.trust,
            meters: Arc::new(Meters::new()),
            manners: deps.manners,
            capacity: deps.capacity,
            input_limit: deps.input_limit,
            runtime: Handle::current(),
            workers,
            matches: Mutex::default(),
            term: AtomicI64::new(0),
            draining: AtomicBool::new(false),
            on_load: deps.on_load,
            changed: Notify::new(),
            void: Arc::default(),
        });
        meters::observe(&host);
        Ok(host)
    }

    /// What this host announces: each mode with its settings and the version of its code.
    #[must_use]
    pub fn modes(&self) -> Vec<(String, ModeSettings, String)> {
        self.registry.read().modes()
    }

    /// Takes other code for its modes: new matches are made of it, and running ones whose mode's code has changed go on with it.
    pub fn reload(&self, registry: Registry) {
        let before = std::mem::replace(&mut *self.registry.write(), registry);
        let now = self.registry.read();
        for entry in self.matches.lock().values() {
            let (Some(old), Some(new)) = (before.get(&entry.mode), now.get(&entry.mode)) else { continue };
            if old.version() != new.version() {
                entry.handle.post(Message::Reload(Arc::clone(new)));
            }
        }
    }

    /// Moves a running match to another host, live. Answers the epoch it has there.
    ///
    /// # Errors
    /// Why it stays here. After [`MoveError::Unanswered`] it may have moved all the same.
    pub async fn move_match(&self, match_id: Uuid, target: Target) -> Result<i64, MoveError> {
        if self.running(match_id).is_none() {
            return Err(MoveError::NotHere);
        }
        if !self.trust.holds() {
            return Err(MoveError::InDoubt);
        }
        let handle = self.find(match_id).ok_or(MoveError::NotHere)?;
        let (reply, answer) = oneshot::channel();
        handle.post(Message::Move { target, reply });
        match tokio::time::timeout(MOVE, answer).await {
            Ok(Ok(moved)) => moved,
            Ok(Err(_)) => Err(MoveError::NotHere),
            Err(_) => Err(MoveError::Unanswered("the match is busy".into())),
        }
    }

    /// Matches that run here at this moment, with their modes.
    #[must_use]
    pub fn running_matches(&self) -> Vec<(Uuid, String)> {
        let matches = self.matches.lock();
        let runs = |entry: &&Entry| matches!(&*entry.done.borrow(), Some(Ok(_)));
        matches.values().filter(runs).map(|entry| (entry.handle.match_id, entry.mode.clone())).collect()
    }

    /// How to reach a match that is here, also one that is just starting: it answers when it runs.
    #[must_use]
    pub fn find(&self, match_id: Uuid) -> Option<MatchHandle> {
        self.matches.lock().get(&match_id).map(|entry| entry.handle.clone())
    }

    /// The epoch under which a match runs here.
    #[must_use]
    pub fn running(&self, match_id: Uuid) -> Option<i64> {
        let matches = self.matches.lock();
        let entry = matches.get(&match_id)?;
        let runs = matches!(&*entry.done.borrow(), Some(Ok(_)));
        runs.then(|| entry.handle.epoch())
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.matches.lock().len()
    }

    #[must_use]
    pub fn incarnation(&self) -> i64 {
        self.incarnation
    }

    fn check_fences(&self, host_incarnation: i64, term: i64) -> Result<(), String> {
        if host_incarnation != self.incarnation {
            return Err(format!("incarnation {host_incarnation} is meant, this is {}", self.incarnation));
        }
        if term > 0 {
            let seen = self.term.fetch_max(term, Ordering::SeqCst);
            if term < seen {
                return Err(format!("term {term} is over, {seen} was seen"));
            }
        }
        Ok(())
    }

    /// Seats players whom the queue chose and whose rows of seats are written, as far as there is room and the game takes them. Answers who sits
    /// there; a repeat answers the same.
    ///
    /// # Errors
    /// See [`AddError`].
    pub async fn add_players(&self, addition: Addition) -> Result<Vec<Uuid>, AddError> {
        self.check_fences(addition.host_incarnation, addition.term).map_err(AddError::Fenced)?;
        let epoch = self.running(addition.match_id).ok_or(AddError::NotHere)?;
        if epoch != addition.epoch {
            return Err(AddError::Fenced(format!("epoch {} is meant, {epoch} runs here", addition.epoch)));
        }
        let handle = self.find(addition.match_id).ok_or(AddError::NotHere)?;
        let (reply, answer) = oneshot::channel();
        handle.post(Message::Add { players: addition.players, reply });
        match tokio::time::timeout(ADD, answer).await {
            Ok(Ok(seated)) => Ok(seated),
            // A match that has ended drops the question.
            Ok(Err(_)) => Err(AddError::NotHere),
            Err(_) => Err(AddError::Unanswered),
        }
    }

    fn tell_load(&self, count: usize) {
        metrics::gauge!("asobi_match_running").set(count as f64);
        metrics::gauge!("asobi_match_load_ratio").set(count as f64 / self.capacity.max(1) as f64);
        (self.on_load)(u32::try_from(count).unwrap_or(u32::MAX));
        self.changed.notify_waiters();
    }

    fn remove(&self, match_id: Uuid, run: &Arc<Shared>) {
        let mut matches = self.matches.lock();
        if matches.get(&match_id).is_some_and(|entry| entry.handle.is(run)) {
            matches.remove(&match_id);
        }
        let count = matches.len();
        drop(matches);
        self.tell_load(count);
    }

    /// The database came back from a crash: checkpoints it answered for may be lost, and all are written again.
    pub fn void_checkpoints(&self) {
        self.void.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes no more matches from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Tells every match to stop.
    pub fn stop_all(&self, why: Stop) {
        for entry in self.matches.lock().values() {
            entry.handle.stop(why);
        }
    }

    /// Waits until no match is left, at most so long. False: some are.
    pub async fn emptied(&self, within: Duration) -> bool {
        let empty = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.count() == 0 {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, empty).await.is_ok()
    }

    /// Compares with the rows that name this incarnation, as read after `read_from`: matches that ran by then and whose row is not ours any more
    /// stop. Returns rows of ours that no match belongs to.
    #[must_use]
    pub fn compare(&self, rows: &[(Uuid, i64)], read_from: Instant) -> Vec<(Uuid, i64)> {
        let held: HashSet<(Uuid, i64)> = rows.iter().copied().collect();
        let matches = self.matches.lock();
        for (id, entry) in matches.iter() {
            // One that was claimed since is not in what was read.
            let ran = matches!(&*entry.done.borrow(), Some(Ok(since)) if *since < read_from);
            if ran && !entry.handle.is_moving() && !held.contains(&(*id, entry.handle.epoch())) {
                entry.handle.stop(Stop::Lost);
            }
        }
        rows.iter().filter(|(id, _)| !matches.contains_key(id)).copied().collect()
    }

    fn fence(&self, match_id: Uuid, epoch: i64) -> Fence {
        Fence { match_id, host_node: self.node_id.clone(), host_incarnation: self.incarnation, epoch }
    }

    /// Ends a row of ours that no match belongs to, such as one whose claim's answer was lost. Where that fails, the next comparison with the
    /// rows ends it; by then its players may have been told of it.
    pub async fn fail_row(&self, match_id: Uuid, epoch: i64) {
        let ended = self.rows.lose(self.fence(match_id, epoch), r#"{"error":"host_failed"}"#).await;
        tracing::warn!(game.match_id = %match_id, ?ended, "A row without a match was ended.");
    }
}
