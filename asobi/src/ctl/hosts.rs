//! `asobi ctl move` and `asobi ctl drain`: where matches run.

use std::time::Duration;

use anyhow::{Context as _, bail};
use asobi_cluster::Role;
use asobi_proto::match_v1::{DrainRequest, MoveMatchRequest, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::grpc::with_deadline;
use asobi_store::{matches, within};
use clap::Args;
use serde_json::json;
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Ctl, DEADLINE, output, refusal};

/// As long as a host tries.
const MOVE: Duration = Duration::from_secs(12);

#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The match's id
    #[arg(value_name = "MATCH")]
    match_id: Uuid,
    /// The node id of the host that shall run it
    #[arg(value_name = "HOST")]
    host: String,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node id of the host
    #[arg(value_name = "HOST")]
    host: String,
}

pub async fn move_match(args: &MoveArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let row =
        within(DEADLINE, matches::by_id(ctl.pool()?, args.match_id)).await.context("the match could not be read")?;
    let Some(row) = row else { bail!("there is no match {}", args.match_id) };
    if row.state != "running" {
        bail!("the match is {}; only a running one moves", row.state);
    }
    let from = ctl.node(&row.host_node, Role::Match).await?;
    // Checked here, too: the answer names the hosts there are.
    ctl.node(&args.host, Role::Match).await?;
    let request = MoveMatchRequest { match_id: args.match_id.to_string(), to_node: args.host.clone() };
    let mut client = MatchHostServiceClient::new(ctl.channels.get(&from.grpc_addr));
    let moved = answer(&from.node_id, MOVE, client.move_match(with_deadline(request, MOVE))).await?;
    if ctl.json {
        output::json(&json!({
            "match_id": args.match_id, "from": row.host_node, "to": args.host, "epoch": moved.epoch,
        }));
    } else {
        output::line(&format!(
            "{} runs on {} now (epoch {}); it was on {}",
            args.match_id, args.host, moved.epoch, row.host_node
        ));
    }
    Ok(())
}

pub async fn drain(args: &DrainArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let host = ctl.node(&args.host, Role::Match).await?;
    let mut client = MatchHostServiceClient::new(ctl.channels.get(&host.grpc_addr));
    let draining = answer(&host.node_id, DEADLINE, client.drain(with_deadline(DrainRequest {}, DEADLINE))).await?;
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

async fn answer<T>(
    node_id: &str,
    bound: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(bound, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => bail!("{node_id} did not answer within {} s", bound.as_secs()),
    }
}
