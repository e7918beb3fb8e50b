//! A session's inputs until they are safe: those that the match may not have yet, or may lose with its host, are kept in order
//! and sent again where the match goes on.
//!
//! ```text
//!            enter answered: what came after `applied` is sent, in order
//!  closed ──────────────────────────────────────────────────────────────► open
//!    ▲  inputs wait                                        inputs are sent as they come
//!    └──────── the way breaks, or the match goes elsewhere ────────────────┘
//! ```
//!
//! | what happens | what becomes of an input |
//! | --- | --- |
//! | the gate is closed | it waits; with more than fit the oldest is lost, so that a long outage costs old inputs, never new ones |
//! | the queue towards the match is full | it is refused, and its number is used again |
//! | the way breaks | it is kept, and sent again on the next |
//! | it is in a checkpoint | it is forgotten |
//!
//! Invariant: through one way, numbers leave in rising order from the first one that the match did not take, so that a host which
//! drops what it has seen loses nothing. An input that was taken is not safe yet: a host that dies takes it back.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::link::LinkError;

/// Inputs of one session that are kept at most: two seconds of a busy client, and a checkpoint is due every second.
const MOST: usize = 128;
/// The same bound in bytes; one input always fits.
const BYTES: usize = 32 * 1024;

#[derive(Default)]
pub(crate) struct Inputs {
    kept: VecDeque<(u64, Bytes)>,
    bytes: usize,
    open: bool,
    /// How often the gate was closed: whoever opens it in several steps sees that it happened in between.
    closings: u64,
}

/// What became of opening a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    Open,
    /// The queue towards the match has no room for more: go on from here in a moment.
    Partly(Rest),
    /// The way has broken again, or leads elsewhere by now.
    No,
}

/// Where an opening goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rest {
    sent: u64,
    closings: u64,
}

impl Inputs {
    /// Takes the input of the next number, and sends it where the gate is open.
    pub(super) fn take(
        &mut self,
        number: u64,
        payload: Bytes,
        send: impl FnOnce(u64, Bytes) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        if self.open {
            match send(number, payload.clone()) {
                Ok(()) => {}
                Err(LinkError::Full) => return Err(LinkError::Full),
                // Gone, or not attached there any more: it is sent again wherever the session is attached next.
                Err(LinkError::Unavailable | LinkError::Refused { .. }) => self.close(),
            }
        }
        self.keep(number, payload);
        Ok(())
    }

    fn keep(&mut self, number: u64, payload: Bytes) {
        self.bytes += payload.len();
        self.kept.push_back((number, payload));
        while self.kept.len() > MOST || (self.bytes > BYTES && self.kept.len() > 1) {
            self.forget_first();
            if !self.open {
                metrics::counter!("asobi_session_frames_dropped_total", "reason" => "input").increment(1);
            }
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, payload)) = self.kept.pop_front() {
            self.bytes -= payload.len();
        }
    }

    /// Inputs up to this number are in a checkpoint.
    pub(super) fn safe(&mut self, number: u64) {
        while self.kept.front().is_some_and(|first| first.0 <= number) {
            self.forget_first();
        }
        if self.kept.is_empty() && self.kept.capacity() > MOST / 2 {
            self.kept = VecDeque::new();
        }
    }

    /// From now on inputs wait.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.closings += 1;
    }

    /// The match has taken what came up to `applied`: sends the rest, then lets new ones through.
    pub(super) fn open(&mut self, applied: u64, send: impl FnMut(u64, Bytes) -> Result<(), LinkError>) -> Opened {
        self.resume(Rest { sent: applied, closings: self.closings }, send)
    }

    /// Goes on with an opening that found no room.
    pub(super) fn resume(
        &mut self,
        mut rest: Rest,
        mut send: impl FnMut(u64, Bytes) -> Result<(), LinkError>,
    ) -> Opened {
        if rest.closings != self.closings {
            return Opened::No;
        }
        let first = self.kept.partition_point(|kept| kept.0 <= rest.sent);
        for (number, payload) in self.kept.range(first..) {
            match send(*number, payload.clone()) {
                Ok(()) => rest.sent = *number,
                // Where the gate was open already, all that is kept has been sent before: nothing is missing.
                Err(LinkError::Full) if self.open => return Opened::Open,
                Err(LinkError::Full) => return Opened::Partly(rest),
                Err(LinkError::Unavailable | LinkError::Refused { .. }) => {
                    self.close();
                    return Opened::No;
                }
            }
        }
        self.open = true;
        Opened::Open
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }
}

#[cfg(test)]
mod tests;
