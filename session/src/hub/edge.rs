//! What matches deliver to this node's sessions.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::Hub;
use crate::{
    conn::{Seat, Via},
    frame::{Frame, FrameKind},
    link::{Edge, MovedTo, SessionNo},
    seat,
};

/// Frames of this type are sent a second time under the old name, where the operator wants it.
const RENAMED: [(&str, &str); 2] = [
    (r#"{"type":"module.message","#, r#"{"type":"game.message","#),
    (r#"{"type":"module.error","#, r#"{"type":"game.error","#),
];

impl Hub {
    /// Hands one frame, as it came through a link, to many sessions. Never blocks. Sessions that are not here are skipped, and so are those
    /// that are attached elsewhere by now: a host that was taken for dead and is not must not reach players whose match goes on without it.
    pub(crate) fn deliver_via(&self, via: Via, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        let Some(frame) = Frame::from_bytes(frame) else {
            metrics::counter!("asobi_session_frames_dropped_total", "reason" => "not_utf8").increment(1);
            return;
        };
        if kind != FrameKind::State
            && self.config.session.legacy_game_events
            && let Some(old) = renamed(frame.as_str())
        {
            self.hand_out(via, sessions, kind, &old);
        }
        self.hand_out(via, sessions, kind, &frame);
    }

    pub(crate) fn hand_out(&self, via: Via, sessions: &[SessionNo], kind: FrameKind, frame: &Frame) {
        self.count.fan_out.record(sessions.len() as f64);
        self.registry.among(sessions, |conn| {
            if conn.hears(via) {
                conn.outbox.push_from_match(kind, frame.clone());
            } else {
                metrics::counter!("asobi_session_frames_dropped_total", "reason" => "attached_elsewhere").increment(1);
            }
        });
    }

    /// These sessions are no longer attached to this match, says a link.
    pub(crate) fn dropped_via(&self, via: Via, sessions: &[SessionNo], match_id: Uuid) {
        self.registry.among(sessions, |conn| drop(conn.clear_seat_of(via, match_id)));
    }

    /// A link says that the match of these sessions runs elsewhere: their inputs wait from this moment on, and each is attached there.
    pub(crate) fn moved_via(&self, via: Via, sessions: &[SessionNo], to: &MovedTo) {
        let Some(hub) = self.me.upgrade() else { return };
        let link = seat::way(&hub, to);
        let mut moving = Vec::new();
        self.registry.among(sessions, |conn| {
            let seat = Seat::new(to, Arc::clone(&link));
            if let Some(before) = conn.move_seat(via, seat.clone()) {
                moving.push((Arc::clone(conn), seat, before));
            }
        });
        for (conn, seat, before) in moving {
            if before.via() != seat.via() {
                before.link.detach(conn.no, false);
            }
            self.spawn("follow match", seat::arrive(Arc::clone(&hub), conn, to.clone(), "drained"));
        }
    }
}

impl Edge for Hub {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        self.deliver_via(self.near_via(), sessions, kind, frame);
    }

    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        self.dropped_via(self.near_via(), sessions, match_id);
    }

    fn applied(&self, inputs: &[(SessionNo, u64)]) {
        for (session, number) in inputs {
            if let Some(conn) = self.registry.conn(*session) {
                conn.safe(*number);
            }
        }
    }

    fn moved(&self, sessions: &[SessionNo], to: &MovedTo) {
        self.moved_via(self.near_via(), sessions, to);
    }
}

fn renamed(frame: &str) -> Option<Frame> {
    RENAMED.iter().find_map(|(new, old)| frame.strip_prefix(new).map(|rest| Frame::from(format!("{old}{rest}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_frames_have_an_old_name() {
        let old = renamed(r#"{"type":"module.message","payload":{"module":"lua","message":1}}"#);
        assert_eq!(
            old.map(|f| f.as_str().to_owned()).as_deref(),
            Some(r#"{"type":"game.message","payload":{"module":"lua","message":1}}"#)
        );
        assert!(renamed(r#"{"type":"match.state","payload":{}}"#).is_none());
    }
}
