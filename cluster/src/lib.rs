//! Who is there and who may: the node registry with its incarnations and leases, the leader's lock and term, and the
//! database's own incarnation.
//!
//! **Invariant:** leases are judged by the database's clock, and only by a node whose own contact with this incarnation
//! of the database has been unbroken for a full lease ([`Membership::may_judge`]).
//!
//! **Invariant:** local trust ends before the server could have given away what is trusted: every deadline is counted on
//! the monotonic clock from *before* the last round trip that succeeded.

pub mod access;
pub mod breaker;
pub mod death;
pub mod desk;
pub mod directory;
pub mod erasure;
pub mod leader;
pub mod membership;
mod meters;
mod node;
pub mod ops;
pub mod players;
pub mod social;

use std::fmt;

pub use asobi_store::lock_keys;

pub use directory::{Directory, NodeRow};
pub use membership::{Membership, NodeSpec, NodeState};
pub use node::{Node, NodeAddresses};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Gateway,
    Match,
    Matchmaker,
    Social,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Match => "match",
            Self::Matchmaker => "matchmaker",
            Self::Social => "social",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A node and which of its lives: leases, sessions, match rows and migration tokens name both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    pub node_id: String,
    pub incarnation: i64,
    pub role: Role,
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node_id, self.incarnation)
    }
}

/// The database's incarnation: changes when unlogged rows are gone, or when another timeline took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseIncarnation {
    pub value: uuid::Uuid,
    pub timeline: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] asobi_store::Error),
    #[error("another process registered as node {node_id} after this one: give each process its own node.id")]
    Replaced { node_id: String },
    #[error(
        "node {node_id} was declared dead: nobody listened at its address and its connection to the database was gone"
    )]
    DeclaredDead { node_id: String },
    #[error("the database is a standby in recovery: database.direct_url must lead to the primary")]
    Standby,
    #[error("term {term} is over: another leader has taken the lock")]
    Fenced { term: i64 },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
