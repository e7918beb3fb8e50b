//! One look at a cluster.

use std::{collections::HashMap, time::Duration};

use asobi_cluster::Role;
use asobi_proto::{
    matchmaker_v1::{GetQueueStatsRequest, QueueStats, matchmaker_service_client::MatchmakerServiceClient},
    ops_v1::{GetStatsRequest, GetStatsResponse, Node, ops_service_client::OpsServiceClient},
};
use asobi_service_kit::grpc::with_deadline;
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use crate::ctl::Ctl;

/// How long each part may take.
const REGISTRY: Duration = Duration::from_secs(2);
const NODE: Duration = Duration::from_secs(1);
const QUEUE: Duration = Duration::from_millis(1_500);
/// Nodes asked at the same time.
const AT_ONCE: usize = 32;

/// What is known of the cluster from look to look: the last registry that could be read.
#[derive(Debug, Default)]
pub struct Known {
    pub nodes: Vec<Node>,
}

/// A node's numbers as it said them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub incarnation: i64,
    /// Unix seconds, by the node's own clock.
    pub at: f64,
    pub values: HashMap<String, f64>,
}

/// A node as it was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeSample {
    pub node: Node,
    /// None: it did not answer.
    pub stats: Option<Stats>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub nodes: Vec<NodeSample>,
    /// None: no matchmaker that leads has answered.
    pub queue: Option<Vec<QueueStats>>,
    /// Why the registry was not read; the nodes are those known from before.
    pub problem: Option<String>,
}

impl Sample {
    /// Asks everybody, for a few seconds at most.
    pub async fn take(ctl: &Ctl, known: &mut Known) -> Self {
        let problem = match timeout(REGISTRY, ctl.nodes()).await {
            Ok(Ok(nodes)) => {
                known.nodes = nodes;
                None
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the registry could not be read in time".to_owned()),
        };
        let asked = stream::iter(known.nodes.clone()).map(|node| async {
            let stats = if node.alive || problem.is_some() { stats(ctl, &node).await } else { None };
            NodeSample { node, stats }
        });
        let (nodes, queue) = tokio::join!(asked.buffered(AT_ONCE).collect(), queue(ctl));
        Self { nodes, queue, problem }
    }
}

async fn stats(ctl: &Ctl, node: &Node) -> Option<Stats> {
    if node.grpc_addr.is_empty() {
        return None;
    }
    let mut client = OpsServiceClient::new(ctl.channel(node));
    let answer = timeout(NODE, client.get_stats(with_deadline(GetStatsRequest {}, NODE))).await;
    let GetStatsResponse { incarnation, at, values, .. } = answer.ok()?.ok()?.into_inner();
    let at = at.map_or(0.0, |at| at.seconds as f64 + f64::from(at.nanos) / 1e9);
    Some(Stats { incarnation, at, values })
}

async fn queue(ctl: &Ctl) -> Option<Vec<QueueStats>> {
    let asking = ctl.ask(Some(Role::Matchmaker), async |channel| {
        let request = with_deadline(GetQueueStatsRequest::default(), QUEUE);
        MatchmakerServiceClient::new(channel).get_queue_stats(request).await
    });
    timeout(QUEUE, asking).await.ok()?.ok().map(|answer| answer.modes)
}
