//! The seam between a node that holds players and a match, wherever that match runs: in this process (the near link) or
//! behind one relay stream per host (the far one). Neither side knows which it talks to.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

pub use asobi_proto::match_v1::FrameKind;

/// A session as links number it: unique on its node, never used again in this incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionNo(pub u64);

/// A session that wants to a match.
#[derive(Debug, Clone)]
pub struct Entry {
    pub session: SessionNo,
    pub player_id: Uuid,
    pub match_id: Uuid,
    /// None: attach to a seat that is held. Some: take one first, with the client's `ctx` (JSON text, "" when there was none).
    pub join: Option<String>,
}

/// Why a link did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The match said no, with a reason string of the client protocol (`match_full`, `join_refused`, …).
    #[error("the match refused: {reason}")]
    Refused {
        reason: String,
        /// The script's own reason, with `join_refused`.
        refused_reason: Option<String>,
    },
    /// The host is gone or did not answer in time. Whether it did what it was asked is unknown.
    #[error("the match's host cannot be reached")]
    Unavailable,
    /// The bounded queue towards the match is full.
    #[error("the queue towards the match is full")]
    Full,
}

/// A session is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The payload of `match.joined`, JSON text.
    pub view: String,
    /// The session's last input that the match took; those after it are to be sent again. 0: none was.
    pub applied: u64,
}

/// Where a match runs from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedTo {
    pub match_id: Uuid,
    pub node_id: String,
    pub incarnation: i64,
    pub epoch: i64,
}

/// How sessions reach the matches of one host incarnation.
#[async_trait]
pub trait MatchLink: Send + Sync {
    /// Attaches a session (and takes a seat first where [`Entry::join`] says so). Attaching twice is the same as once. Frames may be
    /// delivered before this returns.
    async fn enter(&self, entry: Entry) -> Result<Entered, LinkError>;

    /// Gives up the seat of this session's player.
    async fn leave(&self, session: SessionNo) -> Result<(), LinkError>;

    /// Hands over one input, a JSON object; `number` counts from 1 per session. Never blocks. Numbers come in rising order after each
    /// [`Self::enter`], from the first one that is not applied; what was seen before is to be dropped, and a number may be missing.
    ///
    /// Called under the session's lock, which [`Edge::dropped`], [`Edge::applied`] and [`Edge::moved`] take: a link must not call these
    /// from here, nor while it holds a lock that it takes here.
    fn input(&self, session: SessionNo, number: u64, payload: Bytes) -> Result<(), LinkError>;

    /// The session's socket is gone; the seat waits. `follows`: its client was told to come to the match's host itself, and is not
    /// missed for a moment. Never blocks and cannot fail: a host that does not hear of it sees the whole stream break, or was told the
    /// session's last word already.
    fn detach(&self, session: SessionNo, follows: bool);
}

/// What a host's matches deliver to: the near node's hub, or one relay stream. All calls return at once, on whatever thread. A session that
/// is attached through another link by now is left alone by all of them.
pub trait Edge: Send + Sync {
    /// One whole client frame (UTF-8 JSON) for many sessions. Unknown sessions are skipped.
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes);

    /// These sessions are no longer attached to this match: it ended, or their player gave up the seat.
    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid);

    /// Inputs up to these numbers are safe: they need not be kept to be sent again to another host.
    fn applied(&self, inputs: &[(SessionNo, u64)]);

    /// The match of these sessions runs elsewhere now: they are to be attached there, and what was not applied is sent again.
    fn moved(&self, sessions: &[SessionNo], to: &MovedTo);
}

/// How a hub reaches the matches of its own process.
#[derive(Clone)]
pub struct NearHost {
    pub node_id: String,
    pub incarnation: i64,
    pub link: Arc<dyn MatchLink>,
}
