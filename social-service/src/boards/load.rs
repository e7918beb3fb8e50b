//! How a board comes into memory: from the replica when there is one that has all that was committed before, else from the primary.
//!
//! The cell is there before the first read, and the bus is heard before the primary is asked how far it is: what changes later comes over
//! the bus, what changed earlier is in the rows that are read, wherever.
//!
//! A read has a connection for as long as the board is large, so that few are read at the same time, and the pool stays for everybody else.
//! The others wait in line: for as long as a statement may take, and no more of them than [`LINE`]. Past either they are told to try again.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use asobi_service_kit::Config;
use asobi_store::{
    Error, Result,
    boards::{self, Head, replica},
    within,
};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Board, Boards, Cell, Slot,
    board::{GAP, Loading},
    lock,
};

/// Entries of one read: a fraction of a second, and a few hundred kilobytes.
const PAGE: i64 = 20_000;
/// How long a replica may take to catch up before the primary is read instead.
const REPLAY: Duration = Duration::from_secs(2);
/// One for each board that is read at the same time.
const REPLICA_CONNECTIONS: u32 = AT_ONCE;
const REPLICA_IDLE: Duration = Duration::from_secs(30);
/// A replica that was not to be had is not waited for again for so long: each board would wait, and others for its turn.
const REPLICA_REST: Duration = Duration::from_secs(10);
/// Large boards that are read at a start.
const PRELOADED: i64 = 256;
/// How often a board may be given away and made again while it is read.
const ATTEMPTS: usize = 3;
/// Boards that are read at the same time, if that is a quarter of the pool at most.
const AT_ONCE: u32 = 2;
/// Boards that wait to be read.
const LINE: u32 = 64;

/// Who may read a board as a whole.
pub(super) struct Turns {
    reading: Semaphore,
    /// Those who read, and those in line.
    places: Semaphore,
    /// How long is waited in line.
    bound: Duration,
    /// When the replica is asked again.
    replica: Mutex<Instant>,
}

impl Turns {
    pub(super) fn new(pool: &PgPool, bound: Duration) -> Self {
        let at_once = (pool.options().get_max_connections() / 4).clamp(1, AT_ONCE);
        let permits = |n: u32| Semaphore::new(n as usize);
        Self { reading: permits(at_once), places: permits(at_once + LINE), bound, replica: Mutex::new(Instant::now()) }
    }

    /// A turn, until it is dropped.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it does not come.
    async fn next(&self) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let late = || {
            metrics::counter!("asobi_social_board_loads_total", "from" => "nowhere").increment(1);
            Error::Deadline(self.bound)
        };
        let place = self.places.try_acquire().map_err(|_| late())?;
        let turn = tokio::time::timeout(self.bound, self.reading.acquire()).await;
        // It is never closed.
        Ok((turn.map_err(|_| late())?.map_err(|_| late())?, place))
    }
}

/// The pool of database.replica_url, which connects when it is needed; none: there is none.
///
/// # Errors
/// When it is no URL.
pub fn replica(config: &Config) -> anyhow::Result<Option<PgPool>> {
    let database = &config.database;
    if database.replica_url.is_empty() {
        return Ok(None);
    }
    let name = format!("asobi/{}", config.node.id);
    let options = asobi_store::connect_options(database.replica_url.expose(), &name, database.timeout())
        .context("database.replica_url is not a PostgreSQL URL")?;
    let pool = PgPoolOptions::new().max_connections(REPLICA_CONNECTIONS).acquire_timeout(REPLAY);
    Ok(Some(pool.idle_timeout(REPLICA_IDLE).connect_lazy_with(options)))
}

impl Boards {
    /// Reads the large boards, which would keep the first who ask for them waiting, until there is no room for more.
    pub async fn preload(self: Arc<Self>, changes: i64) {
        let mut listening = self.options.listening.clone();
        // What is read before the bus is heard is read again for what it may have missed; it is not wrong.
        let _ = tokio::time::timeout(REPLAY, listening.wait_for(|heard| *heard)).await;
        let large = within(self.options.bound, boards::large(self.pool(), changes, PRELOADED)).await;
        let large = large.unwrap_or_else(|error| {
            tracing::warn!(%error, "The large boards could not be listed; each is read when it is asked for.");
            Vec::new()
        });
        for id in large {
            if self.entries() >= self.options.most_entries {
                break;
            }
            let cell = self.cell(&id);
            if let Err(error) = self.loaded(&id, &cell).await {
                tracing::warn!(board.id = id, %error, "A large board could not be read; it is when it is asked for.");
            }
        }
    }

    /// Reads a board into its cell, which hears of changes since before the read. False: there is no such board.
    pub(super) async fn load(self: &Arc<Self>, id: &str, cell: &Arc<Cell>) -> Result<bool> {
        let began = Instant::now();
        match self.read_board(id).await {
            Ok(Some(board)) => {
                self.install(id, cell, board);
                metrics::histogram!("asobi_social_board_load_seconds").record(began.elapsed());
                Ok(true)
            }
            nothing => {
                // Ids that anybody may ask for take no memory.
                self.give_up(id, cell);
                nothing.map(|_| false)
            }
        }
    }

