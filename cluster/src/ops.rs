//! `asobi.ops.v1`, answered by every process.

mod directory;
mod hosted;
mod lists;
mod logs;
mod matches;
mod watch;

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_proto::{
    match_v1::{DrainRequest, match_host_service_client::MatchHostServiceClient},
    ops_v1::{
        self, ConfigValue, DrainNodeRequest, DrainNodeResponse, GetConfigRequest, GetConfigResponse,
        GetLogFilterRequest, GetLogFilterResponse, GetStatsRequest, GetStatsResponse, ListNodesRequest,
        ListNodesResponse, SetLogFilterRequest, SetLogFilterResponse, WitnessRequest, WitnessResponse,
        ops_service_server::{OpsService, OpsServiceServer},
    },
};
use asobi_service_kit::{
    Config,
    grpc::{Caller, Channels, invalid, refusal, with_deadline},
    telemetry,
};
use asobi_store::within;
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;
use tonic::{Request, Response, Status, service::Routes};

use self::lists::{next_token, unread};
pub use self::lists::{page_size, page_token, timestamp};
use crate::{
    Directory, Membership, Node, NodeIdentity, Result, Role, access,
    desk::{Deed, Desk},
    players,
};

const DEADLINE: Duration = Duration::from_secs(3);
/// How long a host may take to say that it drains.
const DRAIN: Duration = Duration::from_secs(2);
const NODES: i64 = 1_000;

/// What every process answers, whatever else it does; its own services are added.
#[must_use]
pub fn routes(node: &Node, config: &Config) -> Routes {
    let publisher = node.bus.publisher().clone();
    let desk = Desk::new(node.pool.clone(), config.database.timeout());
    let values = config.provenance.values().iter().map(|value| ConfigValue {
        key: value.key.clone(),
        value: value.shown.clone(),
        source: value.source.to_string(),
    });
    let ops = Ops {
        pool: node.pool.clone(),
        membership: Arc::clone(&node.membership),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        desk: desk.clone(),
        config: values.collect(),
    };
    let hosted = hosted::Hosts { directory: Arc::clone(&node.directory), channels: node.channels.clone() };
    Routes::new(OpsServiceServer::new(ops))
        .add_service(players::service(node.pool.clone(), publisher, config.auth.access_ttl()))
        .add_service(directory::service(node.pool.clone()))
        .add_service(matches::service(node.pool.clone(), hosted, desk.clone(), node.draining.clone()))
        .add_service(access::service(Arc::clone(&node.gate), desk))
}

struct Ops {
    pool: PgPool,
    membership: Arc<Membership>,
    directory: Arc<Directory>,
    channels: Channels,
    desk: Desk,
    /// In force since the start; secrets are hidden.
    config: Vec<ConfigValue>,
}

