//! The far link: matches of other processes, over one gRPC stream per host incarnation.
//!
//! ```text
//!            first session                 stream up                    stream breaks
//!  (none) ───────────────► connecting ───────────────► attached ─────────────────────► connecting
//!     ▲                        │ all sessions are entered again             │ their inputs wait
//!     └── no session for IDLE ─┴────────────────────────────────────────────┘
//! ```
//!
//! | what happens | what becomes of the sessions |
//! | --- | --- |
//! | the stream breaks, the host is alive | they wait, and are attached again by the next stream |
//! | no stream, or the host's lease is over | their matches are looked up, all in one query, about twice a second: those that run elsewhere are followed, those that are over end |
//! | the host says that a match moved | its sessions are attached where it runs now |
//! | the host does not know a match any more | the row is asked before the seat counts as lost |
//! | a host that was taken for dead speaks again | nobody hears it: who was brought elsewhere has a seat with another link |
//!
//! Invariant: the host hears of a session in the order things happened to it here, because everything goes through one queue;
//! and what it answers changes [`State::sessions`] in the order it was said.

mod gathering;
mod stream;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use asobi_proto::match_v1::{RelayDetach, RelayEnter, RelayInput, RelayLeave, RelayRequest, relay_request::Kind};
use asobi_service_kit::telemetry;
use async_trait::async_trait;
use bytes::Bytes;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

use crate::{
    hub::Hub,
    link::{Entered, Entry, LinkError, MatchLink, SessionNo},
};

/// Messages on their way to one host. Full: the sender is told so, and a host that does not keep up hears no more.
const QUEUE: usize = 4_096;
/// How long a host may take to answer a request.
const ANSWER: Duration = Duration::from_secs(2);

/// The relays of this node, one per host incarnation.
#[derive(Default)]
pub(crate) struct Relays {
    links: Mutex<HashMap<(String, i64), Arc<Relay>>>,
}

impl Relays {
    /// The link to a host, made if there is none.
    pub(crate) fn to(hub: &Arc<Hub>, node_id: &str, incarnation: i64) -> Arc<dyn MatchLink> {
        let mut links = hub.relays.links.lock();
        let relay = links.entry((node_id.to_owned(), incarnation)).or_insert_with(|| {
            let relay = Arc::new(Relay::new(node_id.to_owned(), incarnation));
            hub.spawn("relay", stream::run(Arc::clone(hub), Arc::clone(&relay)));
            relay
        });
        // Under the map's lock, so that it is not retired before its first session is in.
        relay.touch();
        Arc::clone(relay) as Arc<dyn MatchLink>
    }

    /// Takes a link that nobody used for so long out of the map. False when somebody has just begun to.
    fn retire(&self, relay: &Arc<Relay>, idle: Duration) -> bool {
        let mut links = self.links.lock();
        if !relay.is_idle(idle) {
            return false;
        }
        links.remove(&(relay.node_id.clone(), relay.incarnation));
        true
    }
}

/// One host incarnation as seen from here.
pub(crate) struct Relay {
    node_id: String,
    incarnation: i64,
    state: Mutex<State>,
    /// Numbers requests, unique over all streams.
    requests: AtomicU64,
    /// A session came while no stream was up.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// Where everything goes while a stream is up.
    outgoing: Option<mpsc::Sender<RelayRequest>>,
    /// Sessions that are, or are to be, attached there.
    sessions: HashMap<SessionNo, Attached, RandomState>,
    waiting: HashMap<u64, Waiting, RandomState>,
    used: Option<tokio::time::Instant>,
}

#[derive(Clone, Copy)]
struct Attached {
    match_id: Uuid,
    player_id: Uuid,
}

enum Waiting {
    Enter(oneshot::Sender<Result<Entered, LinkError>>, SessionNo, Attached),
    Leave(oneshot::Sender<Result<(), LinkError>>),
    /// An attach after a reconnect, which nobody waits for.
    Again(SessionNo, Uuid),
}

impl State {
    /// Takes a session out, unless it is another match's by now.
    fn forget(&mut self, session: SessionNo, match_id: Uuid) {
        if self.sessions.get(&session).is_some_and(|attached| attached.match_id == match_id) {
            self.sessions.remove(&session);
        }
    }
}

impl Relay {
    fn new(node_id: String, incarnation: i64) -> Self {
        Self { node_id, incarnation, state: Mutex::default(), requests: AtomicU64::new(1), wake: Notify::new() }
    }

    fn touch(&self) {
        self.state.lock().used = Some(tokio::time::Instant::now());
    }