    fn install(&self, id: &str, cell: &Cell, mut board: Board) {
        let mut slot = lock(&cell.slot);
        let Slot::Early { entries, lost } = &mut *slot else { return };
        let (early, lost) = (std::mem::take(entries), *lost);
        early.into_iter().for_each(|entry| board.apply(entry));
        let doubtful = board.has_gap() || lost;
        // Whoever is erased from now on is taken off the board that is there; who was before, here.
        *slot = Slot::Ready(Box::new(board));
        if let Slot::Ready(board) = &mut *slot {
            lock(&self.erased).iter().for_each(|player| board.remove(*player));
        }
        drop(slot);
        if doubtful {
            self.doubt(id, Instant::now() + if lost { Duration::ZERO } else { GAP });
        }
        self.make_room(id);
    }

    /// Drops the boards that nobody has asked for the longest, until the others are few enough; never the one that has just come.
    fn make_room(&self, newest: &str) {
        let mut cells = lock(&self.cells);
        let mut there: Vec<(u64, String, usize, usize)> = Vec::with_capacity(cells.len());
        for (id, cell) in cells.iter() {
            if let Slot::Ready(board) = &*lock(&cell.slot) {
                there.push((cell.used.load(Ordering::Relaxed), id.clone(), board.len(), board.bytes()));
            }
        }
        there.sort_unstable();
        let mut entries: usize = there.iter().map(|(_, _, entries, _)| entries).sum();
        let mut bytes: usize = there.iter().map(|(_, _, _, bytes)| bytes).sum();
        for (_, id, its_entries, its_bytes) in there {
            if entries <= self.options.most_entries {
                break;
            }
            if id != newest && its_entries > 0 {
                cells.remove(&id);
                (entries, bytes) = (entries - its_entries, bytes - its_bytes);
            }
        }
        metrics::gauge!("asobi_social_boards").set(cells.len() as f64);
        metrics::gauge!("asobi_social_board_entries").set(entries as f64);
        metrics::gauge!("asobi_social_board_bytes").set(bytes as f64);
    }

    fn entries(&self) -> usize {
        lock(&self.cells).values().map(|cell| size(cell)).sum()
    }

    async fn read_board(&self, id: &str) -> Result<Option<Board>> {
        let _turn = self.turns.next().await?;
        let Some((loading, head)) = self.read_rows(id).await? else { return Ok(None) };
        // It fails only when the runtime shuts down.
        let built = tokio::task::spawn_blocking(move || loading.finish(head)).await;
        built.map(Some).map_err(|_| Error::Deadline(self.options.bound))
    }

    async fn read_rows(&self, id: &str) -> Result<Option<(Loading, Head)>> {
        if let Some(mut replica) = self.replica().await {
            match self.read_all(&mut replica, id).await {
                Ok(rows) => {
                    metrics::counter!("asobi_social_board_loads_total", "from" => "replica").increment(1);
                    return Ok(rows);
                }
                Err(error) => {
                    tracing::warn!(board.id = id, %error, "The replica failed while a board was read; the primary is read.");
                }
            }
        }
        metrics::counter!("asobi_social_board_loads_total", "from" => "primary").increment(1);
        let mut primary = within(self.options.bound, connection(self.pool())).await?;
        self.read_all(&mut primary, id).await
    }

    async fn read_all(&self, connection: &mut PgConnection, id: &str) -> Result<Option<(Loading, Head)>> {
        for _ in 0..ATTEMPTS {
            let (mut loading, mut after, mut born) = (Loading::new(self.options.seed), 0, None);
            loop {
                let page = within(self.options.bound, boards::page(connection, id, after, PAGE)).await?;
                let Some(page) = page else { return Ok(None) };
                if *born.get_or_insert(page.head.born) != page.head.born {
                    break;
                }
                after = page.changes.last().map_or(after, |change| change.entry.seq);
                loading.take(&page.head, page.changes);
                if page.last {
                    return Ok(Some((loading, page.head)));
                }
            }
        }
        Err(Error::Deadline(self.options.bound))
    }

    /// A connection to the replica, once it has all that was committed before this was called. None: there is no replica, or it is not to
    /// be had now.
    async fn replica(&self) -> Option<PoolConnection<Postgres>> {
        let replica = self.options.replica.as_ref()?;
        if !*self.options.listening.borrow() || *lock(&self.turns.replica) > Instant::now() {
            // What it does not have yet would never come, or too late.
            return None;
        }
        let caught_up = async {
            let position = replica::position(self.pool()).await?;
            replica::caught_up(replica, &position).await
        };
        match within(REPLAY, caught_up).await {
            Ok(Some(connection)) => return Some(connection),
            Ok(None) => {
                tracing::warn!("database.replica_url leads to no standby; boards are read from the primary.");
            }
            Err(error) => {
                tracing::info!(%error, "The replica is away or too far behind; boards are read from the primary.");
            }
        }
        *lock(&self.turns.replica) = Instant::now() + REPLICA_REST;
        None
    }
}

async fn connection(pool: &PgPool) -> Result<PoolConnection<Postgres>> {
    Ok(Box::pin(pool.acquire()).await?)
}

fn size(cell: &Cell) -> usize {
    match &*lock(&cell.slot) {
        Slot::Ready(board) => board.len(),
        Slot::Early { .. } => 0,
    }
}
