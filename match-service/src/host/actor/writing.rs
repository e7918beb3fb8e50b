//! One write at a time, in order; the match goes on meanwhile.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use asobi_store::{checkpoints::Checkpoint, matches::SeatTaken};
use tokio::time::sleep;

use super::Actor;
use crate::host::room::{GivenUp, Joining, Op, Taken};

/// A write under way; the next one waits for it.
pub type Writing = Pin<Box<dyn Future<Output = Written>>>;

pub enum Written {
    Seat(Joining, Result<SeatTaken, asobi_store::Error>),
    /// False: the match is no longer ours.
    Checkpoint(Taken, bool),
    Finished(bool),
    Other,
}

impl Actor {
    pub(super) fn start_writing(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if self.room.ending() {
            self.writing = self.end();
            return;
        }
        let Some(op) = self.room.ops.pop_front() else {
            return;
        };
        let (rows, fence) = (Arc::clone(&self.around.rows), self.fence.clone());
        self.writing = match op {
            Op::TakeSeat(joining) => Some(Box::pin(async move {
                let taken = rows.take_seat(fence, joining.player).await;
                Written::Seat(joining, taken)
            })),
            Op::GiveUp { mut players, reply } => {
                // Who has a seat again by now, or through another session, keeps its row.
                players.retain(|player| !self.room.seats.has(*player));
                Some(Box::pin(async move {
                    if !players.is_empty() {
                        persist("seats", || rows.give_up_seats(fence.clone(), players.clone())).await;
                    }
                    match reply {
                        Some(GivenUp::Left(reply)) => {
                            let _ = reply.send(Ok(()));
                        }
                        Some(GivenUp::Refused(refused)) => drop(refused),
                        None => {}
                    }
                    Written::Other
                }))
            }
            Op::Checkpoint => self.checkpoint(),
            Op::Backfill => self.room.backfill.clone().map(|asked| -> Writing {
                Box::pin(async move {
                    persist("wish for players", || rows.request_backfill(fence.clone(), asked.clone())).await;
                    Written::Other
                })
            }),
            Op::Listing => {
                let (settings, state) = (self.room.settings.clone(), self.room.listing());
                Some(Box::pin(async move {
                    persist("listing", || rows.put_listing(fence.clone(), settings.clone(), state)).await;
                    Written::Other
                }))
            }
        };
    }

    fn end(&self) -> Option<Writing> {
        let (rows, fence) = (Arc::clone(&self.around.rows), self.fence.clone());
        let (end, effects) = (self.room.end.clone()?, self.room.effects.clone());
        Some(Box::pin(async move {
            let write = || rows.finish(fence.clone(), end.finished, end.result.clone(), effects.clone());
            Written::Finished(persist("end", write).await)
        }))
    }

    /// None: nothing has changed.
    fn checkpoint(&mut self) -> Option<Writing> {
        let taken = self.room.checkpoint();
        if taken.is_empty() {
            self.saved(taken);
            return None;
        }
        let rows = Arc::clone(&self.around.rows);
        let checkpoint = Checkpoint {
            match_id: self.fence.match_id,
            epoch: self.fence.epoch,
            body: taken.body.clone(),
            effects: taken.effects.clone(),
            durable: taken.durable,
        };
        Some(Box::pin(async move {
            let ours = persist("checkpoint", || rows.checkpoint(checkpoint.clone())).await;
            Written::Checkpoint(taken, ours)
        }))
    }

    fn saved(&mut self, taken: Taken) {
        // One that could not be taken is none.
        if taken.whole {
            self.mailbox.shared.saved(taken.at);
        }
        self.room.checkpointed(taken);
    }

    pub(super) async fn written(&mut self, written: Written) {
        match written {
            Written::Seat(joining, taken) => self.seat_written(joining, taken).await,
            Written::Checkpoint(taken, true) => {
                self.saved(taken);
                self.room.take_turns(&self.mailbox).await;
            }
            Written::Finished(true) => {
                self.room.close();
                for (reply, theirs) in self.enders.drain(..) {
                    let _ = reply.send(theirs);
                }
                self.over = true;
            }
            Written::Checkpoint(_, false) | Written::Finished(false) => self.lost(),
            Written::Other => {}
        }
    }
}

pub async fn next(writing: &mut Option<Writing>) -> Written {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

/// Repeats a write until the database says what became of it; the match goes on meanwhile.
pub async fn persist<T, F, W>(what: &'static str, mut write: F) -> T
where
    F: FnMut() -> W,
    W: Future<Output = Result<T, asobi_store::Error>>,
{
    let mut pause = Duration::from_millis(100);
    loop {
        match write().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, what, retry_ms = pause.as_millis() as u64, "A match could not write its {what} yet.");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}
