//! The matches of one host: how they come, how they are found, and how they go.
//!
//! ```text
//!   CreateMatch ─▶ Starting: game loaded, init, joins ─▶ row claimed ─▶ Running ─▶ end committed ─▶ gone
//!                        │ script fails, row not ours          │ lost, stopped
//!                        └────────────▶ gone ◀─────────────────┘
//! ```
//! Invariant: a match that has not claimed its row delivers nothing and answers nobody.

mod actor;
mod claims;
mod mailbox;
mod port;
mod room;
mod rows;
mod schedule;
mod seats;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_proto::mode::ModeSettings;
use asobi_store::matches::Fence;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};
use tracing::Instrument as _;
use uuid::Uuid;

use self::{
    actor::Actor,
    mailbox::{Mailbox, mailbox},
    room::Room,
    worker::Worker,
};
pub use self::{
    mailbox::{MatchHandle, Message, SessionKey, Stop},
    port::{Entering, HostLink, Port, refused},
    room::Manners,
    rows::{PgRows, Rows},
};
use crate::game::{GameFactory, Outside, Registry, Setup};

/// What a host is made of.
pub struct HostDeps {
    pub node_id: String,
    pub incarnation: i64,
    pub registry: Registry,
    pub rows: Arc<dyn Rows>,
    pub outside: Arc<dyn Outside>,
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

/// A match that shall be made here, as its row says.
#[derive(Debug, Clone)]
pub struct NewMatch {
    pub match_id: Uuid,
    pub mode: String,
    pub epoch: i64,
    /// Of the leader that asks; 0: no leader.
    pub term: i64,
    pub host_incarnation: i64,
    pub players: Vec<Uuid>,
    /// The players by team; empty: no teams.
    pub teams: Vec<Vec<Uuid>>,
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

/// Why a match was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error("{0}")]
    Fenced(String),
    #[error("mode `{0}` is not served here")]
    UnknownMode(String),
    #[error("this host has all the matches it takes")]
    Full,
    #[error("this host takes no more matches")]
    Draining,
    #[error("the game did not start: {0}")]
    Game(String),
    #[error("the match's row could not be claimed in time")]
    Unclaimed,
}

/// Since when it runs, or why it does not.
type Done = Option<Result<Instant, CreateError>>;

struct Entry {
    handle: MatchHandle,
    /// How its start went, once that is known.
    done: watch::Receiver<Done>,
}

/// See the module.
pub struct Host {
    node_id: String,
    incarnation: i64,
    registry: Registry,
    rows: Arc<dyn Rows>,
    outside: Arc<dyn Outside>,
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
}

/// How often a claim whose outcome is unknown is repeated.
const CLAIMS: u32 = 3;
/// How long a match may take to seat players whom the queue chose.
const ADD: Duration = Duration::from_secs(2);

impl Host {
    /// Starts the worker threads. Call within the process's runtime.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(deps: HostDeps) -> std::io::Result<Arc<Self>> {
        let count =
            if deps.workers == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { deps.workers };
        let workers = (0..count).map(Worker::start).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            node_id: deps.node_id,
            incarnation: deps.incarnation,
            registry: deps.registry,
            rows: deps.rows,
            outside: deps.outside,
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
        }))
    }

    /// What this host announces.
    #[must_use]
    pub fn modes(&self) -> Vec<(String, ModeSettings)> {
        self.registry.modes()
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
        runs.then_some(entry.handle.epoch)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.matches.lock().len()
    }

    #[must_use]
    pub fn incarnation(&self) -> i64 {
        self.incarnation
    }

    /// Makes a match. A repeat for the same match and epoch answers as the first call did, and waits with it. What was begun goes on when the
    /// caller does not wait.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(self: &Arc<Self>, new: NewMatch) -> Result<(), CreateError> {
        self.check_fences(new.host_incarnation, new.term).map_err(CreateError::Fenced)?;
        let mut done = self.begin(new)?;
        match done.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or(Err(CreateError::Unclaimed)).map(drop),
            Err(_) => Err(CreateError::Game("its task broke off".into())),
        }
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

    fn begin(self: &Arc<Self>, new: NewMatch) -> Result<watch::Receiver<Done>, CreateError> {
        let mut matches = self.matches.lock();
        if let Some(entry) = matches.get(&new.match_id) {
            if entry.handle.epoch == new.epoch {
                return Ok(entry.done.clone());
            }
            if entry.handle.epoch > new.epoch {
                return Err(CreateError::Fenced(format!(
                    "epoch {} is over, {} runs here",
                    new.epoch, entry.handle.epoch
                )));
            }
            entry.handle.post(Message::Stop(Stop::Lost));
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(CreateError::Draining);
        }
        let Some(factory) = self.registry.get(&new.mode).cloned() else {
            return Err(CreateError::UnknownMode(new.mode));
        };
        if matches.len() >= self.capacity {
            return Err(CreateError::Full);
        }
        let worker = self.workers.iter().min_by_key(|worker| worker.matches());
        let Some(worker) = worker else {
            return Err(CreateError::Full);
        };
        let (handle, inbox) = mailbox(new.match_id, new.epoch, self.input_limit, self.runtime.clone());
        let (tell, done) = watch::channel(None);
        let presence = Presence {
            host: Arc::clone(self),
            match_id: new.match_id,
            epoch: new.epoch,
            load: Arc::clone(&worker.load),
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let span = tracing::Span::current();
        let given = worker.give(Box::new(move || {
            tokio::task::spawn_local(live(presence, factory, new, inbox, tell, span));
        }));
        if !given {
            // The job was dropped, and with it the presence that counted it.
            return Err(CreateError::Full);
        }
        matches.insert(handle.match_id, Entry { handle, done: done.clone() });
        let count = matches.len();
        drop(matches);
        self.tell_load(count);
        Ok(done)
    }

    fn tell_load(&self, count: usize) {
        metrics::gauge!("asobi_match_running").set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        (self.on_load)(u32::try_from(count).unwrap_or(u32::MAX));
        self.changed.notify_waiters();
    }

    fn remove(&self, match_id: Uuid, epoch: i64) {
        let mut matches = self.matches.lock();
        if matches.get(&match_id).is_some_and(|entry| entry.handle.epoch == epoch) {
            matches.remove(&match_id);
        }
        let count = matches.len();
        drop(matches);
        self.tell_load(count);
    }

    /// Takes no more matches from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Tells every match to stop.
    pub fn stop_all(&self, why: Stop) {
        for entry in self.matches.lock().values() {
            entry.handle.post(Message::Stop(why));
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
            if ran && !held.contains(&(*id, entry.handle.epoch)) {
                entry.handle.post(Message::Stop(Stop::Lost));
            }
        }
        rows.iter().filter(|(id, _)| !matches.contains_key(id)).copied().collect()
    }

    fn fence(&self, match_id: Uuid, epoch: i64) -> Fence {
        Fence { match_id, host_node: self.node_id.clone(), host_incarnation: self.incarnation, epoch }
    }

    /// Ends a row of ours that no match belongs to, such as one whose claim's answer was lost.
    pub async fn fail_row(&self, match_id: Uuid, epoch: i64) {
        let result = r#"{"error":"host_failed"}"#.to_owned();
        let ended = self.rows.finish(self.fence(match_id, epoch), false, result, Vec::new()).await;
        tracing::warn!(game.match_id = %match_id, ?ended, "A row without a match was ended.");
    }
}

