//! What a client may say, as data: each frame type, who may send it, what it may overtake, and who answers.

mod ask;
mod chat;
mod ctx;
mod dm;
mod fields;
mod groups;
mod input;
mod matches;
mod party;
mod presence;
mod queue;
mod rpc;
mod session;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use asobi_proto::frame::{Incoming, Malformed};
use asobi_trace::{Head, Watch};
use serde_json::value::RawValue;
use tracing::{Instrument as _, Span, field::Empty};

pub(crate) use self::{ask::Asker, matches::report};
use crate::{
    conn::{Conn, socket::Socket},
    hub::Hub,
};

/// A request that needs more than this moment.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection's requests are answered one after the other, except where waiting would be felt and order means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Overtakes everything.
    Free,
    /// An input overtakes whatever cannot change which match it is for.
    Input,
    /// Changes which match the session is in.
    Match,
    /// Changes who the session is.
    Session,
    /// Keeps its place.
    Other,
}

impl Lane {
    fn overtakes(self, busy: Self) -> bool {
        match self {
            Self::Free => true,
            Self::Input => !matches!(busy, Self::Match | Self::Session),
            Self::Match | Self::Session | Self::Other => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Anyone,
    /// Only after `session.connect`.
    Player,
}

type Handler = fn(&Call<'_>) -> Option<Work>;

struct Type {
    name: &'static str,
    access: Access,
    lane: Lane,
    handler: Handler,
}

const fn of(name: &'static str, access: Access, lane: Lane, handler: Handler) -> Type {
    Type { name, access, lane, handler }
}

/// Every known type; any other is `unknown_type`.
const TYPES: [Type; 26] = [
    of("chat.join", Access::Player, Lane::Other, chat::join),
    of("chat.leave", Access::Player, Lane::Other, chat::leave),
    of("chat.send", Access::Player, Lane::Other, chat::send),
    of("dm.send", Access::Player, Lane::Other, dm::send),
    of("groups.accept", Access::Player, Lane::Other, groups::accept),
    of("groups.decline", Access::Player, Lane::Other, groups::decline),
    of("groups.invite", Access::Player, Lane::Other, groups::invite),
    of("match.find_or_create", Access::Player, Lane::Match, matches::find_or_create),
    of("match.input", Access::Player, Lane::Input, matches::input),
    of("match.join", Access::Player, Lane::Match, matches::join),
    of("match.leave", Access::Player, Lane::Match, matches::leave),
    of("match.list", Access::Player, Lane::Other, matches::list),
    of("matchmaker.add", Access::Player, Lane::Other, queue::add),
    of("matchmaker.remove", Access::Player, Lane::Other, queue::remove),
    of("party.accept", Access::Player, Lane::Other, party::accept),
    of("party.create", Access::Player, Lane::Other, party::create),
    of("party.decline", Access::Player, Lane::Other, party::decline),
    of("party.disband", Access::Player, Lane::Other, party::disband),
    of("party.invite", Access::Player, Lane::Other, party::invite),
    of("party.kick", Access::Player, Lane::Other, party::kick),
    of("party.leave", Access::Player, Lane::Other, party::leave),
    of("party.promote", Access::Player, Lane::Other, party::promote),
    of("presence.update", Access::Player, Lane::Other, presence::update),
    of("rpc.call", Access::Anyone, Lane::Free, rpc::call),
    of("session.connect", Access::Anyone, Lane::Session, session::connect),
    of("session.heartbeat", Access::Anyone, Lane::Free, session::heartbeat),
];

/// The names of all types, for their description.
#[cfg(test)]
pub(crate) fn types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|known| known.name)
}

/// Whether a type is taken before `session.connect`.
pub(crate) fn open_to_anyone(kind: &str) -> bool {
    TYPES.iter().any(|known| known.name == kind && known.access == Access::Anyone)
}

/// One frame on its way to its handler. The parts borrow from its text.
pub(crate) struct Call<'a> {
    pub hub: &'a Arc<Hub>,
    pub conn: &'a Arc<Conn>,
    pub kind: &'a str,
    pub cid: Option<&'a RawValue>,
    /// The text of a JSON object.
    pub payload: &'a str,
    pub operation: Operation<'a>,
}

/// What is to be known of a frame when it is answered, for its trace.
#[derive(Clone, Copy)]
pub(crate) struct Operation<'a> {
    /// The frame's type.
    pub name: &'static str,
    /// Its span, if it is recorded; else it is watched.
    pub span: &'a Span,
    pub watch: Watch,
}

/// What became of a frame.
pub(crate) enum Step {
    Done,
    Later(Lane, Work),
    /// It has to wait for the request under way, and is to be routed again.
    Wait,
}

const RATE_ERROR_EVERY: Duration = Duration::from_secs(1);

