//! Every board this service answers for: loaded at its first use, or at the start when it is large, then kept current by its own writes and
//! by the bus.
//!
//! ```text
//!             look                 rows, page by page                 changes from the bus
//!   (nothing) ───► early, gathers ───────────────────► ready ◄──────────────────────────────┐
//!        ▲         what the bus says                     │ gap, hint, resync, sweep         │
//!        │                                               ▼                                  │
//!        └─ gone, or ranks otherwise, or no room ──── in doubt: what the rows have above its number
//! ```
//!
//! | what happens | what comes of it |
//! | --- | --- |
//! | a hint is lost | the next number shows the gap, or the sweep of all boards' numbers does within [`follow::SWEEP`]; the rows are read from there |
//! | the service dies after a commit, before its hint | the same, at the others; it itself reads the rows when it is back |
//! | the bus is cut off | all boards are in doubt when it is back |
//! | a reset, other settings, an entry taken off | it has a number, too: as above |
//! | more comes while a board is read than may wait | the board is in doubt as soon as it is read |
//! | many boards are asked for that are not there | two are read at a time, the others in turn, or their callers are told to try again |
//! | the replica is away, or too far behind | the primary is read |

mod board;
mod erase;
mod follow;
mod load;
mod past;
mod ranked;
mod renew;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_bus::Publisher;
use asobi_proto::bus::{BoardItem, ScoreItem, Topic};
use asobi_store::boards::{Entry, Submission, Written};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub use board::Board;
#[cfg(feature = "measured")]
pub use board::Loading;
pub use erase::follow_erasures;
pub use follow::follow;
pub use load::replica;
pub use renew::{reset_boards, sweep_boards};
pub use write::{Full, Writer};

/// Boards in memory; past it, the one that nobody has asked for the longest is dropped and read again when somebody does.
const RESIDENT: usize = 1_000;
/// Changes that wait for a board which is being loaded; past it its rows are read again from where the load ended.
const EARLY: usize = 65_536;

/// Where boards come from and go to, and how many are kept.
pub struct Options {
    pub pool: PgPool,
    /// Where whole boards are read, if it is not behind.
    pub replica: Option<PgPool>,
    /// Whether the bus is heard.
    pub listening: watch::Receiver<bool>,
    pub publisher: Publisher,
    /// Of one read.
    pub bound: Duration,
    /// Entries in memory, of all boards; past it, boards are dropped as past [`RESIDENT`].
    pub most_entries: usize,
    /// Shapes the trees.
    pub seed: u64,
}

/// The boards in memory.
pub struct Boards {
    options: Options,
    cells: Mutex<HashMap<String, Arc<Cell>>>,
    turns: load::Turns,
    past: past::Past,
    /// Boards that may lack a change, and when their rows are to be read.
    doubts: Mutex<HashMap<String, Doubt>>,
    doubted: Notify,
    /// Players who were erased lately.
    erased: Mutex<HashSet<Uuid>>,
    uses: AtomicU64,
}

/// Why a board's rows are to be read again.
#[derive(Clone, Copy)]
struct Doubt {
    due: Instant,
    /// The board had this number in the rows: it is needless if the board has come so far by itself, without a gap.
    seq: i64,
}

/// A board's place.
struct Cell {
    slot: Mutex<Slot>,
    /// Held by whoever reads rows into it: the whole board, or what it lacks. What two read at a time could come in the wrong order.
    reading: Arc<tokio::sync::Mutex<()>>,
    used: AtomicU64,
}

enum Slot {
    /// Being loaded: what comes meanwhile, and whether that was too much.
    Early {
        entries: Vec<Entry>,
        lost: bool,
    },
    Ready(Box<Board>),
}

impl Cell {
    fn is_ready(&self) -> bool {
        matches!(&*lock(&self.slot), Slot::Ready(_))
    }
}

impl Slot {
    fn empty() -> Self {
        Self::Early { entries: Vec::new(), lost: false }
    }
}

impl Boards {
    pub fn new(options: Options) -> Arc<Self> {
        let turns = load::Turns::new(&options.pool, options.bound);
        Arc::new(Self {
            options,
            turns,
            cells: Mutex::default(),
            past: past::Past::default(),
            doubts: Mutex::default(),
            doubted: Notify::new(),
            erased: Mutex::default(),
            uses: AtomicU64::new(0),
        })
    }

    pub fn pool(&self) -> &PgPool {
        &self.options.pool
    }

    /// Looks at a board; none: there is no such board. Whoever asks waits as long as for a statement, and may go away: a load that has begun
    /// is finished, so that a board which takes longer to read is there when they ask again.
    ///
    /// # Errors
    /// When it has to be read, and the database fails or it takes too long.
    pub async fn look<T>(self: &Arc<Self>, id: &str, see: impl FnOnce(&Board) -> T) -> asobi_store::Result<Option<T>> {
        let by = tokio::time::Instant::now() + self.options.bound;
        loop {
            let cell = self.cell(id);
            if let Slot::Ready(board) = &*lock(&cell.slot) {
                return Ok(Some(see(board)));
            }
            let loaded = tokio::time::timeout_at(by, self.loaded(id, &cell)).await;
            if !loaded.unwrap_or(Err(asobi_store::Error::Deadline(self.options.bound)))? {
                return Ok(None);
            }
        }
    }

