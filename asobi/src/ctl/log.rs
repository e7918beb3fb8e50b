//! `asobi ctl log`: what nodes log, and logging more for a while.

use std::time::Duration;

use anyhow::Context as _;
use asobi_proto::ops_v1::{
    GetLogFilterRequest, LogFilter, Node, SetLogFilterRequest, ops_service_client::OpsServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Ctl, DEADLINE,
    given::{duration, request_id},
    output, refusal,
};

/// What nodes log, and changing that while they run
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The node's id; without it, all nodes are shown
    node: Option<String>,
    /// Change it on every node that is alive
    #[arg(long, conflicts_with = "node")]
    all: bool,
    /// Log this from now on: a level, or directives such as info,asobi_session=debug
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Go back to what is configured after this time, such as 10m
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "filter")]
    lasts: Option<Duration>,
    /// Go back to what is configured now
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
}

pub async fn run(args: &LogArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let changes = args.filter.is_some() || args.reset;
    anyhow::ensure!(!changes || args.all || args.node.is_some(), "name the node that this is for, or give --all");
    if let Some(filter) = &args.filter {
        asobi_service_kit::telemetry::parse_filter(filter).context("--filter is none")?;
    }
    let nodes = match &args.node {
        Some(node_id) => vec![ctl.living(node_id).await?],
        None => {
            let mut nodes = ctl.nodes().await?;
            nodes.retain(|node| node.alive && !node.grpc_addr.is_empty());
            nodes
        }
    };
    anyhow::ensure!(!nodes.is_empty(), "no node of this cluster is alive; see `asobi ctl nodes`");
    let mut logs = Vec::with_capacity(nodes.len());
    let mut failed = Vec::new();
    for node in &nodes {
        match one(args, ctl, node).await {
            Ok(log) => logs.push(log),
            Err(error) => failed.push(format!("{}: {error:#}", node.node_id)),
        }
    }
    if ctl.json {
        output::json(&logs.iter().map(object).collect());
    } else if !logs.is_empty() {
        let now = OffsetDateTime::now_utc();
        let rows: Vec<[String; 4]> = logs.iter().map(|log| row(log, now)).collect();
        output::line(&output::table(["node", "filter", "configured", "until"], &rows));
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

async fn one(args: &LogArgs, ctl: &Ctl, node: &Node) -> anyhow::Result<LogFilter> {
    let mut client = OpsServiceClient::new(ctl.channel(node));
    let answering = async {
        if args.filter.is_none() && !args.reset {
            let answer = client.get_log_filter(with_deadline(GetLogFilterRequest {}, DEADLINE)).await?;
            return Ok(answer.into_inner().log);
        }
        let request = SetLogFilterRequest {
            request_id: request_id(),
            filter: args.filter.clone().unwrap_or_default(),
            lasts_s: args.lasts.map_or(0, |lasts| i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX)),
            node_id: node.node_id.clone(),
        };
        Ok(client.set_log_filter(with_deadline(request, DEADLINE)).await?.into_inner().log)
    };
    let answer = tokio::time::timeout(DEADLINE, answering).await.context("does not answer")?;
    answer.map_err(|status: tonic::Status| refusal(&status))?.context("answered nothing")
}

fn object(log: &LogFilter) -> Value {
    json!({
        "node_id": log.node_id,
        "incarnation": log.incarnation,
        "filter": log.filter,
        "configured": log.configured,
        "until": log.until.as_ref().map(|at| at.seconds),
    })
}

fn row(log: &LogFilter, now: OffsetDateTime) -> [String; 4] {
    let changed = log.filter != log.configured;
    let until = match &log.until {
        Some(at) => {
            let left = (at.seconds - now.unix_timestamp()).max(0).saturating_mul(1_000);
            format!("{} from now", output::milliseconds(left))
        }
        None if changed => "it ends".to_owned(),
        None => String::new(),
    };
    [log.node_id.clone(), log.filter.clone(), log.configured.clone(), until]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_says_for_how_long() {
        let now = OffsetDateTime::from_unix_timestamp(1_000).expect("a time");
        let mut log = LogFilter { filter: "debug".into(), configured: "info".into(), ..LogFilter::default() };
        assert_eq!(row(&log, now)[3], "it ends");
        log.until = Some(prost_types::Timestamp { seconds: 1_200, nanos: 0 });
        assert_eq!(row(&log, now)[3], "3 min 20 s from now");
        (log.filter, log.until) = ("info".into(), None);
        assert_eq!(row(&log, now)[3], "");
    }
}