/// Whether a frame may be looked at: measured and counted before it is parsed.
pub(crate) fn admit(socket: &mut Socket, text: &str) -> bool {
    let limits = &socket.hub.config.limits;
    let fits = text.len() <= limits.frame_bytes;
    let now = std::time::Instant::now();
    if !socket.rate.allows(limits.frames_per_second, now) {
        socket.hub.count.came(None);
        metrics::counter!("asobi_session_frames_dropped_total", "reason" => "rate_limited").increment(1);
        // Whoever waits for a cid is answered; the others hear of it once a second.
        let cid = if fits { cid_of(text) } else { None };
        if cid.is_some() || socket.rate_errors.allows(RATE_ERROR_EVERY, now) {
            ask::error(&socket.conn, cid, None, "rate_limited", "Too many frames: slow down.");
        }
        return false;
    }
    if !fits {
        socket.hub.count.came(None);
        metrics::counter!("asobi_session_frames_dropped_total", "reason" => "too_large").increment(1);
        ask::error(&socket.conn, None, None, "payload_too_large", "The frame is too large.");
    }
    fits
}

/// Answers a binary frame.
pub(crate) fn binary(socket: &mut Socket) {
    if admit(socket, "") {
        socket.hub.count.came(None);
        ask::error(&socket.conn, None, None, "binary_uplink_unsupported", "Frames are text.");
    }
}

fn cid_of(text: &str) -> Option<&RawValue> {
    match Incoming::parse(text) {
        Ok(frame) => frame.cid,
        Err(malformed) => malformed.cid,
    }
}

/// Hands an admitted frame to its handler, unless it has to wait for the request under way.
pub(crate) fn route(socket: &Socket, text: &str, busy: Option<Lane>) -> Step {
    let frame = match Incoming::parse(text) {
        Ok(frame) => frame,
        Err(_) if busy.is_some() => return Step::Wait,
        Err(Malformed { reason, cid, kind }) => {
            socket.hub.count.came(None);
            ask::error(&socket.conn, cid, kind.as_deref(), reason, "The frame is malformed.");
            return Step::Done;
        }
    };
    let place = TYPES.iter().position(|t| t.name == frame.kind);
    let known = place.map(|place| &TYPES[place]);
    let lane = known.map_or(Lane::Other, |t| t.lane);
    if busy.is_some_and(|busy| !lane.overtakes(busy)) {
        return Step::Wait;
    }
    let span = known.map_or_else(Span::none, |known| span(socket, known));
    let watch = Watch::begin(!span.is_disabled());
    let operation = Operation { name: known.map_or("unknown", |known| known.name), span: &span, watch };
    let call = Call {
        hub: &socket.hub,
        conn: &socket.conn,
        kind: &frame.kind,
        cid: frame.cid,
        payload: frame.payload,
        operation,
    };
    socket.hub.count.came(place);
    let Some(known) = known else {
        call.error("unknown_type", "There is no such frame type.");
        return Step::Done;
    };
    let _entered = span.enter();
    if known.access == Access::Player && socket.conn.player().is_none() {
        call.error("not_authenticated", "Send session.connect first.");
        return Step::Done;
    }
    let work = (known.handler)(&call)
        .map(|work| if span.is_disabled() { work } else { Box::pin(work.instrument(span.clone())) as Work });
    match work {
        None => Step::Done,
        Some(work) if busy.is_none() => Step::Later(lane, work),
        Some(work) => {
            // Handlers of lanes that overtake answer at once; this one would have to be spawned to keep that promise.
            socket.hub.spawn("frame", work);
            Step::Done
        }
    }
}

/// A trace begins here, if it is drawn. Inputs come by the thousand, so that they are drawn like everything else and not by themselves.
fn span(socket: &Socket, known: &Type) -> Span {
    asobi_trace::root!(
        Head::draw(),
        "frame",
        otel.name = known.name,
        otel.kind = "server",
        otel.status_code = Empty,
        error.type = Empty,
        asobi.frame.type = known.name,
        asobi.session.no = socket.conn.no.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_listed_once() {
        for (n, known) in TYPES.iter().enumerate() {
            assert!(TYPES.iter().skip(n + 1).all(|t| t.name != known.name), "{}", known.name);
        }
        let anyone: Vec<_> = TYPES.iter().filter(|t| t.access == Access::Anyone).map(|t| t.name).collect();
        assert_eq!(anyone, ["rpc.call", "session.connect", "session.heartbeat"]);
    }

    #[test]
    fn inputs_wait_only_for_what_decides_their_match() {
        assert!(Lane::Input.overtakes(Lane::Other) && Lane::Free.overtakes(Lane::Session));
        assert!(!Lane::Input.overtakes(Lane::Match) && !Lane::Input.overtakes(Lane::Session));
        assert!(!Lane::Other.overtakes(Lane::Other) && !Lane::Match.overtakes(Lane::Other));
    }
}
