//! Keeps the boards in memory like the rows: changes come over the bus, and what may have been lost is read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::{BusEvent, Subscription};
use asobi_proto::bus::ScoreItem;
use asobi_store::{boards::Entry, within};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Boards, Slot, lock};

const RETRY: Duration = Duration::from_secs(1);

/// Follows until `stop`.
pub async fn follow(boards: Arc<Boards>, mut events: Subscription, stop: CancellationToken) {
    loop {
        let due = boards.next_doubt();
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(BusEvent::Batch(batch)) => {
                    for item in batch.items() {
                        match serde_json::from_str::<ScoreItem>(item.get()) {
                            Ok(item) => take(&boards, item),
                            Err(error) => tracing::warn!(%error, "A score on the bus could not be read; its row will be."),
                        }
                    }
                }
                Some(BusEvent::Resync) => boards.doubt_all(),
                None => return,
            },
            () = boards.doubted.notified() => {}
            () = tokio::time::sleep(due.saturating_duration_since(Instant::now())) => boards.repair_due().await,
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
        lock(&self.doubts).values().min().copied().unwrap_or(far)
    }

    /// Any board may lack something.
    fn doubt_all(&self) {
        let ids: Vec<String> = lock(&self.cells).keys().cloned().collect();
        let now = Instant::now();
        let mut doubts = lock(&self.doubts);
        doubts.extend(ids.into_iter().map(|id| (id, now)));
    }

    /// Reads what may be missing from the boards whose time has come.
    async fn repair_due(&self) {
        let now = Instant::now();
        let due: Vec<String> = {
            let mut doubts = lock(&self.doubts);
            let due: Vec<String> = doubts.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
            doubts.retain(|_, at| *at > now);
            due
        };
        for id in due {
            if let Err(error) = self.repair(&id).await {
                tracing::warn!(board.id = id, %error, "A board could not be read again; it is tried once more.");
                self.doubt(&id, Instant::now() + RETRY);
            }
        }
    }

    async fn repair(&self, id: &str) -> asobi_store::Result<()> {
        let Some(cell) = lock(&self.cells).get(id).cloned() else { return Ok(()) };
        let known = match &*lock(&cell.slot) {
            Slot::Ready(board) => board.seq(),
            // Whoever loads it reads the rows.
            Slot::Early(_) => return Ok(()),
        };
        let read = within(self.bound, asobi_store::boards::since(&self.pool, id, known)).await?;
        match read {
            Some(mut snapshot) => {
                self.without_erased(&mut snapshot);
                if let Slot::Ready(board) = &mut *lock(&cell.slot) {
                    board.repair(snapshot);
                }
            }
            None => drop(lock(&self.cells).remove(id)),
        }
        metrics::counter!("asobi_social_board_repairs_total").increment(1);
        Ok(())
    }
}
