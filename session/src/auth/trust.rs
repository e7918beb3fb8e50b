//! Whether what this node remembers of revocations can be relied on, or the rows have to be read.
//!
//! Memory is good while the listening session proves itself every [`DOUBT`] and the rows were read since that session
//! began, or fell silent for longer: what was told while nobody listened is only in the rows. In doubt one read answers for everybody who asks within
//! a moment, so that a busy node costs the database four reads a second and not one for each request.
//!
//! **When that read fails too, tokens are refused** (`not_ready`, worth another try), never accepted: the rows are the
//! truth, and whoever could cut a node off from them must not bring a banned player's token back to life. It costs little:
//! every route and `session.connect` need the rows themselves. Sockets that are open stay open, with all that reaches them
//! locally; revocations that were missed close them as soon as the rows can be read.

use std::time::{Duration, Instant};

use asobi_bus::Bus;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::AuthError;

/// How long the listener may have been silent for memory to be good.
const DOUBT: Duration = Duration::from_secs(1);
/// For how long a read answers in doubt, and a failed one as well.
const FRESH: Duration = Duration::from_millis(250);

pub(super) struct Trust {
    bus: Bus,
    state: Mutex<State>,
    /// The last read made in doubt; whoever makes one holds the lock.
    last: tokio::sync::Mutex<Option<Read>>,
}

struct State {
    /// The listening session that had begun when the rows were last read.
    heard: watch::Receiver<bool>,
    /// How often the listener was found silent, and which of these times a read made good. A listener that speaks again is
    /// not believed before: what waited behind its first word has not been taken in yet.
    doubts: u64,
    settled: u64,
}

struct Read {
    began: Instant,
    ended: Instant,
    well: bool,
}

/// A read of the rows under way.
pub(super) struct Begun {
    session: watch::Receiver<bool>,
    /// The doubt it settles, as the listener spoke when it began.
    settles: Option<u64>,
}

impl Trust {
    pub fn new(bus: Bus) -> Self {
        let state = Mutex::new(State { heard: bus.connected(), doubts: 0, settled: 0 });
        Self { bus, state, last: tokio::sync::Mutex::default() }
    }

    /// Whether memory is good as it is.
    pub fn holds(&self) -> bool {
        let mut state = self.state.lock();
        if self.bus.unconfirmed_for() > DOUBT {
            if state.settled == state.doubts {
                state.doubts += 1;
            }
            return false;
        }
        // A session that ended and another that began are two changes.
        let same = state.heard.has_changed().is_ok_and(|changed| !changed) && *state.heard.borrow();
        same && state.settled == state.doubts
    }

    /// To be called before the rows are read …
    pub fn begin(&self) -> Begun {
        let mut session = self.bus.connected();
        session.mark_unchanged();
        let doubts = self.state.lock().doubts;
        Begun { session, settles: (self.bus.unconfirmed_for() <= DOUBT).then_some(doubts) }
    }

    /// … and, with what that answered, after they were.
    pub fn complete(&self, begun: Begun) {
        let mut state = self.state.lock();
        state.heard = begun.session;
        if let Some(settled) = begun.settles {
            state.settled = state.settled.max(settled);
        }
    }

    /// Has the rows read unless memory is good, or was made so a moment ago.
    pub async fn or_read<F>(&self, read: impl FnOnce() -> F, bound: Duration) -> Result<(), AuthError>
    where
        F: Future<Output = Result<(), asobi_store::Error>>,
    {
        if self.holds() {
            return Ok(());
        }
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        match &*last {
            Some(read) if read.well && read.began + FRESH >= asked => return Ok(()),
            Some(read) if !read.well && read.ended.elapsed() <= FRESH => {
                return Err(AuthError::Unavailable(asobi_store::Error::Deadline(bound)));
            }
            _ => {}
        }
        metrics::counter!("asobi_auth_doubt_reads_total").increment(1);
        let began = Instant::now();
        let done = read().await;
        *last = Some(Read { began, ended: Instant::now(), well: done.is_ok() });
        done.map_err(AuthError::Unavailable)
    }
}
