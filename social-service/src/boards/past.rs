//! Periods that are over: read when somebody asks for one, and kept in memory while there is room for the few that are asked for. Nothing
//! changes in them but what operators take off and erasures, and either drops or changes them here.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use asobi_store::{
    Error, Result,
    boards::{self, Change, Head, Operator, Rules},
    within,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Board, Boards, board::Loading, lock};

/// Periods in memory, and how many entries all of them may have; the last one that was asked for stays whatever its size.
const KEPT: usize = 32;
const KEPT_ENTRIES: usize = 2_000_000;
const PAGE: i64 = 20_000;

#[derive(Default)]
pub(super) struct Past {
    kept: Mutex<HashMap<(String, i64), Kept>>,
    /// Raised by whatever may change a past period: what was read before is not kept.
    changes: AtomicU64,
    /// One read at a time.
    reading: tokio::sync::Mutex<()>,
}

struct Kept {
    board: Arc<Mutex<Board>>,
    used: u64,
}

impl Past {
    /// What is known of a board's past is void.
    pub(super) fn forget(&self, id: &str) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        lock(&self.kept).retain(|(board, _), _| board != id);
    }

    pub(super) fn take_off(&self, player: Uuid) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for kept in lock(&self.kept).values() {
            lock(&kept.board).remove(player);
        }
    }

    fn find(&self, id: &str, period: i64, used: u64) -> Option<Arc<Mutex<Board>>> {
        let mut kept = lock(&self.kept);
        let found = kept.get_mut(&(id.to_owned(), period))?;
        found.used = used;
        Some(Arc::clone(&found.board))
    }

    fn keep(&self, id: &str, period: i64, board: &Arc<Mutex<Board>>, used: u64) {
        let mut kept = lock(&self.kept);
        kept.insert((id.to_owned(), period), Kept { board: Arc::clone(board), used });
        let mut entries: usize = kept.values().map(|kept| lock(&kept.board).len()).sum();
        while kept.len() > 1 && (kept.len() > KEPT || entries > KEPT_ENTRIES) {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| kept.remove(&key)) else { break };
            entries -= lock(&gone.board).len();
        }
    }
}

impl Boards {
    /// Looks at a period of a board, the current one where it is none; none: there is no such board, or no such period any more.
    ///
    /// # Errors
    /// When it has to be read and the database fails.
    pub async fn look_at<T>(
        self: &Arc<Self>,
        id: &str,
        period: Option<i64>,
        see: impl FnOnce(&Board) -> T,
    ) -> Result<Option<T>> {
        let Some(period) = period else { return self.look(id, see).await };
        let Some(current) = self.look(id, |board| board.head().period).await? else { return Ok(None) };
        if period >= current {
            return if period == current { self.look(id, see).await } else { Ok(None) };
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        if let Some(board) = self.past.find(id, period, used) {
            return Ok(Some(see(&lock(&board))));
        }
        let bound = self.options.bound;
        // Who waits for others for too long is told to try again.
        let reading = tokio::time::timeout(bound, self.past.reading.lock()).await;
        let _one = reading.map_err(|_| Error::Deadline(bound))?;
        if let Some(board) = self.past.find(id, period, used) {
            return Ok(Some(see(&lock(&board))));
        }
        let changes = self.past.changes.load(Ordering::Acquire);
        let Some(mut board) = self.read_past(id, period).await? else { return Ok(None) };
        lock(&self.erased).iter().for_each(|player| board.remove(*player));
        let board = Arc::new(Mutex::new(board));
        if self.past.changes.load(Ordering::Acquire) == changes {
            self.past.keep(id, period, &board, used);
        }
        let seen = see(&lock(&board));
        Ok(Some(seen))
    }

    async fn read_past(&self, id: &str, period: i64) -> Result<Option<Board>> {
        let bound = self.options.bound;
        let Some(period) = within(bound, boards::period(self.pool(), id, period)).await? else { return Ok(None) };
        let head = Head {
            rules: Rules { descending: period.descending, operator: Operator::Last },
            client_submit: false,
            seq: period.last_seq,
            period: period.period,
            period_seq: period.first_seq,
            born: OffsetDateTime::UNIX_EPOCH,
        };
        let (mut loading, mut after) = (Loading::new(self.options.seed), period.first_seq);
        loop {
            let page = async {
                let mut connection = Box::pin(self.pool().acquire()).await?;
                boards::past_page(&mut connection, id, &period, after, PAGE).await
            };
            let entries = within(bound, page).await?;
            let last = i64::try_from(entries.len()).unwrap_or(i64::MAX) < PAGE;
            after = entries.last().map_or(after, |entry| entry.seq);
            loading.take(&head, entries.into_iter().map(|entry| Change { entry, removed: false }).collect());
            if last {
                break;
            }
        }
        // It fails only when the runtime shuts down.
        let built = tokio::task::spawn_blocking(move || loading.finish(head)).await;
        built.map(Some).map_err(|_| Error::Deadline(bound))
    }
}
