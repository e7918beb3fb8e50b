//! Takes erased players off the boards in memory. Their rows are gone, and a row that is gone cannot be read again: what says so is the
//! erasure's revocation, told over the bus and kept in a row for as long as an access token lives.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::{BusEvent, Subscription};
use asobi_proto::bus::RevokedItem;
use asobi_store::{boards::Change, tokens, within};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Boards, Slot, lock};

/// How often the rows are read whatever the bus says.
const REREAD: Duration = Duration::from_secs(15);

/// Follows until `stop`. `kept`: how long the rows stay at least; whoever could not read them for longer knows nothing any more, and
/// reads the boards anew.
pub async fn follow_erasures(boards: Arc<Boards>, mut events: Subscription, kept: Duration, stop: CancellationToken) {
    let mut reread = tokio::time::interval(REREAD);
    reread.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_read = Instant::now();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            _ = reread.tick() => Some(BusEvent::Resync),
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(BusEvent::Batch(batch)) => {
                let items = batch.items();
                let items = items.iter().filter_map(|raw| serde_json::from_str::<RevokedItem>(raw.get()).ok());
                for item in items.filter(|item| is_erasure(item.player, &item.reason)) {
                    boards.forget(item.subject);
                }
            }
            Some(BusEvent::Resync) => {
                let began = Instant::now();
                match within(boards.options.bound, tokens::revocations(boards.pool())).await {
                    Ok(rows) => {
                        if began.duration_since(last_read) >= kept {
                            lock(&boards.cells).clear();
                        }
                        last_read = began;
                        let erased = rows.iter().filter(|row| is_erasure(row.player, &row.reason));
                        boards.forget_exactly(erased.map(|row| row.subject).collect());
                    }
                    Err(error) => tracing::debug!(%error, "Erasures could not be read; it is tried again."),
                }
            }
        }
    }
}

fn is_erasure(player: bool, reason: &str) -> bool {
    player && reason == "erased"
}

impl Boards {
    /// Takes a player off, and keeps them off: a change of theirs may still be on its way.
    fn forget(&self, player: Uuid) {
        if lock(&self.erased).insert(player) {
            self.take_off(player);
        }
    }

    /// As [`Self::forget`], of all that the rows tell of; whom they tell of no longer, nothing can be on its way for.
    fn forget_exactly(&self, erased: HashSet<Uuid>) {
        let news: Vec<Uuid> = {
            let mut known = lock(&self.erased);
            let news = erased.difference(&known).copied().collect();
            *known = erased;
            news
        };
        news.into_iter().for_each(|player| self.take_off(player));
    }

    /// A match that ended after the erasure may have written a score of theirs.
    pub(super) fn without_erased(&self, changes: &mut Vec<Change>) {
        let erased = lock(&self.erased);
        if !erased.is_empty() {
            changes.retain(|change| !erased.contains(&change.entry.player_id));
        }
    }

    fn take_off(&self, player: Uuid) {
        self.past.take_off(player);
        let cells: Vec<_> = lock(&self.cells).values().cloned().collect();
        for cell in cells {
            // Whoever loads a board takes off those who are erased by then.
            if let Slot::Ready(board) = &mut *lock(&cell.slot) {
                board.remove(player);
            }
        }
    }
}