    fn is_idle(&self, idle: Duration) -> bool {
        let state = self.state.lock();
        state.sessions.is_empty() && state.used.is_none_or(|at| at.elapsed() >= idle)
    }

    fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the stream to be up, for as long as an answer may take.
    async fn up(&self) -> bool {
        let until = tokio::time::Instant::now() + ANSWER;
        loop {
            let changed = self.wake.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.lock().outgoing.is_some() {
                return true;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Sends a request whose answer is awaited.
    async fn ask<T>(
        &self,
        request: impl FnOnce(u64) -> Kind,
        waiting: impl FnOnce(oneshot::Sender<Result<T, LinkError>>) -> Waiting,
    ) -> Result<T, LinkError> {
        if !self.up().await {
            return Err(LinkError::Unavailable);
        }
        let (answered, answer) = oneshot::channel();
        let number = self.next_request();
        {
            let mut state = self.state.lock();
            let Some(outgoing) = &state.outgoing else { return Err(LinkError::Unavailable) };
            offer(outgoing, request(number))?;
            state.waiting.insert(number, waiting(answered));
        }
        let _asked = Asked { relay: self, number };
        let answer = tokio::time::timeout(ANSWER, answer).await;
        answer.map_or(Err(LinkError::Unavailable), |a| a.unwrap_or(Err(LinkError::Unavailable)))
    }
}

/// A request somebody waits for. Whoever gives up waiting leaves nothing behind, but for the late refusal of a session that is
/// kept attached: that is acted on as after a reconnect.
struct Asked<'a> {
    relay: &'a Relay,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.relay.state.lock();
        if let Some(Waiting::Enter(_, session, attached)) = state.waiting.remove(&self.number)
            && state.sessions.get(&session).is_some_and(|kept| kept.match_id == attached.match_id)
        {
            state.waiting.insert(self.number, Waiting::Again(session, attached.match_id));
        }
    }
}

fn offer(outgoing: &mpsc::Sender<RelayRequest>, kind: Kind) -> Result<(), LinkError> {
    outgoing.try_send(RelayRequest { kind: Some(kind) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            metrics::counter!("asobi_relay_refused_total", "reason" => "queue_full").increment(1);
            LinkError::Full
        }
        mpsc::error::TrySendError::Closed(_) => LinkError::Unavailable,
    })
}

fn enter_request(session: SessionNo, request: u64, attached: Attached, join: Option<&str>) -> Kind {
    Kind::Enter(RelayEnter {
        session: session.0,
        request,
        match_id: attached.match_id.to_string(),
        player_id: attached.player_id.to_string(),
        join: join.is_some(),
        ctx_json: join.unwrap_or_default().as_bytes().to_vec().into(),
    })
}

#[async_trait]
impl MatchLink for Relay {
    async fn enter(&self, entry: Entry) -> Result<Entered, LinkError> {
        let Entry { session, player_id, match_id, join } = entry;
        let attached = Attached { match_id, player_id };
        if join.is_none() {
            // Kept whatever happens to this request: the stream attaches it again until it is detached.
            self.state.lock().sessions.insert(session, attached);
        }
        // A session that is let in is entered in the list, and one that is refused taken out, where the answer is read.
        let waiting = |answer| Waiting::Enter(answer, session, attached);
        let entered = self.ask(|request| enter_request(session, request, attached, join.as_deref()), waiting).await;
        if entered == Err(LinkError::Full) {
            self.state.lock().forget(session, match_id);
        }
        entered
    }

    async fn leave(&self, session: SessionNo) -> Result<(), LinkError> {
        let left = self.ask(|request| Kind::Leave(RelayLeave { session: session.0, request }), Waiting::Leave).await;
        if left.is_ok() {
            self.state.lock().sessions.remove(&session);
        }
        left
    }

    fn input(&self, session: SessionNo, number: u64, payload: Bytes) -> Result<(), LinkError> {
        let state = self.state.lock();
        let Some(outgoing) = &state.outgoing else { return Err(LinkError::Unavailable) };
        let traceparent = telemetry::traceparent();
        offer(outgoing, Kind::Input(RelayInput { session: session.0, number, payload, traceparent }))
    }

    fn detach(&self, session: SessionNo, follows: bool) {
        let mut state = self.state.lock();
        state.sessions.remove(&session);
        let Some(outgoing) = &state.outgoing else { return };
        if offer(outgoing, Kind::Detach(RelayDetach { session: session.0, follows })) == Err(LinkError::Full) {
            // The host must not believe that somebody is here who is not: a new stream says who is.
            tracing::warn!(host.id = self.node_id, "The relay to a host is full; it is opened anew.");
            state.outgoing = None;
            self.wake.notify_waiters();
        }
    }
}
