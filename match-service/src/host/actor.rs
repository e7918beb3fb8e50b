//! The task that owns a match: takes its messages, keeps its time, and writes its rows one after the other.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use asobi_store::matches::{Fence, SeatTaken};
use futures_util::FutureExt as _;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    mailbox::{Mailbox, Message, SessionKey, Stop},
    port::refused,
    room::{GivenUp, Joining, Op, Room},
    rows::Rows,
};
use asobi_session::link::LinkError;

/// Messages taken between two looks at the clock.
const BATCH: usize = 256;

/// A write under way; the next one waits for it.
type Writing = Pin<Box<dyn Future<Output = Written>>>;

enum Written {
    Seat(Joining, Result<SeatTaken, asobi_store::Error>),
    /// Effects up to this ordinal; false: the match is no longer ours.
    Effects(i64, bool),
    Finished(bool),
    Other,
}

/// See the module.
pub struct Actor {
    room: Room,
    fence: Fence,
    mailbox: Mailbox,
    rows: Arc<dyn Rows>,
    writing: Option<Writing>,
    /// Sessions that asked to join and whose seats are being written; one that goes meanwhile is taken out.
    waiting: Vec<SessionKey>,
    over: bool,
}

impl Actor {
    #[must_use]
    pub fn new(room: Room, fence: Fence, mailbox: Mailbox, rows: Arc<dyn Rows>) -> Self {
        Self { room, fence, mailbox, rows, writing: None, waiting: Vec::new(), over: false }
    }

    /// Runs the match until its end is written or it may no longer be. One that panics ends as failed.
    pub async fn run(mut self) {
        let mut panics = 0;
        while AssertUnwindSafe(self.play()).catch_unwind().await.is_err() {
            panics += 1;
            if panics > 1 {
                return;
            }
            tracing::error!(game.match_id = %self.fence.match_id, "A match has panicked; it ends as failed.");
            // Whatever was being written goes on by itself; the end comes after it or makes it come to nothing.
            self.writing = None;
            self.waiting.clear();
            // The game is not called any more, and rooms that end call nothing else that could be half-changed.
            self.room.break_off();
        }
    }

    async fn play(&mut self) {
        while !self.over {
            self.start_writing();
            let due = self.room.next_due();
            tokio::select! {
                biased;
                written = next(&mut self.writing) => {
                    self.writing = None;
                    self.written(written).await;
                }
                () = until(due) => {
                    // What has arrived before the tick belongs to it.
                    self.take_waiting_messages().await;
                    self.room.on_time(&self.mailbox).await;
                    // A game that is always late must not keep its neighbours waiting.
                    yield_now().await;
                }
                message = self.mailbox.receiver.recv() => match message {
                    Some(message) => self.message(message).await,
                    None => return,
                },
            }
        }
    }

    async fn take_waiting_messages(&mut self) {
        for _ in 0..BATCH {
            match self.mailbox.receiver.try_recv() {
                Ok(message) => self.message(message).await,
                Err(_) => break,
            }
        }
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Enter { port, session, player, join, reply } => {
                let joining = self.room.joining;
                self.room.enter(&port, session, player, join, reply).await;
                if self.room.joining > joining {
                    self.waiting.push((port.number, session));
                }
            }
            Message::Add { players, reply } => {
                // Who asked and does not wait any more may have given the players away.
                if !reply.is_closed() {
                    let _ = reply.send(self.room.add(&players).await);
                }
            }
            Message::Leave { session, reply } => {
                self.gone(session);
                self.room.leave(session, reply).await;
            }
            Message::Input { session, number, payload } => {
                self.room.input(session, number, payload, &self.mailbox).await
            }
            Message::Detach { session } => {
                self.gone(session);
                self.room.detach(session).await;
            }
            Message::Stop(Stop::HostStopped) => {
                self.room.finish(false, r#"{"error":"host_stopped"}"#.to_owned());
                self.room.settle().await;
            }
            // Whether an end is still ours to write, its transaction will say.
            Message::Stop(Stop::Lost) if self.room.ending() => {}
            Message::Stop(Stop::Lost) => self.lost(),
        }
    }

    fn gone(&mut self, session: SessionKey) {
        self.waiting.retain(|waiting| *waiting != session);
    }

