//! The task that owns a match: takes its messages, keeps its time, and writes its rows one after the other.
//!
//! ```text
//!             a host is named, nothing is being written
//!   playing ────────────────────────────────────────────► frozen: snapshot, the other host is asked
//!      ▲                                                    │        │         │
//!      ├── it refuses ──────────────────────────────────────┘        │         │ nobody knows: the row is asked,
//!      ├── the row was ours, and is under the next epoch ◄───────────┼─────────┤ again and again
//!      │                                                             ▼         ▼
//!      │                                         it runs there: sessions are sent there, the task ends
//!      └── in doubt (see `trust`): nothing is taken, nothing ticks, until the doubt is over or the match is lost
//! ```

mod moving;
mod writing;

use std::{panic::AssertUnwindSafe, sync::Arc};

use asobi_session::link::LinkError;
use asobi_store::matches::{Fence, SeatTaken};
use futures_util::FutureExt as _;
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep_until},
};

pub use self::writing::persist;
use self::{
    moving::Moving,
    writing::{Writing, next},
};
use super::{
    mailbox::{Mailbox, Message, SessionKey, Stop},
    peers::{MoveError, Peers},
    port::refused,
    room::{Joining, Op, Room},
    rows::Rows,
    trust::Trust,
};

/// Messages taken between two looks at the clock.
const BATCH: usize = 256;

/// What a match's task works with.
pub struct Surroundings {
    pub rows: Arc<dyn Rows>,
    pub peers: Arc<dyn Peers>,
    pub trust: Arc<Trust>,
    /// Of the match's code; empty: a move does not ask for it.
    pub version: String,
}

/// See the module.
pub struct Actor {
    room: Room,
    fence: Fence,
    mailbox: Mailbox,
    around: Surroundings,
    writing: Option<Writing>,
    /// Sessions that asked to join and whose seats are being written; one that goes meanwhile is taken out.
    waiting: Vec<SessionKey>,
    /// Where the match shall move, once nothing is being written.
    moving: Option<Moving>,
    /// Operators who wait for the end to be written, and whether it is theirs. As many as messages find room.
    enders: Vec<(oneshot::Sender<bool>, bool)>,
    over: bool,
}

impl Actor {
    #[must_use]
    pub fn new(room: Room, fence: Fence, mailbox: Mailbox, around: Surroundings) -> Self {
        room.count_inputs(&mailbox);
        mailbox.shared.runs(room.checkpoint_interval());
        if room.settings.tick_rate > 0 {
            mailbox.gather_inputs();
        }
        Self {
            room,
            fence,
            mailbox,
            around,
            writing: None,
            waiting: Vec::new(),
            moving: None,
            enders: Vec::new(),
            over: false,
        }
    }

    /// Runs the match until its end is written, it has moved, or it may no longer be. One that panics ends as failed.
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
            self.moving = None;
            // The game is not called any more, and rooms that end call nothing else that could be half-changed.
            self.room.break_off();
        }
    }

    async fn play(&mut self) {
        while !self.over {
            if !self.around.trust.holds() {
                self.doubt().await;
                continue;
            }
            // Before the next write: a match that always has one to begin would never be free.
            if let Some(moving) = self.may_move() {
                self.carry_over(moving).await;
                continue;
            }
            self.start_writing();
            let due = self.room.next_due();
            tokio::select! {
                biased;
                stop = self.mailbox.stops.next() => self.stop(stop).await,
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

    async fn doubt(&mut self) {
        tokio::select! {
            () = self.around.trust.regained() => {}
            stop = self.mailbox.stops.next() => self.stop(stop).await,
        }
    }

    async fn take_waiting_messages(&mut self) {
        for _ in 0..BATCH {
            match self.mailbox.receiver.try_recv() {
                Ok(message) => self.message(message).await,
                Err(_) => break,
            }
        }
        self.take_gathered_inputs().await;
    }

    async fn take_gathered_inputs(&mut self) {
        for (session, number, payload) in self.mailbox.gathered() {
            self.room.input(session, number, payload, &self.mailbox).await;
        }
    }

    async fn message(&mut self, message: Message) {
        // What its session did before: nobody sends inputs before it is let in.
        self.take_gathered_inputs().await;
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
                self.room.input(session, number, payload, &self.mailbox).await;
            }
            Message::Detach { session, follows } => {
                self.gone(session);
                self.room.detach(session, follows).await;
            }
            Message::Move { target, reply } => self.want_to_move(target, reply),
            Message::Reload(factory) => {
                if self.room.reload(factory.as_ref()) {
                    factory.version().clone_into(&mut self.around.version);
                }
            }
            Message::Inspect { player, reply } => {
                // Who asked may have given up while the match was frozen.
                if !reply.is_closed() {
                    let mut inspection = self.room.inspect(player).await;
                    inspection.epoch = self.fence.epoch;
                    let _ = reply.send(inspection);
                }
            }
            Message::Watch { wish, reply } => drop(reply.send(self.room.watch(wish))),
            Message::End { result, reply } => self.end_for(result, reply).await,
        }
    }

    /// Who gave up waiting wants the end all the same: it is asked for again until it is known.
    async fn end_for(&mut self, result: String, reply: oneshot::Sender<bool>) {
        let theirs = self.room.end.is_none();
        self.enders.push((reply, theirs));
        if theirs {
            tracing::info!(game.match_id = %self.fence.match_id, "An operator ends a match.");
            self.room.finish(true, result);
            self.room.settle().await;
        }
    }

    async fn stop(&mut self, stop: Stop) {
        match stop {
            Stop::HostStopped => {
                self.room.finish(false, r#"{"error":"host_stopped"}"#.to_owned());
                self.room.settle().await;
            }
            // Whether an end is still ours to write, its transaction will say.
            Stop::Lost if self.room.ending() => {}
            Stop::Lost => self.lost(),
        }
    }

    fn gone(&mut self, session: SessionKey) {
        self.waiting.retain(|waiting| *waiting != session);
    }

    /// The match is not ours any more: nothing is written or told. Where it goes on, or how it ended, its players' nodes hear from who
    /// took it.
    fn lost(&mut self) {
        self.over = true;
        tracing::warn!(game.match_id = %self.fence.match_id, "A match is no longer this host's; it stops here.");
        self.room.forget_sessions();
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

    fn refuse_to_move(&mut self, why: MoveError) {
        if let Some(moving) = self.moving.take() {
            moving.refuse(why);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
