//! A service to be called, which answers as its test wants.

use asobi_proto::ops_v1::{
    DrainNodeRequest, DrainNodeResponse, GetConfigRequest, GetConfigResponse, GetLogFilterRequest,
    GetLogFilterResponse, GetStatsRequest, GetStatsResponse, ListNodesRequest, ListNodesResponse, Node,
    SetLogFilterRequest, SetLogFilterResponse, WitnessRequest, WitnessResponse, ops_service_server::OpsService,
};
use tonic::{Request, Response, Status};

/// What `ListNodes` is answered.
pub struct Ops(pub fn(&Request<ListNodesRequest>) -> Result<Node, Status>);

#[tonic::async_trait]
impl OpsService for Ops {
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let nodes = vec![(self.0)(&request)?];
        Ok(Response::new(ListNodesResponse { nodes, ..ListNodesResponse::default() }))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Result<Response<GetStatsResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn drain_node(&self, _: Request<DrainNodeRequest>) -> Result<Response<DrainNodeResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn get_log_filter(&self, _: Request<GetLogFilterRequest>) -> Result<Response<GetLogFilterResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn set_log_filter(&self, _: Request<SetLogFilterRequest>) -> Result<Response<SetLogFilterResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn witness(&self, _: Request<WitnessRequest>) -> Result<Response<WitnessResponse>, Status> {
        Ok(Response::new(WitnessResponse { silent_ms: 0, database: true }))
    }
}
