//! Calls to the social service: to one of its nodes, and where the call may be repeated to another one.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_service_kit::grpc::{Channels, ClusterChannel, error_code, with_deadline};
use tonic::{Code, ConnectError, Request, Response, Status};

use crate::{Directory, NodeRow, Role, breaker::Breakers};

/// Nodes that one call is tried at.
const ATTEMPTS: usize = 2;

/// Whether a call whose outcome is unknown may be made again. One that was not even sent always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A read, or a write that done twice is done once and answered alike.
    Safe,
    Never,
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SocialError {
    #[error("no social service is there")]
    Nobody,
    /// Nobody who was asked has answered.
    #[error("the social service did not answer: {0}")]
    Away(Status),
    /// It answered, and refused.
    #[error("the social service refused: {0}")]
    Refused(Status),
}

/// The social services of the cluster, as those see them who call them.
pub struct SocialNodes {
    directory: Arc<Directory>,
    channels: Channels,
    /// Of each attempt.
    timeout: Duration,
    breakers: Breakers,
}

impl SocialNodes {
    /// `timeout`: of each attempt; there are at most two.
    #[must_use]
    pub fn new(directory: Arc<Directory>, channels: Channels, timeout: Duration) -> Self {
        Self { directory, channels, timeout, breakers: Breakers::default() }
    }

    /// Whether any node is believed to be there.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.directory.all().iter().any(|node| serves(node))
    }

    /// Those that are ready in the key's order, then those that are leaving, which serve all the same until they drain.
    fn nodes(&self, key: &str) -> Vec<Arc<NodeRow>> {
        let all = self.directory.all();
        let serving = all.iter().filter(|node| serves(node)).cloned();
        let (ready, leaving) = serving.partition(|node| node.is_ready());
        let mut nodes = order(ready, key);
        nodes.extend(order(leaving, key));
        nodes
    }

    /// Calls some node, the same for one key as long as the nodes stay the same.
    ///
    /// # Errors
    /// [`SocialError`]
    pub async fn call<M, T, F>(
        &self,
        key: &str,
        repeat: Repeat,
        message: M,
        call: impl Fn(ClusterChannel, Request<M>) -> F,
    ) -> Result<T, SocialError>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let nodes = self.nodes(key);
        let (mut failure, mut tried) = (None, 0);
        for address in nodes.iter().filter_map(|node| node.grpc_addr.as_deref()) {
            if tried == ATTEMPTS {
                break;
            }
            if !self.breakers.admits(address, Instant::now()) {
                continue;
            }
            tried += 1;
            let request = with_deadline(message.clone(), self.timeout);
            // The request's own time-out needs a connection to run out on.
            let answer = tokio::time::timeout(self.timeout, call(self.channels.get(address), request)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(response) => {
                    self.breakers.answered(address);
                    return Ok(response.into_inner());
                }
                Err(status) if is_away(&status) => {
                    self.breakers.failed(address, Instant::now());
                    let over = repeat == Repeat::Never && !was_not_sent(&status);
                    failure = Some(status);
                    if over {
                        break;
                    }
                }
                Err(status) => {
                    self.breakers.answered(address);
                    return Err(SocialError::Refused(status));
                }
            }
        }
        Err(failure.map_or(SocialError::Nobody, SocialError::Away))
    }
}

fn is_away(status: &Status) -> bool {
    error_code(status).is_none()
        && matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// Whether there was not even a connection to send the call on.
fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The nodes in an order that depends on the key, so that different keys spread over them (rendezvous hashing).
fn serves(node: &NodeRow) -> bool {
    node.role == Role::Social.as_str() && node.alive && matches!(node.state.as_str(), "ready" | "draining")
}

fn order(mut nodes: Vec<Arc<NodeRow>>, key: &str) -> Vec<Arc<NodeRow>> {
    nodes.sort_by_cached_key(|node| weight(&node.node_id, key));
    nodes
}

// FNV-1a, so that all nodes agree, and mixed: its last bytes hardly move the high bits, which decide the order.
fn weight(node_id: &str, key: &str) -> u64 {
    let bytes = node_id.bytes().chain([0]).chain(key.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use asobi_proto::social_v1::{GetGroupRequest, group_service_client::GroupServiceClient};

    use super::*;

    #[test]
    fn keys_that_differ_in_little_spread_over_the_nodes() {
        let first = |n: u32| {
            let key = format!("board {n}");
            u32::from(weight("social-0", &key) < weight("social-1", &key))
        };
        let firsts: u32 = (0..100).map(first).sum();
        assert!((30..70).contains(&firsts), "{firsts} of 100 begin at one of two");
    }

    #[tokio::test]
    async fn a_call_without_a_connection_was_not_sent() {
        // Bound and dropped: nobody listens there.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let channel = Channels::new("0123456789abcdef").get(&address.to_string());
        let status = GroupServiceClient::new(channel).get_group(GetGroupRequest::default()).await.unwrap_err();
        assert!(is_away(&status) && was_not_sent(&status), "{status:?}");
        assert!(!was_not_sent(&Status::deadline_exceeded("no answer in time")));
    }
}
