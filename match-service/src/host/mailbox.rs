//! How anything reaches a running match: one bounded queue per match.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_proto::ops_v1::MatchInspection;
use asobi_session::link::{Entered, LinkError, SessionNo};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};
use uuid::Uuid;

use super::{
    peers::{MoveError, Target},
    port::Port,
    room::Wish,
};
use crate::game::GameFactory;

/// A session as a match knows it: its edge's number and its own.
pub type SessionKey = (u64, SessionNo);

/// What a match is told.
pub enum Message {
    Enter {
        port: Arc<Port>,
        session: SessionNo,
        player: Uuid,
        /// As [`asobi_session::link::Entry::join`].
        join: Option<String>,
        reply: oneshot::Sender<Result<Entered, LinkError>>,
    },
    /// Answered when the seat's row is gone.
    Leave {
        session: SessionKey,
        reply: oneshot::Sender<Result<(), LinkError>>,
    },
    /// Players whom the queue chose, and whose rows of seats are written. Answers who sits here.
    Add {
        players: Vec<Uuid>,
        reply: oneshot::Sender<Vec<Uuid>>,
    },
    Input {
        session: SessionKey,
        number: u64,
        payload: Bytes,
    },
    Detach {
        session: SessionKey,
        /// As of [`asobi_session::link::MatchLink::detach`].
        follows: bool,
    },
    /// Answered when the match runs there, with its epoch, or will go on here.
    Move {
        target: Target,
        reply: oneshot::Sender<Result<i64, MoveError>>,
    },
    /// The mode's code has changed: go on with this.
    Reload(Arc<dyn GameFactory>),
    /// What it is at this moment, and what the player sees; none: all of the state.
    Inspect {
        player: Option<Uuid>,
        reply: oneshot::Sender<MatchInspection>,
    },
    /// Answers whether there is room for another who watches.
    Watch {
        wish: Wish,
        reply: oneshot::Sender<bool>,
    },
    /// An operator ends the match. Answers, when an end is written, whether it is this one.
    End {
        result: String,
        reply: oneshot::Sender<bool>,
    },
}

/// Why a match stops that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The host goes down: the match ends as failed.
    HostStopped,
    /// The match is no longer this host's: nothing may be written for it.
    Lost,
}

/// The sending side of a match's queue.
#[derive(Clone)]
pub struct MatchHandle {
    pub match_id: Uuid,
    sender: mpsc::Sender<Message>,
    /// Past the queue: what stops a match does not wait behind what it was told before.
    stops: watch::Sender<Option<Stop>>,
    shared: Arc<Shared>,
    input_limit: usize,
    runtime: Handle,
}

/// What both sides see.
#[derive(Default)]
pub struct Shared {
    /// The one under which it runs here. It changes when a move came to nothing.
    pub epoch: AtomicI64,
    /// The match is frozen, and its row may name another host or epoch.
    pub moving: AtomicBool,
    /// Inputs in the queue or waiting for their tick.
    inputs: AtomicUsize,
    /// The match takes inputs at its ticks: they gather, and wake nobody.
    gathers: AtomicBool,
    gathered: Mutex<Vec<(SessionKey, u64, Bytes)>>,
    saved: Mutex<Saved>,
}

/// The state that is known to be saved, and how often it shall be.
struct Saved {
    taken: Instant,
    interval: Duration,
}

impl Default for Saved {
    fn default() -> Self {
        Self { taken: Instant::now(), interval: Duration::ZERO }
    }
}

impl Shared {
    /// The state that was taken then is saved.
    pub fn saved(&self, taken: Instant) {
        self.saved.lock().taken = taken;
    }

    /// The match runs from now on, and shall be saved so often.
    pub fn runs(&self, interval: Duration) {
        *self.saved.lock() = Saved { taken: Instant::now(), interval };
    }
}

/// The receiving side.
pub struct Mailbox {
    pub receiver: mpsc::Receiver<Message>,
    pub shared: Arc<Shared>,
    pub stops: Stops,
}

/// Why the match shall stop, as it is said.
pub struct Stops(watch::Receiver<Option<Stop>>);

/// Room for what is not an input.
const CONTROL: usize = 64;

