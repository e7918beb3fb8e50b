//! Every board this service answers for: loaded at its first use, then kept current by its own writes and by the bus.

mod board;
mod erase;
mod follow;
mod ranked;
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
use asobi_proto::bus::{ScoreItem, Topic};
use asobi_store::{
    boards::{Entry, Submission, Written},
    within,
};
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

pub use board::Board;
pub use erase::follow_erasures;
pub use follow::follow;
pub use write::{Full, Writer};

/// Boards in memory; past it, the one that nobody has asked for the longest is dropped and read again when somebody does.
const RESIDENT: usize = 1_000;
/// Changes that wait for a board which is being loaded; past it the load starts over.
const EARLY: usize = 65_536;

/// The boards in memory.
pub struct Boards {
    pool: PgPool,
    publisher: Publisher,
    bound: Duration,
    cells: Mutex<HashMap<String, Arc<Cell>>>,
    /// Boards that may lack a change, and when their rows are to be read.
    doubts: Mutex<HashMap<String, Instant>>,
    doubted: Notify,
    /// Players who were erased lately.
    erased: Mutex<HashSet<Uuid>>,
    uses: AtomicU64,
    seed: u64,
}

/// A board's place.
struct Cell {
    slot: Mutex<Slot>,
    /// One load at a time.
    loading: Arc<tokio::sync::Mutex<()>>,
    used: AtomicU64,
}

enum Slot {
    /// Being loaded: what comes meanwhile. None when that was too much.
    Early(Option<Vec<Entry>>),
    Ready(Box<Board>),
}

impl Boards {
    /// `seed` shapes the trees. `bound`: of one read.
    pub fn new(pool: PgPool, publisher: Publisher, bound: Duration, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            pool,
            publisher,
            bound,
            cells: Mutex::default(),
            doubts: Mutex::default(),
            doubted: Notify::new(),
            erased: Mutex::default(),
            uses: AtomicU64::new(0),
            seed,
        })
    }

    /// Looks at a board; none: there is no such board. Whoever asks may go away: a load that has begun is finished, so that a board which
    /// takes longer to read than they wait is there when they ask again.
    ///
    /// # Errors
    /// When it has to be read and the database fails.
    pub async fn look<T>(self: &Arc<Self>, id: &str, see: impl FnOnce(&Board) -> T) -> asobi_store::Result<Option<T>> {
        loop {
            let cell = self.cell(id);
            if let Slot::Ready(board) = &*lock(&cell.slot) {
                return Ok(Some(see(board)));
            }
            let one = Arc::clone(&cell.loading).lock_owned().await;
            if matches!(&*lock(&cell.slot), Slot::Ready(_)) {
                continue;
            }
            let (boards, id) = (Arc::clone(self), id.to_owned());
            // One task per board, bounded in time by its read.
            let load = tokio::spawn(async move {
                let _one = one;
                boards.load(&id, &cell).await
            });
            // It fails only when the runtime shuts down.
            if !load.await.unwrap_or(Err(asobi_store::Error::Deadline(self.bound)))? {
                return Ok(None);
            }
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
            let _ = self.publisher.publish(Topic::Boards, &item);
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
                    self.doubt(id, Instant::now() + board::GAP);
                }
            }
            Slot::Early(early) => {
                if let Some(list) = early {
                    list.push(entry);
                    if list.len() > EARLY {
                        *early = None;
                    }
                }
            }
        }
    }

    /// The board's rows are to be read at that time, unless an earlier one is set.
    fn doubt(&self, id: &str, due: Instant) {
        let mut doubts = lock(&self.doubts);
        let known = doubts.entry(id.to_owned()).or_insert(due);
        *known = due.min(*known);
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
        let cell = Arc::new(Cell {
            slot: Mutex::new(Slot::Early(Some(Vec::new()))),
            loading: Arc::default(),
            used: AtomicU64::new(used),
        });
        cells.insert(id.to_owned(), Arc::clone(&cell));
        cell
    }

    /// Reads a board into its cell, which hears of changes since before the read. False: there is no such board.
    async fn load(&self, id: &str, cell: &Arc<Cell>) -> asobi_store::Result<bool> {
        let read = within(self.bound, asobi_store::boards::since(&self.pool, id, 0)).await;
        let mut snapshot = match read {
            Ok(Some(snapshot)) => snapshot,
            nothing => {
                // Ids that anybody may ask for take no memory.
                let mut cells = lock(&self.cells);
                if cells.get(id).is_some_and(|known| Arc::ptr_eq(known, cell)) {
                    cells.remove(id);
                }
                return nothing.map(|_| false);
            }
        };
        self.without_erased(&mut snapshot);
        // Built outside of the lock: a large board takes a while, and changes go on gathering.
        let mut board = Board::new(snapshot, self.seed);
        let mut slot = lock(&cell.slot);
        if let Slot::Early(early) = &mut *slot {
            let Some(early) = early.take() else {
                *slot = Slot::Early(Some(Vec::new()));
                return Ok(true);
            };
            early.into_iter().for_each(|entry| board.apply(entry));
            let gap = board.has_gap();
            *slot = Slot::Ready(Box::new(board));
            drop(slot);
            if gap {
                self.doubt(id, Instant::now() + board::GAP);
            }
        }
        metrics::gauge!("asobi_social_boards").set(lock(&self.cells).len() as f64);
        Ok(true)
    }
}

/// No holder of these locks can leave them half-changed.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
