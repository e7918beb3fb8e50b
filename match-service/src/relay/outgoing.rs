//! What leaves through one relay stream: a bounded queue in which states are conflated when the node does not keep up.
//!
//! ```text
//!   deliver ──▶ queue ───────────────▶ the stream
//!      └─ a state, and the queue is three quarters full ─▶ late: the last one of each session ─▶ once the queue is empty
//! ```
//!
//! **Invariant:** a session gets its frames in the order they were delivered; only states that a later one replaces are left out. So a late state
//! goes into the queue before the next event of its session, and is forgotten when a later state finds room.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use asobi_proto::match_v1::{
    RelayApplied, RelayDeliver, RelayDropped, RelayMoved, RelayResponse, relay_response::Kind,
};
use asobi_session::link::{Edge, FrameKind, MovedTo, SessionNo};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use uuid::Uuid;

use crate::host::{Wake, wake_later};

/// Messages that may wait in one stream towards a node. States stop at three quarters of it. An event that finds no room ends the stream, and the
/// node attaches its sessions again.
const QUEUE: usize = 2048;
const STATES: usize = QUEUE / 4 * 3;
/// Room that an empty queue keeps.
const KEPT: usize = 256;

type Item = Result<RelayResponse, Status>;

/// Both ends of a stream's queue, until `over`.
pub fn new(over: CancellationToken) -> (Arc<RelayEdge>, Outgoing) {
    let edge = Arc::new_cyclic(|me: &Weak<RelayEdge>| RelayEdge {
        me: me.clone(),
        waiting: Mutex::new(Waiting { open: true, ..Waiting::default() }),
        over: over.clone(),
    });
    let outgoing =
        Outgoing { caught_up: VecDeque::new(), edge: Arc::clone(&edge), over: Box::pin(over.cancelled_owned()) };
    (edge, outgoing)
}

/// Where the host's matches deliver to.
pub struct RelayEdge {
    me: Weak<Self>,
    waiting: Mutex<Waiting>,
    over: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    /// False: the stream has ended, and what is said is for nobody.
    open: bool,
    /// [`QUEUE`] at most.
    queue: VecDeque<Kind>,
    /// Who reads it, and waits.
    reader: Option<Waker>,
    /// The last state of sessions for which there was no room; as many as sessions of the node at most.
    late: HashMap<u64, Bytes>,
}

impl RelayEdge {
    /// Until the stream is over, from either side.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// The last word.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.open = false;
        waiting.late.clear();
        drop(waiting);
        self.over.cancel();
    }

    /// Queues what is no state.
    pub fn send(&self, kind: Kind) {
        let queued = self.waiting.lock().push(kind);
        self.said(queued);
    }

    /// Something was queued, or found no room.
    fn said(&self, queued: bool) {
        if queued {
            if let Some(me) = self.me.upgrade() {
                wake_later(&(me as Arc<dyn Wake>));
            }
        } else {
            metrics::counter!("asobi_match_relay_overflows_total").increment(1);
            tracing::warn!("A node does not keep up with its matches; its stream is ended.");
            self.over.cancel();
        }
    }
}

impl Waiting {
    /// False: there is no room.
    fn push(&mut self, kind: Kind) -> bool {
        let room = !self.open || self.queue.len() < QUEUE;
        if self.open && room {
            self.queue.push_back(kind);
        }
        room
    }

    fn has_room_for_states(&self) -> bool {
        self.queue.len() < STATES
    }

    fn state(&mut self, sessions: &[SessionNo], frame: Bytes) -> bool {
        if self.has_room_for_states() {
            if !self.late.is_empty() {
                sessions.iter().for_each(|session| drop(self.late.remove(&session.0)));
            }
            return self.push(deliver(numbers(sessions), FrameKind::State, frame));
        }
        metrics::counter!("asobi_match_relay_states_conflated_total").increment(1);
        self.late.extend(sessions.iter().map(|session| (session.0, frame.clone())));
        true
    }

    /// Queues the late states of these sessions, so that what is said next comes after them.
    fn catch_up(&mut self, sessions: &[SessionNo]) -> bool {
        if self.late.is_empty() {
            return true;
        }
        let late = sessions.iter().filter_map(|session| Some((session.0, self.late.remove(&session.0)?))).collect();
        grouped(late).into_iter().all(|kind| self.push(kind))
    }
}

impl Wake for RelayEdge {
    fn wake(&self) {
        let reader = self.waiting.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Edge for RelayEdge {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        let mut waiting = self.waiting.lock();
        let queued = if kind == FrameKind::State {
            waiting.state(sessions, frame)
        } else {
            waiting.catch_up(sessions) && waiting.push(deliver(numbers(sessions), kind, frame))
        };
        drop(waiting);
        self.said(queued);
    }

    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        let mut waiting = self.waiting.lock();
        let queued = waiting.catch_up(sessions)
            && waiting.push(Kind::Dropped(RelayDropped {
                sessions: numbers(sessions),
                match_id: match_id.hyphenated().to_string(),
            }));
        drop(waiting);
        self.said(queued);
    }

    fn applied(&self, inputs: &[(SessionNo, u64)]) {
        let (sessions, numbers) = inputs.iter().map(|(session, number)| (session.0, *number)).unzip();
        self.send(Kind::Applied(RelayApplied { sessions, numbers }));
    }

    fn moved(&self, sessions: &[SessionNo], to: &MovedTo) {
        self.send(Kind::Moved(RelayMoved {
            sessions: numbers(sessions),
            match_id: to.match_id.hyphenated().to_string(),
            to_node: to.node_id.clone(),
            to_incarnation: to.incarnation,
            epoch: to.epoch,
        }));
    }
}

