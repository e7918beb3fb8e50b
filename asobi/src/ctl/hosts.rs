//! `asobi ctl drain`: taking a match host out.

use asobi_cluster::Role;
use asobi_proto::ops_v1::{DrainNodeRequest, ops_service_client::OpsServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::json;

use super::{Ctl, DEADLINE, given::request_id, one::meant, output};

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node id of the host
    #[arg(value_name = "HOST")]
    host: String,
}

pub async fn drain(args: &DrainArgs, ctl: &Ctl) -> anyhow::Result<()> {
    // Here the answer names the hosts there are.
    ctl.node(&args.host, Role::Match).await?;
    let request = DrainNodeRequest { node_id: args.host.clone(), request_id: request_id() };
    let draining = ctl
        .ask(None, async |channel| {
            let request = with_deadline(request.clone(), DEADLINE);
            OpsServiceClient::new(channel).drain_node(request).await.map_err(meant)
        })
        .await?;
    if ctl.json {
        output::json(&json!({"host": args.host, "matches": draining.matches}));
    } else {
        output::line(&format!(
            "{} drains: {} matches move to other hosts, then it stops; `asobi ctl nodes` shows how far it is",
            args.host, draining.matches
        ));
    }
    Ok(())
}