#[tonic::async_trait]
impl OpsService for Ops {
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, NODES, NODES)?;
        let after = page_token(&request.page_token)?;
        let mut nodes = nodes(&self.pool).await.map_err(unread)?;
        nodes.retain(|node| node.node_id.as_str() > after);
        let next_page_token = next_token(&mut nodes, size, |node| node.node_id.clone());
        Ok(Response::new(ListNodesResponse { nodes, next_page_token }))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        let NodeIdentity { node_id, incarnation, .. } = self.membership.identity().clone();
        Ok(Response::new(GetConfigResponse { node_id, incarnation, values: self.config.clone() }))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Result<Response<GetStatsResponse>, Status> {
        let NodeIdentity { node_id, incarnation, .. } = self.membership.identity().clone();
        let at = Some(timestamp(OffsetDateTime::now_utc()));
        let values = telemetry::summed_metrics().into_iter().collect();
        Ok(Response::new(GetStatsResponse { node_id, incarnation, at, values }))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<DrainNodeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "OpsService/DrainNode",
            request_id: &request.request_id,
            subject: request.node_id.clone(),
            detail: json!({}),
        };
        if let Some(answer) = self.desk.before(&deed, &request).await? {
            return Ok(Response::new(answer));
        }
        let answer = self.drain(&request.node_id).await?;
        Ok(Response::new(self.desk.record(deed, &request, answer).await?))
    }

    async fn get_log_filter(&self, _: Request<GetLogFilterRequest>) -> Result<Response<GetLogFilterResponse>, Status> {
        Ok(Response::new(GetLogFilterResponse { log: Some(logs::now(self.membership.identity())?) }))
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterResponse>, Status> {
        let caller = Caller::of(&request)?;
        let answer = logs::set(&self.desk, &caller, self.membership.identity(), request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn witness(&self, _: Request<WitnessRequest>) -> Result<Response<WitnessResponse>, Status> {
        Ok(Response::new(witness(&self.membership)))
    }
}

impl Ops {
    /// Draining twice is draining once.
    async fn drain(&self, node_id: &str) -> Result<DrainNodeResponse, Status> {
        if node_id.is_empty() {
            return Err(invalid("node_id", "must be a node's id"));
        }
        let node = self.directory.get(node_id).filter(|node| node.alive);
        let node = node.ok_or_else(|| Status::not_found("no living node has that id"))?;
        if node.role != Role::Match.as_str() {
            return Err(refusal("not_a_match_host", format!("{node_id} is a {}; only match hosts drain", node.role)));
        }
        let address = node.grpc_addr.as_deref().unwrap_or_default();
        let mut client = MatchHostServiceClient::new(self.channels.get(address));
        let answer = tokio::time::timeout(DRAIN, client.drain(with_deadline(DrainRequest {}, DRAIN))).await;
        let drains = answer.map_err(|_| Status::unavailable("the host does not answer"))??.into_inner();
        Ok(DrainNodeResponse { matches: drains.matches })
    }
}

/// What this node can say of the database.
#[must_use]
pub fn witness(membership: &Membership) -> WitnessResponse {
    let silent_ms = i64::try_from(membership.last_contact().as_millis()).unwrap_or(i64::MAX);
    WitnessResponse { silent_ms, database: membership.holds_lease() }
}

/// The registry as operators see it, leaders marked.
///
/// # Errors
/// When the database does not answer.
pub async fn nodes(pool: &PgPool) -> Result<Vec<ops_v1::Node>> {
    let leaders = leaders(pool).await?;
    let reading = sqlx::query!(
        r#"SELECT node_id, incarnation, role, state, version, region, http_url, ws_url, grpc_addr, metrics_addr, load, capacity,
                  started_at, extract(epoch FROM lease_until - now())::float8 AS "left_s!", lease_until > now() AS "alive!"
           FROM nodes ORDER BY node_id COLLATE "C""#
    )
    .fetch_all(pool);
    let rows = within(DEADLINE, async { Ok(reading.await?) }).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let term = leaders.get(&(row.node_id.clone(), row.incarnation)).copied();
            ops_v1::Node {
                node_id: row.node_id.clone(),
                incarnation: row.incarnation,
                role: row.role.clone(),
                state: row.state.clone(),
                version: row.version.clone(),
                region: row.region.clone(),
                http_url: row.http_url.clone().unwrap_or_default(),
                ws_url: row.ws_url.clone().unwrap_or_default(),
                grpc_addr: row.grpc_addr.clone().unwrap_or_default(),
                metrics_addr: row.metrics_addr.clone().unwrap_or_default(),
                load: row.load,
                capacity: row.capacity,
                started_at: Some(prost_types::Timestamp { seconds: row.started_at.unix_timestamp(), nanos: 0 }),
                alive: row.alive,
                leading: row.alive && term.is_some(),
                term: term.unwrap_or_default(),
                lease_left_ms: (row.left_s * 1_000.0) as i64,
            }
        })
        .collect())
}

/// The nodes that lead something, by node id and incarnation, with their terms.
///
/// # Errors
/// When the database does not answer.
pub async fn leaders(pool: &PgPool) -> Result<HashMap<(String, i64), i64>> {
    let reading =
        sqlx::query!("SELECT node_id, incarnation, term FROM leader WHERE node_id IS NOT NULL").fetch_all(pool);
    let rows = within(DEADLINE, async { Ok(reading.await?) }).await?;
    Ok(rows.into_iter().filter_map(|r| Some(((r.node_id?, r.incarnation?), r.term))).collect())
}
