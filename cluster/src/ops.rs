//! `asobi.ops.v1`, answered by every process.

use std::{collections::HashMap, sync::Arc};

use asobi_proto::{
    error::ErrorCode,
    ops_v1::{
        self, ListNodesRequest, ListNodesResponse, WitnessRequest, WitnessResponse,
        ops_service_server::{OpsService, OpsServiceServer},
    },
};
use asobi_service_kit::{Config, grpc::status};
use asobi_store::within;
use sqlx::PgPool;
use tonic::{Request, Response, Status, service::Routes};

use crate::{Membership, Node, Result, access, desk::Desk, directory, players};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(3);

/// What every process answers, whatever else it does; its own services are added.
#[must_use]
pub fn routes(node: &Node, config: &Config) -> Routes {
    let publisher = node.bus.publisher().clone();
    let desk = Desk::new(node.pool.clone(), config.database.timeout());
    let ops = Ops { pool: node.pool.clone(), membership: Arc::clone(&node.membership) };
    Routes::new(OpsServiceServer::new(ops))
        .add_service(players::service(node.pool.clone(), publisher, config.auth.access_ttl()))
        .add_service(access::service(Arc::clone(&node.gate), desk))
}

struct Ops {
    pool: PgPool,
    membership: Arc<Membership>,
}

#[tonic::async_trait]
impl OpsService for Ops {
    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let nodes = nodes(&self.pool).await.map_err(|error| {
            tracing::warn!(%error, "The registry could not be read for ListNodes.");
            status(ErrorCode::NOT_READY, "the database does not answer")
        })?;
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn witness(&self, _: Request<WitnessRequest>) -> Result<Response<WitnessResponse>, Status> {
        Ok(Response::new(witness(&self.membership)))
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
    let rows = directory::read(pool).await?;
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