fn numbers(sessions: &[SessionNo]) -> Vec<u64> {
    sessions.iter().map(|session| session.0).collect()
}

fn deliver(sessions: Vec<u64>, kind: FrameKind, frame: Bytes) -> Kind {
    Kind::Deliver(RelayDeliver { sessions, kind: kind.into(), frame })
}

/// One message for all sessions that share a frame.
fn grouped(late: Vec<(u64, Bytes)>) -> Vec<Kind> {
    let mut frames: HashMap<(usize, usize), (Bytes, Vec<u64>)> = HashMap::new();
    for (session, frame) in late {
        let same = (frame.as_ptr().addr(), frame.len());
        frames.entry(same).or_insert_with(|| (frame, Vec::new())).1.push(session);
    }
    frames.into_values().map(|(frame, sessions)| deliver(sessions, FrameKind::State, frame)).collect()
}

/// What a node reads: the queue, then the late states, until it is over.
pub struct Outgoing {
    /// Late states on their way; older than anything that is queued after them.
    caught_up: VecDeque<Kind>,
    edge: Arc<RelayEdge>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Outgoing {
    /// The next message. Late states are taken when nothing is queued, which is older.
    fn next_kind(&mut self, cx: &Context<'_>) -> Option<Kind> {
        if let Some(kind) = self.caught_up.pop_front() {
            return Some(kind);
        }
        // Nothing is added while this is held.
        let mut waiting = self.edge.waiting.lock();
        if let Some(kind) = waiting.queue.pop_front() {
            return Some(kind);
        }
        if !waiting.late.is_empty() {
            self.caught_up = grouped(std::mem::take(&mut waiting.late).into_iter().collect()).into();
            return self.caught_up.pop_front();
        }
        waiting.reader = Some(cx.waker().clone());
        if waiting.queue.capacity() > KEPT {
            waiting.queue = VecDeque::new();
        }
        None
    }
}

impl Stream for Outgoing {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        // What is queued goes first: the last words of matches that have just ended.
        match self.next_kind(cx) {
            Some(kind) => Poll::Ready(Some(Ok(RelayResponse { kind: Some(kind) }))),
            None => self.over.as_mut().poll(cx).map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use tokio_stream::StreamExt as _;

    use super::*;

    const SESSIONS: [SessionNo; 3] = [SessionNo(1), SessionNo(2), SessionNo(3)];

    fn text(n: usize) -> Bytes {
        Bytes::from(n.to_string())
    }

    /// What waits, as (sessions, frame), `dropped` for a farewell.
    async fn read(mut outgoing: Outgoing, edge: &RelayEdge) -> Vec<(Vec<u64>, String)> {
        edge.over.cancel();
        let mut read = Vec::new();
        while let Some(Ok(RelayResponse { kind: Some(kind) })) = outgoing.next().await {
            read.push(match kind {
                Kind::Deliver(d) => (d.sessions, String::from_utf8_lossy(&d.frame).into_owned()),
                Kind::Dropped(d) => (d.sessions, "dropped".to_owned()),
                other => (Vec::new(), format!("{other:?}")),
            });
        }
        read
    }

    #[tokio::test]
    async fn the_last_state_arrives_however_slow_the_node_is() {
        let (edge, outgoing) = new(CancellationToken::new());
        for n in 0..10_000 {
            edge.deliver(&SESSIONS, FrameKind::State, text(n));
        }
        edge.deliver(&SESSIONS[..1], FrameKind::State, text(10_000));
        let read = read(outgoing, &edge).await;
        assert_eq!(read.len(), STATES + 2);
        let mut last = read[STATES..].to_vec();
        last.iter_mut().for_each(|(sessions, _)| sessions.sort_unstable());
        last.sort();
        assert_eq!(last, [(vec![1], "10000".to_owned()), (vec![2, 3], "9999".to_owned())]);
    }

    #[tokio::test]
    async fn a_late_state_stays_before_what_was_said_after_it() {
        let (edge, outgoing) = new(CancellationToken::new());
        for n in 0..STATES + 5 {
            edge.deliver(&SESSIONS, FrameKind::State, text(n));
        }
        edge.deliver(&SESSIONS[..1], FrameKind::Event, Bytes::from_static(b"event"));
        edge.dropped(&SESSIONS[..2], Uuid::nil());
        let mut said = String::new();
        for (sessions, frame) in &read(outgoing, &edge).await[STATES..] {
            write!(said, "{sessions:?} {frame}; ").expect("a string");
        }
        let last = STATES + 4;
        assert_eq!(said, format!("[1] {last}; [1] event; [2] {last}; [1, 2] dropped; [3] {last}; "));
    }

    #[tokio::test]
    async fn a_state_that_finds_room_replaces_a_late_one() {
        let (edge, mut outgoing) = new(CancellationToken::new());
        for n in 0..STATES + 5 {
            edge.deliver(&SESSIONS, FrameKind::State, text(n));
        }
        for _ in 0..10 {
            outgoing.next().await.expect("goes on").expect("a message");
        }
        edge.deliver(&SESSIONS, FrameKind::State, text(9_999));
        let read = read(outgoing, &edge).await;
        assert_eq!(read.len(), STATES - 10 + 1);
        assert_eq!(read.last(), Some(&(vec![1, 2, 3], "9999".to_owned())));
    }

    #[tokio::test]
    async fn an_event_that_finds_no_room_ends_the_stream() {
        let (edge, _outgoing) = new(CancellationToken::new());
        for n in 0..=QUEUE {
            assert!(!edge.over.is_cancelled(), "{n}");
            edge.deliver(&SESSIONS, FrameKind::Event, text(n));
        }
        assert!(edge.over.is_cancelled());
    }
}
