//! How anything reaches a running match: one bounded queue per match.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use asobi_session::link::{Entered, LinkError, SessionNo};
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use uuid::Uuid;

use super::port::Port;

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
        reply: oneshot::Sender<()>,
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
    },
    Stop(Stop),
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
    pub epoch: i64,
    sender: mpsc::Sender<Message>,
    /// Inputs in the queue or waiting for their tick.
    inputs: Arc<AtomicUsize>,
    input_limit: usize,
    runtime: Handle,
}

/// The receiving side.
pub struct Mailbox {
    pub receiver: mpsc::Receiver<Message>,
    inputs: Arc<AtomicUsize>,
}

/// Room for what is not an input.
const CONTROL: usize = 64;

/// A queue for one match. Inputs over `input_limit` are refused; anything else waits for room.
#[must_use]
pub fn mailbox(match_id: Uuid, epoch: i64, input_limit: usize, runtime: Handle) -> (MatchHandle, Mailbox) {
    let (sender, receiver) = mpsc::channel(input_limit + CONTROL);
    let inputs = Arc::new(AtomicUsize::new(0));
    let handle = MatchHandle { match_id, epoch, sender, inputs: Arc::clone(&inputs), input_limit, runtime };
    (handle, Mailbox { receiver, inputs })
}

impl MatchHandle {
    /// Queues an input.
    ///
    /// # Errors
    /// [`LinkError::Full`] over the limit, [`LinkError::Unavailable`] when the match is over.
    pub fn input(&self, session: SessionKey, number: u64, payload: Bytes) -> Result<(), LinkError> {
        if self.inputs.fetch_add(1, Ordering::Relaxed) >= self.input_limit {
            self.inputs.fetch_sub(1, Ordering::Relaxed);
            metrics::counter!("asobi_match_inputs_refused_total").increment(1);
            return Err(LinkError::Full);
        }
        let message = Message::Input { session, number, payload };
        self.sender.try_send(message).map_err(|error| {
            self.inputs.fetch_sub(1, Ordering::Relaxed);
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
}

impl Mailbox {
    /// An input was applied or thrown away.
    pub fn input_done(&self) {
        self.inputs.fetch_sub(1, Ordering::Relaxed);
    }
}
