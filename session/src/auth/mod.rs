//! Who a player is: accounts, guests, tokens, and what ends them.
//!
//! ```text
//!  register, login, guest ──▶ family ──▶ refresh token (opaque, single use, stored hashed) ──▶ the next one …
//!                               │                 └─ presented a second time: the family is revoked
//!                               └──▶ access tokens (short, signed; verified from memory) ──▶ sockets
//!  logout, reuse, upgrade, ban, erasure ──▶ row in `revocations` ──▶ bus ──▶ every node's memory ──▶ sockets closed
//! ```
//!
//! Invariant: a node never trusts its memory of revocations while its listener is in doubt; it reads the rows, and refuses
//! tokens where it cannot.

mod hashing;
mod issuer;
mod keys;
pub mod migration;
mod revocations;
mod rules;
mod token;
mod trust;
mod verifier;

use asobi_proto::bus::RevokedItem;
use uuid::Uuid;

pub use issuer::{Account, Guest, IssueError, Issuer, TokenPair};
pub use rules::FieldErrors;
pub use verifier::Verifier;

/// What a verified access token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    pub player_id: Uuid,
    /// The login it descends from.
    pub family: Uuid,
    /// Unix microseconds, by the database's clock; compared with revocations only.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

impl Claims {
    /// Whether a revocation ends this token and the sockets it opened.
    #[must_use]
    pub fn ended_by(&self, item: &RevokedItem) -> bool {
        if item.player {
            self.player_id == item.subject && self.issued_at <= item.issued_before
        } else {
            self.family == item.subject
        }
    }
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Not ours, damaged, expired, for another purpose, or used before. Which of them is nobody's business.
    #[error("the token is not valid")]
    Invalid,
    #[error("the token was revoked")]
    Revoked,
    /// It cannot be told now: keys or revocations cannot be read. Worth another try.
    #[error("tokens cannot be checked at the moment")]
    Unavailable(#[source] asobi_store::Error),
}
