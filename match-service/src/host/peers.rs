//! Other hosts, as far as matches move there.

use asobi_proto::match_v1::AdoptMatchRequest;
use async_trait::async_trait;

/// The incarnation of a host that a match shall move to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node_id: String,
    pub incarnation: i64,
    /// Where its gRPC server listens.
    pub grpc_addr: String,
}

/// What became of the question to another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// The match runs there, and its row says so.
    Yes,
    /// It does not, and will not; why.
    Refused(String),
    /// Nobody knows yet; why. The row tells.
    Unknown(String),
}

/// How a match reaches the host that shall take it.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Asks a host to take a match over. Bounded in time.
    async fn adopt(&self, target: &Target, request: AdoptMatchRequest) -> Adopted;
}

/// Why a match stayed where it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("the match does not run here")]
    NotHere,
    #[error("the match is ending")]
    Ending,
    #[error("the match cannot be saved: {0}")]
    Unsavable(String),
    #[error("the other host refused it: {0}")]
    Refused(String),
    #[error("the other host did not take it in time: {0}")]
    Unanswered(String),
    #[error("another host, that is ready, is to be named: {0}")]
    NoSuchHost(String),
    #[error("this host may not give matches away while it cannot renew its lease")]
    InDoubt,
}
