//! One edge as the host sees it: where frames leave, and which of its sessions is attached to which match.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use asobi_session::link::{Edge, Entered, Entry, FrameKind, LinkError, MatchLink, MovedTo, SessionNo};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Host,
    mailbox::{MatchHandle, Message},
};

static NEXT_PORT: AtomicU64 = AtomicU64::new(1);

/// How long a match may take to answer: taking a seat asks the database.
const ANSWER: Duration = Duration::from_secs(8);

/// See the module.
pub struct Port {
    /// Unique in this process; sessions of different edges may have equal numbers.
    pub number: u64,
    /// The node the sessions are on, `node_id#incarnation`: a session that comes back over a new stream is recognised by it.
    pub origin: Arc<str>,
    edge: Arc<dyn Edge>,
    attached: Mutex<HashMap<SessionNo, MatchHandle>>,
}

impl Port {
    #[must_use]
    pub fn new(origin: impl Into<Arc<str>>, edge: Arc<dyn Edge>) -> Arc<Self> {
        Arc::new(Self {
            number: NEXT_PORT.fetch_add(1, Ordering::Relaxed),
            origin: origin.into(),
            edge,
            attached: Mutex::default(),
        })
    }

    /// One frame for many of the edge's sessions.
    pub fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        self.edge.deliver(sessions, kind, frame);
    }

    /// These sessions are no longer attached to the match.
    pub fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        self.forget_all(sessions, match_id);
        self.edge.dropped(sessions, match_id);
    }

    /// As [`dropped`](Self::dropped), and the edge is not told.
    pub fn forget_all(&self, sessions: &[SessionNo], match_id: Uuid) {
        let mut attached = self.attached.lock();
        for session in sessions {
            if attached.get(session).is_some_and(|handle| handle.match_id == match_id) {
                attached.remove(session);
            }
        }
    }

    /// The match of these sessions runs elsewhere from now on.
    pub fn moved(&self, sessions: &[SessionNo], to: &MovedTo) {
        self.forget_all(sessions, to.match_id);
        self.edge.moved(sessions, to);
    }

    /// Inputs up to these numbers are safe.
    pub fn applied(&self, inputs: &[(SessionNo, u64)]) {
        self.edge.applied(inputs);
    }

    /// The edge is gone: all its sessions are detached.
    pub fn close(&self) {
        let attached = std::mem::take(&mut *self.attached.lock());
        for (session, handle) in attached {
            handle.post(Message::Detach { session: (self.number, session), follows: false });
        }
    }
}

/// The host's side of a link: what sessions of one edge ask of its matches.
pub struct HostLink {
    pub host: Arc<Host>,
    pub port: Arc<Port>,
}

/// An `enter` under way.
pub struct Entering {
    session: SessionNo,
    handle: MatchHandle,
    answer: oneshot::Receiver<Result<Entered, LinkError>>,
}

impl HostLink {
    /// The first half of [`MatchLink::enter`]: from here on the match has the question, in order with whatever else this session asks.
    ///
    /// # Errors
    /// There is no such match here.
    pub fn start_enter(&self, entry: Entry) -> Result<Entering, LinkError> {
        let Some(handle) = self.host.find(entry.match_id) else {
            return Err(refused("match_not_found"));
        };
        // Before the match knows: a detach that comes meanwhile must find it.
        let before = self.port.attached.lock().insert(entry.session, handle.clone());
        if let Some(before) = before.filter(|before| before.match_id != entry.match_id) {
            before.post(Message::Detach { session: (self.port.number, entry.session), follows: false });
        }
        let (reply, answer) = oneshot::channel();
        handle.post(Message::Enter {
            port: Arc::clone(&self.port),
            session: entry.session,
            player: entry.player_id,
            join: entry.join,
            reply,
        });
        Ok(Entering { session: entry.session, handle, answer })
    }

    /// The second half: waits for the answer.
    ///
    /// # Errors
    /// As [`MatchLink::enter`].
    pub async fn finish_enter(&self, entering: Entering) -> Result<Entered, LinkError> {
        let Entering { session, handle, answer } = entering;
        let result = match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(result)) => result,
            // A match that ends drops the question.
            Ok(Err(_)) => Err(refused("match_not_found")),
            Err(_) => Err(LinkError::Unavailable),
        };
        if result.is_err() {
            self.port.forget_all(&[session], handle.match_id);
        }
        if result == Err(LinkError::Unavailable) {
            // It may have been attached all the same.
            handle.post(Message::Detach { session: (self.port.number, session), follows: false });
        }
        result
    }

    /// The first half of [`MatchLink::leave`]; none: the session is in no match.
    #[must_use]
    pub fn start_leave(&self, session: SessionNo) -> Option<oneshot::Receiver<Result<(), LinkError>>> {
        let handle = self.port.attached.lock().remove(&session)?;
        let (reply, answer) = oneshot::channel();
        handle.post(Message::Leave { session: (self.port.number, session), reply });
        Some(answer)
    }

    /// The second half: waits until the seat is given up.
    ///
    /// # Errors
    /// [`LinkError::Unavailable`] when that takes too long, or the match has just moved.
    pub async fn finish_leave(&self, leaving: oneshot::Receiver<Result<(), LinkError>>) -> Result<(), LinkError> {
        match tokio::time::timeout(ANSWER, leaving).await {
            Ok(Ok(left)) => left,
            // A dropped question: the match has ended, and the seat with it.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(LinkError::Unavailable),
        }
    }
}

#[async_trait]
impl MatchLink for HostLink {
    async fn enter(&self, entry: Entry) -> Result<Entered, LinkError> {
        let entering = self.start_enter(entry)?;
        self.finish_enter(entering).await
    }

    async fn leave(&self, session: SessionNo) -> Result<(), LinkError> {
        match self.start_leave(session) {
            Some(leaving) => self.finish_leave(leaving).await,
            None => Ok(()),
        }
    }

    fn input(&self, session: SessionNo, number: u64, payload: Bytes) -> Result<(), LinkError> {
        let handle = self.port.attached.lock().get(&session).cloned();
        match handle {
            Some(handle) => handle.input((self.port.number, session), number, payload),
            None => Err(refused("not_in_match")),
        }
    }

    fn detach(&self, session: SessionNo, follows: bool) {
        let handle = self.port.attached.lock().remove(&session);
        if let Some(handle) = handle {
            handle.post(Message::Detach { session: (self.port.number, session), follows });
        }
    }
}

/// A refusal without a reason of the game's own.
#[must_use]
pub fn refused(reason: &str) -> LinkError {
    LinkError::Refused { reason: reason.to_owned(), refused_reason: None }
}
