//! Why a socket is closed, as data: a client can tell "reconnect" from "give up" by the code and reason alone.

use axum::extract::ws::{CloseFrame, Utf8Bytes};

/// What a client does after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Not as before: something about the client has to change first.
    Stop,
    /// At once, to any node.
    ReconnectNow,
    /// With a growing pause.
    ReconnectLater,
}

/// A reason for closing a socket from our side. The table is [`Close::TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The client said goodbye; echoed.
    Goodbye,
    /// Neither a frame nor a pong for `session.silence_ms`.
    Silent,
    /// A message beyond the hard cap, which cannot be answered because it is never read to its end.
    TooBig,
    /// No `session.connect` within `session.auth_timeout_ms`.
    IdleAuthTimeout,
    /// Too many connects from one address.
    RateLimited,
    /// The Origin header is not on the operator's list.
    OriginRejected,
    /// The token family, or all of the player's, was revoked.
    SessionRevoked,
    /// This node drains.
    Restarting,
    /// Admission is full.
    TryAgainLater,
    /// The client did not read for `session.slow_ms`, or its queue overflowed.
    SlowConsumer,
    /// An operator closed the player's sockets; new ones are welcome.
    Kicked,
    /// The player's newest connection took the place of this, the oldest, past `session.max_per_player`.
    Replaced,
}

impl Close {
    /// Every close: code, reason, advice.
    pub const TABLE: [(Self, u16, &'static str, Advice); 12] = [
        (Self::Goodbye, 1000, "", Advice::Stop),
        (Self::Silent, 1001, "silent", Advice::ReconnectNow),
        (Self::TooBig, 1009, "payload_too_large", Advice::Stop),
        (Self::IdleAuthTimeout, 1008, "idle_auth_timeout", Advice::Stop),
        (Self::RateLimited, 1008, "rate_limited", Advice::Stop),
        (Self::OriginRejected, 1008, "origin_rejected", Advice::Stop),
        (Self::SessionRevoked, 1008, "session_revoked", Advice::Stop),
        (Self::Restarting, 1012, "restarting", Advice::ReconnectNow),
        (Self::TryAgainLater, 1013, "try_again_later", Advice::ReconnectLater),
        (Self::SlowConsumer, 4001, "slow_consumer", Advice::ReconnectNow),
        (Self::Replaced, 4002, "replaced", Advice::Stop),
        (Self::Kicked, 4003, "kicked", Advice::ReconnectLater),
    ];

    fn row(self) -> (Self, u16, &'static str, Advice) {
        // Every variant is in the table; a test says so.
        Self::TABLE.into_iter().find(|row| row.0 == self).unwrap_or(Self::TABLE[0])
    }

    #[must_use]
    pub fn code(self) -> u16 {
        self.row().1
    }

    #[must_use]
    pub fn reason(self) -> &'static str {
        self.row().2
    }

    #[must_use]
    pub fn advice(self) -> Advice {
        self.row().3
    }

    /// Whether frames that wait are still sent before the close.
    pub(crate) fn flushes(self) -> bool {
        !matches!(self, Self::SlowConsumer)
    }

    pub(crate) fn frame(self) -> CloseFrame {
        CloseFrame { code: self.code(), reason: Utf8Bytes::from_static(self.reason()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_codes() {
        let expected = [
            (Close::Goodbye, 1000, ""),
            (Close::Silent, 1001, "silent"),
            (Close::TooBig, 1009, "payload_too_large"),
            (Close::IdleAuthTimeout, 1008, "idle_auth_timeout"),
            (Close::RateLimited, 1008, "rate_limited"),
            (Close::OriginRejected, 1008, "origin_rejected"),
            (Close::SessionRevoked, 1008, "session_revoked"),
            (Close::Restarting, 1012, "restarting"),
            (Close::TryAgainLater, 1013, "try_again_later"),
            (Close::SlowConsumer, 4001, "slow_consumer"),
            (Close::Replaced, 4002, "replaced"),
            (Close::Kicked, 4003, "kicked"),
        ];
        assert_eq!(expected.len(), Close::TABLE.len());
        for (close, code, reason) in expected {
            assert_eq!((close.code(), close.reason()), (code, reason));
        }
        assert_eq!(Close::Restarting.advice(), Advice::ReconnectNow);
        assert_eq!(Close::TryAgainLater.advice(), Advice::ReconnectLater);
    }
}
