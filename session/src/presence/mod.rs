//! Who is online, for their friends. The rows are the truth: every hint only says whose rows to look at, and what each
//! watcher is told is the difference to what they were told last.
//!
//! ```text
//!  socket opens ─► row ─► hint        socket closes ─► grace ─► row gone ─► was it the last? ─► hint
//!  hint, resync, changed friends ─► dirty players with watchers here ─► one read ─► differences to the watchers
//!                                                ▲ after the pause ◄─ told less than a second ago ◄─┘
//! ```
//!
//! A client that flaps costs each of its watchers one frame a second at most: the first change at once, then what the rows
//! say when the second is over.
//!
//! Invariant: a session's row outlives its socket by the grace, so that a player who moves to another node is not seen
//! to go and come.

mod bound;
mod rows;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use asobi_bus::{Bus, BusEvent, Subscription};
use asobi_proto::bus::{PresenceItem, Topic};
use asobi_store::{sessions, within};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

pub(crate) use self::watch::Seen;
use self::{bound::Crowds, rows::Write, watch::Watchers};
use crate::{conn::Conn, hub::Hub};

/// What players do that is not written yet. Past it the rows are made right by comparing them with the sessions here.
const WRITES: usize = 16_384;
const BUS_QUEUE: usize = 1_024;
const DEADLINE: Duration = Duration::from_secs(3);

pub(crate) struct Presence {
    writes: mpsc::Sender<Write>,
    /// A write was lost to a full queue: compare.
    compare: AtomicBool,
    /// Sessions that have left and whose rows have not.
    leaving: AtomicUsize,
    settled: Notify,
    watchers: Watchers,
    crowds: Crowds,
}

impl Presence {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Write>) {
        let (writes, queue) = mpsc::channel(WRITES);
        let presence = Self {
            writes,
            compare: AtomicBool::new(false),
            leaving: AtomicUsize::new(0),
            settled: Notify::new(),
            watchers: Watchers::default(),
            crowds: Crowds::default(),
        };
        (presence, queue)
    }

    /// A session has come.
    pub(crate) fn arrive(&self, session_id: Uuid, player: Uuid) {
        self.write(Write::Arrive { session_id, player });
    }

    /// What a player says of themself. False when too much waits.
    pub(crate) fn update(&self, player: Uuid, status: String) -> bool {
        self.writes.try_send(Write::Status { player, status }).is_ok()
    }

    /// A session's socket is gone.
    pub(crate) fn leave(&self, hub: &Hub, conn: &Arc<Conn>, player: Uuid) {
        self.leaving.fetch_add(1, Ordering::AcqRel);
        let due = tokio::time::Instant::now() + hub.config.presence.grace();
        self.write(Write::Depart { session_id: conn.session_id, player, due });
        self.unwatch(conn);
    }

    /// A connection is told nothing more of its player's friends.
    pub(crate) fn unwatch(&self, conn: &Conn) {
        let told = conn.local().told.take();
        if let Some(told) = told {
            self.watchers.unwatch(told.keys(), conn);
        }
    }

    fn write(&self, write: Write) {
        let leaves = matches!(write, Write::Depart { .. });
        if self.writes.try_send(write).is_err() {
            self.compare.store(true, Ordering::Release);
            if leaves {
                self.left(1);
            }
        }
    }

    fn left(&self, sessions: usize) {
        if self.leaving.fetch_sub(sessions, Ordering::AcqRel) == sessions {
            self.settled.notify_waiters();
        }
    }

    /// Waits until the rows of all sessions that have left are gone.
    pub(crate) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.leaving.load(Ordering::Acquire) == 0 {
                return;
            }
            settled.await;
        }
    }
}

pub(crate) fn start(hub: &Arc<Hub>, bus: &Bus, writes: mpsc::Receiver<Write>) {
    hub.spawn("presence rows", rows::run(Arc::clone(hub), writes));
    hub.spawn("presence watch", watch::run(Arc::clone(hub)));
    hub.spawn("session bound", bound::run(Arc::clone(hub)));
    hub.spawn("presence hints", listen(Arc::clone(hub), bus.subscribe(&[Topic::Presence], BUS_QUEUE)));
    hub.spawn("presence sweep", sweep(Arc::clone(hub), bus.subscribe(&[Topic::Nodes], 16)));
}

async fn listen(hub: Arc<Hub>, mut events: Subscription) {
    while let Some(event) = events.next().await {
        match event {
            BusEvent::Resync => {
                metrics::counter!("asobi_session_resyncs_total", "what" => "presence").increment(1);
                hub.presence.watchers.doubt(std::time::Instant::now() + hub.membership.lease());
                hub.presence.watchers.suspect_all();
                hub.presence.crowds.suspect_all(&hub);
            }
            BusEvent::Batch(batch) => {
                for raw in batch.items() {
                    match serde_json::from_str::<PresenceItem>(raw.get()) {
                        Ok(item) => {
                            hub.presence.watchers.suspect([item.player_id]);
                            hub.presence.crowds.suspect(&hub, [item.player_id]);
                        }
                        Err(error) => tracing::warn!(%error, "A presence hint could not be read."),
                    }
                }
            }
        }
    }
}

/// Takes the sessions of dead nodes away, whoever notices first.
async fn sweep(hub: Arc<Hub>, mut wake: Subscription) {
    use asobi_cluster::lock_keys::{PLAYER_PRESENCE, SESSION_SWEEP};
    let period = hub.membership.lease() / 8;
    loop {
        tokio::select! {
            () = tokio::time::sleep(period.mul_f64(rand::random_range(0.7..1.3))) => {}
            event = wake.next() => if event.is_none() { return },
        }
        if !hub.membership.may_judge() {
            continue;
        }
        match within(DEADLINE, sessions::sweep_dead(&hub.pool, SESSION_SWEEP, PLAYER_PRESENCE)).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => {
                tracing::info!(players = gone.len(), "Players of a node that is gone are offline.");
                rows::announce(&hub, gone.into_iter().map(|player| (player, "offline".to_owned())), None);
            }
            Err(error) => tracing::debug!(%error, "The sessions of dead nodes could not be swept; it is tried again."),
        }
    }
}