/// A queue for one match. Inputs over `input_limit` are refused; anything else waits for room.
#[must_use]
pub fn mailbox(match_id: Uuid, epoch: i64, input_limit: usize, runtime: Handle) -> (MatchHandle, Mailbox) {
    let (sender, receiver) = mpsc::channel(input_limit + CONTROL);
    let (stops, stopped) = watch::channel(None);
    let shared = Arc::new(Shared { epoch: AtomicI64::new(epoch), ..Shared::default() });
    let mailbox = Mailbox { receiver, shared: Arc::clone(&shared), stops: Stops(stopped) };
    (MatchHandle { match_id, sender, stops, shared, input_limit, runtime }, mailbox)
}

impl MatchHandle {
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Whether nobody can say at the moment whose the match is.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.shared.moving.load(Ordering::Acquire)
    }

    /// Since when the state that is known to be saved was taken, and how often it shall be.
    #[must_use]
    pub fn unsaved(&self) -> (Duration, Duration) {
        let saved = self.shared.saved.lock();
        (saved.taken.elapsed(), saved.interval)
    }

    /// Whether it leads to the same run of the same match.
    #[must_use]
    pub fn is(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Queues an input.
    ///
    /// # Errors
    /// [`LinkError::Full`] over the limit, [`LinkError::Unavailable`] when the match is over.
    pub fn input(&self, session: SessionKey, number: u64, payload: Bytes) -> Result<(), LinkError> {
        let inputs = &self.shared.inputs;
        if inputs.fetch_add(1, Ordering::Relaxed) >= self.input_limit {
            inputs.fetch_sub(1, Ordering::Relaxed);
            metrics::counter!("asobi_match_inputs_refused_total").increment(1);
            return Err(LinkError::Full);
        }
        if self.shared.gathers.load(Ordering::Acquire) && !self.sender.is_closed() {
            self.shared.gathered.lock().push((session, number, payload));
            return Ok(());
        }
        let message = Message::Input { session, number, payload };
        self.sender.try_send(message).map_err(|error| {
            inputs.fetch_sub(1, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => LinkError::Full,
                mpsc::error::TrySendError::Closed(_) => LinkError::Unavailable,
            }
        })
    }

    /// Queues a message that must arrive, without waiting here. Where the queue is full a task waits in its stead; there are at most as many of
    /// them as sessions.
    pub fn post(&self, message: Message) {
        match self.sender.try_send(message) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(message)) => {
                let sender = self.sender.clone();
                self.runtime.spawn(async move {
                    // Ends with the match at the latest.
                    let _ = sender.send(message).await;
                });
            }
        }
    }

    /// Queues what nobody would miss. False: there is no room, or the match is over.
    pub fn offer(&self, message: Message) -> bool {
        self.sender.try_send(message).is_ok()
    }

    /// Whether it has ended here: nothing reaches it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.sender.is_closed()
    }

    /// Stops the match. One that was lost stays so.
    pub fn stop(&self, why: Stop) {
        self.stops.send_if_modified(|stop| {
            let news = *stop != Some(Stop::Lost) && *stop != Some(why);
            if news {
                *stop = Some(why);
            }
            news
        });
    }
}

impl Mailbox {
    /// An input was applied or thrown away.
    pub fn input_done(&self) {
        self.shared.inputs.fetch_sub(1, Ordering::Relaxed);
    }

    /// Inputs need not wake the match from now on: it looks for them at its ticks, and before anything else it is told.
    pub fn gather_inputs(&self) {
        self.shared.gathers.store(true, Ordering::Release);
    }

    /// What has gathered since, in the order of its arrival.
    #[must_use]
    pub fn gathered(&self) -> Vec<(SessionKey, u64, Bytes)> {
        std::mem::take(&mut *self.shared.gathered.lock())
    }

    /// Inputs that came with the match and not through here wait, too.
    pub fn inputs_taken_up(&self, inputs: usize) {
        self.shared.inputs.fetch_add(inputs, Ordering::Relaxed);
    }
}

impl Stops {
    /// Waits for the next reason to stop. May be given up without losing one.
    pub async fn next(&mut self) -> Stop {
        loop {
            if self.0.changed().await.is_err() {
                // Nobody can reach the match any more, and nobody wants it stopped.
                std::future::pending::<()>().await;
            }
            if let Some(stop) = *self.0.borrow_and_update() {
                return stop;
            }
        }
    }
}