    /// Reads a board into its cell, if nobody has meanwhile. False: there is no such board.
    async fn loaded(self: &Arc<Self>, id: &str, cell: &Arc<Cell>) -> asobi_store::Result<bool> {
        let one = Arc::clone(&cell.reading).lock_owned().await;
        if cell.is_ready() {
            return Ok(true);
        }
        let (boards, id, cell) = (Arc::clone(self), id.to_owned(), Arc::clone(cell));
        // One task per board, bounded in time by its reads.
        let load = tokio::spawn(async move {
            let _one = one;
            boards.load(&id, &cell).await
        });
        // It fails only when the runtime shuts down.
        load.await.unwrap_or(Err(asobi_store::Error::Deadline(self.options.bound)))
    }

    /// What a board in memory says; none: it is not there.
    pub fn glance<T>(&self, id: &str, see: impl FnOnce(&Board) -> T) -> Option<T> {
        let cell = lock(&self.cells).get(id).cloned()?;
        match &*lock(&cell.slot) {
            Slot::Ready(board) => Some(see(board)),
            Slot::Early { .. } => None,
        }
    }

    /// Takes changes to boards that are in memory, and tells the other services.
    pub fn written(&self, outcomes: impl IntoIterator<Item = (Submission, Written)>) {
        for (submission, written) in outcomes {
            let Written::Changed(entry) = written else { continue };
            self.apply(&submission.board, entry);
            let item = ScoreItem {
                leaderboard_id: submission.board,
                player_id: entry.player_id,
                score: entry.score,
                sub_score: entry.sub_score,
                seq: entry.seq,
                updated_at: i64::try_from(entry.updated_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
            };
            // Who misses it sees the gap in the numbers.
            let _ = self.options.publisher.publish(Topic::Boards, &item);
        }
    }

    /// A board was changed in another way than by scores, and that is committed: it is so in memory when this is done, and the other
    /// services are told. When the rows cannot be read now they are soon.
    pub async fn changed(&self, id: &str) {
        let _ =
            self.options.publisher.publish(Topic::Boards, &BoardItem { leaderboard_id: id.to_owned(), changed: true });
        if let Err(error) = self.repair(id).await {
            tracing::warn!(board.id = id, %error, "A board that was changed could not be read again; it is tried once more.");
            self.doubt(id, Instant::now());
        }
    }

    fn apply(&self, id: &str, entry: Entry) {
        if lock(&self.erased).contains(&entry.player_id) {
            // The number counts all the same: it is no gap.
            return self.doubt(id, Instant::now());
        }
        let Some(cell) = lock(&self.cells).get(id).cloned() else { return };
        let mut slot = lock(&cell.slot);
        match &mut *slot {
            Slot::Ready(board) => {
                board.apply(entry);
                if board.has_gap() {
                    drop(slot);
                    self.doubt_unless(id, Doubt { due: Instant::now() + board::GAP, seq: 0 });
                }
            }
            Slot::Early { lost: true, .. } => {}
            Slot::Early { entries, lost } if entries.len() >= EARLY => {
                *lost = true;
                *entries = Vec::new();
            }
            Slot::Early { entries, .. } => entries.push(entry),
        }
    }

    /// The board's rows are to be read at that time, unless an earlier one is set.
    fn doubt(&self, id: &str, due: Instant) {
        self.doubt_unless(id, Doubt { due, seq: i64::MAX });
    }

    fn doubt_unless(&self, id: &str, doubt: Doubt) {
        let mut doubts = lock(&self.doubts);
        let known = doubts.entry(id.to_owned()).or_insert(doubt);
        *known = Doubt { due: doubt.due.min(known.due), seq: doubt.seq.max(known.seq) };
        drop(doubts);
        self.doubted.notify_one();
    }

    fn cell(&self, id: &str) -> Arc<Cell> {
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut cells = lock(&self.cells);
        if let Some(cell) = cells.get(id) {
            cell.used.store(used, Ordering::Relaxed);
            return Arc::clone(cell);
        }
        if cells.len() >= RESIDENT {
            let oldest = cells.iter().min_by_key(|(_, cell)| cell.used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                cells.remove(&oldest);
            }
        }
        let cell =
            Arc::new(Cell { slot: Mutex::new(Slot::empty()), reading: Arc::default(), used: AtomicU64::new(used) });
        cells.insert(id.to_owned(), Arc::clone(&cell));
        cell
    }

    /// Whoever asks next has the board read, unless it is in another cell already.
    fn give_up(&self, id: &str, cell: &Arc<Cell>) {
        let mut cells = lock(&self.cells);
        if cells.get(id).is_some_and(|known| Arc::ptr_eq(known, cell)) {
            cells.remove(id);
        }
    }
}

/// No holder of these locks can leave them half-changed.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
