//! What matches deliver to this node's sessions.

use bytes::Bytes;
use uuid::Uuid;

use super::Hub;
use crate::{
    frame::{Frame, FrameKind},
    link::{Edge, MovedTo, SessionNo},
};

/// Frames of this type are sent a second time under the old name, where the operator wants it.
const RENAMED: [(&str, &str); 2] = [
    (r#"{"type":"module.message","#, r#"{"type":"game.message","#),
    (r#"{"type":"module.error","#, r#"{"type":"game.error","#),
];

impl Hub {
    /// Hands one frame of a match to many sessions; unknown ones are skipped. Never blocks.
    pub fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: &Frame) {
        self.count.fan_out.record(sessions.len() as f64);
        self.registry.among(sessions, |conn| {
            conn.outbox.push_from_match(kind, frame.clone());
        });
    }

    /// These sessions are no longer attached to this match.
    pub fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        self.registry.among(sessions, |conn| drop(conn.clear_seat(match_id)));
    }
}

impl Edge for Hub {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        let Some(frame) = Frame::from_bytes(frame) else {
            metrics::counter!("asobi_session_frames_dropped_total", "reason" => "not_utf8").increment(1);
            return;
        };
        if kind != FrameKind::State
            && self.config.session.legacy_game_events
            && let Some(old) = renamed(frame.as_str())
        {
            self.deliver(sessions, kind, &old);
        }
        self.deliver(sessions, kind, &frame);
    }

    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        self.dropped(sessions, match_id);
    }

    fn applied(&self, _inputs: &[(SessionNo, u64)]) {}

    fn moved(&self, _sessions: &[SessionNo], _to: &MovedTo) {}
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
