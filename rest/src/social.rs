//! Calls to the social service: to one of its nodes, and where the call may be repeated to another one.

use std::{future::Future, sync::Arc, time::Duration};

use asobi_cluster::{Directory, NodeRow, Role};
use asobi_proto::social_v1::{
    friend_service_client::FriendServiceClient, leaderboard_service_client::LeaderboardServiceClient,
};
use asobi_service_kit::grpc::{Channels, ClusterChannel, with_deadline};
use tonic::{Code, Request, Status};

use crate::{
    error::{ApiError, Result},
    render::grpc_error,
};

pub(crate) type Friends = FriendServiceClient<ClusterChannel>;
pub(crate) type Boards = LeaderboardServiceClient<ClusterChannel>;

/// Whether a call whose outcome is unknown may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read, or a write that done twice is done once.
    Safe,
    Never,
}

pub(crate) struct Social {
    directory: Arc<Directory>,
    channels: Channels,
    timeout: Duration,
}

impl Social {
    pub fn new(directory: Arc<Directory>, channels: Channels, timeout: Duration) -> Self {
        Self { directory, channels, timeout }
    }

    /// Whether any node is believed to be there.
    pub fn is_there(&self) -> bool {
        !self.directory.by_role(Role::Social).is_empty()
    }

    /// Calls the friend service of some node.
    pub async fn friends<M, T, F>(&self, player: &str, message: M, call: impl Fn(Friends, Request<M>) -> F) -> Result<T>
    where
        M: Clone,
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(player, Repeat::Safe, message, |channel, request| call(Friends::new(channel), request)).await
    }

    /// Calls the leaderboard service; one board's calls go to one node as long as the nodes stay the same.
    pub async fn boards<M, T, F>(
        &self,
        board: &str,
        repeat: Repeat,
        message: M,
        call: impl Fn(Boards, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Clone,
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(board, repeat, message, |channel, request| call(Boards::new(channel), request)).await
    }

    async fn call<M, T, F>(
        &self,
        key: &str,
        repeat: Repeat,
        message: M,
        call: impl Fn(ClusterChannel, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Clone,
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let nodes = order(self.directory.by_role(Role::Social), key);
        let mut failure = None;
        let attempts = if repeat == Repeat::Safe { 2 } else { 1 };
        for address in nodes.iter().filter_map(|node| node.grpc_addr.as_deref()).take(attempts) {
            let request = with_deadline(message.clone(), self.timeout);
            // The request's own time-out needs a connection to run out on.
            let answer = tokio::time::timeout(self.timeout, call(self.channels.get(address), request)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if is_away(&status) => failure = Some(status),
                Err(status) => return Err(grpc_error(&status)),
            }
        }
        Err(failure.map_or_else(
            || ApiError::not_ready("No social service is there; please try again."),
            |status| grpc_error(&status),
        ))
    }
}

fn is_away(status: &Status) -> bool {
    asobi_service_kit::grpc::error_code(status).is_none()
        && matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// The nodes in an order that depends on the key, so that different keys spread over them (rendezvous hashing).
fn order(mut nodes: Vec<Arc<NodeRow>>, key: &str) -> Vec<Arc<NodeRow>> {
    nodes.sort_by_cached_key(|node| weight(&node.node_id, key));
    nodes
}

// FNV-1a, so that all nodes agree.
fn weight(node_id: &str, key: &str) -> u64 {
    node_id
        .bytes()
        .chain([0])
        .chain(key.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
