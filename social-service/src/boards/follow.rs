//! Keeps the boards in memory like the rows: changes come over the bus, and what may have been lost is read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::{BusEvent, Notification, Subscription};
use asobi_proto::bus::{BoardItem, ScoreItem};
use asobi_store::{
    boards::{self, Entry},
    within,
};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Boards, Cell, Doubt, Slot, board::GAP, lock};

const RETRY: Duration = Duration::from_secs(1);
/// How often the numbers of all boards in memory are held against the rows': the last change before a service died may have been told to
/// nobody, and nothing after it shows the gap.
pub const SWEEP: Duration = Duration::from_secs(2);
/// Changes of one read of what is missing: they are taken under the board's lock.
const PAGE: i64 = 2_000;

/// Follows until `stop`.
pub async fn follow(boards: Arc<Boards>, mut events: Subscription, stop: CancellationToken) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = boards.next_doubt();
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(BusEvent::Batch(batch)) => take_all(&boards, &batch),
                Some(BusEvent::Resync) => boards.doubt_all(),
                None => return,
            },
            () = boards.doubted.notified() => {}
            () = tokio::time::sleep(due.saturating_duration_since(Instant::now())) => boards.repair_due().await,
            _ = sweep.tick() => if let Err(error) = boards.compare().await {
                tracing::debug!(%error, "The boards' numbers could not be read; it is tried again.");
            },
        }
    }
}

fn take_all(boards: &Boards, batch: &Notification) {
    for item in batch.items() {
        if let Ok(score) = serde_json::from_str::<ScoreItem>(item.get()) {
            take(boards, score);
        } else {
            match serde_json::from_str::<BoardItem>(item.get()) {
                Ok(board) => boards.doubt(&board.leaderboard_id, Instant::now()),
                Err(error) => tracing::warn!(%error, "A change on the bus could not be read; its row will be."),
            }
        }
    }
}

fn take(boards: &Boards, item: ScoreItem) {
    let updated_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(item.updated_at) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let entry =
        Entry { player_id: item.player_id, score: item.score, sub_score: item.sub_score, seq: item.seq, updated_at };
    // JSON has no NaN, and nobody writes an infinity; a stranger's row would only be out of place.
    if entry.score.is_finite() && entry.sub_score.is_finite() {
        boards.apply(&item.leaderboard_id, entry);
    }
}

impl Boards {
    fn next_doubt(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3_600);
        lock(&self.doubts).values().map(|doubt| doubt.due).min().unwrap_or(far)
    }

    /// Any board may lack something.
    fn doubt_all(&self) {
        let ids: Vec<String> = lock(&self.cells).keys().cloned().collect();
        let now = Instant::now();
        ids.iter().for_each(|id| self.doubt(id, now));
    }

    /// Holds the numbers of the boards in memory against the rows'.
    async fn compare(&self) -> asobi_store::Result<()> {
        let ids: Vec<String> = lock(&self.cells).keys().cloned().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let seqs = within(self.options.bound, boards::seqs(self.pool(), &ids)).await?;
        for id in ids {
            let Some((known, born)) = self.glance(&id, |board| (board.seq(), board.head().born)) else { continue };
            match seqs.get(&id) {
                // It was asked a moment ago: what is known may be newer.
                Some((seq, since)) if *seq <= known && *since == born => {}
                // What is on its way now has come by then.
                Some((seq, since)) if *since == born => {
                    self.doubt_unless(&id, Doubt { due: Instant::now() + GAP, seq: *seq });
                }
                _ => self.doubt(&id, Instant::now()),
            }
        }
        Ok(())
    }

    /// Reads what may be missing from the boards whose time has come.
    async fn repair_due(&self) {
        let now = Instant::now();
        let due: Vec<(String, i64)> = {
            let mut doubts = lock(&self.doubts);
            let due = doubts
                .iter()
                .filter(|(_, doubt)| doubt.due <= now)
                .map(|(id, doubt)| (id.clone(), doubt.seq))
                .collect();
            doubts.retain(|_, doubt| doubt.due > now);
            due
        };
        for (id, seq) in due {
            if self.glance(&id, |board| !board.has_gap() && board.seq() >= seq) == Some(true) {
                continue;
            }
            if let Err(error) = self.repair(&id).await {
                tracing::warn!(board.id = id, %error, "A board could not be read again; it is tried once more.");
                self.doubt(&id, Instant::now() + RETRY);
            }
        }
    }

    /// Reads what the rows have that a board in memory has not. One that has become another board is read as a whole.
    ///
    /// # Errors
    /// When the database fails, or somebody else reads for too long.
    pub(super) async fn repair(&self, id: &str) -> asobi_store::Result<()> {
        self.past.forget(id);
        let bound = self.options.bound;
        loop {
            let Some(cell) = lock(&self.cells).get(id).cloned() else { return Ok(()) };
            if let Slot::Early { lost, .. } = &mut *lock(&cell.slot) {
                // It may have been read already, as it was before: its rows are read again behind it.
                *lost = true;
                return Ok(());
            }
            let reading = tokio::time::timeout(bound, cell.reading.lock()).await;
            let _one = reading.map_err(|_| asobi_store::Error::Deadline(bound))?;
            if lock(&self.cells).get(id).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
                metrics::counter!("asobi_social_board_repairs_total").increment(1);
                return self.read_on(id, &cell).await;
            }
            // Meanwhile it was given up, and may be on its way into memory anew.
        }
    }

    /// As [`Self::repair`], by whoever alone reads into the cell.
    async fn read_on(&self, id: &str, cell: &Arc<Cell>) -> asobi_store::Result<()> {
        let mut after = match &*lock(&cell.slot) {
            Slot::Ready(board) => board.seq(),
            Slot::Early { .. } => return Ok(()),
        };
        loop {
            let page = within(self.options.bound, async {
                let mut connection = Box::pin(self.pool().acquire()).await?;
                boards::page(&mut connection, id, after, PAGE).await
            });
            let Some(mut page) = page.await? else {
                self.give_up(id, cell);
                return Ok(());
            };
            after = page.changes.last().map_or(after, |change| change.entry.seq);
            self.without_erased(&mut page.changes);
            let mut slot = lock(&cell.slot);
            let Slot::Ready(board) = &mut *slot else { return Ok(()) };
            if board.is_other_than(&page.head) {
                drop(slot);
                self.give_up(id, cell);
                return Ok(());
            }
            board.read(&page.changes);
            if page.last {
                board.caught_up(page.head);
                return Ok(());
            }
        }
    }
}
