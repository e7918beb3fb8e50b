//! `asobi ctl key`: the secret that the cluster's processes show each other.

use std::time::Duration;

use asobi_proto::ops_v1::{RotateClusterKeyRequest, access_service_client::AccessServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Ctl, DEADLINE,
    given::{duration, request_id},
    output,
    shown::time,
};

/// The key that the cluster's own processes show each other, where it is kept in the database
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Put another in its place while everything runs: all nodes know it before one shows it
    Rotate {
        /// How long the old one is accepted after that: 30s to 1d
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
        overlap: Duration,
    },
}

pub async fn run(args: &KeyArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let Order::Rotate { overlap } = &args.order;
    let overlap_s = i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX);
    let request = RotateClusterKeyRequest { request_id: request_id(), overlap_s };
    let answer = ctl
        .ask(None, async |channel| {
            AccessServiceClient::new(channel).rotate_cluster_key(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    let (active_from, old_retires_at) = (time(answer.active_from.as_ref()), time(answer.old_retires_at.as_ref()));
    if ctl.json {
        output::json(&json!({"active_from": active_from, "old_retires_at": old_retires_at}));
    } else {
        output::line(&format!(
            "the new key is shown from {active_from}; the old one is accepted until {old_retires_at}"
        ));
    }
    Ok(())
}
