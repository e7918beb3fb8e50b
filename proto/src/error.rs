//! The closed set of error codes of the client protocol, made from `errors.tsv`.

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/errors.rs"));

/// One code of the table. Two releases agree on codes by their string, never by their index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u16);

struct Row {
    code: &'static str,
    status: u16,
    /// The flat WebSocket reasons that travel under this code.
    reasons: &'static [&'static str],
}

impl ErrorCode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().code
    }

    #[must_use]
    pub fn http_status(self) -> u16 {
        self.row().status
    }

    /// The code of that name, if the protocol has it.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::all().find(|c| c.as_str() == code)
    }

    /// The code a flat WebSocket reason travels under; a reason without one of its own is `ws.request_failed`.
    #[must_use]
    pub fn for_reason(reason: &str) -> Self {
        Self::all().find(|c| c.row().reasons.contains(&reason)).unwrap_or(Self::WS_REQUEST_FAILED)
    }

    /// The flat WebSocket reason of this code: its first in the table, else the code itself.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.row().reasons.first().copied().unwrap_or(self.as_str())
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE.len()).filter_map(|i| u16::try_from(i).ok()).map(Self)
    }

    fn row(self) -> &'static Row {
        &TABLE[usize::from(self.0)]
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn codes_know_their_status_and_reasons() {
        assert_eq!(ErrorCode::MATCH_FULL.as_str(), "match.full");
        assert_eq!(ErrorCode::MATCH_FULL.http_status(), 409);
        assert_eq!(ErrorCode::for_reason("match_full"), ErrorCode::MATCH_FULL);
        assert_eq!(ErrorCode::for_reason("invalid_token"), ErrorCode::UNAUTHENTICATED);
        assert_eq!(ErrorCode::for_reason("already_in_match"), ErrorCode::WS_REQUEST_FAILED);
        assert_eq!(ErrorCode::from_code("dm.blocked"), Some(ErrorCode::DM_BLOCKED));
        assert_eq!(ErrorCode::from_code("no.such"), None);
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ErrorCode::all().map(ErrorCode::as_str).collect();
        codes.sort_unstable();
        let before = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), before);
    }
}
