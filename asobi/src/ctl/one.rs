//! Reaching one node rather than any.

use anyhow::bail;
use asobi_proto::ops_v1::Node;
use asobi_service_kit::grpc::{ClusterChannel, error_code};
use tonic::{Code, Status};

use super::Ctl;

impl Ctl {
    /// The way to a node.
    pub fn channel(&self, node: &Node) -> ClusterChannel {
        self.channels.get(&node.grpc_addr)
    }

    /// The living node of that id, whatever its role.
    ///
    /// # Errors
    /// There is none; with those there are.
    pub async fn living(&self, node_id: &str) -> anyhow::Result<Node> {
        let mut nodes = self.nodes().await?;
        nodes.retain(|node| node.alive && !node.grpc_addr.is_empty());
        if let Some(found) = nodes.iter().position(|node| node.node_id == node_id) {
            return Ok(nodes.swap_remove(found));
        }
        let known: Vec<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
        bail!("{node_id:?} is no node that is alive; there are {}", known.join(", "))
    }
}

/// A refusal about what was asked, not about who was: no other node would answer it otherwise.
pub fn meant(status: Status) -> Status {
    if status.code() == Code::FailedPrecondition && error_code(&status).is_none() {
        return Status::new(Code::Aborted, status.message());
    }
    status
}
