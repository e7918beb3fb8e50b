//! What every frame moves: handles that are looked up once, by the number of the frame's type.

use std::time::{SystemTime, UNIX_EPOCH};

use asobi_service_kit::telemetry::catalogue::{FRAMES_IN, FRAMES_OUT};

use crate::frame::Frame;

/// What scripts call their own events.
const EVENTS: &str = "match.";
const EVENT: &str = "match.event";

pub(crate) struct Counts {
    frames_in: Vec<metrics::Counter>,
    frames_out: Vec<metrics::Counter>,
    delivery: metrics::Histogram,
    pub fan_out: metrics::Histogram,
    pub sessions: metrics::Gauge,
}

impl Counts {
    pub fn new() -> Self {
        let frames_in = FRAMES_IN.map(|kind| metrics::counter!("asobi_session_frames_in_total", "type" => kind));
        let frames_out = FRAMES_OUT.map(|kind| metrics::counter!("asobi_session_frames_out_total", "type" => kind));
        Self {
            frames_in: frames_in.into(),
            frames_out: frames_out.into(),
            delivery: metrics::histogram!("asobi_session_delivery_seconds"),
            fan_out: metrics::histogram!("asobi_session_fan_out_recipients"),
            sessions: metrics::gauge!("asobi_session_sockets"),
        }
    }

    /// A frame came, of the type at that place of the table; none: of no known one.
    pub fn came(&self, kind: Option<usize>) {
        if let Some(counter) = kind.and_then(|kind| self.frames_in.get(kind)).or(self.frames_in.last()) {
            counter.increment(1);
        }
    }

    /// A frame was written to a socket.
    pub fn left(&self, kind: usize, taken_us: Option<u64>) {
        if let Some(counter) = self.frames_out.get(kind) {
            counter.increment(1);
        }
        if let Some(taken) = taken_us {
            // Another machine's clock may be ahead of ours.
            self.delivery.record(now_us().saturating_sub(taken) as f64 / 1e6);
        }
    }
}

/// Unix microseconds.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// The place of a frame's type in the table. All frames of ours begin with it.
pub(crate) fn kind_out(frame: &str) -> usize {
    const OTHER: usize = FRAMES_OUT.len() - 1;
    let kind = frame.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split_once('"')).map_or("", |(kind, _)| kind);
    let find = |kind| FRAMES_OUT[..OTHER].binary_search(&kind).ok();
    find(kind).or_else(|| kind.starts_with(EVENTS).then(|| find(EVENT)).flatten()).unwrap_or(OTHER)
}

/// How many receivers of one message are timed: what a large channel costs must not grow by it.
const TIMED: usize = 32;

/// Every so many of them are.
pub(crate) fn every(receivers: usize) -> usize {
    receivers.div_ceil(TIMED).max(1)
}

/// The same frames, not timed.
pub(crate) fn untimed(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().map(|frame| frame.clone().taken(None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{asyncapi, frames};

    #[test]
    fn every_type_that_is_routed_or_described_is_counted_by_its_name() {
        assert!(frames::types().eq(FRAMES_IN[..FRAMES_IN.len() - 1].iter().copied()));
        let sent: Vec<&str> = asyncapi::kinds_out();
        let mut counted: Vec<&str> = FRAMES_OUT[..FRAMES_OUT.len() - 1].to_vec();
        assert!(counted.is_sorted(), "it is searched");
        counted.retain(|kind| *kind != EVENT);
        assert_eq!(sent, counted);
        assert_eq!((FRAMES_IN.last(), FRAMES_OUT.last()), (Some(&"other"), Some(&"other")));
    }

    #[test]
    fn a_frame_knows_its_type_whoever_wrote_it() {
        let kind = |text: &str| FRAMES_OUT[Frame::from(text.to_owned()).kind()];
        assert_eq!(kind(r#"{"type":"chat.message","payload":{}}"#), "chat.message");
        assert_eq!(kind(r#"{"type":"match.state","payload":{}}"#), "match.state");
        assert_eq!(kind(r#"{"type":"match.my-own_event","payload":{}}"#), "match.event");
        for other in [r#"{"type":"nope","payload":{}}"#, r#"{ "type":"chat.message"}"#, "{}", ""] {
            assert_eq!(kind(other), "other", "{other}");
        }
    }

    #[test]
    fn a_frame_remembers_when_its_message_was_taken() {
        let frame = Frame::from(r#"{"type":"chat.message","payload":{}}"#.to_owned());
        assert_eq!(frame.taken_us(), None);
        let now = now_us();
        let timed = frame.clone().taken(Some(now));
        assert_eq!((timed.taken_us(), timed.kind()), (Some(now), frame.kind()));
        assert_eq!(untimed(&[timed]), [frame]);
        assert_eq!([every(1), every(32), every(33), every(10_000)], [1, 1, 2, 313]);
    }
}