    /// The match is not ours any more: nothing is written or told, sessions are let go.
    fn lost(&mut self) {
        self.over = true;
        tracing::warn!(game.match_id = %self.fence.match_id, "A match is no longer this host's; it stops here.");
        self.room.close(None);
    }

    fn start_writing(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let (rows, fence) = (Arc::clone(&self.rows), self.fence.clone());
        if self.room.ending() {
            let Some(end) = self.room.end.clone() else {
                return;
            };
            let effects = self.room.effects.clone();
            self.writing = Some(Box::pin(async move {
                let ended =
                    persist("end", || rows.finish(fence.clone(), end.finished, end.result.clone(), effects.clone()))
                        .await;
                Written::Finished(ended)
            }));
            return;
        }
        let Some(op) = self.room.ops.pop_front() else {
            return;
        };
        self.writing = Some(match op {
            Op::TakeSeat(joining) => Box::pin(async move {
                let taken = rows.take_seat(fence, joining.player).await;
                Written::Seat(joining, taken)
            }),
            Op::GiveUp { mut players, reply } => Box::pin({
                // Who has a seat again by now, or through another session, keeps its row.
                players.retain(|player| !self.room.seats.has(*player));
                async move {
                    if !players.is_empty() {
                        persist("seats", || rows.give_up_seats(fence.clone(), players.clone())).await;
                    }
                    match reply {
                        Some(GivenUp::Left(reply)) => {
                            let _ = reply.send(());
                        }
                        Some(GivenUp::Refused(refused)) => drop(refused),
                        None => {}
                    }
                    Written::Other
                }
            }),
            Op::Effects => {
                let effects = self.room.effects.clone();
                let upto = effects.last().map_or(0, |effect| effect.ordinal);
                Box::pin(async move {
                    let ours = persist("effects", || rows.append_effects(fence.clone(), effects.clone())).await;
                    Written::Effects(upto, ours)
                })
            }
            Op::Backfill => {
                let Some(asked) = self.room.backfill.clone() else {
                    return;
                };
                Box::pin(async move {
                    persist("wish for players", || rows.request_backfill(fence.clone(), asked.clone())).await;
                    Written::Other
                })
            }
            Op::Listing => {
                let (settings, state) = (self.room.settings.clone(), self.room.listing());
                Box::pin(async move {
                    persist("listing", || rows.put_listing(fence.clone(), settings.clone(), state)).await;
                    Written::Other
                })
            }
        });
    }

    async fn written(&mut self, written: Written) {
        match written {
            Written::Seat(joining, taken) => self.seat_written(joining, taken).await,
            Written::Effects(upto, true) => {
                self.room.effects.retain(|effect| effect.ordinal > upto);
            }
            Written::Finished(true) => {
                let result = self.room.end.as_ref().map(|end| end.result.clone());
                self.room.close(result.as_deref());
                self.over = true;
            }
            Written::Effects(_, false) | Written::Finished(false) => self.lost(),
            Written::Other => {}
        }
    }

    async fn seat_written(&mut self, joining: Joining, taken: Result<SeatTaken, asobi_store::Error>) {
        self.room.joining = self.room.joining.saturating_sub(1);
        let key = (joining.port.number, joining.session);
        let still_there = self.waiting.contains(&key);
        self.gone(key);
        match taken {
            Ok(SeatTaken::Taken | SeatTaken::Held) => self.room.joined(joining, still_there).await,
            Ok(SeatTaken::Elsewhere) => {
                let _ = joining.reply.send(Err(refused("already_in_match")));
            }
            Ok(SeatTaken::NotOurs) => self.lost(),
            Err(error) => {
                tracing::warn!(%error, game.match_id = %self.fence.match_id, "A seat could not be taken.");
                // It may have been taken all the same.
                self.room.ops.push_back(Op::GiveUp { players: vec![joining.player], reply: None });
                let _ = joining.reply.send(Err(LinkError::Unavailable));
            }
        }
        // Somebody who did not come after all may have been the last one it waited for.
        if !self.over {
            self.room.settle().await;
        }
    }
}

async fn next(writing: &mut Option<Writing>) -> Written {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Repeats a write until the database says what became of it; the match goes on meanwhile.
async fn persist<T, F, W>(what: &'static str, mut write: F) -> T
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
