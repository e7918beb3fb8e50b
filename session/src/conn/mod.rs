//! One player's connection: what others hold of it ([`Conn`]), its queue ([`outbox`]), its task ([`socket`]) and the way in
//! ([`upgrade`]).

pub(crate) mod inputs;
pub(crate) mod limits;
pub(crate) mod outbox;
mod seat;
pub(crate) mod socket;
mod turns;
pub(crate) mod upgrade;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

pub(crate) use self::{
    inputs::Opened,
    seat::{Seat, Via},
    turns::Turn,
};
use self::{limits::OncePer, outbox::Outbox, seat::Seated, turns::Turns};
use crate::{
    admission::Place,
    auth::Claims,
    close::Close,
    frame::{Frame, FrameKind},
    link::SessionNo,
    presence::Seen,
};

pub use self::outbox::{Bounds, Push};

/// What a client said it can do, as far as we can too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    pub migrate: bool,
    pub presence: bool,
    /// Hears where its ticket stands.
    pub queue: bool,
}

impl Capabilities {
    /// Those of the list that are known; others are left out.
    pub(crate) fn granted<'a>(asked: impl IntoIterator<Item = &'a str>) -> Self {
        let mut granted = Self::default();
        for name in asked {
            match name {
                "migrate" => granted.migrate = true,
                "presence" => granted.presence = true,
                "queue" => granted.queue = true,
                _ => {}
            }
        }
        granted
    }

    pub(crate) fn names(self) -> Vec<&'static str> {
        [("migrate", self.migrate), ("presence", self.presence), ("queue", self.queue)]
            .into_iter()
            .filter(|c| c.1)
            .map(|c| c.0)
            .collect()
    }
}

/// What others hold of a connection. A few hundred bytes while idle.
pub(crate) struct Conn {
    pub no: SessionNo,
    pub session_id: Uuid,
    pub outbox: Outbox,
    player: OnceLock<Uuid>,
    /// The link of the seat, as a [`Via`]; 0: there is none. Changes under the lock of [`Self::local`] only.
    via: AtomicUsize,
    /// Requests that will be answered by somebody else's task.
    in_flight: AtomicU32,
    /// No more frames are read; the socket closes when what is in flight was answered.
    draining: AtomicBool,
    local: Mutex<Local>,
}

/// Every friend, and what a client was last told of them.
pub(crate) type Told = HashMap<Uuid, Seen, foldhash::fast::RandomState>;

/// The changing part, under one short lock that is never held across an await.
#[derive(Default)]
pub(crate) struct Local {
    pub claims: Option<Claims>,
    pub capabilities: Capabilities,
    /// When the client was told last to come to its match's host.
    pub offered: Option<std::time::Instant>,
    seated: Option<Box<Seated>>,
    /// The number of the last input, from 1 on; never used again in this session.
    numbered: u64,
    /// Where the player's inbox stood when the session connected: what ends sessions by an event ends those that were there before it.
    pub since: i64,
    /// What the player says is handed on in its order, although each is judged for as long as that takes.
    pub said: Turns,
    /// Chat channels joined.
    pub channels: Vec<Arc<str>>,
    /// With the capability `presence`.
    pub told: Option<Told>,
    /// Friendships changed while [`Self::told`] was being made.
    pub friends_changed: bool,
    pub not_in_match: OncePer,
    /// Among those that come in, until it says who it is.
    pub place: Option<Place>,
}

impl Conn {
    pub(crate) fn new(no: SessionNo, bounds: Bounds) -> Self {
        Self {
            no,
            session_id: Uuid::now_v7(),
            outbox: Outbox::new(bounds),
            player: OnceLock::new(),
            via: AtomicUsize::new(0),
            in_flight: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            local: Mutex::default(),
        }
    }

    /// Whose it is, once authenticated.
    pub(crate) fn player(&self) -> Option<Uuid> {
        self.player.get().copied()
    }

    /// False when it is another player's already.
    pub(crate) fn set_player(&self, player: Uuid) -> bool {
        *self.player.get_or_init(|| player) == player
    }

    pub(crate) fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    /// Queues a frame that must not be lost. A connection whose queue is full is closed by that.
    pub(crate) fn push(&self, frame: Frame) -> Push {
        self.outbox.push(FrameKind::Event, frame)
    }

    /// As [`Self::push`], for several at once.
    pub(crate) fn push_all(&self, frames: &[Frame]) {
        self.outbox.push_all(frames);
    }

    pub(crate) fn close(&self, close: Close) {
        self.outbox.end(close);
    }

    /// Stops reading, answers what is in flight, then closes with 1012.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.outbox.wake();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn has_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Keeps a drain from closing the socket until it is dropped, after the answer was queued.
    pub(crate) fn in_flight(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(self))
    }
}

/// See [`Conn::in_flight`].
pub(crate) struct InFlight(Arc<Conn>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.0.is_draining() {
            self.0.outbox.wake();
        }
    }
}