/// Keeps a match in the host's books for as long as its task lives, however that ends.
struct Presence {
    host: Arc<Host>,
    match_id: Uuid,
    epoch: i64,
    load: Arc<std::sync::atomic::AtomicUsize>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        // Not here: a job that is dropped unrun is dropped under the lock of the books.
        let (host, match_id, epoch) = (Arc::clone(&self.host), self.match_id, self.epoch);
        self.host.runtime.spawn(async move {
            host.remove(match_id, epoch);
        });
    }
}

/// The whole life of a match, on its worker's thread.
async fn live(
    presence: Presence,
    factory: Arc<dyn GameFactory>,
    new: NewMatch,
    inbox: Mailbox,
    tell: watch::Sender<Done>,
    span: tracing::Span,
) {
    let host = &presence.host;
    let fence = host.fence(new.match_id, new.epoch);
    let room = prepare(host, factory.as_ref(), &new)
        .instrument(span)
        .await
        .map_err(|error| CreateError::Game(error.to_string()));
    let claimed = match room {
        Ok(room) => claim(host.rows.as_ref(), &fence).await.map(|()| room),
        Err(error) => Err(error),
    };
    match claimed {
        Ok(room) => {
            tracing::info!(game.match_id = %new.match_id, game.mode = new.mode, players = new.players.len(), "A match runs.");
            tell.send_replace(Some(Ok(Instant::now())));
            Actor::new(room, fence, inbox, Arc::clone(&host.rows)).run().await;
            tracing::info!(game.match_id = %new.match_id, game.mode = new.mode, "A match has ended.");
        }
        Err(error) => {
            if error == CreateError::Unclaimed {
                // It may be claimed all the same, and nobody may be told of a match that is not there.
                host.fail_row(new.match_id, new.epoch).await;
            }
            tracing::warn!(game.match_id = %new.match_id, game.mode = new.mode, %error, "A match was not made.");
            tell.send_replace(Some(Err(error)));
        }
    }
    drop(presence);
}

async fn prepare(host: &Host, factory: &dyn GameFactory, new: &NewMatch) -> Result<Room, crate::game::GameError> {
    let setup = Setup::new(new.match_id, new.mode.clone()).with_teams(new.teams.clone());
    let game = factory.create(&setup, Arc::clone(&host.outside))?;
    Room::start(game, setup, factory.settings().clone(), host.manners, &new.players).await
}

async fn claim(rows: &dyn Rows, fence: &Fence) -> Result<(), CreateError> {
    for _ in 0..CLAIMS {
        match rows.claim(fence.clone()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                return Err(CreateError::Fenced("the match's row is not, or no longer, this host's".into()));
            }
            Err(error) => {
                tracing::warn!(%error, game.match_id = %fence.match_id, "A match's row could not be claimed yet.");
            }
        }
    }
    Err(CreateError::Unclaimed)
}
